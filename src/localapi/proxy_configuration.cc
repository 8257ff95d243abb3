#include "localapi/proxy_configuration.h"

#include <nlohmann/json.hpp>

#include "localapi/json_reader.h"

namespace wayleave::localapi {
namespace {

template <typename Enum, size_t N>
void readEnum(ObjectReader& reader, const char* name, const std::array<Enum, N>& values, Enum& out) {
  std::string word;
  reader.text(name, word);
  if (!reader.ok()) return;
  for (const Enum value : values) {
    if (text(value) != word) continue;
    out = value;
    return;
  }
  reader.refuse(name, "unknown value");
}

nlohmann::json rulesJson(const std::vector<RuleEntry>& rules) {
  nlohmann::json out = nlohmann::json::array();
  for (const RuleEntry& rule : rules)
    out.push_back({{"protocol", rule.protocol},
                   {"network", rule.network},
                   {"prefix", rule.prefix},
                   {"host", rule.host},
                   {"port", rule.port}});
  return out;
}

void readRules(ObjectReader& reader, const char* name, std::vector<RuleEntry>& out) {
  reader.objects(name, [&](ObjectReader& entry) {
    RuleEntry rule;
    entry.text("protocol", rule.protocol);
    entry.text("network", rule.network);
    entry.integer("prefix", rule.prefix, 0, 128);
    entry.text("host", rule.host);
    entry.integer("port", rule.port, 0, 65535);
    if (entry.ok() && rule.protocol != "any" && rule.protocol != "tcp" && rule.protocol != "udp")
      entry.refuse("protocol", "is none of any, tcp, udp");
    out.push_back(std::move(rule));
  });
}

}  // namespace

std::string_view text(GatewayProtocol protocol) {
  switch (protocol) {
    case GatewayProtocol::Automatic: return "auto";
    case GatewayProtocol::Http1: return "h1";
    case GatewayProtocol::Http2: return "h2";
  }
  return "?";
}

std::string_view text(FailurePolicy policy) {
  switch (policy) {
    case FailurePolicy::Block: return "block";
    case FailurePolicy::Direct: return "direct";
  }
  return "?";
}

std::string_view text(ConnectTarget target) {
  switch (target) {
    case ConnectTarget::Address: return "address";
    case ConnectTarget::HostName: return "hostname";
  }
  return "?";
}

std::string toJson(const ProxyConfiguration& configuration) {
  return dump(nlohmann::json{{"id", configuration.id},
                             {"profileIdentifier", configuration.profileIdentifier},
                             {"name", configuration.name},
                             {"enabled", configuration.enabled},
                             {"identityReference", toBase64(configuration.identityReference)},
                             {"gatewayHost", configuration.gatewayHost},
                             {"gatewayPort", configuration.gatewayPort},
                             {"gatewayServerName", configuration.gatewayServerName},
                             {"gatewayAddresses", configuration.gatewayAddresses},
                             {"protocol", text(configuration.protocol)},
                             {"trustAnchors", configuration.trustAnchors},
                             {"includedRules", rulesJson(configuration.includedRules)},
                             {"excludedRules", rulesJson(configuration.excludedRules)},
                             {"failurePolicy", text(configuration.failurePolicy)},
                             {"connectTarget", text(configuration.connectTarget)},
                             {"order", configuration.order}});
}

Result<ProxyConfiguration> proxyConfigurationFromJson(std::string_view json) {
  Result<nlohmann::json> document = parseJson(json);
  if (!document) return propagate(document.error());
  ProxyConfiguration out;
  ObjectReader reader(*document, "configuration");
  reader.text("id", out.id);
  reader.text("profileIdentifier", out.profileIdentifier);
  reader.text("name", out.name);
  reader.boolean("enabled", out.enabled);
  reader.bytes("identityReference", out.identityReference);
  reader.text("gatewayHost", out.gatewayHost);
  reader.integer("gatewayPort", out.gatewayPort, 1, 65535);
  reader.text("gatewayServerName", out.gatewayServerName);
  reader.texts("gatewayAddresses", out.gatewayAddresses);
  readEnum(reader, "protocol",
           std::array{GatewayProtocol::Automatic, GatewayProtocol::Http1, GatewayProtocol::Http2}, out.protocol);
  reader.texts("trustAnchors", out.trustAnchors);
  readRules(reader, "includedRules", out.includedRules);
  readRules(reader, "excludedRules", out.excludedRules);
  readEnum(reader, "failurePolicy", std::array{FailurePolicy::Block, FailurePolicy::Direct}, out.failurePolicy);
  readEnum(reader, "connectTarget", std::array{ConnectTarget::Address, ConnectTarget::HostName}, out.connectTarget);
  reader.integer("order", out.order, INT32_MIN, INT32_MAX);
  if (Status read = reader.finish(); !read) return propagate(read.error());
  return out;
}

}  // namespace wayleave::localapi
