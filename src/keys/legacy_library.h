#pragma once

// A library context with OpenSSL's `default` and `legacy` providers, for reading what old software wrote (PKCS#12 files,
// SCEP replies) and for nothing else: the ciphers of `legacy` stay out of everything else this process does.

#include <openssl/types.h>

#include "base/owned.h"
#include "base/result.h"

namespace wayleave::keys {

class LegacyLibrary {
 public:
  // Where the legacy module is not installed the context works without it, and its ciphers are missing. Errors: Internal.
  static Result<LegacyLibrary> load();
  OSSL_LIB_CTX* context() const { return context_.get(); }

 private:
  LegacyLibrary() = default;
  static void free(OSSL_LIB_CTX* context);
  static void unload(OSSL_PROVIDER* provider);
  // In this order: providers are unloaded before their context goes.
  Handle<OSSL_LIB_CTX, free> context_;
  Handle<OSSL_PROVIDER, unload> default_, legacy_;
};

}  // namespace wayleave::keys
