// NENetworkRule's semantics, as NENetworkRule.h and NETransparentProxyNetworkSettings.h state them:
//
//   judgement   exclusions first, then inclusions; order inside a list means nothing
//   no address  all traffic of the protocol except loopback
//   wildcard    0.0.0.0 and :: both mean "all destinations", of either family, except loopback; a prefix on them means
//               nothing
//   loopback    matches only a rule whose own address is a loopback address
//   host        one label: that exact host; two or more: the domain and everything below it
//   port 53     in a host rule means the DNS queries for the name: a DNS flow's `host` is the name it asks for
//
// A rule with a port and neither address nor host is read as the wildcard address with that port.

#include "rules/network_rule.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>

namespace wayleave::rules {
namespace {

constexpr uint16_t kDnsPort = 53;
constexpr size_t kMaxHostBytes = 253;  // RFC 1035 section 3.1, without the root's length octet and the final dot
constexpr size_t kMaxLabelBytes = 63;

bool isV4Mapped(const Address& address) {
  static constexpr std::array<uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return address.v6 && std::equal(kMapped.begin(), kMapped.end(), address.bytes.begin());
}

bool sharesPrefix(const Address& network, int prefix, const Address& address) {
  if (network.v6 != address.v6) return false;
  const size_t whole = static_cast<size_t>(prefix) / 8;
  if (!std::equal(network.bytes.begin(), network.bytes.begin() + static_cast<ptrdiff_t>(whole), address.bytes.begin()))
    return false;
  const int rest = prefix % 8;
  if (rest == 0) return true;
  const auto mask = static_cast<uint8_t>(0xff << (8 - rest));
  return (network.bytes[whole] & mask) == (address.bytes[whole] & mask);
}

bool protocolMatches(Protocol rule, Protocol flow) { return rule == Protocol::Any || rule == flow; }
bool portMatches(uint16_t rule, uint16_t flow) { return rule == 0 || rule == flow; }

bool hostMatches(std::string_view rule, std::string_view host) {
  if (rule == host) return true;
  if (!rule.contains('.')) return false;
  return host.size() > rule.size() && host.ends_with(rule) && host[host.size() - rule.size() - 1] == '.';
}

bool addressMatches(const NetworkRule& rule, const Address& address) {
  const bool everything = !rule.network || rule.network->isWildcard();
  if (address.isLoopback() && (everything || !rule.network->isLoopback())) return false;
  return everything || sharesPrefix(*rule.network, rule.prefix, address);
}

enum class Match : uint8_t { No, Maybe, Yes };

// Maybe: a host rule that fits so far, on a flow whose name is still to come.
Match matches(const NetworkRule& rule, const FlowTarget& target, bool hostKnown) {
  if (!protocolMatches(rule.protocol, target.protocol) || !portMatches(rule.port, target.port)) return Match::No;
  if (rule.host.empty()) return addressMatches(rule, target.address) ? Match::Yes : Match::No;
  if (!target.host.empty()) return hostMatches(rule.host, target.host) ? Match::Yes : Match::No;
  return hostKnown ? Match::No : Match::Maybe;
}

Match best(const std::vector<NetworkRule>& list, const FlowTarget& target, bool hostKnown) {
  Match found = Match::No;
  for (const NetworkRule& rule : list) {
    found = std::max(found, matches(rule, target, hostKnown));
    if (found == Match::Yes) break;
  }
  return found;
}

Status validateHost(std::string_view host) {
  const auto bad = [&](std::string_view why) { return fail(Reason::BadInput, fmt::format("host '{}' {}", host, why)); };
  if (host.size() > kMaxHostBytes) return bad("is longer than 253 characters");
  if (parseAddress(host)) return bad("is an address: write an address rule");
  size_t label = 0;
  for (const char c : host) {
    if (c == '.') {
      if (label == 0) return bad("has an empty label");
      label = 0;
      continue;
    }
    const bool allowed = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    if (!allowed) return bad("has a character other than lower-case letters, digits, '-', '_' and '.'");
    if (++label > kMaxLabelBytes) return bad("has a label longer than 63 characters");
  }
  if (label == 0) return bad("ends with a dot");
  return {};
}

}  // namespace

bool Address::isLoopback() const {
  if (!v6) return bytes[0] == 127;
  if (isV4Mapped(*this)) return bytes[12] == 127;
  return std::all_of(bytes.begin(), bytes.end() - 1, [](uint8_t b) { return b == 0; }) && bytes[15] == 1;
}

bool Address::isWildcard() const {
  return std::all_of(bytes.begin(), bytes.begin() + (v6 ? 16 : 4), [](uint8_t b) { return b == 0; });
}

Result<Address> parseAddress(std::string_view text) {
  const std::string terminated(text.substr(0, 64));  // longer than any textual address
  Address address;
  if (text.size() <= 64 && !terminated.contains('\0')) {
    if (::inet_pton(AF_INET, terminated.c_str(), address.bytes.data()) == 1) return address;
    address.v6 = true;
    if (::inet_pton(AF_INET6, terminated.c_str(), address.bytes.data()) == 1) return address;
  }
  return fail(Reason::BadInput, fmt::format("'{}' is not an IPv4 or IPv6 address", terminated));
}

std::string text(const Address& address) {
  char out[INET6_ADDRSTRLEN];
  ::inet_ntop(address.v6 ? AF_INET6 : AF_INET, address.bytes.data(), out, sizeof out);
  return out;
}

Status validate(const NetworkRule& rule) {
  if (!rule.host.empty()) {
    if (rule.network) return fail(Reason::BadInput, "a rule names either a network or a host, not both");
    return validateHost(rule.host);
  }
  if (rule.port == kDnsPort)
    return fail(Reason::BadInput, "53 cannot be specified as the port of an address rule",
                "name the domains whose queries are meant in host rules with port 53");
  if (!rule.network) return {};
  if (rule.network->isWildcard()) {
    if (rule.port == 0)
      return fail(Reason::BadInput, "a wildcard address needs a port",
                  "leave the address out to match all traffic of the protocol");
    return {};
  }
  const int bits = rule.network->v6 ? 128 : 32;
  if (rule.prefix < 1 || rule.prefix > bits)
    return fail(Reason::BadInput, fmt::format("prefix {} of {} is not 1..{}", rule.prefix, text(*rule.network), bits));
  return {};
}

Result<RuleSet> RuleSet::make(std::vector<NetworkRule> included, std::vector<NetworkRule> excluded) {
  const auto check = [](const std::vector<NetworkRule>& list, std::string_view name) -> Status {
    for (size_t i = 0; i < list.size(); ++i)
      if (auto ok = validate(list[i]); !ok) return withContext(ok.error(), fmt::format("{}[{}]", name, i));
    return {};
  };
  if (auto ok = check(included, "included"); !ok) return propagate(ok.error());
  if (auto ok = check(excluded, "excluded"); !ok) return propagate(ok.error());
  RuleSet set;
  set.included_ = std::move(included);
  set.excluded_ = std::move(excluded);
  return set;
}

Decision RuleSet::decide(const FlowTarget& target, bool hostKnown) const {
  const Match out = best(excluded_, target, hostKnown);
  if (out == Match::Yes) return Decision::Direct;
  const Match in = best(included_, target, hostKnown);
  if (in == Match::No) return Decision::Direct;  // whatever the name turns out to be
  return in == Match::Yes && out == Match::No ? Decision::Tunnel : Decision::NeedsHost;
}

}  // namespace wayleave::rules
