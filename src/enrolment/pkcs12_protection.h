#pragma once

// How a part of a PKCS#12 file is encrypted, judged before anything is derived or decrypted.

#include <openssl/types.h>
#include <openssl/x509.h>

#include <memory>
#include <string>
#include <vector>

#include "base/owned.h"
#include "base/result.h"

namespace wayleave::enrolment {

// A library context with `default` and `legacy`, for reading old files only. Where the legacy module is not installed
// the context works without it, and the old ciphers are reported as unsupported.
class LegacyLibrary {
 public:
  static Result<LegacyLibrary> load();
  OSSL_LIB_CTX* context() const { return context_.get(); }

 private:
  LegacyLibrary() = default;
  static void unload(OSSL_PROVIDER* provider);
  // In this order: providers are unloaded before their context goes.
  Handle<OSSL_LIB_CTX, OSSL_LIB_CTX_free> context_;
  Handle<OSSL_PROVIDER, unload> default_, legacy_;
};

// Iterations that may still be spent, and what was noticed on the way.
class Protection {
 public:
  Protection(const LegacyLibrary& library, uint64_t iterations) : library_(library), left_(iterations) {}

  // `what`: "the private key", "the certificates". Errors: Unsupported (algorithm, iterations), BadInput (parameters).
  Status examine(const X509_ALGOR* algorithm, std::string_view what);
  // The MAC's digest and its iterations (absent means one).
  Status examineMac(const X509_ALGOR* digest, const ASN1_INTEGER* iterations);

  void warn(std::string sentence);  // once each
  std::vector<std::string> takeWarnings() { return std::move(warnings_); }

 private:
  Status spend(const ASN1_INTEGER* iterations, std::string_view what);
  Status requireCipher(const char* name, std::string_view what);

  const LegacyLibrary& library_;
  uint64_t left_;
  std::vector<std::string> warnings_;
};

}  // namespace wayleave::enrolment
