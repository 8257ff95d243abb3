#pragma once

// The inside of the "wayleave" provider, shared by its key management and its signatures. See callback_key.h.

#include <openssl/core.h>
#include <openssl/core_dispatch.h>

#include <atomic>
#include <string>

#include "tls/callback_key.h"

namespace wayleave::tls::provider {

inline constexpr const char* kName = "wayleave";
inline constexpr const char* kProperties = "provider=wayleave";
// Octets of one `const KeyCallback*`, copied at import: how the callback gets through EVP_PKEY_fromdata.
inline constexpr const char* kSignerParam = "wayleave-signer";

// One key as OpenSSL's opaque "keydata". Reference-counted because signature contexts outlive the EVP_PKEY.
struct KeyData {
  std::atomic<int> references{1};
  bool isRsa = false;
  keys::KeyType type = keys::KeyType::EcP256;  // meaningful once hasPublic
  bool hasPublic = false;
  int bits = 0;
  std::string group;   // EC: OpenSSL's name of the curve
  Bytes point;         // EC: uncompressed
  Bytes modulus;       // RSA, in OSSL_PARAM's native byte order
  Bytes exponent;
  KeyCallback sign;    // empty for a public key

  void retain() { references.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  size_t maxSignature() const;
};

void rememberSignError(Error error);

extern const OSSL_DISPATCH kEcKeys[];
extern const OSSL_DISPATCH kRsaKeys[];
extern const OSSL_DISPATCH kEcSignature[];
extern const OSSL_DISPATCH kRsaSignature[];

// Dispatch tables hold every function under one type.
template <typename F>
constexpr auto erased(F* function) {
  return reinterpret_cast<void (*)(void)>(function);
}

}  // namespace wayleave::tls::provider
