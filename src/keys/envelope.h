#pragma once

// Opens a CMS EnvelopedData (RFC 5652 section 6) that was encrypted to one RSA key: what a SCEP server answers with.
//
// The whole structure goes in and the whole content comes out; a ciphertext of its own is decrypted for nobody. Whether the
// RSA padding, the length of the content key or the padding of the content was wrong cannot be told apart from outside:
// OpenSSL goes on with a random key where the first two fail, and one sentence covers all (RFC 3218, the million message
// attack).

#include <openssl/types.h>

#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keys {

struct OpenedEnvelope {
  Bytes content;
  std::string cipher;  // OpenSSL's name: "AES-128-CBC", "DES-EDE3-CBC", "DES-CBC"
  bool weak = false;   // single DES: anyone with a few hours could have read it
};

// Structures beyond this are no reply of a CA.
inline constexpr size_t kMostEnvelopeBytes = 512 * 1024;

// `der`: one complete ContentInfo with one recipient. AES, 3DES and (in a library context of its own) single DES; others are
// refused by name. Errors: BadInput (not an EnvelopedData), Unsupported (cipher, kind of recipient), KeyMismatch (it does
// not open with this key, or is damaged).
Result<OpenedEnvelope> openEnvelope(EVP_PKEY* key, ByteView der);

}  // namespace wayleave::keys
