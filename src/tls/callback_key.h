#pragma once

// An EVP_PKEY without private bytes: every signature is asked of a callback, wherever the key lives (identityd, a TPM).
//
// It is made by a small provider of ours, "wayleave", that runs inside a library context of its own next to OpenSSL's
// default provider. Whatever OpenSSL does with private keys works with it: X509_REQ_sign, CMS signatures, client
// certificates in TLS. It cannot verify, decrypt or derive, and its private half can never be exported.

#include <openssl/types.h>

#include <functional>
#include <optional>

#include "base/bytes.h"
#include "base/result.h"
#include "keys/openssl.h"
#include "keys/private_key.h"

namespace wayleave::tls {

// What is to be signed. `message` is the complete text where OpenSSL hands it over (TLS, CSRs, CMS attributes); it is
// empty when only a digest was given. `digest` is always set: digestLength(scheme) bytes. Views live for the call.
struct KeyRequest {
  keys::SignatureScheme scheme{};
  ByteView message;
  ByteView digest;
};

// Returns a DER ECDSA signature or a raw RSA one. Called on the thread that signs; may block; must not throw.
using KeyCallback = std::function<Result<Bytes>(const KeyRequest&)>;

// The library context in which callback keys work: pass it to SSL_CTX_new_ex, X509_REQ_new_ex, CMS_sign_ex. Made at first
// use and kept until the process ends, since OpenSSL's per-thread state points into it. nullptr when OpenSSL cannot load
// its own default provider.
OSSL_LIB_CTX* callbackLibrary();

// Errors: BadInput, Unsupported (the public key), Internal (OpenSSL).
Result<keys::EvpPkeyPtr> makeCallbackKey(const keys::PublicKey& publicKey, KeyCallback sign);

// Why the newest signature on this thread failed, once: OpenSSL reports only that it failed.
std::optional<Error> takeSignError();

}  // namespace wayleave::tls
