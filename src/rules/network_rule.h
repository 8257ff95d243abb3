#pragma once

// Which flows are ours: NENetworkRule's names and meaning (NetworkExtension, NENetworkRule.h and
// NETransparentProxyNetworkSettings.h; docs/profile.md shows the profile keys). Exclusions are judged first; then
// inclusions; no inclusion matches = the flow is not ours.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace wayleave::rules {

enum class Protocol : uint8_t { Any, Tcp, Udp };

// IPv4 or IPv6 address, network byte order. IPv4 uses the first four bytes.
struct Address {
  bool v6 = false;
  std::array<uint8_t, 16> bytes{};
  auto operator<=>(const Address&) const = default;
  bool isLoopback() const;
  bool isWildcard() const;  // 0.0.0.0 or ::
};
Result<Address> parseAddress(std::string_view text);  // no brackets, no scope. Errors: BadInput
std::string text(const Address& address);

// One rule. Either a network (address and prefix) or a host name, or neither: everything of the protocol but loopback.
struct NetworkRule {
  Protocol protocol = Protocol::Any;
  std::optional<Address> network;   // MatchRemoteNetwork / address rule
  int prefix = 0;                   // bits of `network` that count
  std::string host;                 // lower case, no trailing dot; empty = no host rule
  uint16_t port = 0;                // 0 = any
  bool operator==(const NetworkRule&) const = default;
};

// Apple's own restrictions for transparent proxies: wildcard address needs a port, address rules may not name port 53,
// direction outbound. Errors: BadInput naming the restriction.
Status validate(const NetworkRule& rule);

struct FlowTarget {
  Protocol protocol = Protocol::Tcp;
  Address address;
  uint16_t port = 0;
  std::string host;  // lower case; empty while unknown
};

enum class Decision : uint8_t {
  Tunnel,
  Direct,
  NeedsHost,  // a host rule could still change the answer: find the name (SNI, Host), then ask again
};

class RuleSet {
 public:
  RuleSet() = default;
  // Errors: BadInput with the list and index of the bad rule.
  static Result<RuleSet> make(std::vector<NetworkRule> included, std::vector<NetworkRule> excluded);

  // `hostKnown`: no (better) name will ever come; then NeedsHost is never returned.
  Decision decide(const FlowTarget& target, bool hostKnown) const;

  const std::vector<NetworkRule>& included() const { return included_; }
  const std::vector<NetworkRule>& excluded() const { return excluded_; }

 private:
  std::vector<NetworkRule> included_;
  std::vector<NetworkRule> excluded_;
};

}  // namespace wayleave::rules
