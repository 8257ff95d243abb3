#pragma once

// How a part of a PKCS#12 file is encrypted, judged before anything is derived or decrypted.

#include <openssl/types.h>
#include <openssl/x509.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "keys/legacy_library.h"

namespace wayleave::enrolment {

using keys::LegacyLibrary;

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
