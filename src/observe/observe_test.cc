#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <nlohmann/json.hpp>

#include "observe/flow_journal.h"
#include "observe/metrics.h"

namespace wayleave::observe {
namespace {

FlowRecord record(uint64_t id) {
  return {.id = id, .started = Wall{std::chrono::seconds{1'800'000'000}}, .duration = std::chrono::milliseconds{1500},
          .destination = "198.51.100.1:443", .bytesUp = 10, .bytesDown = 20};
}

TEST(FlowRecord, JsonSaysWhatTheLogSays) {
  FlowRecord flow = record(7);
  flow.outcome = Reason::GatewayDenied;
  flow.error = "403";
  flow.host = "bad\xff.example";  // not UTF-8
  flow.user = 1000;
  const auto json = nlohmann::json::parse(toJson(flow));
  EXPECT_EQ(json["decision"], "tunnel");
  EXPECT_EQ(json["outcome"], "GATEWAY_DENIED");
  EXPECT_EQ(json["started"], "2027-01-15T08:00:00Z");
  EXPECT_EQ(json["ended"], "2027-01-15T08:00:01Z");
  EXPECT_EQ(json["durationMs"], 1500);
  EXPECT_EQ(json["user"], 1000);
  EXPECT_FALSE(nlohmann::json::parse(toJson(record(1))).contains("user"));
}

TEST(FlowHistory, GivesBackWhatWasPutInNewestFirst) {
  FlowHistory history(3, 1 << 20);
  EXPECT_TRUE(history.latest(5).empty());
  FlowRecord full = record(1);
  full.carriage = Carriage::Direct;
  full.outcome = Reason::DirectUnreachable;
  full.error = "connection refused";
  full.source = "192.0.2.1:41234";
  full.host = "origin.example";
  full.configuration = "c1";
  full.user = 0;
  history.add(full);
  ASSERT_EQ(history.latest(5).size(), 1u);
  EXPECT_EQ(toJson(history.latest(5)[0]), toJson(full));
  for (uint64_t id = 2; id <= 5; ++id) history.add(record(id));
  const auto latest = history.latest(5);
  ASSERT_EQ(latest.size(), 3u);
  EXPECT_EQ(latest[0].id, 5u);
  EXPECT_EQ(latest[2].id, 3u);
  EXPECT_FALSE(latest[0].user);
}

TEST(FlowHistory, AUserGetsHisOwnHoweverFarBack) {
  FlowHistory history(1000, 1 << 20);
  for (uint64_t id = 0; id < 500; ++id) {
    FlowRecord flow = record(id);
    if (id % 100 != 0) flow.user = id < 250 ? 1000 : 1001;  // of some it is not known whose they were
    history.add(flow);
  }
  const auto his = history.latest(2, 1000);
  ASSERT_EQ(his.size(), 2u);
  EXPECT_EQ(his[0].id, 249u);
  EXPECT_EQ(his[1].id, 248u);
  EXPECT_TRUE(history.latest(10, 0).empty());
}

TEST(FlowHistory, IsBoundedInBytesWhateverTheTexts) {
  FlowHistory history(10'000, 3 * FlowHistory::kBlockBytes);
  FlowRecord flow = record(0);
  for (std::string* text : {&flow.error, &flow.host, &flow.source, &flow.destination, &flow.configuration}) text->assign(100'000, 'x');
  for (; flow.id < 100; ++flow.id) history.add(flow);
  EXPECT_EQ(history.bytes(), 3 * FlowHistory::kBlockBytes);
  const auto latest = history.latest(1000);
  ASSERT_FALSE(latest.empty());
  EXPECT_EQ(latest[0].id, 99u);
  EXPECT_EQ(latest[0].host.size(), 4096u);
}

TEST(FlowHistory, TenThousandUsualFlowsFitIntoAMebibyteOrSo) {
  FlowHistory history(10'000, 16 << 20);
  FlowRecord flow = record(0);
  flow.source = "192.0.2.1:41234";
  flow.configuration = "5D0E8D1C-58E5-4F5E-8A58-0F3C1D9B7A13";
  for (; flow.id < 30'000; ++flow.id) history.add(flow);
  EXPECT_EQ(history.latest(100'000).size(), 10'000u);
  EXPECT_LE(history.bytes(), 1300u * 1024);
}

TEST(FlowJournal, KeepsTheLatestNewestFirstAndLogsEach) {
  std::atomic<int> logged = 0;
  std::latch written(5);
  FlowJournal journal({.workers = 2, .kept = 3, .log = [&](const FlowRecord&) { ++logged; }});
  journal.watch({.onRecord = [&](const FlowRecord&) {
    written.count_down();
    return true;
  }});
  for (uint64_t id = 1; id <= 5; ++id) journal.add(1, record(id));
  written.wait();
  std::vector<FlowRecord> latest;
  while ((latest = journal.latest(10)).size() < 3 || latest[0].id < 5) std::this_thread::yield();
  ASSERT_EQ(latest.size(), 3u);
  EXPECT_EQ(latest[0].id, 5u);
  EXPECT_EQ(latest[2].id, 3u);
  EXPECT_EQ(journal.latest(1).size(), 1u);
  EXPECT_EQ(logged, 5);
}

TEST(FlowJournal, WritesWhatIsQueuedBeforeItEnds) {
  int logged = 0;
  {
    FlowJournal journal({.log = [&](const FlowRecord&) { ++logged; }});
    for (uint64_t id = 0; id < 100; ++id) journal.add(0, record(id));
  }
  EXPECT_EQ(logged, 100);
}

TEST(FlowJournal, DropsAndCountsWhenTheLogIsTooSlow) {
  std::latch release(1);
  FlowJournal journal({.queuedPerWorker = 2, .log = [&](const FlowRecord&) { release.wait(); }});
  for (uint64_t id = 0; id < 100; ++id) journal.add(0, record(id));
  EXPECT_GE(journal.dropped(), 90u);
  release.count_down();
}

TEST(FlowJournal, WatcherThatSaysNoIsNotAskedAgain) {
  int asked = 0;
  {
    FlowJournal journal({.log = [](const FlowRecord&) {}});
    journal.watch({.onRecord = [&](const FlowRecord&) {
      ++asked;
      return false;
    }});
    journal.add(0, record(1));
    journal.add(0, record(2));
  }
  EXPECT_EQ(asked, 1);
}

TEST(Metrics, ShardsAreAddedUpInPrometheusText) {
  WorkerMetrics one, two;
  one.flowsOpened.add(3);
  two.flowsOpened.add(4);
  one.flowsActive.add();
  two.flowsActive.subtract();  // a flow never moves between workers, but the sum must not depend on it
  one.flowsEnded[static_cast<size_t>(Carriage::Direct)][static_cast<size_t>(Reason::Completed)].add(2);
  one.tunnelOpen.observe(std::chrono::microseconds{200});
  two.tunnelOpen.observe(std::chrono::seconds{60});
  const std::array<const WorkerMetrics*, 2> all{&one, &two};
  const std::string text = exposition(all, {{"wayleave_capture_installed", "1 while rules are loaded", 1}});
  for (const char* line : {"wayleave_flows_opened_total 7", "wayleave_flows_active 0",
                           "wayleave_flows_ended_total{decision=\"direct\",outcome=\"COMPLETED\"} 2",
                           "wayleave_tunnel_open_seconds_bucket{le=\"0.0005\"} 1", "wayleave_tunnel_open_seconds_bucket{le=\"+Inf\"} 2",
                           "wayleave_tunnel_open_seconds_count 2", "# TYPE wayleave_capture_installed gauge", "wayleave_capture_installed 1"})
    EXPECT_TRUE(text.contains(std::string(line) + "\n")) << line << "\n" << text;
  EXPECT_FALSE(exposition({}, {}).empty());
}

}  // namespace
}  // namespace wayleave::observe
