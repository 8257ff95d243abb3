#pragma once

// The one vocabulary (docs/architecture.md, "One vocabulary"): why a flow ended, a lookup failed, an enrolment step
// stopped or a signature was refused. The text is what logs, metric labels, API answers and the command line print.
// Add a reason here and nowhere else.

#include <cstdint>
#include <string_view>

namespace wayleave {

enum class Reason : uint8_t {
  Ok,
  // Anyone's input.
  BadInput,      // bytes from outside that are not what they claim to be
  Unsupported,   // well-formed, but not something this build or machine can do
  NotFound,      // no such thing, for this caller
  Duplicate,     // already there
  Conflict,      // the state does not allow it now (for example: commit of an unknown installation)
  // Callers of the local APIs.
  NotEntitled,       // no grant covers what was asked
  CallerUnverified,  // the calling program could not be verified
  Busy,              // a bounded queue or a rate limit is full
  DeadlineExceeded,
  Cancelled,
  Unavailable,  // the daemon or service that should answer does not
  Io,           // the operating system refused a file, socket or device
  Internal,     // an invariant of ours broke
  // Identities and keys.
  IdentityUnavailable,  // it exists, but cannot be used now
  IdentityExpired,
  IdentityLost,   // the key can never be used again (another TPM, a cleared TPM)
  WrongPassword,  // a PKCS#12 file, a keychain
  KeyMismatch,    // certificate and key do not belong together
  KeyLockout,     // the TPM is in dictionary-attack lockout
  KeyPermission,  // the operating system denies access to the TPM
  // Trust.
  SignatureInvalid,
  Untrusted,
  // The gateway.
  GatewayUnreachable,
  GatewayTlsFailed,
  GatewayUntrusted,            // its certificate does not verify
  GatewayRefusedCertificate,   // it did not accept ours
  GatewayDenied,               // 403
  GatewayAuthRequired,         // 407
  GatewayCannotReachTarget,    // 502, 503, 504
  GatewayRefused,              // any other non-2xx answer
  GatewayProtocolError,        // an answer that is not HTTP
  GatewayClosed,               // it closed before or in the middle
  GatewayTimeout,
  // How flows end.
  Completed,
  RefusedByRule,
  DirectUnreachable,  // a flow sent direct whose destination did not answer
  ClientReset,
  TargetReset,
  IdleTimeout,
  Drained,  // our own stop
  // Enrolment.
  Pending,
  RateLimited,
  ServerError,
  OrderInvalid,
  AttestationRefused,
};

// Upper-case words joined by underscores; stable: scripts and dashboards match on it.
std::string_view text(Reason reason);

}  // namespace wayleave
