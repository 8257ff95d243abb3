#include "base/reason.h"

namespace wayleave {

std::string_view text(Reason reason) {
  switch (reason) {  // no default: a new reason must break the build here
    case Reason::Ok: return "OK";
    case Reason::BadInput: return "BAD_INPUT";
    case Reason::Unsupported: return "UNSUPPORTED";
    case Reason::NotFound: return "NOT_FOUND";
    case Reason::Duplicate: return "DUPLICATE";
    case Reason::Conflict: return "CONFLICT";
    case Reason::NotEntitled: return "NOT_ENTITLED";
    case Reason::CallerUnverified: return "CALLER_UNVERIFIED";
    case Reason::Busy: return "BUSY";
    case Reason::DeadlineExceeded: return "DEADLINE_EXCEEDED";
    case Reason::Cancelled: return "CANCELLED";
    case Reason::Unavailable: return "UNAVAILABLE";
    case Reason::Io: return "IO";
    case Reason::Internal: return "INTERNAL";
    case Reason::IdentityUnavailable: return "IDENTITY_UNAVAILABLE";
    case Reason::IdentityExpired: return "IDENTITY_EXPIRED";
    case Reason::IdentityLost: return "IDENTITY_LOST";
    case Reason::WrongPassword: return "WRONG_PASSWORD";
    case Reason::KeyMismatch: return "KEY_MISMATCH";
    case Reason::KeyLockout: return "KEY_LOCKOUT";
    case Reason::KeyPermission: return "KEY_PERMISSION";
    case Reason::SignatureInvalid: return "SIGNATURE_INVALID";
    case Reason::Untrusted: return "UNTRUSTED";
    case Reason::GatewayUnreachable: return "GATEWAY_UNREACHABLE";
    case Reason::GatewayTlsFailed: return "GATEWAY_TLS_FAILED";
    case Reason::GatewayUntrusted: return "GATEWAY_UNTRUSTED";
    case Reason::GatewayRefusedCertificate: return "GATEWAY_REFUSED_CERTIFICATE";
    case Reason::GatewayDenied: return "GATEWAY_DENIED";
    case Reason::GatewayAuthRequired: return "GATEWAY_AUTH_REQUIRED";
    case Reason::GatewayCannotReachTarget: return "GATEWAY_CANNOT_REACH_TARGET";
    case Reason::GatewayRefused: return "GATEWAY_REFUSED";
    case Reason::GatewayProtocolError: return "GATEWAY_PROTOCOL_ERROR";
    case Reason::GatewayClosed: return "GATEWAY_CLOSED";
    case Reason::GatewayTimeout: return "GATEWAY_TIMEOUT";
    case Reason::Completed: return "COMPLETED";
    case Reason::RefusedByRule: return "REFUSED_BY_RULE";
    case Reason::DirectUnreachable: return "DIRECT_UNREACHABLE";
    case Reason::ClientReset: return "CLIENT_RESET";
    case Reason::TargetReset: return "TARGET_RESET";
    case Reason::IdleTimeout: return "IDLE_TIMEOUT";
    case Reason::Drained: return "DRAINED";
    case Reason::Pending: return "PENDING";
    case Reason::RateLimited: return "RATE_LIMITED";
    case Reason::ServerError: return "SERVER_ERROR";
    case Reason::OrderInvalid: return "ORDER_INVALID";
    case Reason::AttestationRefused: return "ATTESTATION_REFUSED";
  }
  return "CORRUPTED";  // only a corrupted value gets here
}

}  // namespace wayleave
