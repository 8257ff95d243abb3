#include "management/management_store.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sys/stat.h>

#include <filesystem>

#include "base/file.h"

namespace wayleave::management {
namespace {

using localapi::ProxyConfiguration;

class ManagementStoreTest : public ::testing::Test {
 protected:
  ManagementStoreTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-ms-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    path_ = folder_ + "/management.db";
    reopen();
  }
  ~ManagementStoreTest() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void reopen() {
    store_.reset();
    auto opened = ManagementStore::open(path_, clock_);
    ASSERT_TRUE(opened.has_value()) << opened.error().message;
    store_ = std::move(*opened);
  }
  static ProfileRecord record(std::string installation, std::string identifier) {
    ProfileRecord out;
    out.installation = std::move(installation);
    out.identifier = std::move(identifier);
    out.uuid = "U";
    out.displayName = "Name";
    out.enrolment = {1, 0, 2};
    return out;
  }
  static ProxyConfiguration configuration(std::string id, int order) {
    ProxyConfiguration out;
    out.id = std::move(id);
    out.gatewayHost = "gw";
    out.order = order;
    return out;
  }
  void install(const std::string& installation, const std::string& identifier, std::vector<ProxyConfiguration> set) {
    ASSERT_TRUE(store_->begin(record(installation, identifier)));
    ASSERT_TRUE(store_->decide(installation, "{}", set));
    ASSERT_TRUE(store_->finish(installation));
  }

  ManualClock clock_;
  std::string folder_, path_;
  std::unique_ptr<ManagementStore> store_;
};

TEST_F(ManagementStoreTest, WalksAnInstallationThroughItsStates) {
  ASSERT_TRUE(store_->begin(record("I", "a")));
  ASSERT_TRUE(store_->noteIdentity("I", {"P", "ID", {9}}));
  EXPECT_TRUE(store_->profiles()->empty());
  reopen();
  EXPECT_EQ(store_->unfinished()->at(0).state, InstallState::Preparing);
  EXPECT_EQ(store_->unfinished()->at(0).enrolment, (Bytes{1, 0, 2}));
  ASSERT_TRUE(store_->decide("I", R"({"x":1})", {configuration("c", 0)}));
  EXPECT_TRUE(store_->configurations()->configurations.empty());  // decided is not yet in force
  reopen();
  EXPECT_EQ(store_->unfinished()->at(0).state, InstallState::Committing);
  const uint64_t before = *store_->sequence();
  EXPECT_EQ(store_->finish("I").value(), before + 1);
  reopen();
  const auto profile = store_->profile("a");
  ASSERT_TRUE(profile.has_value());
  EXPECT_EQ(profile->identities, (std::vector<InstalledIdentity>{{"P", "ID", {9}}}));
  EXPECT_EQ(profile->summary, R"({"x":1})");
  EXPECT_EQ(profile->enrolment, (Bytes{1, 0, 2}));  // renewals need it
  EXPECT_EQ(store_->configurations()->configurations.at(0), configuration("c", 0));
  EXPECT_EQ(store_->configurations()->sequence, before + 1);
}

TEST_F(ManagementStoreTest, RefusesStepsOutOfOrder) {
  EXPECT_EQ(store_->decide("I", "{}", {}).error().reason, Reason::Conflict);
  EXPECT_EQ(store_->finish("I").error().reason, Reason::Conflict);
  EXPECT_EQ(store_->noteIdentity("I", {"P", "ID", {}}).error().reason, Reason::Conflict);
  ASSERT_TRUE(store_->begin(record("I", "a")));
  EXPECT_EQ(store_->finish("I").error().reason, Reason::Conflict);
  EXPECT_EQ(store_->begin(record("J", "a")).error().reason, Reason::Conflict);
  EXPECT_TRUE(store_->begin(record("K", "b")));
  EXPECT_TRUE(store_->forget("I"));
  EXPECT_TRUE(store_->forget("I"));
  EXPECT_TRUE(store_->begin(record("J", "a")));
}

TEST_F(ManagementStoreTest, ReplacesTheSameIdentifierAtTheEndOnly) {
  install("I", "a", {configuration("old", 0)});
  ASSERT_TRUE(store_->begin(record("J", "a")));
  ASSERT_TRUE(store_->decide("J", "{}", {configuration("new", 0)}));
  EXPECT_EQ(store_->configurations()->configurations.at(0).id, "old");
  ASSERT_TRUE(store_->finish("J"));
  ASSERT_EQ(store_->configurations()->configurations.size(), 1U);
  EXPECT_EQ(store_->configurations()->configurations.at(0).id, "new");
  EXPECT_EQ(store_->profiles()->size(), 1U);
}

TEST_F(ManagementStoreTest, RollsADecisionBackWhole) {
  ASSERT_TRUE(store_->begin(record("I", "a")));
  EXPECT_EQ(store_->decide("I", "{}", {configuration("c", 0), configuration("c", 1)}).error().reason, Reason::Duplicate);
  EXPECT_EQ(store_->unfinished()->at(0).state, InstallState::Preparing);
  EXPECT_TRUE(store_->decide("I", "{}", {configuration("c", 0)}));
}

TEST_F(ManagementStoreTest, RemovesInTwoSteps) {
  EXPECT_EQ(store_->beginRemoval("a").error().reason, Reason::NotFound);
  install("I", "a", {configuration("c", 0)});
  ASSERT_TRUE(store_->beginRemoval("a"));
  EXPECT_TRUE(store_->configurations()->configurations.empty());
  EXPECT_EQ(store_->begin(record("J", "a")).error().reason, Reason::Conflict);
  reopen();
  EXPECT_EQ(store_->unfinished()->at(0).state, InstallState::Removing);
  EXPECT_TRUE(store_->finishRemoval("a"));
  EXPECT_TRUE(store_->finishRemoval("a"));
  EXPECT_TRUE(store_->unfinished()->empty());
  EXPECT_EQ(store_->profile("a").error().reason, Reason::NotFound);
}

TEST_F(ManagementStoreTest, OrdersConfigurationsAcrossProfiles) {
  install("I", "a", {configuration("late", 5), configuration("early", -5)});
  install("J", "b", {configuration("middle", 0)});
  const auto set = store_->configurations();
  EXPECT_EQ(set->configurations.at(0).id, "early");
  EXPECT_EQ(set->configurations.at(1).id, "middle");
  EXPECT_EQ(set->configurations.at(2).id, "late");
}

TEST_F(ManagementStoreTest, RefusesForeignAndNewerFiles) {
  const std::string text = folder_ + "/text";
  ASSERT_TRUE(writeFileAtomically(text, asBytes(std::string(4096, 'x')), 0600));
  EXPECT_EQ(ManagementStore::open(text, clock_).error().reason, Reason::BadInput);
  EXPECT_EQ(ManagementStore::open(folder_ + "/missing/x", clock_).error().reason, Reason::Io);
  std::filesystem::create_symlink(path_, folder_ + "/link");
  EXPECT_FALSE(ManagementStore::open(folder_ + "/link", clock_).has_value());
}

TEST_F(ManagementStoreTest, TakesOverTheDatabasesOfEarlierSchemas) {
  install("i1", "com.example", {});
  store_.reset();
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &raw), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(raw, "ALTER TABLE installations DROP COLUMN removal; ALTER TABLE installations DROP COLUMN declarations; PRAGMA user_version=1", nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(raw);
  reopen();
  ASSERT_TRUE(store_->profile("com.example"));
  EXPECT_TRUE(store_->noteRemoval("i1", "{}"));
  EXPECT_EQ(store_->profile("com.example")->removal, "{}");
}

TEST_F(ManagementStoreTest, KeepsTheFilePrivate) {
  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  std::filesystem::permissions(path_, std::filesystem::perms(0644));
  reopen();
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

// What another program sees in the database, which it opens and closes like any tool would.
int installedSeenElsewhere(const std::string& path) {
  const pid_t child = fork();
  if (child == 0) {
    sqlite3* database = nullptr;
    sqlite3_stmt* statement = nullptr;
    int count = 99;
    if (sqlite3_open(path.c_str(), &database) == SQLITE_OK &&
        sqlite3_prepare_v2(database, "SELECT count(*) FROM installations WHERE state='installed'", -1, &statement, nullptr) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
      count = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(database);
    _exit(count);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

TEST_F(ManagementStoreTest, BugAProgramThatLooksIntoTheDatabaseTookTheLogAway) {
  install("I1", "com.example.one", {});
  EXPECT_EQ(installedSeenElsewhere(path_), 1);
  install("I2", "com.example.two", {});
  EXPECT_EQ(installedSeenElsewhere(path_), 2) << "written into a log that is no longer there";
  reopen();
  EXPECT_EQ(store_->profiles()->size(), 2U);
}

}  // namespace
}  // namespace wayleave::management
