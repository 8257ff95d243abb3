// com.apple.vpn.managed and our VendorConfig.

#include "management/profile_test_support.h"

namespace wayleave::management {
namespace {

using namespace test;
using localapi::ConnectTarget;
using localapi::FailurePolicy;
using localapi::GatewayProtocol;

ImportResult vendor(std::initializer_list<std::pair<const char*, Value>> changes) {
  return import(proxyProfile(with(vendorConfig(), changes)));
}
ImportResult proxy(std::initializer_list<std::pair<const char*, Value>> changes) {
  return import(profile(
      {Value(pkcs12Payload(1)), Value(vpnPayload(2, with(transparentProxy(uuidOf(1)), changes), vendorConfig()))}));
}
ImportResult vpn(std::initializer_list<std::pair<const char*, Value>> changes) {
  return import(profile(
      {Value(pkcs12Payload(1)), Value(with(vpnPayload(2, transparentProxy(uuidOf(1)), vendorConfig()), changes))}));
}
ImportResult rule(std::initializer_list<std::pair<const char*, Value>> entries) {
  return vendor({{"IncludedNetworkRules", Array{Value(dict(entries))}}});
}
localapi::ProxyConfiguration configuration(const ImportResult& result) {
  if (!result.profile) {
    ADD_FAILURE() << all(result);
    return {};
  }
  return proxyConfigurations(*result.profile).at(0);
}
localapi::RuleEntry entry(const ImportResult& result) {
  const auto configured = configuration(result);
  return configured.includedRules.empty() ? localapi::RuleEntry{} : configured.includedRules[0];
}

TEST(VpnPayloadTest, OtherTypesAreReportedAndSkipped) {
  for (const char* type : {"L2TP", "IPSec", "AlwaysOn"}) {
    const auto result = vpn({{"VPNType", type}});
    EXPECT_WARNING(result, "is not supported; the payload is skipped");
    EXPECT_TRUE(proxyConfigurations(*result.profile).empty());
  }
  EXPECT_ERROR(vpn({{"VPNType", "WireGuard"}}), "VPNType");
  EXPECT_ERROR(vpn({{"VPNType", "IKEv2"}}), "must be empty with VPNType IKEv2");
}

TEST(VpnPayloadTest, AnotherVendorsProviderIsReportedAndSkipped) {
  const auto result = vpn({{"VPNSubType", "com.example.other"}, {"VendorConfig", dict({{"Anything", 1}})}});
  EXPECT_WARNING(result, "com.example.other is another vendor's provider");
  EXPECT_TRUE(proxyConfigurations(*result.profile).empty());
  EXPECT_TRUE(result.profile->payloads[1].as<VpnPayload>()->transparentProxy);
}

TEST(VpnPayloadTest, RequiredKeys) {
  EXPECT_ERROR(vpn({{"UserDefinedName", ""}}), "UserDefinedName");
  EXPECT_ERROR(vpn({{"VPNSubType", ""}}), "VPNSubType");
  const Dictionary whole = vpnPayload(2, transparentProxy(uuidOf(1)), vendorConfig());
  for (const char* key : {"VPNType", "VPNSubType", "UserDefinedName", "TransparentProxy", "VendorConfig"})
    EXPECT_ERROR(import(profile({Value(pkcs12Payload(1)), Value(without(whole, key))})), std::string(key) + " in");
}

TEST(TransparentProxyTest, EverythingIsTyped) {
  const auto result =
      proxy({{"Order", 3},
             {"ProviderBundleIdentifier", "com.wayleave.proxy.extension"},
             {"EnforceRoutes", 0},
             {"DisconnectOnIdle", 1},
             {"DisconnectOnIdleTimer", 60},
             {"OnDemandEnabled", 1},
             {"OnDemandRules", Array{Value(dict({{"Action", "Connect"}, {"InterfaceTypeMatch", "WiFi"}}))}}});
  ASSERT_TRUE(result.profile) << all(result);
  const auto& settings = *result.profile->payloads[1].as<VpnPayload>()->transparentProxy;
  EXPECT_EQ(settings.authenticationMethod, AuthenticationMethod::Certificate);
  EXPECT_EQ(settings.providerType, ProviderType::AppProxy);
  EXPECT_EQ(settings.order, 3);
  EXPECT_EQ(settings.disconnectOnIdleTimer, std::chrono::seconds(60));
  EXPECT_EQ(settings.onDemandRules.at(0).interfaceTypeMatch, "WiFi");
  EXPECT_EQ(configuration(result).order, 3);
  EXPECT_TRUE(says(result, Severity::Note, "the proxy is always on"));
}

TEST(TransparentProxyTest, RemoteAddressAndCredentialsOfRealFilesAreAcceptedWithAWarning) {
  EXPECT_WARNING(proxy({{"RemoteAddress", "127.0.0.1"}}), "real transparent-proxy profiles carry it");
  EXPECT_WARNING(proxy({{"AuthName", "x"}, {"AuthPassword", "y"}}), "AuthPassword");
}

TEST(TransparentProxyTest, SwitchesAsBooleansAreAcceptedWithAWarning) {
  EXPECT_WARNING(proxy({{"OnDemandEnabled", true}}), "is a boolean");
  EXPECT_ERROR(proxy({{"EnforceRoutes", 2}}), "must be 0 or 1");
  EXPECT_ERROR(proxy({{"EnforceRoutes", "0"}}), "is a string");
}

TEST(TransparentProxyTest, ProviderTypeThatDoesNotFitIsAWarning) {
  EXPECT_WARNING(proxy({{"ProviderType", "packet-tunnel"}}), "a transparent proxy is an app-proxy");
  EXPECT_ERROR(proxy({{"ProviderType", "tunnel"}}), "one of packet-tunnel, app-proxy");
}

TEST(TransparentProxyTest, AuthenticationMethodAndIdentityMustFit) {
  EXPECT_WARNING(proxy({{"AuthenticationMethod", "Password"}}), "names an identity; it is used");
  EXPECT_EQ(proxy({{"AuthenticationMethod", "Password"}}).profile->payloads[1].as<VpnPayload>()->identityPayloadUuid(),
            uuidOf(1));
  const auto none = import(profile({Value(
      vpnPayload(2, dict({{"AuthenticationMethod", "Certificate"}, {"ProviderType", "app-proxy"}}), vendorConfig()))}));
  EXPECT_ERROR(none, "AuthenticationMethod asks for a certificate");
  EXPECT_CLEAN(import(profile({Value(vpnPayload(2, dict({{"ProviderType", "app-proxy"}}), vendorConfig()))})));
  EXPECT_ERROR(proxy({{"AuthenticationMethod", "Kerberos"}}), "AuthenticationMethod");
  EXPECT_ERROR(proxy({{"Order", 0}}), "must be 1 to");
}

TEST(TransparentProxyTest, Quirk19_DesignatedRequirementIsKeptVerbatim) {
  const char* requirement =
      "anchor apple generic and certificate 1[field.1.2.840.113635.100.6.2.6] /* exists */ and identifier \"x\"";
  const auto result = proxy({{"ProviderDesignatedRequirement", requirement}});
  EXPECT_CLEAN(result);
  EXPECT_EQ(result.profile->payloads[1].as<VpnPayload>()->transparentProxy->providerDesignatedRequirement, requirement);
}

TEST(TransparentProxyTest, Quirk21_KeysInTheWrongPlaceAreWarnings) {
  EXPECT_WARNING(vpn({{"OnDemandEnabled", 1}}), "it belongs inside the dictionary of the VPN type");
  EXPECT_WARNING(vpn({{"VPNUUID", "x"}}), "com.apple.vpn.managed.applayer");
  EXPECT_WARNING(vpn({{"PayloadEnabled", true}}), "PayloadEnabled");
}

TEST(OnDemandRulesTest, AreChecked) {
  const auto with = [](std::initializer_list<std::pair<const char*, Value>> entries) {
    return proxy({{"OnDemandRules", Array{Value(dict(entries))}}});
  };
  EXPECT_ERROR(with({}), "OnDemandRules[0].Action");
  EXPECT_ERROR(with({{"Action", "Dance"}}), "one of Allow, Connect");
  EXPECT_WARNING(with({{"Action", "Allow"}}), "deprecated");
  EXPECT_WARNING(with({{"Action", "EvaluateConnection"}}), "ActionParameters");
  EXPECT_ERROR(with({{"Action", "EvaluateConnection"},
                     {"ActionParameters", Array{Value(dict({{"DomainAction", "NeverConnect"}}))}}}),
               "Domains");
  EXPECT_ERROR(proxy({{"OnDemandRules", Array{Value(1)}}}), "must be a dictionary");
}

// --- VendorConfig ---

TEST(VendorConfigTest, DefaultsAreTheSafeOnes) {
  const auto result = import(proxyProfile());
  EXPECT_CLEAN(result);
  const auto configured = configuration(result);
  EXPECT_EQ(configured.gatewayHost, "gateway.example");
  EXPECT_EQ(configured.gatewayPort, 8443);
  EXPECT_EQ(configured.gatewayServerName, "gateway.example");
  EXPECT_EQ(configured.protocol, GatewayProtocol::Automatic);
  EXPECT_EQ(configured.failurePolicy, FailurePolicy::Block);
  EXPECT_EQ(configured.connectTarget, ConnectTarget::Address);
  EXPECT_EQ(configured.name, "Gateway");
  EXPECT_TRUE(configured.enabled);
}

TEST(VendorConfigTest, EveryKeyIsRead) {
  const auto configured =
      configuration(vendor({{"GatewayProtocol", "h2"},
                            {"GatewayServerName", "Other.Example"},
                            {"GatewayAddresses", Array{Value("192.0.2.1"), Value("2001:DB8::1")}},
                            {"FailurePolicy", "direct"},
                            {"ConnectTarget", "hostname"},
                            {"ExcludedNetworkRules", Array{Value(dict({{"MatchRemoteHost", "Intranet.Example."}}))}}}));
  EXPECT_EQ(configured.protocol, GatewayProtocol::Http2);
  EXPECT_EQ(configured.gatewayServerName, "other.example");
  EXPECT_EQ(configured.gatewayAddresses, (std::vector<std::string>{"192.0.2.1", "2001:db8::1"}));
  EXPECT_EQ(configured.failurePolicy, FailurePolicy::Direct);
  EXPECT_EQ(configured.connectTarget, ConnectTarget::HostName);
  EXPECT_EQ(configured.excludedRules.at(0).host, "intranet.example");
}

TEST(VendorConfigTest, GatewayUrl) {
  const auto url = [](const char* text) { return vendor({{"GatewayURL", text}}); };
  const auto six = configuration(url("https://[2001:db8::1]:3129"));
  EXPECT_EQ(six.gatewayHost, "2001:db8::1");
  EXPECT_EQ(six.gatewayPort, 3129);
  EXPECT_EQ(configuration(url("HTTPS://Gateway.Example/")).gatewayHost, "gateway.example");
  EXPECT_EQ(configuration(url("https://192.0.2.7")).gatewayPort, 443);
  EXPECT_ERROR(url("http://gateway.example"), "plain http");
  EXPECT_ERROR(url("gateway.example:443"), "not an https URL");
  EXPECT_ERROR(url("https://gateway.example/path"), "has a path");
  EXPECT_ERROR(url("https://gateway.example?x"), "has a path");
  EXPECT_ERROR(url("https://user@gateway.example"), "user name");
  EXPECT_ERROR(url("https://gateway.example:0"), "1 to 65535");
  EXPECT_ERROR(url("https://gateway.example:"), "1 to 65535");
  EXPECT_ERROR(url("https://gateway.example:65536"), "1 to 65535");
  EXPECT_ERROR(url("https://2001:db8::1"), "without brackets");
  EXPECT_ERROR(url("https://[gateway]"), "no IPv6 address");
  EXPECT_ERROR(url("https://[::1"), "unclosed bracket");
  EXPECT_ERROR(url("https://"), "is empty");
  EXPECT_ERROR(url("https://gate way"), "not a host name");
  EXPECT_ERROR(url("https://g\u00e4teway.example"), "Punycode");
  EXPECT_ERROR(url("https://300.1.1.1"), "not an IPv4 address");
  EXPECT_ERROR(import(proxyProfile(without(vendorConfig(), "GatewayURL"))), "GatewayURL");
}

TEST(VendorConfigTest, BadValuesAreRefused) {
  EXPECT_ERROR(vendor({{"GatewayProtocol", "h3"}}), "one of auto, h1, h2");
  EXPECT_ERROR(vendor({{"FailurePolicy", "maybe"}}), "one of block, direct");
  EXPECT_ERROR(vendor({{"ConnectTarget", "name"}}), "one of address, hostname");
  EXPECT_ERROR(vendor({{"GatewayAddresses", Array{Value("gateway.example")}}}), "not an address to connect to");
  EXPECT_ERROR(vendor({{"GatewayAddresses", Array{Value("0.0.0.0")}}}), "not an address to connect to");
  EXPECT_ERROR(vendor({{"GatewayServerName", "a b"}}), "not a host name");
  EXPECT_ERROR(vendor({{"TrustAnchorPayloadUUIDs", Array{Value(uuidOf(1))}}}), "which is not a certificate");
  EXPECT_ERROR(vendor({{"TrustAnchorPayloadUUIDs", Array{Value(uuidOf(8))}}}), "no payload of this profile");
  EXPECT_ERROR(vendor({{"TrustAnchorPayloadUUIDs", uuidOf(1)}}), "must be an array");
}

TEST(VendorConfigTest, MistypedKeysNameTheLikelyOne) {
  EXPECT_WARNING(vendor({{"FailurePolcy", "direct"}}), "did you mean FailurePolicy?");
  EXPECT_WARNING(vendor({{"gatewayURL", "x"}}), "did you mean GatewayURL?");
  EXPECT_WARNING(import(proxyProfile(without(vendorConfig(), "IncludedNetworkRules"))), "nothing goes to the gateway");
  EXPECT_WARNING(vendor({{"IncludedNetworkRules", Array{}}}), "nothing goes to the gateway");
}

TEST(NetworkRulesTest, AreReadWithNENetworkRulesMeaning) {
  EXPECT_EQ(entry(rule({{"MatchProtocol", "udp"},
                        {"MatchRemoteNetwork", "10.0.0.0"},
                        {"MatchRemotePrefix", 8},
                        {"MatchRemotePort", "443"}})),
            (localapi::RuleEntry{"udp", "10.0.0.0", 8, "", 443}));
  EXPECT_EQ(entry(rule({{"MatchRemoteNetwork", "192.0.2.1"}})), (localapi::RuleEntry{"any", "192.0.2.1", 32, "", 0}));
  EXPECT_EQ(entry(rule({{"MatchRemoteNetwork", "2001:db8::"}, {"MatchRemotePrefix", 32}})),
            (localapi::RuleEntry{"any", "2001:db8::", 32, "", 0}));
  EXPECT_EQ(entry(rule({{"MatchRemoteNetwork", "0.0.0.0"}, {"MatchRemotePort", 443}})),
            (localapi::RuleEntry{"any", "0.0.0.0", 0, "", 443}));
  EXPECT_EQ(entry(rule({{"MatchRemoteHost", "Example.com"}, {"MatchRemotePort", 53}})),
            (localapi::RuleEntry{"any", "", 0, "example.com", 53}));
  EXPECT_EQ(entry(rule({{"MatchDirection", "outbound"}, {"MatchRemotePort", ""}})),
            (localapi::RuleEntry{"any", "", 0, "", 0}));
}

TEST(NetworkRulesTest, HostBitsBehindThePrefixAreClearedWithAWarning) {
  const auto result = rule({{"MatchRemoteNetwork", "10.1.2.3"}, {"MatchRemotePrefix", 16}});
  EXPECT_WARNING(result, "read as 10.1.0.0");
  EXPECT_EQ(entry(result).network, "10.1.0.0");
}

TEST(NetworkRulesTest, AppleRestrictionsHold) {
  EXPECT_ERROR(rule({{"MatchRemoteNetwork", "0.0.0.0"}}), "IncludedNetworkRules[0] in");
  EXPECT_ERROR(rule({{"MatchRemoteNetwork", "192.0.2.1"}, {"MatchRemotePort", 53}}), "53");
  EXPECT_ERROR(rule({{"MatchDirection", "inbound"}}), "must be outbound");
  EXPECT_ERROR(rule({{"MatchLocalNetwork", "10.0.0.0"}}), "cannot match the local end");
  EXPECT_ERROR(rule({{"MatchRemoteHost", "a.b"}, {"MatchRemoteNetwork", "10.0.0.0"}}), "not both");
  EXPECT_ERROR(vendor({{"ExcludedNetworkRules", Array{Value(dict({{"MatchRemoteNetwork", "::"}}))}}}),
               "ExcludedNetworkRules[0]");
}

TEST(NetworkRulesTest, BadValuesAreRefusedWithAHint) {
  EXPECT_ERROR(rule({{"MatchProtocol", "icmp"}}), "one of any, tcp, udp");
  EXPECT_ERROR(rule({{"MatchRemoteNetwork", "10.0.0.0/8"}}), "has its own key, MatchRemotePrefix");
  EXPECT_ERROR(rule({{"MatchRemoteNetwork", "example.com"}}), "belong in MatchRemoteHost");
  EXPECT_ERROR(rule({{"MatchRemoteNetwork", "10.0.0.0"}, {"MatchRemotePrefix", 33}}), "must be 0 to 32");
  EXPECT_ERROR(rule({{"MatchRemotePrefix", 8}}), "without MatchRemoteNetwork");
  EXPECT_ERROR(rule({{"MatchRemoteHost", "*.example.com"}}), "leave the \"*.\" out");
  EXPECT_ERROR(rule({{"MatchRemoteHost", "192.0.2.1"}}), "belong in MatchRemoteNetwork");
  EXPECT_ERROR(rule({{"MatchRemotePort", "80-90"}}), "no port ranges");
  EXPECT_ERROR(rule({{"MatchRemotePort", 65536}}), "0 to 65535");
  EXPECT_ERROR(rule({{"MatchRemotePort", true}}), "0 to 65535");
  EXPECT_ERROR(rule({{"MatchPort", 443}}), "did you mean MatchRemotePort?");  // dropping it would match every port
  EXPECT_ERROR(rule({{"MatchRemoteHosts", "x.example"}}), "did you mean MatchRemoteHost?");
  EXPECT_ERROR(vendor({{"IncludedNetworkRules", Array{Value("tcp")}}}), "must be a dictionary");
}

TEST(NetworkRulesTest, TooManyAreRefused) {
  Array many;
  for (int i = 0; i < 10'001; ++i) many.emplace_back(dict({{"MatchRemotePort", i % 60'000}}));
  EXPECT_ERROR(vendor({{"IncludedNetworkRules", many}}), "more than 10000");
}

}  // namespace
}  // namespace wayleave::management
