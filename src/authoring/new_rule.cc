#include <charconv>

#include <fmt/format.h>

#include "authoring/new_profile.h"
#include "rules/network_rule.h"

namespace wayleave::authoring {
namespace {

std::optional<int> number(std::string_view text, int most) {
  int value = 0;
  const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || stop != text.data() + text.size() || value < 0 || value > most) return std::nullopt;
  return value;
}

}  // namespace

Result<std::vector<NewRule>> parseNewRule(std::string_view text) {
  const std::string whole(text);
  const auto bad = [&](std::string_view why) {
    return fail(Reason::BadInput, fmt::format("rule \"{}\" {}", whole, why),
                "HOST, ADDRESS, ADDRESS/PREFIX or *, with :PORT behind and tcp: or udp: before it; IPv6 addresses in brackets");
  };
  NewRule rule;
  for (const std::string_view protocol : {"tcp", "udp", "any"})
    if (text.starts_with(std::string(protocol) + ":")) {
      rule.protocol = protocol;
      text.remove_prefix(protocol.size() + 1);
      break;
    }
  std::string_view rest;  // "/8:443", or ":443"
  std::string_view target;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return bad("has an unclosed bracket");
    target = text.substr(1, close - 1);
    rest = text.substr(close + 1);
    const auto address = rules::parseAddress(target);
    if (!address || !address->v6) return bad("has no IPv6 address in the brackets");
  } else {
    const size_t end = text.find_first_of("/:");
    target = text.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view{} : text.substr(end);
  }
  if (target.empty()) return bad("names nothing");
  if (rest.starts_with('/')) {
    const size_t end = rest.find(':');
    rule.prefix = number(rest.substr(1, end == std::string_view::npos ? end : end - 1), 128);
    if (!rule.prefix) return bad("has a prefix that is not 0 to 128");
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end);
  }
  if (!rest.empty()) {
    const auto port = rest.starts_with(':') ? number(rest.substr(1), 65535) : std::nullopt;
    if (!port || *port == 0) return bad(rest.contains('-') ? "has a port range: write one rule per port" : "has a port that is not 1 to 65535");
    rule.port = *port;
  }
  if (target == "*") {
    if (rule.prefix) return bad("has a prefix, but no network");
    if (rule.port == 0) return std::vector{rule};
    // A rule with a port alone does not exist: it needs the wildcard addresses of both families.
    NewRule six = rule;
    rule.network = "0.0.0.0";
    six.network = "::";
    rule.prefix = six.prefix = 0;
    return std::vector{rule, six};
  }
  if (rules::parseAddress(target)) {
    rule.network = target;
  } else {
    if (rule.prefix) return bad("has a prefix behind a host name");
    rule.host = target;
  }
  return std::vector{rule};
}

Result<management::Subject> parseSubject(std::string_view text) {
  management::Subject subject;
  std::string part;
  const auto take = [&]() -> Status {
    const size_t equals = part.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == part.size())
      return fail(Reason::BadInput, fmt::format("subject \"{}\": \"{}\" is not NAME=VALUE", text, part), "write CN=device-1,O=Example; names are C, L, ST, O, OU, CN or an OID");
    subject.push_back({{part.substr(0, equals), part.substr(equals + 1)}});
    part.clear();
    return {};
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      part += text[++i];
    } else if (text[i] == ',') {
      if (Status taken = take(); !taken) return propagate(taken.error());
    } else if (text[i] != ' ' || !part.empty()) {
      part += text[i];
    }
  }
  if (Status taken = take(); !taken) return propagate(taken.error());
  return subject;
}

}  // namespace wayleave::authoring
