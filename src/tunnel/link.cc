#include "tunnel/link.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <sstream>

#include "base/owned.h"

namespace wayleave::tunnel {
namespace {

using boost::asio::ip::tcp;
using boost::system::error_code;

// What one link hands over before others on the loop get their turn.
constexpr size_t kTurnBytes = WorkerBuffers::kPlainBytes - WorkerBuffers::kReceiveBytes;
// An h1 tunnel has no PING: the kernel's keepalive finds a black hole after 60 + 4 * 15 s, well inside the usual ten
// minutes after which load balancers forget a quiet connection.
constexpr int kKeepaliveIdleSeconds = 60;
constexpr int kKeepaliveIntervalSeconds = 15;
constexpr int kKeepaliveProbes = 4;

void setInt(int fd, int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof(value)); }

std::string textOf(const tcp::endpoint& endpoint) {
  std::ostringstream out;
  out << endpoint;
  return out.str();
}

Error closedEarly(std::string message) {
  return {Reason::GatewayClosed, std::move(message),
          "some gateways close without a word when they do not accept the device's certificate: see the gateway's log"};
}

Error socketError(int number, std::string_view what) {
  if (number == ETIMEDOUT) return errnoError(number, what, Reason::GatewayTimeout);
  return errnoError(number, what, Reason::GatewayClosed);
}

}  // namespace

Result<std::shared_ptr<Link>> Link::dial(boost::asio::io_context& io, const OpenerOptions& options,
                                         std::shared_ptr<tls::ClientContext> context, Endpoints endpoints,
                                         LinkEvents& events) {
  auto tls = tls::ClientTls::make(context);
  if (!tls) return propagate(tls.error());
  std::shared_ptr<Link> link(new Link(io, options, std::move(context), std::move(*tls), std::move(endpoints), events));
  boost::asio::post(io, [link] {
    if (link->phase_ != Phase::Closed) link->connectNext();
  });
  return link;
}

Link::Link(boost::asio::io_context& io, const OpenerOptions& options, std::shared_ptr<tls::ClientContext> context,
           std::unique_ptr<tls::ClientTls> tls, Endpoints endpoints, LinkEvents& events)
    : io_(io),
      pool_(*options.pool),
      buffers_(options.buffers),
      socketOptions_(options.socketOptions),
      connectTimeout_(options.connectTimeout),
      handshakeTimeout_(options.handshakeTimeout),
      endpoints_(std::move(endpoints)),
      events_(&events),
      context_(std::move(context)),
      tls_(std::move(tls)),
      socket_(io) {}

Link::~Link() = default;

// ---- Dialling: the addresses in order, each with its own timeout.

void Link::arm(std::chrono::milliseconds timeout, std::function<void()> expired) {
  if (!timer_) timer_.emplace(io_);
  timer_->expires_after(timeout);
  timer_->async_wait([self = weak_from_this(), expired = std::move(expired)](const error_code& code) {
    const auto link = self.lock();
    if (!code && link && link->phase_ != Phase::Closed) expired();
  });
}

void Link::connectNext() {
  error_code ignored;
  socket_.close(ignored);
  if (next_ == endpoints_.size()) {
    failNow({Reason::GatewayUnreachable,
             lastTrouble_.empty() ? std::string("the gateway has no address") : lastTrouble_,
             "check that the gateway runs and that a firewall lets this machine reach it"});
    return;
  }
  const tcp::endpoint endpoint = endpoints_[next_++];
  auto fd = openSocket(endpoint);
  if (!fd) {
    failNow(std::move(fd.error()));
    return;
  }
  error_code code;
  socket_.assign(*fd, code);
  if (code) {
    ::close(*fd);
    failNow({Reason::Io, "watch a socket: " + code.message(), {}});
    return;
  }
  if (::connect(*fd, endpoint.data(), static_cast<socklen_t>(endpoint.size())) != 0 && errno != EINPROGRESS) {
    lastTrouble_ = errnoError(errno, fmt::format("connect to gateway {}", textOf(endpoint))).message;
    connectNext();
    return;
  }
  arm(connectTimeout_, [this, endpoint] {
    lastTrouble_ = fmt::format("connect to gateway {}: no answer within {} ms", textOf(endpoint), connectTimeout_.count());
    connectNext();
  });
  socket_.async_wait(boost::asio::posix::descriptor_base::wait_write,
                     [self = shared_from_this(), attempt = next_, endpoint](const error_code& aborted) {
                       if (aborted || self->phase_ != Phase::Connecting || self->next_ != attempt) return;
                       int error = 0;
                       socklen_t length = sizeof(error);
                       ::getsockopt(self->socket_.native_handle(), SOL_SOCKET, SO_ERROR, &error, &length);
                       if (error == 0) {
                         self->connected();
                         return;
                       }
                       self->lastTrouble_ =
                           errnoError(error, fmt::format("connect to gateway {}", textOf(endpoint))).message;
                       self->connectNext();
                     });
}

Result<int> Link::openSocket(const tcp::endpoint& endpoint) const {
  const int family = endpoint.address().is_v6() ? AF_INET6 : AF_INET;
  Fd fd = Fd::adopt(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return std::unexpected(errnoError(errno, "open a socket to the gateway"));
  setInt(fd.borrow(), IPPROTO_TCP, TCP_NODELAY, 1);
  setInt(fd.borrow(), SOL_SOCKET, SO_KEEPALIVE, 1);
  setInt(fd.borrow(), IPPROTO_TCP, TCP_KEEPIDLE, kKeepaliveIdleSeconds);
  setInt(fd.borrow(), IPPROTO_TCP, TCP_KEEPINTVL, kKeepaliveIntervalSeconds);
  setInt(fd.borrow(), IPPROTO_TCP, TCP_KEEPCNT, kKeepaliveProbes);
  if (socketOptions_)
    if (auto set = socketOptions_(fd.borrow()); !set) return withContext(set.error(), "prepare a socket to the gateway");
  return fd.release();
}

void Link::connected() {
  phase_ = Phase::Handshaking;
  handshakeDeadline_ = Steady::clock::now() + handshakeTimeout_;
  arm(handshakeTimeout_, [this] {
    if (signing_) {
      failNow({Reason::DeadlineExceeded,
               fmt::format("the identity did not sign the TLS handshake within {} ms", handshakeTimeout_.count()),
               "the key's device is slow or busy: see wayleave status"});
    } else {
      failNow({Reason::GatewayTimeout,
               fmt::format("the gateway did not finish the TLS handshake within {} ms", handshakeTimeout_.count()), {}});
    }
  });
  submitStep(false);
}

// ---- The handshake. While a step is in the pool, the loop does not touch tls_.

void Link::submitStep(bool maySign) {
  stepping_ = true;
  signing_ = maySign;
  auto queued = pool_.submit(maySign, [self = shared_from_this(), maySign,
                                       work = boost::asio::make_work_guard(io_)]() mutable {
    const tls::HandshakeState state = self->tls_->handshakeStep(maySign, self->handshakeDeadline_);
    // Moved, so that the last reference to the link falls on the loop, not here.
    boost::asio::post(work.get_executor(), [link = std::move(self), state] { link->stepDone(state); });
  });
  if (!queued) failNow(std::move(queued.error()));
}

void Link::stepDone(tls::HandshakeState state) {
  if (phase_ == Phase::Closed) return;
  stepping_ = false;
  signing_ = false;
  sendPending();
  if (phase_ == Phase::Closed) return;
  switch (state) {
    case tls::HandshakeState::NeedsInput: awaitHandshakeBytes(); return;
    case tls::HandshakeState::NeedsSigner: submitStep(true); return;
    case tls::HandshakeState::Failed: handshakeFailed(tls_->error()); return;
    case tls::HandshakeState::Done: break;
  }
  phase_ = Phase::Open;
  timer_.reset();
  context_.reset();
  resumed_ = tls_->resumed();
  tls_->borrowFrom(buffers_->chunks);
  tls_->receiveFrom(socket_.native_handle(), {buffers_->cipher.get(), WorkerBuffers::kReceiveBytes});
  const auto self = shared_from_this();
  events_->onEstablished();
  if (phase_ != Phase::Open) return;
  if (pump() && phase_ == Phase::Open) armRead();  // tickets, or the peer's first words, may be here already
}

void Link::awaitHandshakeBytes() {
  socket_.async_wait(boost::asio::posix::descriptor_base::wait_read, [self = shared_from_this()](const error_code& code) {
    if (!code && self->phase_ == Phase::Handshaking) self->readHandshakeBytes();
  });
}

void Link::readHandshakeBytes() {
  const ssize_t got = ::recv(socket_.native_handle(), buffers_->cipher.get(), WorkerBuffers::kReceiveBytes, 0);
  if (got > 0) {
    tls_->feed({buffers_->cipher.get(), static_cast<size_t>(got)});
    submitStep(false);
  } else if (got == 0) {
    handshakeFailed(closedEarly("the gateway closed the connection during the TLS handshake"));
  } else if (errno == EAGAIN || errno == EINTR) {
    awaitHandshakeBytes();
  } else {
    handshakeFailed(socketError(errno, "TLS handshake with the gateway"));
  }
}

// A gateway that cannot resume should fall back to a full handshake; one that breaks the connection gets a second one.
void Link::handshakeFailed(Error why) {
  const bool blamesTicket = why.reason == Reason::GatewayTlsFailed || why.reason == Reason::GatewayClosed;
  if (!tls_->offeredSession() || !blamesTicket) {
    failNow(std::move(why));
    return;
  }
  context_->resumptionFailed();
  auto tls = tls::ClientTls::make(context_, false);
  if (!tls) {
    failNow(std::move(tls.error()));
    return;
  }
  tls_ = std::move(*tls);
  phase_ = Phase::Connecting;
  --next_;  // the address that answered
  connectNext();
}

// ---- Reading.

void Link::armRead() {
  if (readArmed_ || ended_) return;
  readArmed_ = true;
  socket_.async_wait(boost::asio::posix::descriptor_base::wait_read, [self = shared_from_this()](const error_code& code) {
    self->readArmed_ = false;
    if (!code && self->phase_ == Phase::Open) self->readable();
  });
}

void Link::readable() {
  const auto self = shared_from_this();
  tls_->socketReady();
  if (!pump()) return;
  const tls::SocketInput input = tls_->socketInput();
  switch (input.state) {
    case tls::SocketInput::State::Open:
    case tls::SocketInput::State::Drained: armRead(); return;
    case tls::SocketInput::State::Ended:
      failNow(broken_ ? *broken_ : closedEarly("the gateway closed the connection without a TLS close_notify"));
      return;
    case tls::SocketInput::State::Broken:
      failNow(broken_ ? *broken_ : socketError(input.error, "read from the gateway"));
      return;
  }
}

// Receives, decrypts and hands over. False: do not read on now (paused, ended, failed, closed, or it is the others' turn).
bool Link::pump() {
  const auto self = shared_from_this();
  if (!pumpHeld()) return false;
  size_t handedOver = 0;
  bool turnOver = false;
  while (!turnOver) {
    const std::span<uint8_t> plain(buffers_->plain.get(), WorkerBuffers::kPlainBytes);
    auto got = tls_->read(plain);
    if (!got) {
      failNow(std::move(got.error()));
      return false;
    }
    if (*got == 0) break;
    handedOver += *got;
    turnOver = handedOver >= kTurnBytes;
    const size_t taken = events_->onPlain(plain.first(*got));
    if (phase_ != Phase::Open) return false;
    if (taken < *got) {
      held_ = toBytes(ByteView(plain.subspan(taken, *got - taken)));
      paused_ = true;
      break;
    }
  }
  if (handedOver > 0) {
    events_->onBatchEnd();
    if (phase_ != Phase::Open) return false;
  }
  if (!tls_->pendingOutput().empty()) flush();  // a KeyUpdate wants its answer
  if (phase_ != Phase::Open || paused_) return false;
  if (tls_->endOfStream()) {
    gatewayEnded();
    return false;
  }
  // There may be more that no readiness of the socket will tell of.
  if (turnOver) pumpSoon();
  return !turnOver;
}

bool Link::pumpHeld() {
  if (held_.empty()) return true;
  // Taken out first: it must not move while it is lent.
  Bytes lent = std::exchange(held_, {});
  const size_t taken = events_->onPlain(lent);
  if (phase_ != Phase::Open) return false;
  if (taken == lent.size()) return true;
  lent.erase(lent.begin(), lent.begin() + static_cast<ptrdiff_t>(taken));
  held_ = std::move(lent);
  paused_ = true;
  return false;
}

void Link::resumeReading() {
  if (!paused_ || phase_ != Phase::Open) return;
  pumpSoon();  // not now: the caller may itself be inside a delivery from the shared buffers
}

void Link::pumpSoon() {
  if (std::exchange(pumping_, true)) return;
  boost::asio::post(io_, [self = shared_from_this()] {
    self->pumping_ = false;
    if (self->phase_ != Phase::Open) return;
    self->paused_ = false;
    self->readable();
  });
}

void Link::gatewayEnded() {
  if (std::exchange(ended_, true)) return;
  events_->onEndOfStream();
  if (phase_ == Phase::Open && broken_) failNow(*broken_);
}

// ---- Writing.

size_t Link::writeRoom() const {
  if (phase_ != Phase::Open || broken_) return 0;
  const size_t waiting = tls_->pendingOutput().size();
  return waiting >= WorkerBuffers::kBatchBytes ? 0 : WorkerBuffers::kBatchBytes - waiting;
}

void Link::write(ByteView plain) {
  if (phase_ != Phase::Open || broken_) return;
  if (auto written = tls_->write(plain); !written) failSoon(std::move(written.error()));
}

void Link::flush() {
  if (phase_ == Phase::Open && !writeArmed_) sendPending();
}

void Link::sendPending() {
  while (!tls_->pendingOutput().empty()) {
    const ByteView out = tls_->pendingOutput();
    const ssize_t sent = ::send(socket_.native_handle(), out.data(), out.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) {
      armWrite();
      return;
    }
    if (sent < 0) {
      writeBroke(socketError(errno, "write to the gateway"));
      return;
    }
    tls_->consume(static_cast<size_t>(sent));
  }
}

void Link::armWrite() {
  if (std::exchange(writeArmed_, true)) return;
  socket_.async_wait(boost::asio::posix::descriptor_base::wait_write, [self = shared_from_this()](const error_code& code) {
    self->writeArmed_ = false;
    if (code || self->phase_ == Phase::Closed) return;
    if (self->stepping_) return;  // the pool has tls_; stepDone sends
    self->sendPending();
    if (self->phase_ == Phase::Open && !self->writeArmed_ && std::exchange(self->wantsDrained_, false))
      self->events_->onDrained();
  });
}

// What the gateway said before it hung up explains more than EPIPE: a TLS alert about our certificate, or the end of an
// answer. The kernel keeps it readable. So writing stops, reading goes on, and its end is the end of the link.
void Link::writeBroke(Error why) {
  tls_->consume(tls_->pendingOutput().size());
  if (phase_ != Phase::Open || ended_) {
    failSoon(std::move(why));
    return;
  }
  if (broken_) return;
  why.hint = closedEarly({}).hint;
  broken_ = std::move(why);
  armRead();
}

void Link::finishWriting() {
  if (phase_ != Phase::Open || broken_) return;
  tls_->closeNotify();
  flush();
}

// ---- The end.

void Link::close() {
  if (phase_ == Phase::Closed) return;
  phase_ = Phase::Closed;
  timer_.reset();
  error_code ignored;
  socket_.close(ignored);
}

void Link::failNow(Error why) {
  if (phase_ == Phase::Closed) return;
  const auto self = shared_from_this();
  LinkEvents* events = events_;
  close();
  events->onFailed(why);
}

void Link::failSoon(Error why) {
  boost::asio::post(io_, [self = shared_from_this(), why = std::move(why)]() mutable { self->failNow(std::move(why)); });
}

}  // namespace wayleave::tunnel
