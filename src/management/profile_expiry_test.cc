#include "management/profile_expiry.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace wayleave::management {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr seconds kSettle{10};

class ProfileExpiryTest : public ::testing::Test {
 protected:
  ProfileExpiryTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-pe-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    store_ = ManagementStore::open(folder_ + "/management.db", clock_).value();
    restart();
  }
  ~ProfileExpiryTest() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  // The daemon, on the boot that runs.
  void restart() { expiry_ = std::make_unique<ProfileExpiry>(ProfileExpiry::Parts{*store_, clock_, [this] { return uptime_; }, boot_, kSettle}); }
  // `off`: how long the machine was off; `shown`: what its clock says of that.
  void reboot(seconds shown) {
    boot_ += "'";
    uptime_ = seconds{5};
    clock_.jumpWall(shown);
    restart();
  }
  void pass(milliseconds time) {
    uptime_ += time;
    clock_.advance(time);
  }
  void install(std::optional<Wall> date, std::optional<seconds> duration) {
    Profile profile;
    profile.identifier = "com.example";
    profile.removalDate = date;
    profile.durationUntilRemoval = duration;
    ProfileRecord record;
    record.installation = "i";
    record.identifier = profile.identifier;
    record.removal = removalOf(profile, clock_.wallNow());
    ASSERT_TRUE(store_->begin(record));
    ASSERT_TRUE(store_->decide("i", "{}", {}));
    ASSERT_TRUE(store_->finish("i"));
    EXPECT_FALSE(goes());
  }
  // As the service does: looks as often as it is told to, for this long.
  bool goesWithin(milliseconds time) {
    for (milliseconds left = time; left >= milliseconds{0};) {
      const auto look = expiry_->look();
      if (!look.due.empty()) return true;
      if (!look.again) return false;
      pass(*look.again);
      left -= *look.again;
    }
    return false;
  }
  bool goes() { return !expiry_->look().due.empty(); }

  ManualClock clock_;
  milliseconds uptime_ = hours{1};
  std::string boot_ = "boot";
  std::string folder_;
  std::unique_ptr<ManagementStore> store_;
  std::unique_ptr<ProfileExpiry> expiry_;
};

TEST_F(ProfileExpiryTest, ProfilesWithoutEitherKeyStayAndCostNothing) {
  install(std::nullopt, std::nullopt);
  EXPECT_FALSE(expiry_->look().again);
  EXPECT_EQ(store_->profile("com.example")->removal, "");
  pass(hours{100'000});
  EXPECT_FALSE(goes());
}

TEST_F(ProfileExpiryTest, GoesAtItsDateAndNotBefore) {
  install(clock_.wallNow() + hours{2}, std::nullopt);
  EXPECT_FALSE(goesWithin(hours{2} - minutes{2}));
  EXPECT_TRUE(goesWithin(minutes{4}));
}

TEST_F(ProfileExpiryTest, AWrongClockThatIsCorrectedSoonRemovesNothing) {
  install(clock_.wallNow() + hours{24}, std::nullopt);
  clock_.jumpWall(hours{48});
  EXPECT_FALSE(goes());
  pass(kSettle / 2);
  EXPECT_FALSE(goes());
  clock_.jumpWall(-hours{48});  // corrected
  pass(kSettle);
  EXPECT_FALSE(goes());
  EXPECT_FALSE(goesWithin(hours{20}));
  EXPECT_TRUE(goesWithin(hours{6}));
}

TEST_F(ProfileExpiryTest, AClockThatIsSetBackIsBelievedAboutADate) {
  install(clock_.wallNow() + hours{1}, std::nullopt);
  clock_.jumpWall(-hours{10});
  EXPECT_FALSE(goesWithin(hours{10}));
  EXPECT_TRUE(goesWithin(hours{2}));
}

TEST_F(ProfileExpiryTest, ADurationDoesNotCareForTheWallClock) {
  install(std::nullopt, hours{2});
  clock_.jumpWall(hours{1'000});
  EXPECT_FALSE(goesWithin(hours{2} - minutes{2}));
  clock_.jumpWall(-hours{2'000});
  EXPECT_TRUE(goesWithin(minutes{4}));
}

TEST_F(ProfileExpiryTest, ADurationGoesOnOverARestartOfTheDaemon) {
  install(std::nullopt, hours{2});
  EXPECT_FALSE(goesWithin(hours{1}));
  pass(minutes{50});  // it does not run
  clock_.jumpWall(-hours{5});
  restart();
  EXPECT_FALSE(goes());
  EXPECT_TRUE(goesWithin(minutes{13}));
}

TEST_F(ProfileExpiryTest, ADurationGoesOnOverARebootByTheWallClock) {
  install(std::nullopt, hours{2});
  EXPECT_FALSE(goesWithin(hours{1}));
  reboot(minutes{50});
  EXPECT_FALSE(goesWithin(minutes{7}));
  EXPECT_TRUE(goesWithin(minutes{7}));
}

TEST_F(ProfileExpiryTest, AClockThatIsWrongAtBootNeitherRemovesNorSaves) {
  install(std::nullopt, hours{2});
  EXPECT_FALSE(goesWithin(hours{1}));
  reboot(hours{24 * 365 * 50});  // a dead battery, and a year that is far away
  EXPECT_FALSE(goes());
  clock_.jumpWall(-hours{24 * 365 * 50});  // the network's time
  EXPECT_FALSE(goesWithin(minutes{55}));
  EXPECT_TRUE(goesWithin(minutes{10}));
}

TEST_F(ProfileExpiryTest, AClockThatStartsInThePastCountsNothingTwice) {
  install(std::nullopt, hours{2});
  EXPECT_FALSE(goesWithin(hours{1}));
  reboot(-hours{24 * 365 * 50});
  EXPECT_FALSE(goesWithin(minutes{50}));
  EXPECT_TRUE(goesWithin(minutes{15})) << "what the machine was off is not known; what it ran is";
}

TEST_F(ProfileExpiryTest, TheEarlierOfBothCounts) {
  install(clock_.wallNow() + hours{10}, hours{1});
  EXPECT_FALSE(goesWithin(minutes{58}));
  EXPECT_TRUE(goesWithin(minutes{4}));
}

TEST_F(ProfileExpiryTest, SaysWhenItWillBe) {
  const Wall start = clock_.wallNow();
  install(std::nullopt, hours{2});
  EXPECT_EQ(expectedRemoval(*store_->profile("com.example")), rfc3339(start + hours{2}));
  EXPECT_EQ(expectedRemoval(ProfileRecord{}), "");
}

TEST_F(ProfileExpiryTest, WhatIsNotOursToReadKeepsTheProfile) {
  install(std::nullopt, hours{2});
  ASSERT_TRUE(store_->noteRemoval("i", "{\"duration\": \"x\"}"));
  pass(hours{3});
  EXPECT_FALSE(goes());
  ASSERT_TRUE(store_->noteRemoval("i", "nonsense"));
  EXPECT_FALSE(expiry_->look().again);
}

}  // namespace
}  // namespace wayleave::management
