#include "broker/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <sstream>
#include <thread>

#include "broker/broker_test_support.h"

namespace wayleave::broker {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class AuditTest : public testing::Test {
 protected:
  std::unique_ptr<AuditLog> open(AuditLimits limits = {}) {
    return AuditLog::open(folder.path(), clock, limits).value();
  }
  void fill(int count) {
    const auto log = open();
    for (int index = 0; index < count; ++index)
      ASSERT_TRUE(log->append({.event = "sign", .outcome = "OK", .identity = std::to_string(index)}));
  }
  std::vector<std::string> lines() {
    std::istringstream in(std::string(asText(readFile(folder / "audit.log", 1 << 24).value())));
    std::vector<std::string> out;
    for (std::string line; std::getline(in, line);) out.push_back(line);
    return out;
  }
  void store(const std::vector<std::string>& all) {
    std::string text;
    for (const std::string& line : all) text += line + "\n";
    ASSERT_TRUE(writeFileAtomically(folder / "audit.log", asBytes(text)));
  }
  std::vector<std::string> findings() {
    std::vector<std::string> out;
    const AuditReport report = verifyAudit(folder.path()).value();
    for (const AuditFinding& finding : report.findings)
      out.push_back(finding.file + ":" + std::to_string(finding.line) + ": " + finding.message);
    return out;
  }

  TemporaryFolder folder;
  ManualClock clock;
};

TEST_F(AuditTest, ChainsLinesAcrossRestarts) {
  fill(3);
  fill(2);
  const AuditReport report = verifyAudit(folder.path()).value();
  EXPECT_EQ(5u, report.lines);
  EXPECT_EQ(1u, report.first);
  EXPECT_EQ(5u, report.last);
  EXPECT_TRUE(report.findings.empty());
  const std::vector<std::string> tail = open()->tail(2).value();
  ASSERT_EQ(2u, tail.size());
  EXPECT_THAT(tail[1], HasSubstr("\"seq\":5"));
}

TEST_F(AuditTest, FindsAnAlteredLine) {
  fill(4);
  auto all = lines();
  all[1].replace(all[1].find("OK"), 2, "KO");
  store(all);
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("audit.log:2: its contents do not fit its hash")));
}

TEST_F(AuditTest, FindsARemovedLine) {
  fill(4);
  auto all = lines();
  all.erase(all.begin() + 1);
  store(all);
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("audit.log:2: line 3 follows line 1: lines were removed")));
}

TEST_F(AuditTest, FindsReorderedLines) {
  fill(4);
  auto all = lines();
  std::swap(all[1], all[2]);
  store(all);
  EXPECT_FALSE(findings().empty());
  EXPECT_THAT(findings()[1], HasSubstr("reordered"));
}

TEST_F(AuditTest, FindsLinesCutFromTheEndAndTheBeginning) {
  fill(4);
  const auto all = lines();
  store({all[0], all[1]});
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("lines were cut off")));
  store({all[2], all[3]});
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("should begin with 1")));
}

TEST_F(AuditTest, FindsAForgedLineWithAFreshHash) {
  fill(2);
  const auto real = lines();
  TemporaryFolder elsewhere;
  {
    const auto forged = AuditLog::open(elsewhere.path(), clock).value();
    ASSERT_TRUE(forged->append({.event = "sign", .outcome = "OK", .identity = "forged"}));
    ASSERT_TRUE(forged->append({.event = "sign", .outcome = "OK", .identity = "forged"}));
  }
  std::istringstream in(std::string(asText(readFile(elsewhere / "audit.log", 1 << 20).value())));
  std::string first, second;
  std::getline(in, first);
  std::getline(in, second);
  store({real[0], second});
  EXPECT_THAT(findings(), testing::Contains(HasSubstr("does not continue the line before it")));
}

TEST_F(AuditTest, SurvivesATornLineAndSaysSo) {
  fill(2);
  auto text = std::string(asText(readFile(folder / "audit.log", 1 << 20).value()));
  text.resize(text.size() - 20);
  ASSERT_TRUE(writeFileAtomically(folder / "audit.log", asBytes(text)));
  fill(1);
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("recorded at a start: lines 2 to 2 are missing")));
}

TEST_F(AuditTest, RefusesToContinueWhatIsNotItsOwn) {
  ASSERT_TRUE(writeFileAtomically(folder / "audit.log", asBytes("something else\n")));
  const auto log = AuditLog::open(folder.path(), clock);
  ASSERT_FALSE(log);
  EXPECT_EQ(Reason::BadInput, log.error().reason);
  EXPECT_EQ(Reason::Io, AuditLog::open(folder / "missing", clock).error().reason);
}

TEST_F(AuditTest, RotatesWithinBoundsAndKeepsTheChain) {
  {
    const auto log = open({.fileBytes = 1000, .files = 3});
    for (int index = 0; index < 60; ++index) ASSERT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
  }
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    if (entry.path().filename().string().starts_with("audit.log")) ++files;
  EXPECT_EQ(4, files);
  const AuditReport report = verifyAudit(folder.path()).value();
  EXPECT_EQ(60u, report.last);
  EXPECT_GT(report.first, 1u);
  EXPECT_TRUE(report.findings.empty()) << report.findings.front().message;
  std::filesystem::remove(folder / "audit.log.3");
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("it should begin with")));
}

TEST_F(AuditTest, ClockJumpsDoNoHarm) {
  const auto log = open();
  ASSERT_TRUE(log->append({.event = "a", .outcome = "OK"}));
  clock.jumpWall(-std::chrono::hours{24 * 365 * 10});
  ASSERT_TRUE(log->append({.event = "b", .outcome = "OK"}));
  clock.jumpWall(std::chrono::hours{24 * 365 * 20});
  ASSERT_TRUE(log->append({.event = "c", .outcome = "OK"}));
  EXPECT_TRUE(findings().empty());
}

TEST_F(AuditTest, LeavesNothingOfALineThatDoesNotFitOnTheDisk) {
  const auto log = open();
  ASSERT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
  const off_t size = static_cast<off_t>(std::filesystem::file_size(folder / "audit.log"));
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto previous = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{static_cast<rlim_t>(size) + 50, before.rlim_max};  // in the middle of the next line
  ::setrlimit(RLIMIT_FSIZE, &tight);
  const Status refused = log->append({.event = "sign", .outcome = "OK"});
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, previous);
  ASSERT_FALSE(refused);
  EXPECT_EQ(Reason::Io, refused.error().reason);
  EXPECT_EQ(size, static_cast<off_t>(std::filesystem::file_size(folder / "audit.log")));
  ASSERT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
  EXPECT_TRUE(findings().empty());
}

std::atomic<bool> diskFails{false};
std::atomic<int> syncs{0};
int syncOnAFailingDisk(int fd) {
  const int result = diskFails ? -1 : ::fdatasync(fd);
  if (diskFails) errno = EIO;
  ++syncs;
  syncs.notify_all();
  return result;
}

// Review of issue 5, number 2: what fdatasync said was not looked at, and signing went on without a record.
TEST_F(AuditTest, RefusesLinesOnceTheDiskHasFailedUntilItWorksAgain) {
  syncs = 0;
  const auto log = open({.sync = syncOnAFailingDisk});
  ASSERT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
  syncs.wait(0);  // line 1 is on the disk
  diskFails = true;
  const int before = syncs;
  ASSERT_TRUE(log->append({.event = "sign", .outcome = "OK"}));  // its signature has left when the disk fails
  syncs.wait(before);
  Status refused = log->append({.event = "sign", .outcome = "OK"});
  while (refused) refused = log->append({.event = "sign", .outcome = "OK"});  // the failure is noted just after sync
  EXPECT_EQ(Reason::Io, refused.error().reason);
  EXPECT_FALSE(log->append({.event = "sign", .outcome = "OK"}));
  const uint64_t last = log->lastSequence();
  EXPECT_FALSE(log->append({.event = "sign", .outcome = "OK"}));
  EXPECT_EQ(last, log->lastSequence()) << "a refused line must leave nothing";
  diskFails = false;
  EXPECT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
  EXPECT_THAT(findings(), ElementsAre(AllOf(HasSubstr("recorded when the disk failed"), HasSubstr("lines 2 to"))));
}

TEST_F(AuditTest, DoesNotRotateAwayWhatTheDiskDidNotTake) {
  diskFails = true;
  const auto log = open({.fileBytes = 1, .files = 3, .sync = syncOnAFailingDisk});
  ASSERT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
  EXPECT_FALSE(log->append({.event = "sign", .outcome = "OK"}));
  EXPECT_FALSE(std::filesystem::exists(folder / "audit.log.1"));
  diskFails = false;
  EXPECT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
}

TEST_F(AuditTest, KeepsOutsideTextInOneLine) {
  const auto log = open();
  ASSERT_TRUE(
      log->append({.event = "sign", .outcome = "OK", .executable = "/tmp/a\"},\n{\"seq\":9", .detail = "\xff\xfe\n"}));
  EXPECT_EQ(1u, lines().size());
  EXPECT_TRUE(findings().empty());
}

TEST_F(AuditTest, ManyThreadsMakeOneChain) {
  {
    const auto log = open();
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread)
      threads.emplace_back([&] {
        for (int index = 0; index < 50; ++index) EXPECT_TRUE(log->append({.event = "sign", .outcome = "OK"}));
      });
  }
  EXPECT_EQ(200u, verifyAudit(folder.path()).value().lines);
  EXPECT_TRUE(findings().empty());
}

}  // namespace
}  // namespace wayleave::broker
