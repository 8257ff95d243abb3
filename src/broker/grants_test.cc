#include "broker/grants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "broker/broker_test_support.h"

namespace wayleave::broker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> problemsOf(std::string_view toml, const Variables& variables = {}) {
  std::vector<std::string> out;
  for (const GrantProblem& problem : parseGrants(toml, "10-a.toml", variables).problems)
    out.push_back(describe(problem));
  return out;
}

Verdict flawless(const std::string& executable, uid_t uid = 1000) {
  Verdict verdict;
  verdict.pid = 42;
  verdict.uid = uid;
  verdict.gid = uid;
  verdict.executable = executable;
  verdict.sha256 = std::string(64, 'a');
  for (size_t index = 0; index < kConditionCount; ++index)
    verdict.conditions[index] = {static_cast<ConditionName>(index), true, "fine", {}};
  return verdict;
}

Entitlements entitled(std::string_view toml, const Verdict& verdict) {
  GrantSet set = parseGrants(toml, "10-a.toml", {});
  EXPECT_TRUE(set.problems.empty()) << describe(set.problems.front());
  return Entitlements(std::make_shared<const std::vector<Grant>>(std::move(set.grants)), verdict);
}

constexpr std::string_view kProxy = R"(
[[grant]]
name = "proxy"
executable = "/usr/lib/wayleave/wayleave-proxyd"
user = 64103
access-groups = ["com.apple.managed.vpn.shared"]
usages = ["tls-client"]
)";

TEST(Grants, GiveWhatTheySayAndNothingElse) {
  const Entitlements proxy = entitled(kProxy, flawless("/usr/lib/wayleave/wayleave-proxyd", 64103));
  EXPECT_NE(nullptr, proxy.find(Usage::TlsClient, "com.apple.managed.vpn.shared"));
  EXPECT_EQ(nullptr, proxy.find(Usage::TlsClient, "other"));
  EXPECT_EQ(nullptr, proxy.find(Usage::Sign));
  EXPECT_FALSE(proxy.sees("other", "id"));
  const Error refusal = proxy.refusal(Usage::Sign);
  EXPECT_EQ(Reason::NotEntitled, refusal.reason);
  EXPECT_THAT(refusal.message, HasSubstr("'sign'"));
}

TEST(Grants, TellAnUnknownProgramFromAnUnverifiedOne) {
  EXPECT_EQ(Reason::NotEntitled, entitled(kProxy, flawless("/usr/bin/curl", 64103)).refusal(Usage::TlsClient).reason);
  const Error unverified =
      entitled(kProxy, flawless("/usr/lib/wayleave/wayleave-proxyd", 1000)).refusal(Usage::TlsClient);
  EXPECT_EQ(Reason::CallerUnverified, unverified.reason);
  EXPECT_THAT(unverified.message, HasSubstr("grant 'proxy'"));
  EXPECT_THAT(unverified.message, HasSubstr("user 1000"));
}

TEST(Grants, NeverCombineTwoGrantsIntoMore) {
  const Entitlements both = entitled(R"(
[[grant]]
name = "a"
user = 1000
access-groups = "one"
usages = "sign"
[[grant]]
name = "b"
user = 1000
access-groups = "two"
usages = "list"
)",
                                     flawless("/bin/x"));
  EXPECT_NE(nullptr, both.find(Usage::Sign, "one"));
  EXPECT_EQ(nullptr, both.find(Usage::Sign, "two"));
  EXPECT_EQ(nullptr, both.find(Usage::List, "one"));
}

TEST(Grants, NameEveryFailedCondition) {
  Verdict verdict = flawless("/usr/lib/wayleave/wayleave-proxyd", 64103);
  verdict[ConditionName::NotTraced] = {ConditionName::NotTraced, false, "process 7 traces it", "detach"};
  verdict[ConditionName::LoaderVariables] = {
      ConditionName::LoaderVariables, false, "it was started with LD_PRELOAD=/x", {}};
  const Error refusal = entitled(kProxy, verdict).refusal(Usage::TlsClient);
  EXPECT_THAT(refusal.message, HasSubstr("not-traced: process 7 traces it"));
  EXPECT_THAT(refusal.message, HasSubstr("loader-variables: it was started with LD_PRELOAD=/x"));
  EXPECT_EQ("detach", refusal.hint);
}

TEST(Grants, WithoutAnExecutableNeedNothingOfTheFile) {
  Verdict verdict = flawless("/home/u/x");
  verdict[ConditionName::Path] = {ConditionName::Path, false, "writable", {}};
  constexpr std::string_view kUser = "[[grant]]\nname='u'\nuser=1000\naccess-groups='*'\nusages='list'\n";
  EXPECT_TRUE(entitled(kUser, verdict).any());
  verdict[ConditionName::NotTraced] = {ConditionName::NotTraced, false, "traced", {}};
  EXPECT_FALSE(entitled(kUser, verdict).any());
  EXPECT_FALSE(entitled(kUser, flawless("/home/u/x", 1001)).any());
}

TEST(Grants, ReportEveryMistakeWithLineAndKey) {
  EXPECT_THAT(problemsOf(R"([[grant]]
name = "a"
executable = "relative/path"
usages = ["tls-client", "everything"]
access-groups = ["x"]
colour = "blue"

[[grant]]
name = "b"
user = "no-such-user-here"
sha256 = "abc"
signatures-per-minute = -1
accept = ["not-traced"]
access-groups = []
usages = "sign"
)"),
              ElementsAre(HasSubstr("10-a.toml:6: grant[0].colour: is not a key"),
                          HasSubstr("10-a.toml:3: grant[0].executable: must be the absolute path"),
                          HasSubstr("10-a.toml:4: grant[0].usages[1]: 'everything' is not a usage"),
                          HasSubstr("10-a.toml:11: grant[1].sha256: must be 64"),
                          HasSubstr("10-a.toml:10: grant[1].user: there is no user"),
                          HasSubstr("10-a.toml:13: grant[1].accept[0]: 'not-traced' must always hold"),
                          HasSubstr("10-a.toml:12: grant[1].signatures-per-minute: must be a number"),
                          HasSubstr("10-a.toml:8: grant[1]: sha256 and owner speak about an executable"),
                          HasSubstr("10-a.toml:14: grant[1].access-groups: must not be empty")));
}

TEST(Grants, RefuseWhatWouldBindNothing) {
  EXPECT_THAT(problemsOf("[[grant]]\nname='a'\naccess-groups='*'\nusages='sign'\n"),
              ElementsAre(HasSubstr("describes every caller")));
  EXPECT_THAT(problemsOf("[[grant]]\nuser=1\naccess-groups='*'\nusages='sign'\n"),
              ElementsAre(HasSubstr("needs a name")));
  EXPECT_THAT(problemsOf("[[grant]]\nname='a'\nuser=1\nusages='sign'\n"),
              ElementsAre(HasSubstr("needs access-groups")));
  EXPECT_THAT(problemsOf("grant = 5\n"), ElementsAre(HasSubstr("must be written as [[grant]]")));
  EXPECT_THAT(problemsOf("[grants]\nx=1\n"), ElementsAre(HasSubstr("is not known")));
  EXPECT_THAT(problemsOf("[[grant]]\nname = \n"), ElementsAre(HasSubstr("10-a.toml:2")));
}

TEST(Grants, ExpandVariables) {
  const GrantSet set =
      parseGrants("[[grant]]\nname='a'\nexecutable='${dir}/x'\nuser='${id}'\naccess-groups='*'\nusages='list'\n", "f",
                  {{"dir", "/opt"}, {"id", "77"}});
  ASSERT_TRUE(set.problems.empty());
  EXPECT_EQ("/opt/x", set.grants[0].executables[0]);
  EXPECT_EQ(77u, *set.grants[0].user);
  EXPECT_THAT(
      problemsOf("[[grant]]\nname='a'\nexecutable='${dri}/x'\naccess-groups='*'\nusages='list'\n", {{"dir", "/opt"}}),
      ElementsAre(HasSubstr("unknown variable 'dri'; known are dir")));
}

TEST(GrantTable, KeepsTheOldGrantsWhenOneFileIsBad) {
  TemporaryFolder folder;
  GrantTable table(folder.path(), {});
  ASSERT_TRUE(writeFileAtomically(folder / "10-a.toml", asBytes(kProxy), 0644));
  EXPECT_TRUE(table.reload().empty());
  EXPECT_EQ(1u, table.current()->size());
  ASSERT_TRUE(writeFileAtomically(folder / "20-b.toml", asBytes("[[grant]]\nname = 1\n"), 0644));
  EXPECT_FALSE(table.reload().empty());
  EXPECT_EQ(1u, table.current()->size());
  EXPECT_FALSE(table.problems().empty());
  std::filesystem::remove(folder / "20-b.toml");
  std::filesystem::remove(folder / "10-a.toml");
  EXPECT_TRUE(table.reload().empty());
  EXPECT_TRUE(table.current()->empty());
}

TEST(GrantTable, TrustsNoFileThatOthersCanWrite) {
  TemporaryFolder folder;
  ASSERT_TRUE(writeFileAtomically(folder / "10-a.toml", asBytes(kProxy), 0666));
  EXPECT_THAT(describe(loadGrants(folder.path(), {}).problems.at(0)), HasSubstr("others could change it"));
  ::chmod(folder.path().c_str(), 0777);
  EXPECT_THAT(describe(loadGrants(folder.path(), {}).problems.at(0)), HasSubstr("others could write grants"));
  EXPECT_FALSE(loadGrants(folder / "missing", {}).problems.empty());
}

TEST(GrantTable, ShippedGrantsLoad) {
  const Result<Bytes> file = readFile(WAYLEAVE_SOURCE_DIR "/packaging/grants.d/10-wayleave.toml", 64 * 1024);
  ASSERT_TRUE(file);
  const GrantSet set =
      parseGrants(asText(*file), "10-wayleave.toml",
                  {{"program-dir", "/usr/lib/wayleave"}, {"proxy-user", "64103"}, {"management-user", "64102"}});
  for (const GrantProblem& problem : set.problems) ADD_FAILURE() << describe(problem);
  EXPECT_GE(set.grants.size(), 4u);  // proxyd, managementd, the administrator
  // managementd signs with nothing but the identity of the enrolment.
  for (const Grant& grant : set.grants) {
    if (grant.user != std::optional<uid_t>(64102)) continue;
    const bool mdm = grant.name == "wayleave-managementd (MDM)";
    EXPECT_EQ(mdm, !grant.everyAccessGroup && grant.accessGroups == std::set<std::string>{"com.apple.managed.mdm"}) << grant.name;
    EXPECT_EQ(mdm ? (std::set{Usage::TlsClient, Usage::Sign}) : (std::set{Usage::Manage, Usage::List}), grant.usages) << grant.name;
  }
}

TEST(Applications, GiveTheDeclaredIdentitiesToTheDescribedProgram) {
  constexpr std::string_view kEntry = R"x(
[[application]]
identifier = "com.example.agent (TEAM123456)"
executable = "/opt/agent"
user = 1000
)x";
  GrantSet set = parseGrants(kEntry, "10-a.toml", {});
  ASSERT_TRUE(set.problems.empty()) << describe(set.problems.front());
  EXPECT_EQ(std::set<Usage>{Usage::TlsClient}, set.grants.front().usages) << "the least that mutual TLS needs";
  const auto all = std::make_shared<const std::vector<Grant>>(std::move(set.grants));
  const auto declared = std::make_shared<const std::vector<localapi::DeclaredApplication>>(
      std::vector<localapi::DeclaredApplication>{
          {"com.example.agent", "d1", {{"client", "id-1"}, {"both", "id-1"}}},
          {"com.example.agent (TEAM123456)", "d2", {{"both", "id-2"}}},
          {"com.example.agent (OTHER)", "d3", {{"client", "id-3"}}}});
  const Entitlements agent(all, flawless("/opt/agent"), declared);
  EXPECT_TRUE(agent.any());
  EXPECT_TRUE(agent.isApplication());
  EXPECT_NE(nullptr, agent.find(Usage::TlsClient, "any group", "id-1"));
  EXPECT_NE(nullptr, agent.find(Usage::TlsClient, "any group", "id-2"));
  EXPECT_EQ(nullptr, agent.find(Usage::TlsClient, "any group", "id-3"));
  EXPECT_EQ(nullptr, agent.find(Usage::TlsClient, "any group"));
  EXPECT_EQ(nullptr, agent.find(Usage::TlsClient));
  EXPECT_EQ(nullptr, agent.find(Usage::Sign, "any group", "id-1"));
  EXPECT_FALSE(agent.sees("any group", "id-3"));
  const auto provisions = agent.provisions();
  ASSERT_EQ(2u, provisions.size());
  EXPECT_EQ("id-1", provisions[1].identity) << "of two declarations with one name the first counts";
  const Entitlements stranger(all, flawless("/opt/agent", 1001), declared);
  EXPECT_FALSE(stranger.any());
  EXPECT_EQ(Reason::CallerUnverified, stranger.refusal(Usage::TlsClient).reason);
  EXPECT_TRUE(stranger.provisions().empty());
}

TEST(Applications, AreRefusedWithLineAndKey) {
  EXPECT_THAT(problemsOf(R"(
[[application]]
identifier = "not an identifier"
user = 1
)"),
              ElementsAre(HasSubstr("10-a.toml:3: application[0].identifier:")));
  EXPECT_THAT(problemsOf("[[application]]\nuser = 1\n"), ElementsAre(HasSubstr("application[0].identifier")));
  EXPECT_THAT(problemsOf("[[application]]\nidentifier = 'a.b'\n"), ElementsAre(HasSubstr("describes every caller")));
  EXPECT_THAT(problemsOf("[[application]]\nidentifier = 'a.b'\nuser = 1\naccess-groups = '*'\n"),
              ElementsAre(HasSubstr("application[0].access-groups: is not a key of an application")));
  EXPECT_THAT(problemsOf("[[application]]\nidentifier = 'a.b'\nuser = 1\nusages = 'manage'\n"),
              ElementsAre(HasSubstr("'manage' is not for applications")));
  EXPECT_THAT(problemsOf("[[grant]]\nname = 'x'\nidentifier = 'a.b'\nuser = 1\nusages = 'inspect'\n"),
              ElementsAre(HasSubstr("grant[0].identifier: is not a key of a grant")));
  EXPECT_THAT(problemsOf("application = 1\n"), ElementsAre(HasSubstr("must be written as [[application]]")));
}

}  // namespace
}  // namespace wayleave::broker
