#include "rules/network_rule.h"

#include <gtest/gtest.h>

namespace wayleave::rules {
namespace {

NetworkRule everything(Protocol protocol = Protocol::Any) { return {.protocol = protocol}; }
NetworkRule network(std::string_view address, int prefix, uint16_t port = 0) {
  return {.network = parseAddress(address).value(), .prefix = prefix, .port = port};
}
NetworkRule host(std::string name, uint16_t port = 0) { return {.host = std::move(name), .port = port}; }

FlowTarget to(std::string_view address, uint16_t port, std::string name = {}, Protocol protocol = Protocol::Tcp) {
  return {.protocol = protocol, .address = parseAddress(address).value(), .port = port, .host = std::move(name)};
}
RuleSet make(std::vector<NetworkRule> included, std::vector<NetworkRule> excluded = {}) {
  return RuleSet::make(std::move(included), std::move(excluded)).value();
}

TEST(NetworkRule, WithoutInclusionNothingIsProxied) {
  EXPECT_EQ(RuleSet{}.decide(to("192.0.2.1", 443), false), Decision::Direct);
  EXPECT_EQ(make({}, {network("10.0.0.0", 8)}).decide(to("192.0.2.1", 443), false), Decision::Direct);
}

TEST(NetworkRule, ExclusionBeatsInclusion) {
  const RuleSet rules = make({everything()}, {network("10.0.0.0", 8)});
  EXPECT_EQ(rules.decide(to("10.255.0.1", 443), false), Decision::Direct);
  EXPECT_EQ(rules.decide(to("11.0.0.1", 443), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("2001:db8::1", 443), false), Decision::Tunnel);
}

TEST(NetworkRule, OrderInsideAListMeansNothing) {
  const RuleSet a = make({network("192.0.2.0", 24), host("x.example")});
  const RuleSet b = make({host("x.example"), network("192.0.2.0", 24)});
  for (const auto& target : {to("192.0.2.9", 1), to("198.51.100.1", 1), to("198.51.100.1", 1, "x.example")})
    EXPECT_EQ(a.decide(target, true), b.decide(target, true));
}

TEST(NetworkRule, RuleWithoutAddressMatchesAllButLoopback) {
  const RuleSet rules = make({everything()});
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("127.0.0.1", 80), false), Decision::Direct);
  EXPECT_EQ(rules.decide(to("127.8.8.8", 80), false), Decision::Direct);
  EXPECT_EQ(rules.decide(to("::1", 80), false), Decision::Direct);
  EXPECT_EQ(rules.decide(to("::ffff:127.0.0.1", 80), false), Decision::Direct);
}

TEST(NetworkRule, WildcardAddressMatchesBothFamiliesButNotLoopback) {
  const RuleSet rules = make({network("0.0.0.0", 0, 443)});
  EXPECT_EQ(rules.decide(to("192.0.2.1", 443), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("2001:db8::1", 443), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80), false), Decision::Direct);
  EXPECT_EQ(rules.decide(to("127.0.0.1", 443), false), Decision::Direct);
}

TEST(NetworkRule, LoopbackMatchesWhenNamed) {
  const RuleSet rules = make({network("127.0.0.1", 32), network("::1", 128, 8080)});
  EXPECT_EQ(rules.decide(to("127.0.0.1", 443), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("127.0.0.2", 443), false), Decision::Direct);
  EXPECT_EQ(rules.decide(to("::1", 8080), false), Decision::Tunnel);
}

TEST(NetworkRule, PrefixThatCoversLoopbackByAccidentDoesNotMatchIt) {
  const RuleSet rules = make({network("126.0.0.0", 7)});
  EXPECT_EQ(rules.decide(to("126.0.0.1", 443), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("127.0.0.1", 443), false), Decision::Direct);
}

TEST(NetworkRule, PrefixCountsBitsInBothFamilies) {
  const RuleSet rules = make({network("192.0.2.128", 25), network("2001:db8:80::", 41)});
  EXPECT_EQ(rules.decide(to("192.0.2.129", 1), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("192.0.2.127", 1), false), Decision::Direct);
  EXPECT_EQ(rules.decide(to("2001:db8:80:ffff::1", 1), false), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("2001:db8:7f::1", 1), false), Decision::Direct);
}

TEST(NetworkRule, OneLabelIsThatExactHost) {
  const RuleSet rules = make({host("intranet")});
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80, "intranet"), true), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80, "www.intranet"), true), Decision::Direct);
}

TEST(NetworkRule, TwoLabelsAreTheDomainAndEverythingBelow) {
  const RuleSet rules = make({host("example.com")});
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80, "example.com"), true), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80, "a.b.example.com"), true), Decision::Tunnel);
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80, "badexample.com"), true), Decision::Direct);
  EXPECT_EQ(rules.decide(to("192.0.2.1", 80, "com"), true), Decision::Direct);
}

TEST(NetworkRule, HostRuleWithPort53MatchesOnlyTheQueries) {
  const RuleSet dns = make({host("example.com", 53)});
  EXPECT_EQ(dns.decide(to("192.0.2.53", 53, "www.example.com", Protocol::Udp), true), Decision::Tunnel);
  EXPECT_EQ(dns.decide(to("192.0.2.1", 443, "www.example.com"), true), Decision::Direct);
  const RuleSet any = make({host("example.com")});
  EXPECT_EQ(any.decide(to("192.0.2.53", 53, "www.example.com", Protocol::Udp), true), Decision::Tunnel);
}

TEST(NetworkRule, ProtocolAnyIsTcpAndUdp) {
  EXPECT_EQ(make({everything()}).decide(to("192.0.2.1", 1, "", Protocol::Udp), false), Decision::Tunnel);
  EXPECT_EQ(make({everything(Protocol::Udp)}).decide(to("192.0.2.1", 1), false), Decision::Direct);
  EXPECT_EQ(make({everything(Protocol::Tcp)}).decide(to("192.0.2.1", 1), false), Decision::Tunnel);
}

TEST(NetworkRule, AsksForTheNameOnlyWhenItCouldChangeTheAnswer) {
  const RuleSet byHost = make({host("example.com", 443)});
  EXPECT_EQ(byHost.decide(to("192.0.2.1", 443), false), Decision::NeedsHost);
  EXPECT_EQ(byHost.decide(to("192.0.2.1", 443), true), Decision::Direct);
  EXPECT_EQ(byHost.decide(to("192.0.2.1", 80), false), Decision::Direct);

  const RuleSet hole = make({network("192.0.2.0", 24)}, {host("direct.example.com")});
  EXPECT_EQ(hole.decide(to("192.0.2.1", 443), false), Decision::NeedsHost);
  EXPECT_EQ(hole.decide(to("192.0.2.1", 443, "direct.example.com"), false), Decision::Direct);
  EXPECT_EQ(hole.decide(to("192.0.2.1", 443, "other.example.com"), false), Decision::Tunnel);
  EXPECT_EQ(hole.decide(to("192.0.2.1", 443), true), Decision::Tunnel);
  EXPECT_EQ(hole.decide(to("198.51.100.1", 443), false), Decision::Direct);
}

TEST(NetworkRule, ApplesRestrictionsHoldForBothLists) {
  const std::vector<NetworkRule> bad{
      network("0.0.0.0", 0),            // wildcard without a port
      network("::", 0),                 //
      network("192.0.2.1", 32, 53),     // port 53 in an address rule
      network("0.0.0.0", 0, 53),        //
      NetworkRule{.port = 53},          //
      network("192.0.2.0", 0),          // no bits
      network("192.0.2.0", 33),         // too many bits
      network("2001:db8::", 129),       //
      host("Example.com"),              // not lower case
      host("example.com."),             //
      host("a..b"),                     //
      host("192.0.2.1"),                // an address
      host(std::string(64, 'a')),       //
      host("space here.example"),       //
      NetworkRule{.network = parseAddress("192.0.2.1").value(), .prefix = 32, .host = "example.com"},
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    const auto included = RuleSet::make({everything(), bad[i]}, {});
    ASSERT_FALSE(included) << i;
    EXPECT_EQ(included.error().reason, Reason::BadInput);
    EXPECT_TRUE(included.error().message.starts_with("included[1]: ")) << included.error().message;
    const auto excluded = RuleSet::make({}, {bad[i]});
    ASSERT_FALSE(excluded) << i;
    EXPECT_TRUE(excluded.error().message.starts_with("excluded[0]: ")) << excluded.error().message;
  }
  for (const auto& good : {network("0.0.0.0", 0, 443), network("::", 0, 1), host("a_b-c.example", 53), everything()})
    EXPECT_TRUE(validate(good));
}

TEST(NetworkRule, AddressesHaveOneTextualForm) {
  EXPECT_EQ(text(parseAddress("192.0.2.1").value()), "192.0.2.1");
  EXPECT_EQ(text(parseAddress("2001:DB8:0:0::1").value()), "2001:db8::1");
  for (const std::string& bad : {std::string("192.0.2"), std::string("[::1]"), std::string("fe80::1%eth0"), std::string(),
                                 std::string("192.0.2.1\0x", 11), std::string(100, '1')})
    EXPECT_FALSE(parseAddress(bad)) << bad;
}

}  // namespace
}  // namespace wayleave::rules
