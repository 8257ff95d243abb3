#pragma once

// For a program that a declaration gives identities to: the contract of Apple's ManagedApp framework
// (ManagedAppIdentitiesProvider), over identityd's socket. A stream of lists of names; each value by its name, asked for
// again each time it is needed; three ways in which that fails. Daemons are callers like any other.

#include <chrono>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "localapi/identity_client.h"

namespace wayleave::localapi {

enum class ManagedAppError : uint8_t {
  InvalidIdentifier,  // no identity of that name is provisioned for this program: the list has changed, or never had it
  InternalError,      // identityd, or the key: down, refused, lost
  ServerError,        // the server of the asset did not deliver it
};
std::string_view text(ManagedAppError error);  // "invalidIdentifier", "internalError", "serverError"
// Which of the three an error of applicationIdentity() is.
ManagedAppError managedAppError(const Error& error);

// The identity behind a name, with its chain; sign by its `reference`. Errors: NotFound (invalidIdentifier), ServerError
// (serverError); everything else is internalError, among it NotEntitled and CallerUnverified: no [[application]] entry
// describes this program.
Result<IdentityInfo> applicationIdentity(const std::string& socketPath, std::string_view identifier,
                                         std::chrono::milliseconds timeout = std::chrono::seconds{30});

struct ApplicationIdentities {
  std::vector<std::string> identifiers;  // sorted; empty: nothing is provisioned
  std::vector<std::string> changed;      // those new in it, and those whose value is another than before
};
// Follows the list until stopped or `onList` returns false. It begins with the list as it is; every reconnection begins
// with it again. Like its model it does not fail: while identityd is away or refuses, it tries again (with back-off, up
// to 5 s apart), after asking `onTrouble`, when given, whether to; false ends it. Both run on the calling thread.
void followApplicationIdentities(const std::string& socketPath, std::stop_token stop,
                                 const std::function<bool(const ApplicationIdentities&)>& onList,
                                 const std::function<bool(const Error&)>& onTrouble = {});

}  // namespace wayleave::localapi
