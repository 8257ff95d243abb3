// VendorConfig of VPNSubType com.wayleave.proxy: where the gateway is and which flows go to it (docs/profile.md).
//
// A mistyped key of a *rule* is an error, not a warning as elsewhere: a rule that lost its port or network matches more
// than its author meant.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "management/payload_reader.h"
#include "rules/network_rule.h"

namespace wayleave::management {
namespace {

using localapi::ConnectTarget;
using localapi::FailurePolicy;
using localapi::GatewayProtocol;
using localapi::ProxyConfiguration;
using localapi::RuleEntry;

// Far beyond any hand-written list. On macOS about 16,000 rules bring the system's own daemon down, so a profile with
// more than this is a mistake; Wayleave's own engine would carry it.
constexpr size_t kMostRules = 10'000;
constexpr size_t kManyRules = 1'000;
constexpr size_t kMostAddresses = 64;

std::string lowered(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return out;
}

// Why `name` is no host name, or "". Letters, digits, hyphens, underscores; RFC 1035 lengths.
std::string hostNameProblem(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.size() > 253) return "is longer than 253 characters";
  size_t label = 0;
  bool digitsOnly = true;
  for (const char c : name) {
    if (c == '.') {
      if (label == 0) return "has an empty label";
      label = 0;
      digitsOnly = true;
      continue;
    }
    const bool digit = c >= '0' && c <= '9';
    const bool fits = digit || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_';
    if (!fits) return static_cast<uint8_t>(c) >= 0x80 ? "is not ASCII: write it in Punycode" : "is not a host name";
    digitsOnly = digitsOnly && digit;
    if (++label > 63) return "has a label longer than 63 characters";
  }
  if (label == 0) return "ends with a dot";
  if (digitsOnly) return "is not an IPv4 address";  // a last label of digits is one, written wrongly
  return "";
}

std::optional<uint16_t> parsePort(std::string_view text) {
  uint16_t port = 0;
  const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (code != std::errc{} || stop != text.data() + text.size()) return std::nullopt;
  return port;
}

void readGatewayUrl(Keys& keys, ProxyConfiguration& proxy) {
  const std::string* url = keys.string("GatewayURL", Need::Required);
  if (url == nullptr) return;
  const auto bad = [&](std::string message) {
    keys.error("GatewayURL", std::move(message), "write https://host:port");
  };
  constexpr std::string_view kScheme = "https://";
  if (lowered(*url).starts_with("http://")) return bad("is plain http; the gateway is reached over TLS only");
  if (!lowered(*url).starts_with(kScheme)) return bad("is not an https URL");
  std::string_view rest = std::string_view(*url).substr(kScheme.size());
  if (const size_t end = rest.find_first_of("/?#"); end != std::string_view::npos) {
    if (rest.substr(end) != "/") return bad("has a path, query or fragment; a CONNECT gateway has none");
    rest = rest.substr(0, end);
  }
  if (rest.contains('@')) return bad("has a user name; Wayleave authenticates with certificates only");

  std::string_view host = rest;
  std::string_view port;
  bool hasPort = false;
  if (rest.starts_with('[')) {
    const size_t close = rest.find(']');
    if (close == std::string_view::npos) return bad("has an unclosed bracket");
    host = rest.substr(1, close - 1);
    port = rest.substr(close + 1);
    hasPort = !port.empty();
    if (hasPort && port.front() != ':') return bad("has text after the bracket");
    if (hasPort) port.remove_prefix(1);
    const auto address = rules::parseAddress(host);
    if (!address || !address->v6) return bad("has no IPv6 address in the brackets");
  } else {
    const size_t colon = rest.find(':');
    hasPort = colon != std::string_view::npos;
    if (hasPort) {
      host = rest.substr(0, colon);
      port = rest.substr(colon + 1);
      if (port.contains(':')) return bad("has an IPv6 address without brackets");
    }
    if (!rules::parseAddress(host))
      if (const std::string problem = hostNameProblem(host); !problem.empty()) return bad("the host " + problem);
  }
  if (hasPort) {
    const auto number = parsePort(port);
    if (!number || *number == 0) return bad("the port is not 1 to 65535");
    proxy.gatewayPort = *number;
  }
  proxy.gatewayHost = lowered(host);
  proxy.gatewayServerName = proxy.gatewayHost;
}

void readGatewayAddresses(Keys& keys, ProxyConfiguration& proxy) {
  auto addresses = keys.strings("GatewayAddresses");
  if (!addresses) return;
  if (addresses->size() > kMostAddresses)
    return keys.error("GatewayAddresses", fmt::format("has more than {} addresses", kMostAddresses));
  if (addresses->empty()) keys.warn("GatewayAddresses", "is empty: the name is looked up");
  for (size_t i = 0; i < addresses->size(); ++i) {
    const auto address = rules::parseAddress((*addresses)[i]);
    if (!address || address->isWildcard())
      keys.report().error(plist::childPath(keys.pathOf("GatewayAddresses"), i),
                          fmt::format("\"{}\" is not an address to connect to", shown((*addresses)[i])),
                          "an IPv4 or IPv6 address without port and brackets");
    else
      proxy.gatewayAddresses.push_back(rules::text(*address));
  }
}

// MatchRemotePort is a string in NENetworkRule and an integer in everyone's hands: both are taken.
std::optional<uint16_t> readRulePort(Keys& keys, const plist::Dictionary& rule) {
  keys.known({"MatchRemotePort"});
  const plist::Value* value = rule.find("MatchRemotePort");
  if (value == nullptr) return 0;
  if (const std::string* text = value->string()) {
    if (text->empty()) return 0;
    if (const auto port = parsePort(*text)) return port;
    keys.error("MatchRemotePort", fmt::format("\"{}\" is not a port", shown(*text)),
               text->find_first_of("-,:") != std::string::npos ? "there are no port ranges: one rule per port" : "");
    return std::nullopt;
  }
  if (const auto number = value->integer(); number && *number >= 0 && *number <= 65535)
    return static_cast<uint16_t>(*number);
  keys.error("MatchRemotePort", "must be 0 to 65535, as a string or an integer");
  return std::nullopt;
}

// Clears the bits behind the prefix; true when there were any.
bool maskHostBits(rules::Address& address, int prefix) {
  bool cleared = false;
  const int bits = address.v6 ? 128 : 32;
  for (int bit = prefix; bit < bits; ++bit) {
    const auto mask = static_cast<uint8_t>(0x80 >> (bit % 8));
    uint8_t& byte = address.bytes[static_cast<size_t>(bit / 8)];
    cleared = cleared || (byte & mask) != 0;
    byte = static_cast<uint8_t>(byte & ~mask);
  }
  return cleared;
}

void readRuleNetwork(Keys& keys, rules::NetworkRule& rule, bool& good) {
  const std::string* text = keys.string("MatchRemoteNetwork");
  const auto prefix = keys.integer("MatchRemotePrefix", Need::Optional, 0, 128);
  good = good && (text != nullptr || !keys.has("MatchRemoteNetwork")) && (prefix || !keys.has("MatchRemotePrefix"));
  if (text == nullptr) {
    if (prefix && !keys.has("MatchRemoteNetwork")) {
      keys.error("MatchRemotePrefix", "is given without MatchRemoteNetwork");
      good = false;
    }
    return;
  }
  const auto address = rules::parseAddress(*text);
  if (!address) {
    keys.error("MatchRemoteNetwork", fmt::format("\"{}\" is not an IPv4 or IPv6 address", shown(*text)),
               text->contains('/') ? "the prefix length has its own key, MatchRemotePrefix"
                                   : "host names belong in MatchRemoteHost");
    good = false;
    return;
  }
  const int bits = address->v6 ? 128 : 32;
  if (prefix && *prefix > bits) {
    keys.error("MatchRemotePrefix", fmt::format("is {}, must be 0 to {}", *prefix, bits));
    good = false;
    return;
  }
  rule.network = *address;
  // Without a prefix a rule means that one address; the wildcard address means all of them.
  rule.prefix = static_cast<int>(prefix.value_or(address->isWildcard() ? 0 : bits));
  if (maskHostBits(*rule.network, rule.prefix))
    keys.warn("MatchRemoteNetwork", fmt::format("{}/{} has bits set behind the prefix; read as {}", shown(*text),
                                                rule.prefix, rules::text(*rule.network)));
}

std::optional<RuleEntry> readRule(const plist::Dictionary& dictionary, const std::string& path, Report& report) {
  Keys keys(dictionary, path, report);
  rules::NetworkRule rule;
  bool good = true;
  const auto protocol = keys.choice<rules::Protocol>(
      "MatchProtocol", {{"any", rules::Protocol::Any}, {"tcp", rules::Protocol::Tcp}, {"udp", rules::Protocol::Udp}});
  if (keys.has("MatchProtocol") && !protocol) good = false;
  rule.protocol = protocol.value_or(rules::Protocol::Any);
  readRuleNetwork(keys, rule, good);
  if (const std::string* host = keys.string("MatchRemoteHost")) {
    rule.host = lowered(*host);
    if (rule.host.ends_with('.')) rule.host.pop_back();
    if (const std::string problem = hostNameProblem(rule.host); !problem.empty()) {
      const bool address = rules::parseAddress(rule.host).has_value();
      keys.error("MatchRemoteHost", fmt::format("\"{}\" {}", shown(*host), address ? "is an address" : problem),
                 address ? "addresses belong in MatchRemoteNetwork"
                 : host->starts_with("*.")
                     ? "leave the \"*.\" out: a name of two or more labels matches everything below it"
                     : "");
      good = false;
    }
  } else if (keys.has("MatchRemoteHost")) {
    good = false;
  }
  const auto port = readRulePort(keys, dictionary);
  good = good && port;
  rule.port = port.value_or(0);
  if (const std::string* direction = keys.string("MatchDirection"); direction != nullptr && *direction != "outbound") {
    keys.error("MatchDirection", "must be outbound: a transparent proxy sees outgoing flows only");
    good = false;
  }
  for (const std::string_view key : {"MatchLocalNetwork", "MatchLocalPrefix", "MatchLocalPort"})
    keys.mistaken(key, "transparent proxies cannot match the local end");
  keys.mistaken("MatchPort", "did you mean MatchRemotePort?");
  keys.finish(Severity::Error);
  if (!good) return std::nullopt;
  if (const Status valid = rules::validate(rule); !valid) {
    report.error(path, valid.error().message, valid.error().hint);
    return std::nullopt;
  }
  RuleEntry entry;
  entry.protocol = rule.protocol == rules::Protocol::Any   ? "any"
                   : rule.protocol == rules::Protocol::Tcp ? "tcp"
                                                           : "udp";
  if (rule.network) entry.network = rules::text(*rule.network);
  entry.prefix = rule.prefix;
  entry.host = rule.host;
  entry.port = rule.port;
  return entry;
}

std::vector<RuleEntry> readRules(Keys& keys, std::string_view key) {
  std::vector<RuleEntry> out;
  const plist::Array* items = keys.array(key);
  if (items == nullptr) return out;
  if (items->size() > kMostRules) {
    keys.error(key, fmt::format("has {} rules, more than {}", items->size(), kMostRules),
               "include broadly and exclude what must not go to the gateway");
    return out;
  }
  if (items->size() > kManyRules)
    keys.warn(key, fmt::format("has {} rules; macOS itself slows down with so many", items->size()));
  for (size_t i = 0; i < items->size(); ++i) {
    const std::string path = plist::childPath(keys.pathOf(key), i);
    const plist::Dictionary* dictionary = (*items)[i].dictionary();
    if (dictionary == nullptr) {
      keys.report().error(path, fmt::format("is {}, must be a dictionary", (*items)[i].typeName()));
    } else if (auto rule = readRule(*dictionary, path, keys.report())) {
      if (std::ranges::find(out, *rule) != out.end()) keys.report().warn(path, "is the same as an earlier rule");
      out.push_back(std::move(*rule));
    }
  }
  return out;
}

}  // namespace

void readVendorConfig(const plist::Dictionary& dictionary, const std::string& path, const ReadContext& context,
                      VpnPayload& payload, std::vector<std::string>* unknown) {
  Keys keys(dictionary, path, context.report);
  ProxyConfiguration proxy;
  proxy.id = context.header.uuid;
  proxy.name = payload.userDefinedName;
  if (payload.transparentProxy) proxy.order = payload.transparentProxy->order.value_or(0);

  readGatewayUrl(keys, proxy);
  proxy.protocol = keys.choice<GatewayProtocol>("GatewayProtocol", {{"auto", GatewayProtocol::Automatic},
                                                                    {"h1", GatewayProtocol::Http1},
                                                                    {"h2", GatewayProtocol::Http2}})
                       .value_or(GatewayProtocol::Automatic);
  if (const std::string* name = keys.string("GatewayServerName")) {
    if (const std::string problem = rules::parseAddress(*name) ? "" : hostNameProblem(*name); !problem.empty())
      keys.error("GatewayServerName", problem);
    proxy.gatewayServerName = lowered(*name);
  }
  readGatewayAddresses(keys, proxy);
  if (const auto anchors = keys.strings("TrustAnchorPayloadUUIDs")) {
    if (anchors->empty()) keys.warn("TrustAnchorPayloadUUIDs", "is empty: the system's trust store is used");
    for (size_t i = 0; i < anchors->size(); ++i)
      payload.trustAnchorPayloadUuids.push_back(
          context.resolver.resolve((*anchors)[i], Resolver::Kind::Certificate,
                                   plist::childPath(keys.pathOf("TrustAnchorPayloadUUIDs"), i), context.report));
  }
  proxy.includedRules = readRules(keys, "IncludedNetworkRules");
  proxy.excludedRules = readRules(keys, "ExcludedNetworkRules");
  if (proxy.includedRules.empty() &&
      (!keys.has("IncludedNetworkRules") || dictionary.find("IncludedNetworkRules")->array() != nullptr))
    keys.warn("IncludedNetworkRules", keys.has("IncludedNetworkRules") ? "has no rule: nothing goes to the gateway"
                                                                       : "is missing: nothing goes to the gateway");
  proxy.failurePolicy =
      keys.choice<FailurePolicy>("FailurePolicy", {{"block", FailurePolicy::Block}, {"direct", FailurePolicy::Direct}})
          .value_or(FailurePolicy::Block);
  proxy.connectTarget = keys.choice<ConnectTarget>("ConnectTarget", {{"address", ConnectTarget::Address},
                                                                     {"hostname", ConnectTarget::HostName}})
                            .value_or(ConnectTarget::Address);
  keys.known(kOthersVendorKeys);
  if (unknown != nullptr)
    for (std::string& name : keys.unread()) unknown->push_back(std::move(name));
  keys.finish(unknown != nullptr ? Severity::Error : Severity::Warning);
  payload.proxy = std::move(proxy);
}

}  // namespace wayleave::management
