// The session alone: no socket, no TLS, a gateway of a few handwritten frames.

#include "tunnel/http2_session.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <boost/asio/io_context.hpp>

#include "base/sanitizers.h"

#if defined(WAYLEAVE_ADDRESS_SANITIZER) || defined(WAYLEAVE_THREAD_SANITIZER)
constexpr bool kCountsMemory = false;
#else
constexpr bool kCountsMemory = true;
#endif

namespace wayleave::tunnel {
namespace {

struct Host final : Http2Host {
  void sendBytes(ByteView bytes) override {
    sent += bytes.size();
    append(wire, bytes);
  }
  // How many frames of this type went out since the last call.
  int framesOf(uint8_t type) {
    int count = 0;
    for (ByteView rest = wire; rest.size() >= 9;) {
      const size_t length = size_t{rest[0]} << 16 | size_t{rest[1]} << 8 | rest[2];
      count += rest[3] == type;
      rest = rest.subspan(std::min(rest.size(), 9 + length));
    }
    wire.clear();
    return count;
  }
  size_t sendRoom() const override { return room; }
  void wantDrained() override { ++drainsWanted; }
  void wantTurn() override { ++turnsWanted; }
  void wantTurnLater() override { ++laterTurnsWanted; }
  void retry(std::shared_ptr<OpenRequest> request, const Error& why) override {
    ++retried;
    request->complete(std::unexpected(why));
  }
  void streamsChanged() override {}
  void windowClosed(bool closed) override { windowIsClosed = closed; }
  size_t sent = 0;
  Bytes wire;
  size_t room = WorkerBuffers::kBatchBytes;
  int drainsWanted = 0;
  int turnsWanted = 0;
  int laterTurnsWanted = 0;
  int retried = 0;
  bool windowIsClosed = false;
};

struct Flow final : StreamEvents {
  size_t onData(ByteView bytes) override {
    ++deliveries;
    if (stalled) return 0;
    received += bytes.size();
    return bytes.size();
  }
  size_t onDataParts(std::span<const ByteView> parts) override {
    ++deliveries;
    if (stalled) return 0;
    for (const ByteView part : parts) received += part.size();
    return received;
  }
  void onWritable() override { ++writable; }
  void onEndOfStream() override {}
  void onClosed(const Error& why) override { closed = why; }
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Opener::Pending> pending;
  std::optional<Error> failure;
  std::optional<Error> closed;
  bool stalled = false;
  size_t received = 0;
  int deliveries = 0;
  int writable = 0;
};

class Http2SessionTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(session_.start());
    ASSERT_TRUE(session_.turn());
    hear(frame(4, 0, 0, {}));  // SETTINGS
  }
  static Bytes frame(uint8_t type, uint8_t flags, uint32_t id, ByteView payload) {
    Bytes bytes{static_cast<uint8_t>(payload.size() >> 16), static_cast<uint8_t>(payload.size() >> 8),
                static_cast<uint8_t>(payload.size()), type, flags};
    appendU32(bytes, id);
    append(bytes, payload);
    return bytes;
  }
  static Bytes ok(uint32_t id) { return frame(1, 4, id, Bytes{0x88}); }  // HEADERS with :status 200
  static Bytes goAway(uint32_t last) {
    Bytes payload;
    appendU32(payload, last);
    appendU32(payload, 0);
    return frame(7, 0, 0, payload);
  }
  Status hear(Bytes bytes) { return session_.receive(bytes); }
  void request(Flow& flow) {
    auto request = std::make_shared<OpenRequest>(io_, "origin.test:443", flow, Steady::max(), [&flow](auto result) {
      if (result)
        flow.stream = std::move(*result);
      else
        flow.failure = std::move(result.error());
    });
    flow.pending = request->handle();
    session_.request(std::move(request));
    ASSERT_TRUE(session_.turn());
  }

  boost::asio::io_context io_;
  WorkerBuffers buffers_;
  Host host_;
  Http2Session session_{host_, buffers_};
};

TEST_F(Http2SessionTest, DeliversABatchOfFramesAtOnce) {
  Flow one;
  Flow two;
  auto first = std::make_shared<OpenRequest>(io_, "a:1", one, Steady::max(), [&](auto result) { one.stream = std::move(*result); });
  auto second = std::make_shared<OpenRequest>(io_, "b:1", two, Steady::max(), [&](auto result) { two.stream = std::move(*result); });
  session_.request(first);
  session_.request(second);
  ASSERT_TRUE(session_.turn());
  Bytes batch = ok(1);
  append(batch, ok(3));
  for (int i = 0; i < 10; ++i) {  // interleaved, as a fair gateway sends
    append(batch, frame(0, 0, 1, Bytes(1000)));
    append(batch, frame(0, 0, 3, Bytes(500)));
  }
  ASSERT_TRUE(hear(batch));
  EXPECT_EQ(one.received, 10'000u);
  EXPECT_EQ(one.deliveries, 1);
  EXPECT_EQ(two.received, 5'000u);
  EXPECT_EQ(two.deliveries, 1);
}

TEST_F(Http2SessionTest, HandsBackWhatAGoAwayLeavesUnprocessed) {
  Flow kept;
  Flow moved;
  request(kept);
  request(moved);
  ASSERT_TRUE(hear(ok(1)));
  ASSERT_TRUE(kept.stream);
  ASSERT_TRUE(hear(goAway(1)));
  EXPECT_EQ(host_.retried, 1);
  EXPECT_FALSE(kept.closed);
  EXPECT_FALSE(session_.accepts());
  ASSERT_TRUE(hear(frame(0, 0, 1, Bytes(10))));
  EXPECT_EQ(kept.received, 10u);
}

TEST_F(Http2SessionTest, OffersNoCapacityWhileOutputWaits) {
  Flow flow;
  request(flow);
  ASSERT_TRUE(hear(ok(1)));
  host_.room = 0;
  EXPECT_EQ(flow.stream->writeCapacity(), 0u);
  EXPECT_EQ(flow.stream->write(Bytes(10)), 0u);
  EXPECT_GT(host_.drainsWanted, 0);
  host_.room = 1000;
  session_.drained();
  EXPECT_EQ(flow.writable, 1);
  EXPECT_EQ(flow.stream->write(Bytes(5000)), 1000u);
}

// It used to be sent without a reset: a tunnel at the gateway that nobody ever ended.
TEST_F(Http2SessionTest, TakesBackARequestThatIsCancelledBeforeItLeft) {
  Flow flow;
  host_.framesOf(1);
  auto request = std::make_shared<OpenRequest>(io_, "a:1", flow, Steady::max(), [](auto) {});
  flow.pending = request->handle();
  session_.request(std::move(request));
  flow.pending.reset();
  ASSERT_TRUE(session_.turn());
  const Bytes wire = host_.wire;
  EXPECT_EQ(host_.framesOf(1), 0) << "HEADERS";
  host_.wire = wire;
  EXPECT_EQ(host_.framesOf(3), 0) << "RST_STREAM of a stream that the gateway has never seen";
  EXPECT_EQ(session_.streams(), 0u);
  Flow next;
  this->request(next);
  ASSERT_TRUE(hear(ok(3)));
  EXPECT_TRUE(next.stream);
}

// A hundred programs that stop reading must not stop the others: their windows shrink before the connection's is held back.
TEST_F(Http2SessionTest, NarrowsTheWindowsWhileMuchIsHeldAndWidensThemAgain) {
  ASSERT_TRUE(hear(frame(4, 1, 0, {})));  // it knows our window
  std::vector<Flow> flows(3);
  for (size_t i = 0; i < flows.size(); ++i) {
    flows[i].stalled = true;
    request(flows[i]);
    ASSERT_TRUE(hear(ok(static_cast<uint32_t>(2 * i + 1))));
  }
  host_.framesOf(4);
  for (int i = 0; i < 3 * 200; ++i) ASSERT_TRUE(hear(frame(0, 0, static_cast<uint32_t>(i % 3) * 2 + 1, Bytes(16'000))));
  EXPECT_EQ(host_.framesOf(4), 1) << "SETTINGS";
  for (Flow& flow : flows) {
    flow.stalled = false;
    flow.stream->resumeReading();
  }
  ASSERT_TRUE(session_.turn());
  EXPECT_EQ(flows[0].received, 200u * 16'000);
  EXPECT_EQ(host_.framesOf(4), 1);
}

TEST_F(Http2SessionTest, GathersTinyWritesUntilSomethingComesBack) {
  Flow flow;
  request(flow);
  ASSERT_TRUE(hear(ok(1)));
  flow.stream->write(asBytes("a"));
  EXPECT_EQ(host_.laterTurnsWanted, 0) << "the first goes at once";
  ASSERT_TRUE(session_.turn());
  flow.stream->write(asBytes("b"));
  EXPECT_EQ(host_.laterTurnsWanted, 1);
  ASSERT_TRUE(hear(frame(0, 0, 1, toBytes(asBytes("answer")))));
  flow.stream->write(asBytes("c"));
  EXPECT_EQ(host_.laterTurnsWanted, 1) << "a dialogue waits for nothing";
}

TEST_F(Http2SessionTest, ReportsWhatBreaksTheProtocol) {
  Flow flow;
  request(flow);
  const auto heard = hear(frame(0, 0, 0, Bytes(10)));  // DATA on stream 0
  ASSERT_FALSE(heard);
  EXPECT_EQ(heard.error().reason, Reason::GatewayProtocolError);
  session_.failAll(heard.error(), false);
  ASSERT_TRUE(flow.failure);
  EXPECT_EQ(flow.failure->reason, Reason::GatewayProtocolError);
}

TEST_F(Http2SessionTest, AnIdleTunnelOwnsLessThanAKibibyte) {
  if (!kCountsMemory) GTEST_SKIP() << "a sanitizer's allocator does not say";
  std::vector<Flow> flows(Http2Session::kMaxStreams);
  const auto use = [&](Flow& flow) {
    request(flow);
    EXPECT_TRUE(hear(ok(static_cast<uint32_t>(&flow - flows.data()) * 2 + 1)));
    flow.pending.reset();
    flow.stream->write(asBytes("a request"));
    EXPECT_TRUE(session_.turn());
  };
  use(flows[0]);  // what grows once
  const size_t before = ::mallinfo2().uordblks;
  for (Flow& flow : std::span(flows).subspan(1)) use(flow);
  const size_t each = (::mallinfo2().uordblks - before) / (flows.size() - 1);
  EXPECT_LT(each, 1024u);
  RecordProperty("bytes", static_cast<int>(each));
}

}  // namespace
}  // namespace wayleave::tunnel
