#include "capture/linux/listener.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <algorithm>
#include <cerrno>

#include "capture/endpoint.h"
#include "capture/linux/names.h"

namespace wayleave::capture {

Status markOwn(int socket) {
  const int mark = static_cast<int>(platform::kOwnMark);
  if (::setsockopt(socket, SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0)
    return std::unexpected(errnoError(errno, "mark a socket as our own"));
  return {};
}

namespace platform {
namespace {

// The kernel caps it at net.core.somaxconn. A burst of connects while a worker decides must not be refused.
constexpr int kBacklog = 4096;
// Flows taken per wake-up of one listener: live flows get their turn in between.
constexpr int kAcceptBatch = 64;
// How long flows stay queued after a descriptor or memory shortage before the next try.
constexpr std::chrono::milliseconds kStarvedPause{50};
constexpr int kDescriptorReserve = 128;

Status setOption(int socket, int level, int option, std::string_view what) {
  const int on = 1;
  if (::setsockopt(socket, level, option, &on, sizeof on) != 0) return std::unexpected(errnoError(errno, what));
  return {};
}

class ListenerSource final : public FlowSource {
 public:
  ListenerSource(boost::asio::io_context& loop, std::vector<Fd> listeners, SourceOptions options)
      : options_(std::move(options)), retry_(loop) {
    for (Fd& listener : listeners) listeners_.emplace_back(loop, listener.release());
    waiting_.resize(listeners_.size());
  }

  void start(FlowHandler& handler) override {
    handler_ = &handler;
    resume();
  }
  void pause() override { paused_ = true; }
  void resume() override {
    if (handler_ == nullptr) return;
    paused_ = false;
    for (size_t i = 0; i < listeners_.size(); ++i) wait(i);
  }

 private:
  using Listener = boost::asio::posix::stream_descriptor;

  void wait(size_t index) {
    if (paused_ || waiting_[index]) return;
    waiting_[index] = true;
    listeners_[index].async_wait(Listener::wait_read, [this, index](const boost::system::error_code& code) {
      if (code == boost::asio::error::operation_aborted) return;  // destroyed: `this` is gone
      waiting_[index] = false;
      acceptBatch(index);
      wait(index);
    });
  }

  void acceptBatch(size_t index) {
    for (int taken = 0; taken < kAcceptBatch && !paused_; ++taken) {
      sockaddr_storage peer{};
      socklen_t length = sizeof peer;
      Fd socket = Fd::adopt(::accept4(listeners_[index].native_handle(), reinterpret_cast<sockaddr*>(&peer), &length,
                                      SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!socket) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) starve(errno);
        if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO) continue;
        return;
      }
      const bool scarce = socket.borrow() >= options_.descriptorCeiling;
      CapturedFlow flow{.socket = std::move(socket), .source = fromSockaddr(peer)};
      flow.destination = options_.fixedDestination ? *options_.fixedDestination : localEndpoint(flow.socket.borrow());
      if (options_.owners) flow.owner = options_.owners->find(flow.source, flow.destination);
      handler_->onFlow(std::move(flow));
      if (scarce) return starve(EMFILE);
    }
  }

  // The kernel gives the lowest free number: a high one means that almost all are taken.
  bool stillShort() const {
    const Fd probe = Fd::adopt(::fcntl(listeners_.front().native_handle(), F_DUPFD_CLOEXEC, 0));
    return !probe || probe.borrow() >= options_.descriptorCeiling;
  }

  void starve(int error) {
    pause();
    handler_->onStarved(error);
    retry_.expires_after(kStarvedPause);
    retry_.async_wait([this](const boost::system::error_code& code) {
      if (code) return;
      if (stillShort()) return starve(EMFILE);
      resume();
    });
  }

  SourceOptions options_;
  mutable std::vector<Listener> listeners_;  // native_handle() is not const
  std::vector<bool> waiting_;
  boost::asio::steady_timer retry_;
  FlowHandler* handler_ = nullptr;
  bool paused_ = false;
};

}  // namespace

int ceilingFromLimit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const auto all = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1 << 30));
  return std::max(all - kDescriptorReserve, all / 2);
}

Result<Fd> openListener(const Endpoint& endpoint, Listening kind) {
  const bool v6 = endpoint.address.v6;
  Fd socket = Fd::adopt(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return std::unexpected(errnoError(errno, "open a listener"));
  if (auto ok = setOption(socket.borrow(), SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR"); !ok) return propagate(ok.error());
  if (auto ok = setOption(socket.borrow(), SOL_SOCKET, SO_REUSEPORT, "SO_REUSEPORT"); !ok) return propagate(ok.error());
  if (v6)
    if (auto ok = setOption(socket.borrow(), IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY"); !ok) return propagate(ok.error());
  // Accepted sockets inherit it.
  if (auto ok = setOption(socket.borrow(), IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY"); !ok) return propagate(ok.error());
  if (kind == Listening::Transparent) {
    auto ok = v6 ? setOption(socket.borrow(), IPPROTO_IPV6, IPV6_TRANSPARENT, "make a listener transparent")
                 : setOption(socket.borrow(), IPPROTO_IP, IP_TRANSPARENT, "make a listener transparent");
    if (!ok) return propagate(ok.error());
    if (auto marked = markOwn(socket.borrow()); !marked) return propagate(marked.error());
  }
  sockaddr_storage address;
  const socklen_t length = toSockaddr(endpoint, address);
  if (::bind(socket.borrow(), reinterpret_cast<sockaddr*>(&address), length) != 0)
    return std::unexpected(errnoError(errno, "bind " + text(endpoint)));
  if (::listen(socket.borrow(), kBacklog) != 0) return std::unexpected(errnoError(errno, "listen on " + text(endpoint)));
  return socket;
}

std::unique_ptr<FlowSource> makeListenerSource(boost::asio::io_context& loop, std::vector<Fd> listeners,
                                               SourceOptions options) {
  return std::make_unique<ListenerSource>(loop, std::move(listeners), std::move(options));
}

}  // namespace platform

Result<std::unique_ptr<FlowSource>> listenPlain(boost::asio::io_context& loop, const Endpoint& listen,
                                                const Endpoint& destination) {
  auto socket = platform::openListener(listen, platform::Listening::Plain);
  if (!socket) return propagate(socket.error());
  std::vector<Fd> listeners;
  listeners.push_back(std::move(*socket));
  return platform::makeListenerSource(loop, std::move(listeners), {.fixedDestination = destination, .owners = {}});
}

}  // namespace wayleave::capture
