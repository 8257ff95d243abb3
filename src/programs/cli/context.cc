#include "context.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

#include "localapi/json_reader.h"
#include "localapi/server.h"

namespace wayleave::cli {

Exit exitFor(Reason reason) {
  switch (reason) {
    case Reason::Ok: return Exit::Ok;
    case Reason::NotFound: return Exit::NotFound;
    case Reason::NotEntitled:
    case Reason::CallerUnverified: return Exit::Denied;
    case Reason::Unavailable: return Exit::Unavailable;
    case Reason::BadInput:
    case Reason::Unsupported:
    case Reason::WrongPassword:
    case Reason::KeyMismatch:
    case Reason::IdentityExpired:
    case Reason::SignatureInvalid:
    case Reason::Untrusted: return Exit::BadInput;
    case Reason::DeadlineExceeded:
    case Reason::GatewayTimeout: return Exit::Timeout;
    case Reason::Duplicate:
    case Reason::Conflict:
    case Reason::Busy:
    case Reason::Cancelled:
    case Reason::Io:
    case Reason::Internal:
    case Reason::IdentityUnavailable:
    case Reason::IdentityLost:
    case Reason::KeyLockout:
    case Reason::KeyPermission:
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
    case Reason::Completed:
    case Reason::RefusedByRule:
    case Reason::DirectUnreachable:
    case Reason::ClientReset:
    case Reason::TargetReset:
    case Reason::IdleTimeout:
    case Reason::Drained:
    case Reason::Pending:
    case Reason::RateLimited:
    case Reason::ServerError:
    case Reason::OrderInvalid:
    case Reason::AttestationRefused: return Exit::Failure;
  }
  return Exit::Failure;
}

std::string Context::socket(std::string_view daemon) const { return fmt::format("{}/{}.sock", runtimeDir, daemon); }

localapi::Client Context::client(std::string_view daemon, std::chrono::milliseconds timeout) const {
  return localapi::Client(socket(daemon), timeout);
}

void Context::fail(const Error& error) {
  exit = exitFor(error.reason);
  if (json) {
    const localapi::Response response = localapi::errorResponse(error);
    std::fwrite(response.body.data(), 1, response.body.size(), stdout);
    return;
  }
  std::string message;
  for (const char c : error.message) message += c == '\n' ? "\n  " : printable(std::string_view(&c, 1));
  fmt::print(stderr, "{} {}\n", styled(STDERR_FILENO, "1;31", fmt::format("wayleave: {}:", text(error.reason))), message);
  if (!error.hint.empty()) fmt::print(stderr, "{} {}\n", styled(STDERR_FILENO, "1", "hint:"), printable(error.hint));
}

std::optional<nlohmann::json> Context::ask(std::string_view daemon, std::string_view method, std::string_view path,
                                           std::string_view body) {
  Result<std::string> answer = client(daemon).callJson(method, path, body);
  if (!answer) {
    fail(answer.error());
    return std::nullopt;
  }
  Result<nlohmann::json> document = answer->empty() ? nlohmann::json::object() : localapi::parseJson(*answer);
  if (!document || !document->is_object()) {
    fail({Reason::Internal, fmt::format("the answer of wayleave-{}d is no JSON object", daemon),
          "it and this program may be of different versions", 0});
    return std::nullopt;
  }
  return std::move(*document);
}

bool colourful(int fd) {
  const char* no = std::getenv("NO_COLOR");
  return isatty(fd) == 1 && (no == nullptr || *no == '\0');
}

std::string styled(int fd, std::string_view code, std::string_view text) {
  return colourful(fd) ? fmt::format("\033[{}m{}\033[0m", code, text) : std::string(text);
}

void printJson(const nlohmann::json& value) {
  fmt::print("{}\n", value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  return out;
}

std::string textOf(const nlohmann::json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  if (!object.is_object() || found == object.end() || found->is_null()) return {};
  if (found->is_string()) return printable(found->get_ref<const std::string&>());
  if (found->is_boolean()) return found->get<bool>() ? "yes" : "no";
  return found->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

uint64_t numberOf(const nlohmann::json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

const nlohmann::json& arrayOf(const nlohmann::json& object, const char* name) {
  static const nlohmann::json kNone = nlohmann::json::array();
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() && found->is_array() ? *found : kNone;
}

}  // namespace wayleave::cli
