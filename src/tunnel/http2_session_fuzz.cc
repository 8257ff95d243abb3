// A gateway that says anything at any moment, against flows that do anything at any moment. What must hold: no memory error,
// each stream is told its end at most once and nothing after it, no byte is taken twice, and a session that failed is over.

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <cstdlib>

#include "tunnel/http2_session.h"

namespace {

using namespace wayleave;
using namespace wayleave::tunnel;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  uint8_t byte() { return take(1).empty() ? 0 : last_; }
  ByteView take(size_t count) {
    const ByteView taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    if (!taken.empty()) last_ = taken.back();
    return taken;
  }

 private:
  ByteView rest_;
  uint8_t last_ = 0;
};

struct Host final : Http2Host {
  void sendBytes(ByteView bytes) override { sent += bytes.size(); }
  size_t sendRoom() const override { return room; }
  void wantDrained() override {}
  void wantTurn() override {}
  void wantTurnLater() override {}
  void retry(std::shared_ptr<OpenRequest> request, const Error& why) override { request->complete(std::unexpected(why)); }
  void streamsChanged() override {}
  void windowClosed(bool) override {}
  size_t room = WorkerBuffers::kBatchBytes;
  size_t sent = 0;
};

struct Flow final : StreamEvents {
  size_t onData(ByteView bytes) override {
    mustBeOpen();
    const size_t taken = std::min(bytes.size(), appetite);
    appetite -= taken;
    if (echoes && stream) stream->write(bytes.first(taken));
    if (leaves) stream.reset();
    return taken;
  }
  void onWritable() override {
    mustBeOpen();
    if (stream) stream->write(asBytes("more"));
  }
  void onEndOfStream() override {
    mustBeOpen();
    if (ended) std::abort();
    ended = true;
  }
  void onClosed(const Error&) override {
    mustBeOpen();
    closed = true;
  }
  void mustBeOpen() const {
    if (closed) std::abort();
  }
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Opener::Pending> pending;
  size_t appetite = 1 << 20;
  bool echoes = false;
  bool leaves = false;
  bool ended = false;
  bool closed = false;
  bool answered = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static WorkerBuffers buffers;
  boost::asio::io_context io;
  Input input(data, size);
  Host host;
  std::vector<std::unique_ptr<Flow>> flows;  // outlives the session
  Http2Session session(host, buffers);
  if (!session.start()) std::abort();
  const auto open = [&] {
    if (!session.accepts() || flows.size() >= 32) return;
    flows.push_back(std::make_unique<Flow>());
    Flow& flow = *flows.back();
    auto request = std::make_shared<OpenRequest>(io, "origin.test:443", flow, Steady::max(), [&flow](auto result) {
      if (std::exchange(flow.answered, true)) std::abort();
      if (result) flow.stream = std::move(*result);
    });
    flow.pending = request->handle();
    session.request(std::move(request));
  };
  open();
  open();
  bool over = !session.turn();
  while (!input.empty() && !over) {
    const uint8_t command = input.byte();
    Flow& flow = *flows[(command >> 4) % flows.size()];
    switch (command & 0x0f) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const size_t high = input.byte();
        Bytes bytes = toBytes(input.take(high << 8 | input.byte()));
        over = !session.receive(bytes);
        break;
      }
      case 4: open(); break;
      case 5: over = !session.turn(); break;
      case 6:
        if (flow.stream) flow.stream->write(input.take(input.byte()));
        break;
      case 7:
        if (flow.stream) flow.stream->write(Bytes(size_t{input.byte()} << 10));
        break;
      case 8:
        if (flow.stream) flow.stream->finishWriting();
        break;
      case 9: flow.stream.reset(); break;
      case 10: flow.pending.reset(); break;
      case 11: flow.appetite = input.byte(); break;
      case 12:
        flow.appetite = 1 << 20;
        if (flow.stream) flow.stream->resumeReading();
        break;
      case 13:
        host.room = host.room == 0 ? WorkerBuffers::kBatchBytes : 0;
        session.drained();
        break;
      case 14: flow.echoes = !flow.echoes; break;
      case 15: flow.leaves = true; break;
    }
  }
  session.failAll({Reason::GatewayClosed, "the end", {}}, (size & 1) != 0);
  for (const auto& flow : flows)
    if (flow->stream && !flow->closed) std::abort();
  return 0;
}
