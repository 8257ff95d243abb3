#include "proxy/direct_leg.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "capture/endpoint.h"
#include "proxy/worker.h"

namespace wayleave::proxy {
namespace {

constexpr size_t kSpliceBytes = 256 * 1024;
// What one direction may move before others get their turn.
constexpr size_t kTurnBytes = 1024 * 1024;
// The network side of a direct flow can vanish without a word. ztunnel's values: below the 10 minutes after which load
// balancers forget a connection.
constexpr int kKeepAliveIdleSeconds = 180, kKeepAliveIntervalSeconds = 180, kKeepAliveProbes = 9;

void setInt(int socket, int level, int option, int value) { (void)::setsockopt(socket, level, option, &value, sizeof value); }

// The application may have bound itself to an interface's address: keep it. A wish, not a duty.
void keepSource(int socket, const capture::Endpoint& destination, capture::Endpoint source) {
  if (source.address.isLoopback() != destination.address.isLoopback()) return;
  source.port = 0;
  setInt(socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
  sockaddr_storage address;
  const socklen_t length = capture::toSockaddr(source, address);
  (void)::bind(socket, reinterpret_cast<sockaddr*>(&address), length);
}

}  // namespace

Result<std::unique_ptr<DirectLeg>> DirectLeg::connect(Worker& worker, Owner& owner, int client,
                                                      const capture::Endpoint& destination,
                                                      const capture::Endpoint& source) {
  Fd target = Fd::adopt(
      ::socket(destination.address.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!target) return std::unexpected(errnoError(errno, "open a socket for a direct flow"));
  if (const auto& protect = worker.options().protect)
    if (auto marked = protect(target.borrow()); !marked) return propagate(marked.error());  // it would be captured again
  setInt(target.borrow(), IPPROTO_TCP, TCP_NODELAY, 1);
  setInt(target.borrow(), SOL_SOCKET, SO_KEEPALIVE, 1);
  setInt(target.borrow(), IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds);
  setInt(target.borrow(), IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds);
  setInt(target.borrow(), IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  keepSource(target.borrow(), destination, source);
  sockaddr_storage address;
  const socklen_t length = capture::toSockaddr(destination, address);
  if (::connect(target.borrow(), reinterpret_cast<sockaddr*>(&address), length) != 0 && errno != EINPROGRESS)
    return std::unexpected(errnoError(errno, "connect to " + text(destination), Reason::DirectUnreachable));
  std::unique_ptr<DirectLeg> leg(new DirectLeg(worker, owner, client, std::move(target)));
  if (auto watched = worker.poller().add(leg->target_.borrow(), *leg); !watched) return propagate(watched.error());
  return leg;
}

DirectLeg::DirectLeg(Worker& worker, Owner& owner, int client, Fd target)
    : worker_(worker), owner_(owner), target_(std::move(target)) {
  up_.from = down_.to = client;
  up_.to = down_.from = target_.borrow();
  up_.up = true;
}

DirectLeg::~DirectLeg() { worker_.poller().remove(target_.borrow(), *this); }

void DirectLeg::resetOnClose() {
  closed_ = true;
  const linger reset{.l_onoff = 1, .l_linger = 0};
  (void)::setsockopt(target_.borrow(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

void DirectLeg::onClientReady(uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) up_.readable = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) down_.writable = true;
  pumpBoth();
}

void DirectLeg::onReady(uint32_t events) {
  if (closed_) return;
  if (!connected_) return onConnected();
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) down_.readable = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) up_.writable = true;
  pumpBoth();
}

void DirectLeg::onConnected() {
  int error = 0;
  socklen_t length = sizeof error;
  (void)::getsockopt(target_.borrow(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error == 0) {
    sockaddr_storage peer;
    socklen_t peerLength = sizeof peer;
    // A fresh socket reports a hang-up before its connect() is under way.
    if (::getpeername(target_.borrow(), reinterpret_cast<sockaddr*>(&peer), &peerLength) != 0) return;
    connected_ = true;
    owner_.onDirectConnected();
    return pumpBoth();
  }
  closed_ = true;
  owner_.onDirectEnded(Reason::DirectUnreachable, std::strerror(error));
}

void DirectLeg::pumpBoth() {
  if (!connected_ || closed_) return;
  bool more = false;
  for (Way* way : {&up_, &down_}) {
    switch (pump(*way)) {
      case Turn::Blocked: break;
      case Turn::Over: more = true; break;
      case Turn::Ended: break;
      case Turn::Broken: return;  // the owner knows
    }
  }
  if (up_.ended && down_.ended) {
    closed_ = true;
    return owner_.onDirectEnded(Reason::Completed, {});
  }
  if (more) owner_.onDirectTurnOver();
}

DirectLeg::Turn DirectLeg::pump(Way& way) {
  size_t moved = 0;
  Turn turn = way.ended ? Turn::Ended : Turn::Over;
  while (turn == Turn::Over && moved < kTurnBytes) {
    const size_t before = way.held;
    turn = way.held > 0 ? drainPipe(way) : !way.readable ? Turn::Blocked : fillPipe(way);
    moved += before > way.held ? before - way.held : 0;
  }
  if (way.held == 0 && way.pipe) worker_.pipes().giveBack(std::exchange(way.pipe, {}));
  return turn;
}

DirectLeg::Turn DirectLeg::drainPipe(Way& way) {
  if (!way.writable) return Turn::Blocked;
  const ssize_t sent =
      ::splice(way.pipe.read.borrow(), nullptr, way.to, nullptr, way.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (sent > 0) {
    way.held -= static_cast<size_t>(sent);
    owner_.onDirectBytes(way.up, static_cast<size_t>(sent));
    return Turn::Over;
  }
  if (sent < 0 && errno == EINTR) return Turn::Over;
  if (sent < 0 && errno != EAGAIN) return broke(way, false, errno);
  way.writable = false;
  return Turn::Blocked;
}

DirectLeg::Turn DirectLeg::fillPipe(Way& way) {
  if (!way.pipe) way.pipe = worker_.pipes().borrow();
  if (!way.pipe) return copyOnce(way);
  const ssize_t got =
      ::splice(way.from, nullptr, way.pipe.write.borrow(), nullptr, kSpliceBytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (got > 0) {
    way.held = static_cast<size_t>(got);
    return Turn::Over;
  }
  if (got == 0) return passEnd(way);
  if (errno == EINTR) return Turn::Over;
  if (errno != EAGAIN) return broke(way, true, errno);
  way.readable = false;  // the pipe is empty, so it is the socket that has nothing
  return Turn::Blocked;
}

// Without a pipe (descriptors are short): look at the bytes, send what goes, then discard that much. Nothing is held.
DirectLeg::Turn DirectLeg::copyOnce(Way& way) {
  if (!way.writable) return Turn::Blocked;
  const std::span<uint8_t> buffer = worker_.buffer();
  const ssize_t seen = ::recv(way.from, buffer.data(), buffer.size(), MSG_PEEK | MSG_DONTWAIT);
  if (seen == 0) return passEnd(way);
  if (seen < 0 && errno == EINTR) return Turn::Over;
  if (seen < 0 && errno != EAGAIN) return broke(way, true, errno);
  if (seen < 0) {
    way.readable = false;
    return Turn::Blocked;
  }
  const ssize_t sent = ::send(way.to, buffer.data(), static_cast<size_t>(seen), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno == EINTR) return Turn::Over;
  if (sent < 0 && errno != EAGAIN) return broke(way, false, errno);
  if (sent < 0) {
    way.writable = false;
    return Turn::Blocked;
  }
  (void)::recv(way.from, nullptr, static_cast<size_t>(sent), MSG_TRUNC | MSG_DONTWAIT);
  owner_.onDirectBytes(way.up, static_cast<size_t>(sent));
  return Turn::Over;
}

DirectLeg::Turn DirectLeg::passEnd(Way& way) {
  way.ended = true;
  (void)::shutdown(way.to, SHUT_WR);
  owner_.onDirectHalfClosed();
  return Turn::Ended;
}

DirectLeg::Turn DirectLeg::broke(const Way& way, bool reading, int error) {
  closed_ = true;
  const bool clientsSide = reading == way.up;
  owner_.onDirectEnded(clientsSide ? Reason::ClientReset : Reason::TargetReset, std::strerror(error));
  return Turn::Broken;
}

}  // namespace wayleave::proxy
