#pragma once

// Why a call on the data protection side ends in -25291, errSecNotAvailable. The status alone does not say: five causes
// end in it, and only further observations separate them (docs/references.md, section 8).

#include <string_view>
#include <vector>

#include "base/result.h"
#include "keychain/dispatch/caller.h"

namespace wayleave::keychain::dispatch {

enum class Cause : uint8_t {
  ServiceUnreachable,  // a
  DatabaseUnusable,    // b
  ClassKeyMissing,     // c
  CallerDenied,        // d
  KernelError,         // e
};

struct CauseInfo {
  Cause cause;
  char letter;
  std::string_view what;
  std::string_view source;       // in apple-oss-distributions/Security
  std::string_view separatedBy;  // the observation that tells it from the others
};
const std::vector<CauseInfo>& causesOfNotAvailable();

// What else is known of the same process. Each field: nullopt when it was not tried.
struct Observations {
  // A query with an access group the process does not hold, restricted to the data protection side, gave -34018 (true)
  // or -25291 (false).
  std::optional<bool> foreignGroupGaveMissingEntitlement;
  // The failing query combined kSecClass = identity with a `cert` reference: a server that was reached says -25306.
  std::optional<bool> queryMixedIdentityWithCertReference;
  // A reference that exists nowhere gave -25300 (true): the database could be read.
  std::optional<bool> unknownReferenceGaveNotFound;
  std::optional<bool> hasDenyEntitlement;
};

struct Verdict {
  Cause cause;
  bool possible = true;
  std::string why;  // of the exclusion; empty when still possible
};
// In the order of causesOfNotAvailable.
std::vector<Verdict> weigh(const Observations& observations);

}  // namespace wayleave::keychain::dispatch
