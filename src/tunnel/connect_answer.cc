#include "tunnel/connect_answer.h"

#include <fmt/format.h>

#include <algorithm>

namespace wayleave::tunnel {
namespace {

// Longest DNS name in text form (RFC 1035 section 2.3.4).
constexpr size_t kMaxHostBytes = 255;

bool isHostChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
         c == ':';
}

}  // namespace

Result<std::string> authorityOf(const Target& target) {
  if (target.host.empty() || target.host.size() > kMaxHostBytes || target.port == 0 ||
      !std::ranges::all_of(target.host, isHostChar))
    return fail(Reason::BadInput, "a tunnel's target needs a host name or address and a port");
  const bool v6 = target.host.find(':') != std::string::npos;
  return v6 ? fmt::format("[{}]:{}", target.host, target.port) : fmt::format("{}:{}", target.host, target.port);
}

Error refusal(int status, std::string_view authority, std::string_view phrase) {
  const std::string message = fmt::format("the gateway answered CONNECT {} with {} {}", authority, status, phrase);
  switch (status) {
    case 403:
      return {Reason::GatewayDenied, message, "the gateway's policy does not allow this device or this destination"};
    case 407:
      return {Reason::GatewayAuthRequired, message,
              "the gateway wants proxy credentials; it should take the device's certificate"};
    case 502:
    case 503:
    case 504:
      return {Reason::GatewayCannotReachTarget, message, "the gateway could not reach the destination"};
    default: return {Reason::GatewayRefused, message, {}};
  }
}

}  // namespace wayleave::tunnel
