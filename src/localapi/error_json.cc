// Errors across the wire, both ways: what a daemon says is what its caller holds.

#include <limits>

#include <nlohmann/json.hpp>

#include "base/osstatus.h"
#include "localapi/client.h"
#include "localapi/server.h"

namespace wayleave::localapi {
namespace {

int httpStatus(Reason reason) {
  switch (reason) {
    case Reason::BadInput:
    case Reason::Unsupported: return 400;
    case Reason::NotEntitled:
    case Reason::CallerUnverified: return 403;
    case Reason::NotFound: return 404;
    case Reason::Conflict:
    case Reason::Duplicate: return 409;
    case Reason::WrongPassword:
    case Reason::KeyMismatch: return 422;
    case Reason::Busy:
    case Reason::RateLimited: return 429;
    case Reason::Unavailable:
    case Reason::IdentityUnavailable:
    case Reason::IdentityExpired:
    case Reason::IdentityLost: return 503;
    case Reason::DeadlineExceeded: return 504;
    case Reason::Ok:
    case Reason::Cancelled:
    case Reason::Io:
    case Reason::Internal:
    case Reason::KeyLockout:
    case Reason::KeyPermission:
    case Reason::SignatureInvalid:
    case Reason::Untrusted:
    case Reason::GatewayUnreachable:
    case Reason::GatewayTlsFailed:
    case Reason::GatewayUntrusted:
    case Reason::GatewayRefusedCertificate:
    case Reason::GatewayDenied:
    case Reason::GatewayAuthRequired:
    case Reason::GatewayCannotReachTarget:
    case Reason::GatewayRefused:
    case Reason::GatewayProtocolError:
    case Reason::GatewayClosed:
    case Reason::GatewayTimeout:
    case Reason::Completed:
    case Reason::RefusedByRule:
    case Reason::DirectUnreachable:
    case Reason::ClientReset:
    case Reason::TargetReset:
    case Reason::IdleTimeout:
    case Reason::Drained:
    case Reason::Pending:
    case Reason::ServerError:
    case Reason::OrderInvalid:
    case Reason::AttestationRefused: return 500;
  }
  return 500;
}

Reason reasonNamed(std::string_view name) {
  if (name == "?" || name == text(Reason::Ok)) return Reason::Internal;  // no daemon of ours refuses with these
  for (unsigned value = 0; value <= std::numeric_limits<uint8_t>::max(); ++value)
    if (text(static_cast<Reason>(value)) == name) return static_cast<Reason>(value);
  return Reason::Internal;
}

// For an answer without our JSON: something else listens there, or the daemon is of another version.
Reason reasonOf(int status) {
  switch (status) {
    case 400: return Reason::BadInput;
    case 403: return Reason::NotEntitled;
    case 404: return Reason::NotFound;
    case 409: return Reason::Conflict;
    case 429: return Reason::Busy;
    case 503: return Reason::Unavailable;
    case 504: return Reason::DeadlineExceeded;
    default: return Reason::Internal;
  }
}

std::string member(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

}  // namespace

Response errorResponse(const Error& error) {
  const nlohmann::json body{{"error",
                             {{"code", apiCode(error)},
                              {"reason", text(error.reason)},
                              {"message", error.message},
                              {"hint", error.hint},
                              {"osStatus", error.osStatus}}}};
  // Messages may quote bytes from outside: anything that is not UTF-8 is replaced, never thrown over.
  return Response{httpStatus(error.reason), "application/json",
                  body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"};
}

Error errorFromResponse(const ClientResponse& response) {
  const nlohmann::json body = nlohmann::json::parse(response.body, nullptr, false);
  const auto found = body.is_object() ? body.find("error") : body.end();
  if (!body.is_object() || found == body.end() || !found->is_object())
    return Error{reasonOf(response.status), "HTTP status " + std::to_string(response.status) + " without an explanation",
                 {}, 0};
  Error error{reasonNamed(member(*found, "reason")), member(*found, "message"), member(*found, "hint"), 0};
  if (const auto status = found->find("osStatus"); status != found->end() && status->is_number_integer()) {
    const auto value = status->get<int64_t>();
    if (value >= std::numeric_limits<OSStatus>::min() && value <= std::numeric_limits<OSStatus>::max())
      error.osStatus = static_cast<OSStatus>(value);
  }
  return error;
}

}  // namespace wayleave::localapi
