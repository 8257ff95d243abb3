#pragma once

// Gateways for the tests: real sockets, OpenSSL's server, threads of their own. What a gateway does after the handshake is
// a function of the test.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/owned.h"
#include "tls/pki_test_support.h"
#include "tunnel/opener.h"

namespace wayleave::tunnel::test {

using namespace std::chrono_literals;
namespace tt = tls::test;

// A listening socket on 127.0.0.1 and the port the kernel chose.
struct Listener {
  Fd fd;
  uint16_t port = 0;

  Listener() : fd(Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(fd.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
    ::listen(fd.borrow(), 1024);
    socklen_t length = sizeof(address);
    ::getsockname(fd.borrow(), reinterpret_cast<sockaddr*>(&address), &length);
    port = ntohs(address.sin_port);
  }
};

// One accepted connection, blocking, with TLS on it.
class Peer {
 public:
  Peer(int fd, SSL_CTX* context) : fd_(Fd::adopt(fd)), ssl_(SSL_new(context)) {
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    SSL_set_fd(ssl_.get(), fd);
  }

  bool accept() { return SSL_accept(ssl_.get()) == 1; }
  SSL* ssl() { return ssl_.get(); }
  int fd() const { return fd_.borrow(); }
  // "" at the end of the stream or on failure.
  std::string read(size_t most = 65536) {
    std::string out(most, '\0');
    const int got = SSL_read(ssl_.get(), out.data(), static_cast<int>(most));
    out.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return out;
  }
  bool write(std::string_view text) {
    while (!text.empty()) {
      const int sent = SSL_write(ssl_.get(), text.data(), static_cast<int>(std::min<size_t>(text.size(), 1 << 20)));
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void finish() { SSL_shutdown(ssl_.get()); }
  void reset() {  // RST instead of FIN
    const linger now{1, 0};
    ::setsockopt(fd_.borrow(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    fd_.reset();
  }
  // The request head, with what followed it left out.
  std::string readHead() {
    std::string head;
    while (!head.ends_with("\r\n\r\n")) {
      const std::string byte = read(1);
      if (byte.empty()) return head;
      head += byte;
    }
    return head;
  }

 private:
  Fd fd_;
  Handle<SSL, SSL_free> ssl_;
};

// Accepts until destroyed; each connection on its own thread. Destroying it closes all connections first.
class Gateway {
 public:
  using Behaviour = std::function<void(Peer&)>;

  Gateway(std::shared_ptr<SSL_CTX> context, Behaviour behaviour)
      : context_(std::move(context)), behaviour_(std::move(behaviour)), acceptor_([this] { acceptAll(); }) {}
  ~Gateway() {
    stopping_ = true;
    ::shutdown(listener_.fd.borrow(), SHUT_RDWR);
    acceptor_.join();
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
  }
  uint16_t port() const { return listener_.port; }
  int accepted() const { return accepted_; }
  int resumed() const { return resumed_; }

 private:
  void acceptAll() {
    while (!stopping_) {
      const int fd = ::accept4(listener_.fd.borrow(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      const std::lock_guard lock(mutex_);
      open_.push_back(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }
  void serve(int fd) {
    Peer peer(::fcntl(fd, F_DUPFD_CLOEXEC, 0), context_.get());
    if (peer.accept()) {
      ++accepted_;
      if (SSL_session_reused(peer.ssl()) == 1) ++resumed_;
      behaviour_(peer);
    }
    ERR_clear_error();
    // Our own descriptor is kept for the destructor's shutdown(); the connection ends with the peer's.
    const std::lock_guard lock(mutex_);
    std::erase(open_, fd);
    ::close(fd);
  }

  Listener listener_;
  std::shared_ptr<SSL_CTX> context_;
  Behaviour behaviour_;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> accepted_ = 0;
  std::atomic<int> resumed_ = 0;
  std::mutex mutex_;
  std::vector<int> open_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

// What a gateway's thread saw, for the test to read.
class Noted {
 public:
  void set(std::string text) {
    const std::lock_guard lock(mutex_);
    text_ = std::move(text);
  }
  std::string get() {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

// A flow that takes everything and remembers.
class Recorder : public StreamEvents {
 public:
  size_t onData(ByteView bytes) override {
    ++calls;
    const size_t taken = std::min(bytes.size(), appetite);
    if (keep) received.append(asText(bytes.first(taken)));
    receivedBytes += taken;
    if (appetite != SIZE_MAX) appetite -= taken;
    return taken;
  }
  void onWritable() override {
    ++writable;
    if (whenWritable) whenWritable();
  }
  void onEndOfStream() override { ended = true; }
  void onClosed(const Error& why) override { closed = why; }

  size_t appetite = SIZE_MAX;
  bool keep = true;
  std::string received;
  uint64_t receivedBytes = 0;
  int calls = 0;
  int writable = 0;
  bool ended = false;
  std::optional<Error> closed;
  std::function<void()> whenWritable;
};

// One tunnel from the test's side.
struct Tunnel {
  Recorder events;
  std::unique_ptr<Opener::Pending> pending;
  std::optional<Error> failure;
  std::unique_ptr<Stream> stream;
  bool answered = false;

  Tunnel() = default;
  Tunnel(const Tunnel&) = delete;

  void open(Opener& opener, const Target& target, std::chrono::milliseconds patience = 5s) {
    pending = opener.open(target, events, std::chrono::steady_clock::now() + patience, [this](auto result) {
      EXPECT_FALSE(answered) << "answered twice";
      answered = true;
      if (result)
        stream = std::move(*result);
      else
        failure = std::move(result.error());
    });
    EXPECT_FALSE(answered) << "answered before open() returned";
  }
  // Writes all of `text`, as capacity comes.
  void send(std::string text) {
    toSend += text;
    events.whenWritable = [this] { pushOn(); };
    pushOn();
  }
  void pushOn() {
    while (sent < toSend.size()) {
      const size_t taken = stream->write(asBytes(std::string_view(toSend).substr(sent)));
      if (taken == 0) return;
      sent += taken;
    }
    if (finishAfterSending && std::exchange(finishAfterSending, false)) stream->finishWriting();
  }
  std::string toSend;
  size_t sent = 0;
  bool finishAfterSending = false;
};

// The PKI, a loop, a handshake pool and the usual options.
class TunnelTest : public testing::Test {
 protected:
  explicit TunnelTest(std::vector<std::string> alpn = {"http/1.1"}, Protocol protocol = Protocol::Http1)
      : alpn_(std::move(alpn)), protocol_(protocol) {
    std::signal(SIGPIPE, SIG_IGN);  // OpenSSL's socket BIO writes without MSG_NOSIGNAL
  }

  void runUntil(const std::function<bool()>& done, std::chrono::milliseconds limit = 20s) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!done()) {
      if (std::chrono::steady_clock::now() > until) {
        ADD_FAILURE() << "the test waited in vain";
        return;
      }
      io_.restart();
      io_.run_one_for(20ms);
    }
  }
  void runFor(std::chrono::milliseconds time) {
    io_.restart();
    io_.run_for(time);
  }
  std::shared_ptr<tls::ClientContext> newContext(std::function<void()> beforeSigning = {}) {
    tls::ClientContextOptions options;
    options.identity = tt::identityOf(device_, std::move(beforeSigning));
    options.trustAnchorsPem = {authority_.pemText()};
    options.serverName = "gateway.test";
    options.alpn = alpn_;
    auto made = tls::ClientContext::make(std::move(options));
    EXPECT_TRUE(made) << describe(made.error());
    return *made;
  }
  OpenerOptions options(uint16_t port) {
    if (!context_) context_ = newContext();
    OpenerOptions made;
    made.host = "127.0.0.1";
    made.port = port;
    made.protocol = protocol_;
    made.context = [this]() -> Result<std::shared_ptr<tls::ClientContext>> { return context_; };
    made.pool = &pool_;
    return made;
  }
  std::unique_ptr<Opener> openerTo(uint16_t port) { return makeOpener(io_, options(port)); }
  // Opens, runs until answered, and expects refusal.
  Reason reasonFrom(uint16_t port, std::chrono::milliseconds patience = 5s) {
    const auto opener = openerTo(port);
    Tunnel tunnel;
    tunnel.open(*opener, {"origin.test", 443}, patience);
    runUntil([&] { return tunnel.answered; });
    EXPECT_TRUE(tunnel.failure) << "it opened";
    return tunnel.failure ? tunnel.failure->reason : Reason::Ok;
  }

  const std::vector<std::string> alpn_;
  const Protocol protocol_;
  tt::Authority authority_;
  tt::Leaf gatewayLeaf_ = authority_.issue("gateway.test", keys::KeyType::EcP256, "serverAuth", "DNS:gateway.test,IP:127.0.0.1");
  tt::Leaf device_ = authority_.issue("device-1", keys::KeyType::EcP256, "clientAuth", nullptr);
  std::shared_ptr<SSL_CTX> serverContext_ = tt::serverContext(gatewayLeaf_, authority_.certificate());
  std::shared_ptr<tls::ClientContext> context_;
  boost::asio::io_context io_{1};
  tls::HandshakePool pool_{{.signingThreads = 2, .resumingThreads = 1, .queueLimit = 4096}};
};

// Says 200 and sends back whatever comes, until the client ends.
inline void echo(Peer& peer) {
  if (peer.readHead().empty() || !peer.write("HTTP/1.1 200 Connection established\r\n\r\n")) return;
  for (;;) {
    const std::string bytes = peer.read();
    if (bytes.empty()) break;
    if (!peer.write(bytes)) return;
  }
  peer.finish();
}

}  // namespace wayleave::tunnel::test
