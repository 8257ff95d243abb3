// The table:
//
//   output       (type route: changing the mark re-routes the packet to lo)
//                1 ours, replies, other protocols: return
//                2 a connection caught before: mark again
//                3 only a first SYN can be caught: a change of rules never cuts an open connection in the middle, and
//                  connections that were there before us are left alone even when conntrack meets them half-way
//                4 gateways, exempt users: return
//                5 one chain per configuration
//   configuration_N   rules that name loopback; return for the machine's own addresses; exclusions; inclusions
//   captured     marks the packet and, for step 2, the connection
//   prerouting   what arrives on lo with the mark goes to the transparent listener
//
// Address rules are decided here. Host rules cannot be: an inclusion by host catches every flow to its port as a
// candidate (any port if it has none) and the proxy asks for the name; an exclusion by host is left to the proxy.
//
// Prerouting looks at the mark alone: only `captured` sets it, and loopback traffic without it is not ours. The guard
// for the machine's own addresses stands in the configuration's chain, behind the rules that name loopback.
//
// Prefixes with the same port share one set; prefixes inside others are dropped, because nft refuses sets that overlap.

#include "capture/linux/ruleset.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "capture/linux/names.h"

namespace wayleave::capture::platform {
namespace {

using rules::Address;
using rules::NetworkRule;

struct Prefix {
  Address address;  // host bits cleared
  int bits = 0;
  auto operator<=>(const Prefix&) const = default;
};

Prefix masked(const NetworkRule& rule) {
  Prefix prefix{*rule.network, rule.prefix};
  for (int bit = rule.prefix; bit < (prefix.address.v6 ? 128 : 32); ++bit)
    prefix.address.bytes[static_cast<size_t>(bit / 8)] &= static_cast<uint8_t>(~(0x80 >> (bit % 8)));
  return prefix;
}

bool contains(const Prefix& outer, const Prefix& inner) {
  if (outer.bits > inner.bits) return false;
  Prefix cut = inner;
  for (int bit = outer.bits; bit < (cut.address.v6 ? 128 : 32); ++bit)
    cut.address.bytes[static_cast<size_t>(bit / 8)] &= static_cast<uint8_t>(~(0x80 >> (bit % 8)));
  return cut.address == outer.address;
}

// One list of rules, sorted by shape. Port 0 = any.
struct Shapes {
  std::map<std::pair<bool, uint16_t>, std::vector<Prefix>> networks;  // (v6, port)
  std::set<uint16_t> ports;                                           // rules without an address
};

enum class Part : uint8_t { Loopback, Others };
enum class HostRules : uint8_t { AsCandidates, Ignored };

Shapes sortByShape(const std::vector<NetworkRule>& list, Part part, HostRules hostRules) {
  Shapes shapes;
  for (const NetworkRule& rule : list) {
    if (rule.protocol == rules::Protocol::Udp) continue;
    const bool namesLoopback = rule.network && rule.network->isLoopback();
    if (namesLoopback != (part == Part::Loopback)) continue;
    if (!rule.host.empty()) {
      if (hostRules == HostRules::AsCandidates) shapes.ports.insert(rule.port);
    } else if (!rule.network || rule.network->isWildcard()) {
      shapes.ports.insert(rule.port);
    } else {
      shapes.networks[{rule.network->v6, rule.port}].push_back(masked(rule));
    }
  }
  return shapes;
}

std::string elements(std::vector<Prefix> prefixes) {
  // Sorted by address, then by length: whatever contains a prefix stands before it.
  std::sort(prefixes.begin(), prefixes.end());
  std::vector<Prefix> kept;
  for (const Prefix& prefix : prefixes)
    if (kept.empty() || !contains(kept.back(), prefix)) kept.push_back(prefix);
  std::vector<std::string> texts;
  for (const Prefix& prefix : kept) texts.push_back(fmt::format("{}/{}", text(prefix.address), prefix.bits));
  return fmt::format("{{ {} }}", fmt::join(texts, ", "));
}

void appendRules(std::string& out, const Shapes& shapes, std::string_view verdict) {
  for (const auto& [shape, prefixes] : shapes.networks) {
    const auto& [v6, port] = shape;
    out += fmt::format("    {} daddr {} ", v6 ? "ip6" : "ip", elements(prefixes));
    if (port != 0) out += fmt::format("tcp dport {} ", port);
    out += fmt::format("{}\n", verdict);
  }
  if (shapes.ports.contains(0))
    out += fmt::format("    {}\n", verdict);
  else if (!shapes.ports.empty())
    out += fmt::format("    tcp dport {{ {} }} {}\n", fmt::join(shapes.ports, ", "), verdict);
}

std::string configurationChain(size_t index, const rules::RuleSet& set) {
  std::string out = fmt::format("  chain configuration_{} {{\n", index);
  appendRules(out, sortByShape(set.excluded(), Part::Loopback, HostRules::Ignored), "return");
  appendRules(out, sortByShape(set.included(), Part::Loopback, HostRules::AsCandidates), "goto captured");
  out += "    fib daddr type local return\n";
  appendRules(out, sortByShape(set.excluded(), Part::Others, HostRules::Ignored), "return");
  appendRules(out, sortByShape(set.included(), Part::Others, HostRules::AsCandidates), "goto captured");
  return out + "  }\n";
}

std::string outputChain(const CapturePlan& plan) {
  std::string out = fmt::format(
      "  chain output {{\n"
      "    type route hook output priority mangle; policy accept;\n"
      "    meta mark {:#x} return\n"
      "    ct direction reply return\n"
      "    meta l4proto != tcp return\n"
      "    ct mark {:#x} meta mark set {:#x} accept\n"
      "    tcp flags & (syn | ack) != syn return\n",
      kOwnMark, kCaptureMark, kCaptureMark);
  if (!plan.exemptUsers.empty()) out += fmt::format("    meta skuid {{ {} }} return\n", fmt::join(plan.exemptUsers, ", "));
  for (const Endpoint& gateway : plan.untouched)
    out += fmt::format("    {} daddr {} tcp dport {} return\n", gateway.address.v6 ? "ip6" : "ip", text(gateway.address),
                       gateway.port);
  for (size_t i = 0; i < plan.ruleSets.size(); ++i) out += fmt::format("    jump configuration_{}\n", i);
  return out + "  }\n";
}

std::string preroutingChain(const RulesetOptions& options) {
  std::string out = fmt::format(
      "  chain prerouting {{\n"
      "    type filter hook prerouting priority mangle; policy accept;\n"
      "    iifname != \"lo\" return\n"
      "    meta mark != {:#x} return\n"
      "    meta nfproto ipv4 meta l4proto tcp tproxy ip to {} accept\n",
      kCaptureMark, text(options.listenerV4));
  if (options.listenerV6)
    out += fmt::format("    meta nfproto ipv6 meta l4proto tcp tproxy ip6 to {} accept\n", text(*options.listenerV6));
  return out + "  }\n";
}

}  // namespace

bool catchesAnything(const CapturePlan& plan) {
  for (const rules::RuleSet& set : plan.ruleSets)
    for (const NetworkRule& rule : set.included())
      if (rule.protocol != rules::Protocol::Udp) return true;
  return false;
}

std::string compileRuleset(const CapturePlan& plan, const RulesetOptions& options) {
  std::string out;
  if (options.replace) out += fmt::format("delete table inet {}\n", kTableName);
  out += fmt::format("table inet {} {{\n  flags owner\n", kTableName);
  out += fmt::format("  chain captured {{\n    ct mark set {:#x}\n    meta mark set {:#x} accept\n  }}\n", kCaptureMark,
                     kCaptureMark);
  for (size_t i = 0; i < plan.ruleSets.size(); ++i) out += configurationChain(i, plan.ruleSets[i]);
  out += outputChain(plan);
  out += preroutingChain(options);
  return out + "}\n";
}

}  // namespace wayleave::capture::platform
