#include <gtest/gtest.h>

#include "localapi/json_reader.h"
#include "localapi/proxy_configuration.h"
#include "localapi/url.h"

namespace wayleave::localapi {
namespace {

ProxyConfiguration full() {
  ProxyConfiguration out;
  out.id = "0F3C-1";
  out.profileIdentifier = "example.profile";
  out.name = "Office \"north\" ä";
  out.enabled = false;
  out.identityReference = {0x73, 0x73, 0x75, 0x69, 0x00, 0xff};
  out.gatewayHost = "gw.example";
  out.gatewayPort = 8443;
  out.gatewayServerName = "gateway.example";
  out.gatewayAddresses = {"192.0.2.1", "2001:db8::1"};
  out.protocol = GatewayProtocol::Http2;
  out.trustAnchors = {"-----BEGIN CERTIFICATE-----\n"};
  out.includedRules = {{"tcp", "10.0.0.0", 8, "", 443}, {"any", "", 0, "example.com", 0}};
  out.excludedRules = {{"udp", "::", 0, "", 53}};
  out.failurePolicy = FailurePolicy::Direct;
  out.connectTarget = ConnectTarget::HostName;
  out.order = -3;
  return out;
}

TEST(ProxyConfigurationJson, ComesBackAsItWent) {
  const auto back = proxyConfigurationFromJson(toJson(full()));
  ASSERT_TRUE(back.has_value()) << back.error().message;
  EXPECT_EQ(*back, full());
  EXPECT_EQ(*proxyConfigurationFromJson(toJson(ProxyConfiguration{})), ProxyConfiguration{});
}

TEST(ProxyConfigurationJson, NamesWhatItRefuses) {
  const std::string good = toJson(full());
  const auto refused = [&](std::string_view from, std::string_view to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    const auto result = proxyConfigurationFromJson(text);
    return result ? std::string("accepted") : result.error().message;
  };
  EXPECT_EQ(refused("\"order\":-3", "\"order\":-3,\"extra\":1"), "configuration.extra: is not a member known here");
  EXPECT_EQ(refused("\"order\":-3,", ""), "configuration.order: is missing");
  EXPECT_EQ(refused("8443", "0"), "configuration.gatewayPort: is outside 1 to 65535");
  EXPECT_EQ(refused("8443", "\"8443\""), "configuration.gatewayPort: is not a whole number");
  EXPECT_EQ(refused("8443", "18446744073709551615"), "configuration.gatewayPort: is outside 1 to 65535");
  EXPECT_EQ(refused("\"h2\"", "\"h9\""), "configuration.protocol: unknown value");
  EXPECT_EQ(refused("\"udp\"", "\"sctp\""), "configuration.excludedRules[0].protocol: is none of any, tcp, udp");
  EXPECT_EQ(refused("\"prefix\":8", "\"prefix\":129"), "configuration.includedRules[0].prefix: is outside 0 to 128");
  EXPECT_EQ(refused("\"2001:db8::1\"", "7"), "configuration.gatewayAddresses: holds something that is not a string");
  EXPECT_FALSE(proxyConfigurationFromJson("[]").has_value());
  EXPECT_FALSE(proxyConfigurationFromJson(good + "x").has_value());
}

TEST(Json, RefusesBombsBeforeParsingThem) {
  EXPECT_FALSE(parseJson(std::string(4 * 1024 * 1024, '[')).has_value());
  EXPECT_FALSE(parseJson(std::string(33, '[') + std::string(33, ']')).has_value());
  EXPECT_TRUE(parseJson(std::string(32, '[') + std::string(32, ']')).has_value());
  EXPECT_TRUE(parseJson(R"({"text":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[[[["})").has_value());
  EXPECT_FALSE(parseJson("").has_value());
  EXPECT_FALSE(parseJson("{\"a\":\"\xff\"}").has_value());
}

TEST(Url, EscapesOneSegmentAndDecodesIt) {
  EXPECT_EQ(percentEncode("a/b ä~"), "a%2Fb%20%C3%A4~");
  EXPECT_EQ(percentDecode(percentEncode("a/b ?&=ä")).value(), "a/b ?&=ä");
  EXPECT_FALSE(percentDecode("%4").has_value());
  EXPECT_FALSE(percentDecode("a%0Ab").has_value());
  EXPECT_FALSE(parseTarget("http://x/").has_value());
  EXPECT_EQ(parseTarget("/v1/watch?since=3&flag")->query.at("flag"), "");
}

}  // namespace
}  // namespace wayleave::localapi
