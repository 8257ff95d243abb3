#pragma once

// A transparent-proxy configuration as managementd stores it and proxyd receives it (GET /v1/configurations). It never
// holds a secret: the identity is a reference that the broker resolves.

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::localapi {

enum class GatewayProtocol : uint8_t { Automatic, Http1, Http2 };  // Automatic: ALPN decides
enum class FailurePolicy : uint8_t { Block, Direct };
enum class ConnectTarget : uint8_t { Address, HostName };  // HostName: the name from SNI or Host when there is one

// One network rule in profile form; management/ has validated it. Field names are NENetworkRule's.
struct RuleEntry {
  std::string protocol = "any";  // any, tcp, udp
  std::string network;           // textual address, empty = none
  int prefix = 0;
  std::string host;  // empty = none
  uint16_t port = 0;
  bool operator==(const RuleEntry&) const = default;
};

struct ProxyConfiguration {
  std::string id;                 // PayloadUUID
  std::string profileIdentifier;  // of the profile or declaration that brought it
  std::string name;               // UserDefinedName
  bool enabled = true;
  Bytes identityReference;  // `ssui…` or `cert` + UUID; empty = no client certificate
  std::string gatewayHost;  // name or address, without brackets
  uint16_t gatewayPort = 443;
  std::string gatewayServerName;  // expected in its certificate and sent as SNI; defaults to gatewayHost
  std::vector<std::string> gatewayAddresses;  // literal addresses to dial instead of looking the name up
  GatewayProtocol protocol = GatewayProtocol::Automatic;
  std::vector<std::string> trustAnchors;  // PEM; empty = the system's store
  std::vector<RuleEntry> includedRules;
  std::vector<RuleEntry> excludedRules;
  FailurePolicy failurePolicy = FailurePolicy::Block;
  ConnectTarget connectTarget = ConnectTarget::Address;
  int order = 0;
  bool operator==(const ProxyConfiguration&) const = default;
};

std::string_view text(GatewayProtocol protocol);  // "auto", "h1", "h2"
std::string_view text(FailurePolicy policy);      // "block", "direct"
std::string_view text(ConnectTarget target);      // "address", "hostname"

// The JSON of the local API; fromJson is strict (unknown members are errors). Errors: BadInput with the member.
std::string toJson(const ProxyConfiguration& configuration);
Result<ProxyConfiguration> proxyConfigurationFromJson(std::string_view json);

}  // namespace wayleave::localapi
