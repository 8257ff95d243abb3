#pragma once

// Which of the keys in a PKCS#12 file is meant, and in which order its certificates stand. Files come in every order,
// with certificates of others in between, and with several certificates for one key.

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::enrolment {

struct BagKey {
  Secret pkcs8;
  Bytes localKeyId;  // empty when the bag has none
  std::string friendlyName;
};
struct BagCertificate {
  Bytes der;
  Bytes localKeyId;
  std::string friendlyName;
};
struct ChosenIdentity {
  size_t key = 0;          // index into the keys
  size_t certificate = 0;  // index into the certificates: the leaf
  std::vector<Bytes> chain;
  std::vector<std::string> warnings;
};

// Takes the first key, in the file's order, that has a certificate; for several certificates of that key the one with
// the same localKeyId, then the one that is valid longest. The chain then follows signatures, not only names.
// Errors: BadInput (no key, no certificate, one that does not decode), KeyMismatch, Unsupported (every key's type).
Result<ChosenIdentity> chooseIdentity(const std::vector<BagKey>& keys, const std::vector<BagCertificate>& certificates);

}  // namespace wayleave::enrolment
