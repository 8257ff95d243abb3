#include "management/installer.h"

#include <gtest/gtest.h>

#include "management/installer_test_support.h"

namespace wayleave::management {
namespace {

constexpr const char* kIdentifier = "com.wayleave.example.pkcs12";

class InstallerTest : public ::testing::Test {
 protected:
  InstallerTest() : enroller_(agent_) {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-in-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    restart();
  }
  ~InstallerTest() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  // What a crash leaves: the files, and identityd.
  void restart(bool withEnroller = true) {
    store_.reset();
    auto opened = ManagementStore::open(folder_ + "/management.db", clock_);
    ASSERT_TRUE(opened.has_value()) << opened.error().message;
    store_ = std::move(*opened);
    installer_ = std::make_unique<Installer>(
        Installer::Parts{*store_, agent_, clock_, withEnroller ? &enroller_ : nullptr, std::chrono::milliseconds{0}},
        [this](const std::string& identifier, std::string_view sentence) {
          progress_.push_back(identifier + ": " + std::string(sentence));
        },
        [this](uint64_t sequence, std::string_view event, const std::string& identifier) {
          changes_.push_back(std::to_string(sequence) + " " + std::string(event) + " " + identifier);
        });
  }
  Result<InstallOutcome> install(const plist::Value& profile) { return installer_->install(bytesOf(profile), {}); }
  void expectNothing() {
    EXPECT_TRUE(agent_.held.empty());
    EXPECT_TRUE(agent_.pending.empty());
    EXPECT_TRUE(store_->profiles()->empty());
    EXPECT_TRUE(store_->unfinished()->empty());
    EXPECT_TRUE(store_->configurations()->configurations.empty());
  }

  SystemClock clock_;
  FakeAgent agent_;
  FakeEnroller enroller_;
  std::string folder_;
  std::unique_ptr<ManagementStore> store_;
  std::unique_ptr<Installer> installer_;
  std::vector<std::string> progress_, changes_;
};

TEST_F(InstallerTest, InstallsAPkcs12ProfileWithItsReference) {
  const auto outcome = install(example("pkcs12.mobileconfig"));
  ASSERT_TRUE(outcome.has_value()) << outcome.error().message;
  EXPECT_FALSE(outcome->replaced);
  ASSERT_EQ(agent_.held.size(), 1U);
  EXPECT_EQ(agent_.active().size(), 1U);
  EXPECT_EQ(agent_.held[0].info.accessGroup, kVpnAccessGroup);
  EXPECT_EQ(agent_.lastPassword, "wayleave-lab");
  const auto set = store_->configurations();
  ASSERT_EQ(set->configurations.size(), 1U);
  EXPECT_EQ(set->configurations[0].identityReference, agent_.held[0].info.reference);
  EXPECT_EQ(set->configurations[0].trustAnchors.size(), 1U);
  EXPECT_EQ(set->sequence, outcome->sequence);
  EXPECT_EQ(changes_, std::vector{std::to_string(outcome->sequence) + " profile-installed " + kIdentifier});
}

TEST_F(InstallerTest, KeepsNoKeyAndNoPasswordInTheDatabase) {
  agent_.failNext("commit", Reason::Unavailable);
  ASSERT_FALSE(install(mixedProfile()).has_value());
  store_.reset();
  for (const auto& file : std::filesystem::directory_iterator(folder_)) {
    const Bytes content = readFile(file.path().string(), 1 << 24).value();
    EXPECT_EQ(asText(content).find("wayleave-lab"), std::string_view::npos) << file.path();
    const plist::Value profile = example("pkcs12.mobileconfig");
    plist::Value copy = profile;
    const Bytes& key = *payloadOf(copy, "com.apple.security.pkcs12")->find("PayloadContent")->data();
    EXPECT_EQ(asText(content).find(asText(ByteView(key).subspan(64, 64))), std::string_view::npos) << file.path();
    EXPECT_EQ(asText(content).find(toBase64(ByteView(key).subspan(63, 60))), std::string_view::npos) << file.path();
  }
}

TEST_F(InstallerTest, ReplacesByIdentifierAndRemovesWhatTheProfileBrought) {
  ASSERT_TRUE(install(example("pkcs12.mobileconfig")));
  plist::Value newer = example("pkcs12.mobileconfig");
  newer.dictionary()->set("PayloadDisplayName", "Newer");
  const auto outcome = install(newer);
  ASSERT_TRUE(outcome.has_value());
  EXPECT_TRUE(outcome->replaced);
  EXPECT_EQ(agent_.active(), std::vector<std::string>{"identity-2"});
  EXPECT_EQ(store_->profiles()->at(0).displayName, "Newer");

  EXPECT_TRUE(installer_->remove(kIdentifier, {}));
  expectNothing();
  EXPECT_EQ(installer_->remove(kIdentifier, {}).error().reason, Reason::NotFound);
}

TEST_F(InstallerTest, TakesEverythingBackWhenAnyStepFails) {
  const std::pair<const char*, Reason> failures[] = {{"begin", Reason::Unavailable},
                                                     {"import", Reason::WrongPassword},
                                                     {"import", Reason::Unavailable},
                                                     {"commit", Reason::Conflict}};
  for (const auto& [call, reason] : failures) {
    agent_.failNext(call, reason);
    const auto outcome = install(example("pkcs12.mobileconfig"));
    ASSERT_FALSE(outcome.has_value()) << call;
    EXPECT_EQ(outcome.error().reason, reason) << call;
    expectNothing();
  }
  agent_.failNext("import", Reason::WrongPassword);
  EXPECT_NE(install(example("pkcs12.mobileconfig")).error().message.find("com.wayleave.example.pkcs12.identity"),
            std::string::npos);
  enroller_.failure = Error{Reason::AttestationRefused, "the CA refused", {}, 0};
  EXPECT_EQ(install(mixedProfile()).error().reason, Reason::AttestationRefused);
  expectNothing();
  EXPECT_FALSE(enroller_.outcomes.back().second);
}

TEST_F(InstallerTest, AFailedReplacementLeavesTheOldProfileInForce) {
  ASSERT_TRUE(install(example("pkcs12.mobileconfig")));
  const auto before = store_->configurations();
  agent_.failNext("import", Reason::KeyMismatch);
  ASSERT_FALSE(install(example("pkcs12.mobileconfig")).has_value());
  EXPECT_EQ(store_->configurations()->configurations, before->configurations);
  EXPECT_EQ(store_->configurations()->sequence, before->sequence);
  EXPECT_EQ(agent_.active(), std::vector<std::string>{"identity-1"});
}

TEST_F(InstallerTest, RefusesAProfileWhoseRemovalDateHasPassed) {
  plist::Value profile = example("pkcs12.mobileconfig");
  profile.dictionary()->set("RemovalDate", plist::Date::fromWall(clock_.wallNow() - std::chrono::hours{1}));
  const auto outcome = install(profile);
  ASSERT_FALSE(outcome.has_value());
  EXPECT_EQ(outcome.error().reason, Reason::BadInput);
  EXPECT_NE(outcome.error().message.find("RemovalDate"), std::string::npos);
  expectNothing();
  profile.dictionary()->set("RemovalDate", plist::Date::fromWall(clock_.wallNow() + std::chrono::hours{1}));
  const auto installed = install(profile);
  ASSERT_TRUE(installed) << installed.error().message;
  EXPECT_NE(installed->profile.removal, "");
}

TEST_F(InstallerTest, RefusesAnExpiredIdentityWithAHint) {
  agent_.notAfter = "2020-01-01T00:00:00Z";
  const auto outcome = install(example("pkcs12.mobileconfig"));
  ASSERT_FALSE(outcome.has_value());
  EXPECT_EQ(outcome.error().reason, Reason::IdentityExpired);
  EXPECT_FALSE(outcome.error().hint.empty());
  expectNothing();
}

TEST_F(InstallerTest, ReportsEveryMistakeOfAFile) {
  plist::Value broken = example("pkcs12.mobileconfig");
  payloadOf(broken, "com.apple.vpn.managed")->find("VendorConfig")->dictionary()->set("FailurePolicy", "maybe");
  payloadOf(broken, "com.apple.security.root")->set("PayloadContent", "text");
  const auto outcome = install(broken);
  ASSERT_FALSE(outcome.has_value());
  EXPECT_NE(outcome.error().message.find("FailurePolicy"), std::string::npos);
  EXPECT_NE(outcome.error().message.find("PayloadContent"), std::string::npos);
  EXPECT_EQ(installer_->install(asBytes("hello"), {}).error().reason, Reason::BadInput);
  expectNothing();
}

TEST_F(InstallerTest, EnrolsAfterImportingAndNamesTheAccessGroups) {
  const auto outcome = install(mixedProfile());
  ASSERT_TRUE(outcome.has_value()) << outcome.error().message;
  ASSERT_EQ(agent_.held.size(), 2U);
  EXPECT_EQ(agent_.held[0].info.accessGroup, kVpnAccessGroup);      // the PKCS#12 one, though second in the file
  EXPECT_EQ(agent_.held[1].info.accessGroup, kDefaultAccessGroup);  // no VPN payload uses it
  EXPECT_TRUE(enroller_.outcomes.back().second);
  EXPECT_NE(std::ranges::find(progress_, std::string(kIdentifier) + ": asking the CA"), progress_.end());
}

// Each try registered another account at the CA, and a binding that works once was used up by the first.
TEST_F(InstallerTest, BugAFailedEnrolmentLostTheAccountAtTheCa) {
  enroller_.failure = Error{Reason::Unavailable, "the CA is away", {}, 0};
  EXPECT_EQ(install(example("acme.mobileconfig")).error().reason, Reason::Unavailable);
  EXPECT_EQ(enroller_.sweeps, 0);
  enroller_.failure.reset();
  ASSERT_TRUE(install(example("acme.mobileconfig")).has_value());
}

TEST_F(InstallerTest, RefusesAnEnrolmentThatNobodyCanDo) {
  restart(false);
  EXPECT_EQ(install(example("acme.mobileconfig")).error().reason, Reason::Unsupported);
  expectNothing();
}

TEST_F(InstallerTest, ADecidedInstallationIsCommittedAtTheNextStart) {
  agent_.failNext("commit", Reason::Unavailable, 2);
  const auto outcome = install(example("pkcs12.mobileconfig"));
  ASSERT_FALSE(outcome.has_value());
  EXPECT_EQ(outcome.error().reason, Reason::Pending);
  restart();
  EXPECT_FALSE(installer_->recover({}));  // identityd is still away
  EXPECT_TRUE(store_->profiles()->empty());
  EXPECT_TRUE(installer_->recover({}));
  EXPECT_EQ(agent_.active().size(), 1U);
  EXPECT_EQ(store_->profiles()->size(), 1U);
  EXPECT_EQ(changes_.size(), 1U);
}

TEST_F(InstallerTest, ACommitThatIdentitydForgotIsTakenBack) {
  agent_.failNext("commit", Reason::Unavailable);
  ASSERT_FALSE(install(example("pkcs12.mobileconfig")).has_value());
  agent_.pending.clear();
  agent_.held.clear();  // its state directory was lost
  EXPECT_TRUE(installer_->recover({}));
  expectNothing();
}

TEST_F(InstallerTest, AnInterruptedPkcs12InstallationIsAborted) {
  ProfileRecord record;
  record.installation = "I";
  record.identifier = kIdentifier;
  ASSERT_TRUE(store_->begin(record));
  ASSERT_TRUE(agent_.beginInstallation("I"));
  agent_.hold({}, "I");
  restart();
  EXPECT_TRUE(installer_->recover({}));
  expectNothing();
}

TEST_F(InstallerTest, AnInterruptedEnrolmentGoesOnUnderTheSameInstallation) {
  std::stop_source later;
  // The first payload is imported; the stop arrives while the CA is asked.
  struct Interrupting final : Enroller {
    explicit Interrupting(std::stop_source& source) : stop(source) {}
    Result<localapi::IdentityInfo> enroll(const EnrolmentRequest&, const EnrolmentProgress&, std::stop_token) override {
      stop.request_stop();
      return fail(Reason::Cancelled, "stopping");
    }
    void settled(std::string_view, bool) override {}
    std::stop_source& stop;
  } interrupting(later);
  Installer first({*store_, agent_, clock_, &interrupting, std::chrono::milliseconds{0}},
                  [](const std::string&, std::string_view) {}, [](uint64_t, std::string_view, const std::string&) {});
  plist::Value profile = mixedProfile();
  // The VPN payload uses the ACME identity, so the resumed run must find its reference.
  payloadOf(profile, "com.apple.vpn.managed")
      ->find("TransparentProxy")
      ->dictionary()
      ->set("PayloadCertificateUUID", *payloadOf(profile, "com.apple.security.acme")->find("PayloadUUID")->string());
  EXPECT_EQ(first.install(bytesOf(profile), later.get_token()).error().reason, Reason::Cancelled);
  const std::string installation = store_->unfinished()->at(0).installation;
  EXPECT_EQ(agent_.held.size(), 1U);

  restart();
  EXPECT_TRUE(installer_->recover({}));
  EXPECT_EQ(enroller_.installations, std::vector{installation});
  EXPECT_EQ(agent_.active().size(), 2U);
  ASSERT_EQ(store_->configurations()->configurations.size(), 1U);
  EXPECT_EQ(store_->configurations()->configurations[0].identityReference, agent_.held[1].info.reference);
  EXPECT_EQ(agent_.held[1].info.accessGroup, kVpnAccessGroup);
  EXPECT_EQ(store_->profiles()->at(0).identities.size(), 2U);
}

TEST_F(InstallerTest, EnrolsAgainForALostIdentityAndReplacesIt) {
  ASSERT_TRUE(install(example("acme.mobileconfig")));
  const auto before = store_->configurations()->configurations.at(0);
  const auto outcome = installer_->reinstall("com.wayleave.example.acme", {});
  ASSERT_TRUE(outcome.has_value()) << outcome.error().message;
  EXPECT_EQ(agent_.active(), std::vector<std::string>{"identity-2"});
  const auto after = store_->configurations()->configurations.at(0);
  EXPECT_EQ(after.gatewayHost, before.gatewayHost);
  EXPECT_EQ(after.trustAnchors, before.trustAnchors);
  EXPECT_EQ(after.identityReference, agent_.held.at(0).info.reference);
  EXPECT_TRUE(installer_->reinstall("com.wayleave.example.acme", {}).has_value());  // and once more

  ASSERT_TRUE(install(example("pkcs12.mobileconfig")));
  EXPECT_EQ(installer_->reinstall(kIdentifier, {}).error().reason, Reason::NotFound);
  ASSERT_TRUE(install(mixedProfile()));
  EXPECT_EQ(installer_->reinstall(kIdentifier, {}).error().reason, Reason::Unsupported);
  EXPECT_EQ(installer_->reinstall("nobody", {}).error().reason, Reason::NotFound);
}

TEST_F(InstallerTest, ARemovalWithoutIdentitydTakesConfigurationsAwayAtOnceAndEndsLater) {
  ASSERT_TRUE(install(example("pkcs12.mobileconfig")));
  agent_.failNext("remove", Reason::Unavailable);
  EXPECT_EQ(installer_->remove(kIdentifier, {}).error().reason, Reason::Pending);
  EXPECT_TRUE(store_->configurations()->configurations.empty());
  EXPECT_EQ(install(example("pkcs12.mobileconfig")).error().reason, Reason::Conflict);
  restart();
  EXPECT_TRUE(installer_->recover({}));
  expectNothing();
}

TEST_F(InstallerTest, AbortsInstallationsThatOnlyIdentitydKnows) {
  ASSERT_TRUE(agent_.beginInstallation("stranger"));
  agent_.hold({}, "stranger");
  EXPECT_TRUE(installer_->recover({}));
  expectNothing();
  agent_.failNext("pending", Reason::Unavailable);
  EXPECT_FALSE(installer_->recover({}));
}

}  // namespace
}  // namespace wayleave::management
