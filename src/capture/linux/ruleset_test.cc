#include "capture/linux/ruleset.h"

#include <gtest/gtest.h>

#include "capture/linux/lab_test_support.h"
#include "capture/linux/nft_table.h"

namespace wayleave::capture::platform {
namespace {

using rules::NetworkRule;

NetworkRule network(std::string_view address, int prefix, uint16_t port = 0) {
  return {.network = rules::parseAddress(address).value(), .prefix = prefix, .port = port};
}
CapturePlan plan(std::vector<NetworkRule> included, std::vector<NetworkRule> excluded = {}) {
  CapturePlan result;
  result.ruleSets.push_back(rules::RuleSet::make(std::move(included), std::move(excluded)).value());
  return result;
}
const RulesetOptions kOptions{.listenerV4 = lab::at("127.0.0.1", 9000), .listenerV6 = lab::at("::1", 9001)};

// The body of a chain, without indentation.
std::string chain(const std::string& ruleset, const std::string& name) {
  const size_t start = ruleset.find("chain " + name + " {\n");
  if (start == std::string::npos) return "no such chain";
  const size_t body = ruleset.find('\n', start) + 1;
  std::string text = ruleset.substr(body, ruleset.find("  }\n", body) - body);
  for (size_t at = text.find("    "); at != std::string::npos; at = text.find("    ")) text.erase(at, 4);
  return text;
}

TEST(Ruleset, AddressRulesAreDecidedInTheKernel) {
  const auto text = compileRuleset(plan({NetworkRule{}}, {network("10.0.0.0", 8), network("2001:db8::", 32, 443)}), kOptions);
  EXPECT_EQ(chain(text, "configuration_0"),
            "fib daddr type local return\n"
            "ip daddr { 10.0.0.0/8 } return\n"
            "ip6 daddr { 2001:db8::/32 } tcp dport 443 return\n"
            "goto captured\n");
}

TEST(Ruleset, HostInclusionsBecomeCandidatesAndHostExclusionsStayWithTheProxy) {
  const auto text = compileRuleset(
      plan({NetworkRule{.host = "a.example", .port = 443}, NetworkRule{.host = "b.example", .port = 80}},
           {NetworkRule{.host = "direct.a.example"}}),
      kOptions);
  EXPECT_EQ(chain(text, "configuration_0"), "fib daddr type local return\ntcp dport { 80, 443 } goto captured\n");
}

TEST(Ruleset, NestedPrefixesShareOneSetWithoutOverlap) {
  const auto text = compileRuleset(
      plan({network("192.0.2.7", 32), network("192.0.2.0", 24), network("192.0.2.200", 24), network("198.51.100.0", 24)}),
      kOptions);
  EXPECT_EQ(chain(text, "configuration_0"),
            "fib daddr type local return\nip daddr { 192.0.2.0/24, 198.51.100.0/24 } goto captured\n");
}

TEST(Ruleset, OnlyRulesThatNameLoopbackReachIt) {
  const auto text = compileRuleset(plan({network("127.0.0.1", 32, 8080), network("0.0.0.0", 0, 443)}), kOptions);
  EXPECT_EQ(chain(text, "configuration_0"),
            "ip daddr { 127.0.0.1/32 } tcp dport 8080 goto captured\n"
            "fib daddr type local return\n"
            "tcp dport { 443 } goto captured\n");
}

TEST(Ruleset, UdpRulesCatchNothingYet) {
  EXPECT_FALSE(catchesAnything(plan({NetworkRule{.protocol = rules::Protocol::Udp}})));
  EXPECT_FALSE(catchesAnything(plan({}, {NetworkRule{}})));
  EXPECT_FALSE(catchesAnything({}));
  EXPECT_TRUE(catchesAnything(plan({NetworkRule{}})));
}

// A few hundred random rules of every shape: the real nft must take what we write.
TEST(Ruleset, RealNftTakesEveryShape) {
  lab::inNamespaces([] {
    auto table = NftTable::open();
    ASSERT_TRUE(table);
    ASSERT_TRUE(table->claim());
    unsigned state = 1;
    const auto random = [&state](unsigned below) { return (state = state * 1103515245u + 12345u) / 65536u % below; };
    CapturePlan all;
    for (int set = 0; set < 4; ++set) {
      std::vector<NetworkRule> lists[2];
      for (int i = 0; i < 200; ++i) {
        NetworkRule rule{.protocol = static_cast<rules::Protocol>(random(3)), .port = static_cast<uint16_t>(random(3) * 443)};
        if (const unsigned kind = random(4); kind == 0) {
          rule.host = "host" + std::to_string(i) + ".example";
        } else if (kind == 1) {
          rule.network.emplace().v6 = random(2) == 1;
          for (auto& byte : rule.network->bytes) byte = static_cast<uint8_t>(random(256));
          rule.network->bytes[0] |= 1;  // not the wildcard
          rule.prefix = static_cast<int>(1 + random(rule.network->v6 ? 128 : 32));
        } else if (kind == 2) {
          rule.network = rules::parseAddress(random(2) == 0 ? "127.0.0.0" : "::1").value();
          rule.prefix = rule.network->v6 ? 128 : 8;
        }
        lists[random(2)].push_back(std::move(rule));
      }
      all.ruleSets.push_back(rules::RuleSet::make(std::move(lists[0]), std::move(lists[1])).value());
    }
    all.untouched = {lab::at("192.0.2.9", 443), lab::at("2001:db8::9", 8443)};
    all.exemptUsers = {0, 998};
    auto options = kOptions;
    options.replace = true;
    const auto loaded = table->run(compileRuleset(all, options));
    EXPECT_TRUE(loaded) << (loaded ? "" : loaded.error().message);
    const auto again = table->run(compileRuleset(plan({NetworkRule{}}), options));
    EXPECT_TRUE(again) << (again ? "" : again.error().message);
    EXPECT_FALSE(lab::output("nft list table inet wayleave").contains("configuration_1"));
  });
}

TEST(NftTable, SecondOwnerIsRefusedAndLeftoverIsReplaced) {
  lab::inNamespaces([] {
    lab::run("nft add table inet wayleave");  // nobody's
    auto first = NftTable::open();
    ASSERT_TRUE(first && first->claim());
    auto second = NftTable::open();
    ASSERT_TRUE(second);
    const auto refused = second->claim();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().reason, Reason::Conflict);
    EXPECT_FALSE(first->run("no such command\n"));
    ASSERT_TRUE(first->remove());
    EXPECT_TRUE(second->claim());
  });
}

}  // namespace
}  // namespace wayleave::capture::platform
