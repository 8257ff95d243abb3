#pragma once

// libcrypto inside somebody else's process.
//
// The host may be OpenSSL itself, in the middle of loading its configuration, an engine or a provider: whatever touches
// libcrypto's default context from here could wait for a configuration that waits for us. Everything of ours therefore runs in
// a library context of our own, and the host's error queue is left as it was found.

#include <openssl/err.h>
#include <openssl/evp.h>

#include <cstdint>

#include "base/bytes.h"
#include "base/owned.h"
#include "pkcs11/cryptoki.h"

namespace wayleave::pkcs11 {

// One for each process, never freed: the module is not unloaded (-z nodelete), and at exit libcrypto may be gone before us. A
// forked child gets its own: a thread of the parent may have held a lock of the old one.
OSSL_LIB_CTX* cryptoContext();

// While it lives our errors go to the host thread's queue; when it goes they are taken off again.
class QuietErrors {
 public:
  QuietErrors() { ERR_set_mark(); }
  ~QuietErrors() { ERR_pop_to_mark(); }
  QuietErrors(const QuietErrors&) = delete;
  QuietErrors& operator=(const QuietErrors&) = delete;
};

enum class HashKind : uint8_t { Sha1, Sha256, Sha384, Sha512 };
size_t hashLength(HashKind kind);

// A running hash. Errors: CKR_GENERAL_ERROR when libcrypto has no such hash (a crippled provider).
class Hash {
 public:
  static Answer<Hash> begin(HashKind kind);
  bool update(ByteView bytes);
  Answer<Bytes> finish();

 private:
  using ContextPtr = Handle<EVP_MD_CTX, EVP_MD_CTX_free>;
  Hash(ContextPtr context, HashKind kind) : context_(std::move(context)), kind_(kind) {}
  ContextPtr context_;
  HashKind kind_;
};
Answer<Bytes> hashOf(HashKind kind, ByteView bytes);

}  // namespace wayleave::pkcs11
