#pragma once

// A worker with hand-made flows, and gateways that live in the process.

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <csignal>
#include <deque>
#include <string>

#include "capture/endpoint.h"
#include "proxy/worker.h"

namespace wayleave::proxy::testing {

using capture::Endpoint;
inline Endpoint at(std::string_view address, uint16_t port) { return {rules::parseAddress(address).value(), port}; }

struct TcpPair {
  Fd application;  // blocking, with a limit of 5 s
  Fd captured;     // non-blocking
};

inline Fd listenLocally(Endpoint* endpoint) {
  Fd listener = Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address;
  const socklen_t length = capture::toSockaddr(at("127.0.0.1", 0), address);
  EXPECT_EQ(::bind(listener.borrow(), reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(::listen(listener.borrow(), 512), 0);
  *endpoint = capture::localEndpoint(listener.borrow());
  return listener;
}

inline void limitWaiting(const Fd& socket) {
  const timeval limit{5, 0};
  ::setsockopt(socket.borrow(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(socket.borrow(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

inline TcpPair tcpPair() {
  Endpoint endpoint;
  const Fd listener = listenLocally(&endpoint);
  TcpPair pair;
  pair.application = Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address;
  const socklen_t length = capture::toSockaddr(endpoint, address);
  EXPECT_EQ(::connect(pair.application.borrow(), reinterpret_cast<sockaddr*>(&address), length), 0);
  pair.captured = Fd::adopt(::accept4(listener.borrow(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  EXPECT_TRUE(pair.captured);
  limitWaiting(pair.application);
  return pair;
}

inline void sendText(const Fd& socket, std::string_view text) {
  EXPECT_EQ(::send(socket.borrow(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}
// What is there, within 5 s; "" at the end; "!" + errno on error.
inline std::string receive(const Fd& socket, size_t limit = 65536) {
  std::string text(limit, '\0');
  const ssize_t got = ::recv(socket.borrow(), text.data(), text.size(), 0);
  if (got < 0) return "!" + std::to_string(errno);
  text.resize(static_cast<size_t>(got));
  return text;
}
inline const std::string kReset = "!" + std::to_string(ECONNRESET);

// What the gateway's side of a tunnel saw and may say.
struct FakeTunnel {
  tunnel::Target target;
  tunnel::StreamEvents* events = nullptr;
  tunnel::OpenDone done;
  bool cancelled = false, streamGone = false, finished = false, opened = false;
  size_t capacity = 1 << 20;
  int resumed = 0;
  std::string written;

  void refuse(Reason reason) { std::exchange(done, nullptr)(fail(reason, "the fake says no")); }
};

class FakeStream final : public tunnel::Stream {
 public:
  explicit FakeStream(std::shared_ptr<FakeTunnel> tunnel) : tunnel_(std::move(tunnel)) {}
  ~FakeStream() override { tunnel_->streamGone = true; }
  size_t writeCapacity() const override { return tunnel_->capacity; }
  size_t write(ByteView bytes) override {
    EXPECT_LE(bytes.size(), tunnel_->capacity);
    tunnel_->written += asText(bytes);
    tunnel_->capacity -= bytes.size();
    return bytes.size();
  }
  void finishWriting() override { tunnel_->finished = true; }
  void resumeReading() override { ++tunnel_->resumed; }

 private:
  std::shared_ptr<FakeTunnel> tunnel_;
};

struct FakeGateway {
  std::vector<std::shared_ptr<FakeTunnel>> tunnels;
  int drains = 0, openers = 0;
  std::optional<Error> closed;
};


class FakeOpener final : public tunnel::Opener {
 public:
  explicit FakeOpener(FakeGateway& gateway) : gateway_(gateway) { ++gateway.openers; }
  std::unique_ptr<Pending> open(const tunnel::Target& target, tunnel::StreamEvents& events, Steady, tunnel::OpenDone done) override {
    auto tunnel = std::make_shared<FakeTunnel>();
    tunnel->target = target;
    tunnel->events = &events;
    tunnel->done = std::move(done);
    gateway_.tunnels.push_back(tunnel);
    struct Cancel final : Pending {
      explicit Cancel(std::shared_ptr<FakeTunnel> t) : tunnel(std::move(t)) {}
      ~Cancel() override {
        if (tunnel->done) tunnel->cancelled = true;
        tunnel->done = nullptr;
      }
      std::shared_ptr<FakeTunnel> tunnel;
    };
    return std::make_unique<Cancel>(tunnel);
  }
  void drain() override { ++gateway_.drains; }
  void closeAll(const Error& why) override { gateway_.closed = why; }

 private:
  FakeGateway& gateway_;
};

inline void acceptTunnel(const std::shared_ptr<FakeTunnel>& tunnel) {
  tunnel->opened = true;
  std::exchange(tunnel->done, nullptr)(std::unique_ptr<tunnel::Stream>(std::make_unique<FakeStream>(tunnel)));
}

class HandSource final : public capture::FlowSource {
 public:
  explicit HandSource(capture::FlowHandler*& handler) : handler_(handler) {}
  void start(capture::FlowHandler& handler) override { handler_ = &handler; }
  void pause() override {}
  void resume() override {}

 private:
  capture::FlowHandler*& handler_;
};

struct Rig {
  explicit Rig(WorkerOptions options = {}) {
    std::signal(SIGPIPE, SIG_IGN);
    options.protect = nullptr;
    worker = Worker::make(std::move(options), journal).value();
    worker->prepare(std::make_unique<HandSource>(handler));
    worker->serve({at("127.0.0.1", 9)});
  }
  PolicyEntry entry(FakeGateway& through, std::vector<rules::NetworkRule> included = {{}},
                    std::vector<rules::NetworkRule> excluded = {}) {
    PolicyEntry result;
    result.id = "c1";
    result.rules = rules::RuleSet::make(std::move(included), std::move(excluded)).value();
    result.makeOpener = [&through](boost::asio::io_context&) { return std::make_unique<FakeOpener>(through); };
    return result;
  }
  void apply(std::vector<PolicyEntry> entries) { worker->apply(std::make_shared<Policy>(Policy{std::move(entries)})); }
  // The application's end of a new flow.
  Fd flow(const Endpoint& destination = at("198.51.100.1", 443)) {
    TcpPair pair = tcpPair();
    handler->onFlow({.socket = std::move(pair.captured), .destination = destination, .source = at("127.0.0.1", 40000)});
    return std::move(pair.application);
  }
  void settle() {
    for (int i = 0; i < 20; ++i) {
      worker->loop().restart();
      worker->loop().poll();
    }
  }
  bool until(const std::function<bool()>& condition) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds{5};
    while (!condition() && std::chrono::steady_clock::now() < limit) {
      worker->loop().restart();
      worker->loop().run_one_for(std::chrono::milliseconds{10});
    }
    return condition();
  }
  std::shared_ptr<FakeTunnel> onlyTunnel() {
    EXPECT_TRUE(until([this] { return !gateway.tunnels.empty(); }));
    EXPECT_EQ(gateway.tunnels.size(), 1u);
    return gateway.tunnels.back();
  }
  std::optional<observe::FlowRecord> ended() {
    std::vector<observe::FlowRecord> latest;
    until([&] { return !(latest = journal.latest(1)).empty(); });
    if (latest.empty()) return std::nullopt;
    return latest[0];
  }

  FakeGateway gateway;
  observe::FlowJournal journal{{.log = [](const observe::FlowRecord&) {}}};
  capture::FlowHandler* handler = nullptr;
  std::unique_ptr<Worker> worker;
};

}  // namespace wayleave::proxy::testing
