// The workers as threads, with an echoing gateway: what ThreadSanitizer and AddressSanitizer look at.

#include "proxy/proxy.h"

#include <gtest/gtest.h>

#include <latch>

#include "proxy/proxy_test_support.h"

namespace wayleave::proxy {
namespace {

using namespace testing;

// Sends everything back, within a window of 64 KiB.
class EchoStream final : public tunnel::Stream {
 public:
  EchoStream(boost::asio::io_context& loop, tunnel::StreamEvents& events) : state_(std::make_shared<State>(loop, events)) {}
  ~EchoStream() override { state_->gone = true; }
  size_t writeCapacity() const override { return kWindow - state_->held.size(); }
  size_t write(ByteView bytes) override {
    append(state_->held, bytes);
    deliver();
    return bytes.size();
  }
  void finishWriting() override {
    state_->finished = true;
    deliver();
  }
  void resumeReading() override {
    state_->paused = false;
    deliver();
  }

 private:
  static constexpr size_t kWindow = 64 * 1024;
  struct State {
    State(boost::asio::io_context& l, tunnel::StreamEvents& e) : loop(l), events(e) {}
    boost::asio::io_context& loop;
    tunnel::StreamEvents& events;
    Bytes held;
    bool finished = false, paused = false, gone = false;
  };
  void deliver() {
    boost::asio::post(state_->loop, [state = state_] {
      if (state->gone || state->paused) return;
      const bool wasFull = state->held.size() == kWindow;
      const size_t taken = state->held.empty() ? 0 : state->events.onData(state->held);
      if (state->gone) return;
      state->paused = taken < state->held.size();
      state->held.erase(state->held.begin(), state->held.begin() + static_cast<ptrdiff_t>(taken));
      if (wasFull && taken > 0) state->events.onWritable();
      if (!state->finished || !state->held.empty() || state->gone) return;
      state->events.onEndOfStream();
      state->events.onClosed({Reason::Completed, {}, {}});
    });
  }
  std::shared_ptr<State> state_;
};

class EchoOpener final : public tunnel::Opener {
 public:
  explicit EchoOpener(boost::asio::io_context& loop) : loop_(loop) {}
  std::unique_ptr<Pending> open(const tunnel::Target&, tunnel::StreamEvents& events, Steady, tunnel::OpenDone done) override {
    struct Request final : Pending {
      ~Request() override { *live = false; }
      std::shared_ptr<bool> live = std::make_shared<bool>(true);
    };
    auto request = std::make_unique<Request>();
    boost::asio::post(loop_, [live = request->live, &loop = loop_, &events, done = std::move(done)] {
      if (*live) done(std::make_unique<EchoStream>(loop, events));
    });
    return request;
  }
  void drain() override {}
  void closeAll(const Error&) override {}

 private:
  boost::asio::io_context& loop_;
};

struct Crowd {
  Crowd() {
    listenLocally(&where).reset();  // a port that is free now
    proxy = Proxy::make(options(), journal, [this](boost::asio::io_context& loop) {
              return capture::listenPlain(loop, where, at("198.51.100.1", 443));
            }).value();
    proxy->start({});
    PolicyEntry entry;
    entry.id = "c1";
    entry.rules = rules::RuleSet::make({{}}, {}).value();
    entry.makeOpener = [](boost::asio::io_context& loop) { return std::make_unique<EchoOpener>(loop); };
    proxy->apply(std::make_shared<Policy>(Policy{{entry}}));
  }
  static ProxyOptions options() {
    ProxyOptions result{.workers = 2};
    result.worker.protect = nullptr;
    return result;
  }
  Fd connect() const {
    Fd socket = Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    limitWaiting(socket);
    sockaddr_storage address;
    const socklen_t length = capture::toSockaddr(where, address);
    EXPECT_EQ(::connect(socket.borrow(), reinterpret_cast<sockaddr*>(&address), length), 0);
    return socket;
  }

  Endpoint where;
  observe::FlowJournal journal{{.workers = 2, .log = [](const observe::FlowRecord&) {}}};
  std::unique_ptr<Proxy> proxy;
};

void echo(const Fd& socket, size_t size, unsigned seed) {
  std::string text(size, '\0'), got;
  for (char& c : text) c = static_cast<char>(seed = seed * 1103515245u + 12345u);
  std::jthread sender([&] {
    size_t sent = 0;
    while (sent < text.size()) {
      const ssize_t n = ::send(socket.borrow(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    ::shutdown(socket.borrow(), SHUT_WR);
  });
  for (std::string piece; !(piece = receive(socket)).empty() && got.size() < size;) got += piece;
  EXPECT_TRUE(got == text) << "sent " << size << ", got " << got.size();
}

TEST(Proxy, ManyFlowsOverAllWorkersComeBackUnchanged) {
  Crowd crowd;
  constexpr size_t kClients = 12, kRounds = 4;
  {
    std::vector<std::jthread> clients;
    for (unsigned client = 0; client < kClients; ++client)
      clients.emplace_back([&crowd, client] {
        for (unsigned round = 0; round < kRounds; ++round) echo(crowd.connect(), 300'000 + client * 1000, client * 100 + round);
      });
  }
  EXPECT_TRUE(crowd.proxy->stop(std::chrono::seconds{5}));
  uint64_t opened = 0, active = 0, completed = 0;
  for (const observe::WorkerMetrics* worker : crowd.proxy->metrics()) {
    opened += worker->flowsOpened.get();
    active += worker->flowsActive.get();
    completed += worker->flowsEnded[0][static_cast<size_t>(Reason::Completed)].get();
  }
  EXPECT_EQ(opened, kClients * kRounds);
  EXPECT_EQ(completed, opened);
  EXPECT_EQ(active, 0u);
}

TEST(Proxy, PolicyMayChangeWhileFlowsRun) {
  Crowd crowd;
  std::atomic<bool> over = false;
  std::jthread changer([&] {
    PolicyEntry entry;
    entry.id = "c1";
    entry.rules = rules::RuleSet::make({{}}, {}).value();
    entry.makeOpener = [](boost::asio::io_context& loop) { return std::make_unique<EchoOpener>(loop); };
    while (!over) {
      ++entry.generation;
      crowd.proxy->apply(std::make_shared<Policy>(Policy{{entry}}));
      crowd.proxy->drainTunnels("c1");
      crowd.proxy->warmTunnels();
      (void)crowd.journal.latest(5);
      std::this_thread::yield();
    }
  });
  for (unsigned round = 0; round < 20; ++round) echo(crowd.connect(), 200'000, round);
  over = true;
}

TEST(Proxy, StopEndsWhatDoesNotEndItself) {
  Crowd crowd;
  const Fd socket = crowd.connect();
  sendText(socket, "x");
  EXPECT_EQ(receive(socket), "x");
  EXPECT_FALSE(crowd.proxy->stop(std::chrono::milliseconds{20}));
  EXPECT_EQ(receive(socket), kReset);
  std::vector<observe::FlowRecord> latest;
  while ((latest = crowd.journal.latest(1)).empty()) std::this_thread::yield();
  EXPECT_EQ(latest[0].outcome, Reason::Drained);
}

TEST(Proxy, SourceThatCannotBeMadeIsAnError) {
  observe::FlowJournal journal({.workers = 2});
  const auto made = Proxy::make(Crowd::options(), journal, [](boost::asio::io_context&) -> Result<std::unique_ptr<capture::FlowSource>> {
    return fail(Reason::Io, "no listener");
  });
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().message, "worker 0: no listener");
}

}  // namespace
}  // namespace wayleave::proxy
