// What declarations give to applications: who counts as one, what it gets, and how it hears of changes.

#include "broker/applications.h"

#include <condition_variable>
#include <deque>
#include <thread>

#include "base/osstatus.h"
#include "broker/service_test_support.h"
#include "localapi/application_client.h"

namespace wayleave::broker {
namespace {

using namespace std::chrono_literals;
using localapi::ApplicationIdentities;
using localapi::DeclaredApplication;
using localapi::ManagedAppError;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(ComposedIdentifier, IsABundleAndPerhapsATeam) {
  EXPECT_EQ((ComposedIdentifier{"com.example.agent", ""}), parseComposedIdentifier("com.example.agent").value());
  EXPECT_EQ((ComposedIdentifier{"com.example.agent", "TEAM123456"}),
            parseComposedIdentifier("com.example.agent (TEAM123456)").value());
  for (const std::string_view bad :
       {"", "()", "com.example ()", "com.example (T", "com.example(T)", "com.example (T) ", "com.example (T)(U)",
        "com example", "com.example (a b)", "com.example\n", "com.example {anchor apple}"})
    EXPECT_EQ(Reason::BadInput, parseComposedIdentifier(bad).error().reason) << bad;
  EXPECT_FALSE(parseComposedIdentifier(std::string(256, 'a')));
}

TEST(ComposedIdentifier, ATeamThatIsAskedForMustHaveBeenNamedHere) {
  EXPECT_TRUE(isFor("a.b (T1)", "a.b (T1)"));
  EXPECT_TRUE(isFor("a.b", "a.b (T1)"));
  EXPECT_TRUE(isFor("a.b", "a.b"));
  EXPECT_FALSE(isFor("a.b (T1)", "a.b"));
  EXPECT_FALSE(isFor("a.b (T1)", "a.b (T2)"));
  EXPECT_FALSE(isFor("a.b", "a.B"));
  EXPECT_FALSE(isFor("", ""));
}

class ApplicationTest : public ServiceTest {
 protected:
  static constexpr const char* kAgent = "com.example.agent (TEAM123456)";

  // This very test program is the application `identifier`; with `manager`, it may also install and declare.
  void application(const std::string& rest = "", bool manager = true, const std::string& identifier = kAgent) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string caller =
        "executable = '" + self + "'\naccept = ['path', 'mapped-code', 'loader-variables']\n";
    std::string toml = "[[application]]\nidentifier = '" + identifier + "'\n" + caller + rest + "\n";
    if (manager)
      toml += "[[grant]]\nname = 'manager'\n" + caller + "access-groups = '*'\nusages = ['manage', 'inspect']\n";
    ASSERT_TRUE(writeFileAtomically(grantsFolder / "10-test.toml", asBytes(toml), 0644));
    for (const GrantProblem& problem : service.reloadGrants()) ADD_FAILURE() << describe(problem);
  }
  Status declare(std::vector<DeclaredApplication::Item> items, const std::string& identifier = kAgent) {
    return client->declareApplications({{identifier, "declaration.agent", std::move(items)}});
  }
  Result<IdentityInfo> fetch(std::string_view name) {
    return localapi::applicationIdentity(folder / "identity.sock", name);
  }
  std::string kindOf(const Result<IdentityInfo>& failed) {
    return failed ? "" : std::string(text(localapi::managedAppError(failed.error())));
  }
  // A second identity, of its own installation and profile.
  IdentityInfo installAnother(const std::string& installation, int serial) {
    EXPECT_TRUE(client->beginInstallation(installation));
    localapi::ImportRequest request = importRequest("secret", "P" + installation);
    request.installation = installation;
    request.profileIdentifier = "profile." + installation;
    request.pkcs12 = pkcs12("secret", serial);
    const Result<IdentityInfo> made = client->importPkcs12(std::move(request));
    EXPECT_TRUE(made) << made.error().message;
    EXPECT_TRUE(client->commitInstallation(installation, {}));
    return made.value_or(IdentityInfo{});
  }
};

// The lists as they come; next() waits for one.
class Follower {
 public:
  explicit Follower(std::string socket)
      : thread_([this, socket = std::move(socket)](const std::stop_token& stop) {
          localapi::followApplicationIdentities(
              socket, stop,
              [this](const ApplicationIdentities& list) {
                const std::lock_guard lock(mutex_);
                lists_.push_back(list);
                arrived_.notify_all();
                return true;
              },
              [this](const Error& error) {
                const std::lock_guard lock(mutex_);
                trouble_ = error;
                arrived_.notify_all();
                return error.reason != Reason::NotEntitled;
              });
        }) {}
  ApplicationIdentities next() {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, 20s, [&] { return !lists_.empty(); })) {
      ADD_FAILURE() << "nothing came";
      return {};
    }
    const ApplicationIdentities list = lists_.front();
    lists_.pop_front();
    return list;
  }
  Error trouble() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(arrived_.wait_for(lock, 20s, [&] { return trouble_.has_value(); }));
    return trouble_.value_or(Error{});
  }
  size_t waiting() {
    const std::lock_guard lock(mutex_);
    return lists_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<ApplicationIdentities> lists_;
  std::optional<Error> trouble_;
  std::jthread thread_;
};

TEST_F(ApplicationTest, GetsTheDeclaredIdentitiesAndNothingElse) {
  const IdentityInfo mine = install();
  const IdentityInfo other = installAnother("i2", 8);
  ASSERT_TRUE(declare({{"client", mine.id}}));
  application("", false);

  const Result<IdentityInfo> fetched = fetch("client");
  ASSERT_TRUE(fetched) << fetched.error().message;
  EXPECT_EQ(mine.id, fetched->id);
  EXPECT_EQ(1u, fetched->chain.size());
  EXPECT_TRUE(client->resolve(mine.reference));
  EXPECT_TRUE(client->show(mine.id));
  EXPECT_TRUE(signTls(mine.reference, clientContent()));
  ASSERT_EQ(1u, client->list().value().size());
  EXPECT_EQ(mine.id, client->list().value().front().id);

  EXPECT_EQ(Reason::NotEntitled, client->resolve(other.reference).error().reason);
  EXPECT_EQ(Reason::NotFound, client->show(other.id).error().reason);
  EXPECT_EQ(Reason::NotEntitled, signTls(other.reference, clientContent()).error().reason);
  EXPECT_EQ("invalidIdentifier", kindOf(fetch("other")));
  EXPECT_EQ("invalidIdentifier", kindOf(fetch(other.id)));
  // tls-client is all that an entry gives by itself.
  EXPECT_EQ(Reason::NotEntitled, signTls(mine.reference, Bytes(48, 1), false).error().reason);
  EXPECT_EQ(Reason::NotEntitled, client
                                     ->signMessage(mine.reference, "ecdsa_secp384r1_sha384", asBytes("x"),
                                                   std::chrono::steady_clock::now() + 5s)
                                     .error()
                                     .reason);
  EXPECT_EQ(Reason::NotEntitled, client->beginInstallation("evil").error().reason);
  EXPECT_EQ(Reason::NotEntitled, declare({{"client", other.id}}).error().reason);
  EXPECT_EQ(403, raw.call("GET", "/v1/applications")->status);
  EXPECT_EQ(403, raw.call("GET", "/v1/audit")->status);
  EXPECT_THAT(raw.callJson("GET", "/v1/status").value(), testing::Not(HasSubstr("identities")));
  EXPECT_THAT(auditLines(), testing::Contains(testing::AllOf(HasSubstr("\"event\":\"sign\""), HasSubstr(mine.id),
                                                             HasSubstr("application com.example.agent"))));
}

TEST_F(ApplicationTest, SignsMessagesOnlyWhenItsEntrySaysSo) {
  const IdentityInfo mine = install();
  ASSERT_TRUE(declare({{"client", mine.id}}));
  application("usages = ['sign']", false);
  EXPECT_TRUE(client->signMessage(mine.reference, "ecdsa_secp384r1_sha384", asBytes("x"),
                                  std::chrono::steady_clock::now() + 20s));
  EXPECT_EQ(Reason::NotEntitled, signTls(mine.reference, clientContent()).error().reason);
}

TEST_F(ApplicationTest, WithoutAnEntryNobodyGetsWhatIsDeclared) {
  const IdentityInfo mine = install();
  ASSERT_TRUE(declare({{"client", mine.id}}));
  // The bundle is known here, the team that the declaration asks for is not.
  application("", true, "com.example.agent");
  EXPECT_EQ("invalidIdentifier", kindOf(fetch("client")));
  const std::string shown = raw.callJson("GET", "/v1/applications").value();
  EXPECT_THAT(shown, HasSubstr(R"x("unmatched":["com.example.agent (TEAM123456)"])x"));
  // And with no entry at all it is not even asked which.
  grant(R"(usages = ["list"])");
  const Result<IdentityInfo> refused = fetch("client");
  ASSERT_FALSE(refused);
  EXPECT_EQ(Reason::NotEntitled, refused.error().reason);
  EXPECT_EQ("internalError", kindOf(refused));
  EXPECT_THAT(refused.error().message, HasSubstr("[[application]]"));
  EXPECT_THAT(raw.callJson("GET", "/v1/status").value(), HasSubstr(R"x("unmatched":["com.example.agent (TEAM123456)"])x"));
  EXPECT_EQ(Reason::NotEntitled, Follower(folder / "identity.sock").trouble().reason);
}

TEST_F(ApplicationTest, TellsTheThreeErrorsApart) {
  const IdentityInfo mine = install();
  ASSERT_TRUE(declare({{"client", mine.id},
                       {"undelivered", "", "https://mdm.example/asset answered 503"},
                       {"not/yet", ""}}));
  application("", false);
  EXPECT_TRUE(fetch("client"));
  EXPECT_EQ("invalidIdentifier", kindOf(fetch("nothing")));
  EXPECT_EQ("invalidIdentifier", kindOf(fetch("not/yet"))) << "declared, but there is nothing behind it";
  const Result<IdentityInfo> undelivered = fetch("undelivered");
  EXPECT_EQ("serverError", kindOf(undelivered));
  EXPECT_THAT(undelivered.error().message, HasSubstr("answered 503"));
  ASSERT_TRUE(store->setState(mine.id, keychain::IdentityState::Lost, "another TPM"));
  EXPECT_EQ("internalError", kindOf(fetch("client")));
  // Programs in other languages read the same word.
  const localapi::ClientResponse answer = raw.call("GET", "/v1/application/identities/nothing").value();
  EXPECT_EQ(404, answer.status);
  EXPECT_THAT(answer.body, HasSubstr(R"("managedAppError":"invalidIdentifier")"));
}

TEST_F(ApplicationTest, YieldsWhenTheListOrAValueBehindItChanges) {
  const IdentityInfo mine = install();
  application();
  Follower follower(folder / "identity.sock");
  EXPECT_THAT(follower.next().identifiers, IsEmpty()) << "nothing provisioned: an empty list, not silence";

  ASSERT_TRUE(declare({{"client", mine.id}}));
  ApplicationIdentities list = follower.next();
  EXPECT_THAT(list.identifiers, ElementsAre("client"));
  EXPECT_THAT(list.changed, ElementsAre("client"));
  ASSERT_TRUE(declare({{"client", mine.id}})) << "the same again changes nothing";

  // Another asset behind the same name.
  const IdentityInfo other = installAnother("i2", 8);
  ASSERT_TRUE(declare({{"client", other.id}}));
  list = follower.next();
  EXPECT_THAT(list.identifiers, ElementsAre("client"));
  EXPECT_THAT(list.changed, ElementsAre("client"));

  // A renewal: same name, same identity, same key.
  ASSERT_TRUE(client->renewCertificate(other.id, {certificateForSpki(other.publicKey, 9)}));
  list = follower.next();
  EXPECT_THAT(list.changed, ElementsAre("client"));
  EXPECT_EQ("09", fetch("client")->serial);

  ASSERT_TRUE(declare({{"client", other.id}, {"second", mine.id}}));
  list = follower.next();
  EXPECT_THAT(list.identifiers, ElementsAre("client", "second"));
  EXPECT_THAT(list.changed, ElementsAre("second"));

  // The identity goes, and its name with it, though it is still declared.
  ASSERT_TRUE(client->removeProfileIdentities("profile"));
  EXPECT_THAT(follower.next().identifiers, ElementsAre("client"));
  ASSERT_TRUE(client->declareApplications({}));
  EXPECT_THAT(follower.next().identifiers, IsEmpty());
  EXPECT_EQ(0u, follower.waiting());
}

TEST_F(ApplicationTest, AnIdentityDeclaredWhileStagedAppearsWithItsCommit) {
  application();
  ASSERT_TRUE(client->beginInstallation("i1"));
  const IdentityInfo staged = client->importPkcs12(importRequest()).value();
  ASSERT_TRUE(declare({{"client", staged.id}}));
  Follower follower(folder / "identity.sock");
  EXPECT_THAT(follower.next().identifiers, IsEmpty());
  EXPECT_EQ("invalidIdentifier", kindOf(fetch("client")));
  ASSERT_TRUE(client->commitInstallation("i1", {}));
  EXPECT_THAT(follower.next().identifiers, ElementsAre("client"));
}

TEST_F(ApplicationTest, ReadersComeBackUnderNewGrants) {
  const IdentityInfo mine = install();
  application();
  ASSERT_TRUE(declare({{"client", mine.id}}));
  Follower follower(folder / "identity.sock");
  EXPECT_THAT(follower.next().identifiers, ElementsAre("client"));
  application("", true, "com.example.another");
  EXPECT_THAT(follower.next().identifiers, IsEmpty());
}

TEST_F(ApplicationTest, TheDeclaredSetIsReplacedWholeOrNotAtAllAndOutlivesTheDaemon) {
  const IdentityInfo mine = install();
  application();
  ASSERT_TRUE(declare({{"client", mine.id}}));
  EXPECT_EQ(Reason::NotFound, declare({{"client", mine.id}, {"x", "no such identity"}}).error().reason);
  EXPECT_EQ(Reason::BadInput, declare({{"x", mine.id}}, "not an identifier").error().reason);
  EXPECT_EQ(Reason::BadInput, declare({{"x", mine.id}, {"x", mine.id}}).error().reason);
  EXPECT_EQ(Reason::BadInput, declare({{"x\n", mine.id}}).error().reason);
  EXPECT_EQ(Reason::BadInput, declare({{"x", mine.id, "and a problem"}}).error().reason);
  EXPECT_EQ(Reason::BadInput,
            declare(std::vector<DeclaredApplication::Item>(ApplicationTable::kMostIdentities + 1)).error().reason);
  EXPECT_EQ(Reason::BadInput,
            client
                ->declareApplications(std::vector<DeclaredApplication>(ApplicationTable::kMostApplications + 1,
                                                                       {"a.b", "d", {}}))
                .error()
                .reason);
  EXPECT_EQ(400, raw.call("PUT", "/v1/applications", R"({"applications":[],"colour":1})")->status);
  EXPECT_EQ(400, raw.call("PUT", "/v1/applications", R"({"applications":{}})")->status);
  EXPECT_TRUE(fetch("client")) << "the old set stays";

  const ApplicationTable again(*store);
  ASSERT_EQ(1u, again.current()->size());
  EXPECT_EQ(mine.id, again.current()->front().identities.front().identity);
  ASSERT_TRUE(store->setValue("declared-applications", asBytes("{damaged")));
  EXPECT_THAT(*ApplicationTable(*store).current(), IsEmpty());
}

TEST_F(ApplicationTest, OneUserCannotTakeAllTheStreams) {
  application();
  std::vector<std::unique_ptr<Follower>> followers;
  for (size_t index = 0; index < ApplicationStreams::kMostPerUser; ++index) {
    followers.push_back(std::make_unique<Follower>(folder / "identity.sock"));
    followers.back()->next();
  }
  EXPECT_EQ(429, raw.call("GET", "/v1/application/identities")->status);
}

}  // namespace
}  // namespace wayleave::broker
