#include "proxy/flow.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "capture/endpoint.h"
#include "proxy/http_host.h"
#include "proxy/worker.h"

namespace wayleave::proxy {
namespace {

// First bytes looked at for a name. A post-quantum ClientHello has about 1.8 KiB, request heads rarely 8.
constexpr size_t kPeekBytes = 16 * 1024;
// What one flow may move up before others get their turn.
constexpr size_t kTurnBytes = 1024 * 1024;
// Pieces per system call: 1 MiB in HTTP/2 frames of 16 KiB.
constexpr size_t kMaxParts = 64;
// Here the server speaks first: waiting for the client's first bytes just to name the target would only cost time.
constexpr std::array<uint16_t, 7> kServerFirstPorts{21, 22, 25, 110, 143, 587, 3306};

bool clientSpeaksFirst(uint16_t port) {
  return std::find(kServerFirstPorts.begin(), kServerFirstPorts.end(), port) == kServerFirstPorts.end();
}

// Does the failure policy apply, or did the gateway decide?
bool gatewayUnusable(Reason reason) {
  switch (reason) {
    case Reason::GatewayDenied:
    case Reason::GatewayAuthRequired:
    case Reason::GatewayCannotReachTarget:
    case Reason::GatewayRefused: return false;
    case Reason::Ok:
    case Reason::BadInput:
    case Reason::Unsupported:
    case Reason::NotFound:
    case Reason::Duplicate:
    case Reason::Conflict:
    case Reason::NotEntitled:
    case Reason::CallerUnverified:
    case Reason::Busy:
    case Reason::DeadlineExceeded:
    case Reason::Cancelled:
    case Reason::Unavailable:
    case Reason::Io:
    case Reason::Internal:
    case Reason::IdentityUnavailable:
    case Reason::IdentityExpired:
    case Reason::IdentityLost:
    case Reason::WrongPassword:
    case Reason::KeyMismatch:
    case Reason::KeyLockout:
    case Reason::KeyPermission:
    case Reason::SignatureInvalid:
    case Reason::Untrusted:
    case Reason::GatewayUnreachable:
    case Reason::GatewayTlsFailed:
    case Reason::GatewayUntrusted:
    case Reason::GatewayRefusedCertificate:
    case Reason::GatewayProtocolError:
    case Reason::GatewayClosed:
    case Reason::GatewayTimeout:
    case Reason::Completed:
    case Reason::RefusedByRule:
    case Reason::DirectUnreachable:
    case Reason::ClientReset:
    case Reason::TargetReset:
    case Reason::IdleTimeout:
    case Reason::Drained:
    case Reason::Pending:
    case Reason::RateLimited:
    case Reason::ServerError:
    case Reason::OrderInvalid:
    case Reason::AttestationRefused: return true;
  }
  return true;
}

// The reason stands in a field of its own.
std::string sentence(const Error& error) {
  return error.hint.empty() ? error.message : fmt::format("{} ({})", error.message, error.hint);
}

}  // namespace

Flow::Flow(Worker& worker, capture::CapturedFlow captured, uint64_t id)
    : worker_(worker),
      client_(std::move(captured.socket)),
      source_(captured.source),
      destination_(captured.destination),
      id_(id),
      started_(std::chrono::system_clock::now()),
      startedSteady_(std::chrono::steady_clock::now()) {
  if (captured.owner) user_ = captured.owner->uid;
}

Flow::~Flow() = default;

void Flow::start() {
  if (worker_.isOwnListener(destination_)) {
    carriage_ = observe::Carriage::Refuse;
    return end(Reason::RefusedByRule, "the flow leads to the proxy itself");
  }
  if (auto watched = worker_.poller().add(client_.borrow(), *this); !watched) return end(Reason::Io, watched.error().message);
  decide(false);
}

void Flow::decide(bool hostKnown) {
  state_ = State::Deciding;
  const rules::FlowTarget target{rules::Protocol::Tcp, destination_.address, destination_.port, host_};
  for (const auto& route : worker_.routes()) {
    const PolicyEntry& entry = *route->entry;
    if (std::find(entry.gateways.begin(), entry.gateways.end(), destination_) != entry.gateways.end()) break;
    switch (entry.rules.decide(target, hostKnown)) {
      case rules::Decision::Direct: continue;
      case rules::Decision::NeedsHost: return beginPeek();
      case rules::Decision::Tunnel:
        if (!hostKnown && entry.connectTarget == localapi::ConnectTarget::HostName && clientSpeaksFirst(destination_.port))
          return beginPeek();
        return openTunnel(route);
    }
  }
  goDirect();
}

void Flow::beginPeek() {
  state_ = State::Peeking;
  worker_.deadlines().arm(*this, DeadlineKind::Peek);
  peek();
}

void Flow::peek() {
  const std::span<uint8_t> buffer = worker_.buffer().first(kPeekBytes);
  const ssize_t seen = ::recv(client_.borrow(), buffer.data(), buffer.size(), MSG_PEEK | MSG_DONTWAIT);
  if (seen < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (seen < 0) return end(Reason::ClientReset, std::strerror(errno));
  PeekResult result = hostOf(ByteView(buffer.data(), static_cast<size_t>(seen)));
  if (result.peek == Peek::NeedMore && !hungUp_ && seen != 0 && static_cast<size_t>(seen) < buffer.size()) return;
  worker_.deadlines().disarm(*this);
  if (result.peek == Peek::Found) {
    worker_.counters().hostsFound.add();
    host_ = std::move(result.host);
  } else {
    worker_.counters().hostsMissing.add();
  }
  decide(true);
}

void Flow::openTunnel(std::shared_ptr<Route> route) {
  state_ = State::Opening;
  carriage_ = observe::Carriage::Tunnel;
  route_ = std::move(route);
  openedAt_ = std::chrono::steady_clock::now();
  const bool byName = route_->entry->connectTarget == localapi::ConnectTarget::HostName && !host_.empty();
  const tunnel::Target target{byName ? host_ : text(destination_.address), destination_.port};
  pending_ = route_->opener->open(target, *this, openedAt_ + worker_.options().openDeadline,
                                  [this](Result<std::unique_ptr<tunnel::Stream>> result) { onOpened(std::move(result)); });
}

void Flow::onOpened(Result<std::unique_ptr<tunnel::Stream>> result) {
  pending_.reset();
  if (state_ != State::Opening) return;
  if (!result) return onTunnelFailed(result.error());
  worker_.counters().tunnelOpen.observe(std::chrono::steady_clock::now() - openedAt_);
  stream_ = std::move(*result);
  state_ = State::Tunnelled;
  touch();
  worker_.deadlines().arm(*this, DeadlineKind::Idle);
  pumpUp();
}

void Flow::onTunnelFailed(const Error& error) {
  switch (route_->entry->failurePolicy) {
    case localapi::FailurePolicy::Block: break;
    case localapi::FailurePolicy::Direct:
      if (!gatewayUnusable(error.reason)) break;
      worker_.counters().fallbacks.add();
      return goDirect();
  }
  end(error.reason, sentence(error));
}

void Flow::goDirect() {
  state_ = State::Direct;
  carriage_ = observe::Carriage::Direct;
  auto leg = DirectLeg::connect(worker_, *this, client_.borrow(), destination_, source_);
  if (!leg) return end(leg.error().reason, leg.error().message);
  direct_ = std::move(*leg);
  worker_.deadlines().arm(*this, DeadlineKind::Connect);
}

void Flow::onReady(uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable_ = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) hungUp_ = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) writable_ = true;
  switch (state_) {
    case State::Peeking: return peek();
    case State::Opening:
      // A reset while the tunnel opens; a mere end of input is data like any other.
      if ((events & EPOLLERR) != 0) end(Reason::ClientReset, "the application left while the tunnel was opening");
      return;
    case State::Tunnelled:
      if (writable_ && std::exchange(downPaused_, false)) stream_->resumeReading();
      if (state_ == State::Tunnelled) pumpUp();
      return;
    case State::Direct:
      if (direct_) direct_->onClientReady(events);
      return;
    case State::Deciding:
    case State::Ended: return;
  }
}

void Flow::onDeadline(DeadlineKind kind) {
  switch (kind) {
    case DeadlineKind::Peek:
      worker_.counters().hostsMissing.add();
      return decide(true);
    case DeadlineKind::Connect: return end(Reason::DirectUnreachable, "the destination did not answer in time");
    case DeadlineKind::HalfClosed:
    case DeadlineKind::Idle:
      if (std::chrono::steady_clock::now() - lastActivity_ < worker_.deadlines().length(kind))
        return worker_.deadlines().arm(*this, kind);
      return end(Reason::IdleTimeout, kind == DeadlineKind::Idle ? "nothing moved" : "nothing moved after one side had ended");
  }
}

void Flow::continueRelay() {
  if (state_ == State::Tunnelled) pumpUp();
  if (state_ == State::Direct && direct_) direct_->continueRelay();
}

// --- The tunnel ---

void Flow::pumpUp() {
  size_t moved = 0;
  while (readable_ && !upEnded_ && state_ == State::Tunnelled) {
    if (moved >= kTurnBytes) return worker_.continueLater(*this);
    const size_t room = std::min(stream_->writeCapacity(), worker_.buffer().size());
    if (room == 0) return;  // onWritable() comes
    const ssize_t got = ::recv(client_.borrow(), worker_.buffer().data(), room, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != EAGAIN) return end(Reason::ClientReset, std::strerror(errno));
    if (got < 0) {
      readable_ = false;
      return;
    }
    touch();
    if (got == 0) {
      upEnded_ = true;
      stream_->finishWriting();
      return halfClosed();
    }
    const auto bytes = static_cast<size_t>(got);
    // A short read emptied the socket; only a pending end would be overlooked, and that is known.
    if (bytes < room && !hungUp_) readable_ = false;
    count(true, bytes);
    moved += bytes;
    (void)stream_->write(ByteView(worker_.buffer().data(), bytes));
  }
}

size_t Flow::onDataParts(std::span<const ByteView> parts) {
  size_t offered = 0;
  for (const ByteView part : parts) offered += part.size();
  if (state_ != State::Tunnelled) return offered;

  std::array<iovec, kMaxParts> vector;
  size_t taken = 0, index = 0, offset = 0;  // `offset` within parts[index]
  while (taken < offered && writable_) {
    size_t count = 0;
    for (size_t i = index; i < parts.size() && count < vector.size(); ++i, ++count) {
      const ByteView rest = parts[i].subspan(i == index ? offset : 0);
      vector[count] = {const_cast<uint8_t*>(rest.data()), rest.size()};
    }
    msghdr message{};
    message.msg_iov = vector.data();
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(client_.borrow(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) {
      end(Reason::ClientReset, std::strerror(errno));
      return offered;
    }
    if (sent < 0) {
      writable_ = false;
      break;
    }
    taken += static_cast<size_t>(sent);
    for (offset += static_cast<size_t>(sent); index < parts.size() && offset >= parts[index].size(); ++index)
      offset -= parts[index].size();
  }
  if (taken > 0) {
    touch();
    count(false, taken);
  }
  downPaused_ = taken < offered;
  return taken;
}

void Flow::onWritable() {
  if (state_ == State::Tunnelled) pumpUp();
}

void Flow::onEndOfStream() {
  if (state_ != State::Tunnelled) return;
  downEnded_ = true;
  (void)::shutdown(client_.borrow(), SHUT_WR);
  halfClosed();
}

void Flow::onClosed(const Error& why) {
  if (state_ != State::Tunnelled) return;
  const bool orderly = why.reason == Reason::Completed || why.reason == Reason::Ok;
  end(orderly ? Reason::Completed : why.reason, orderly ? std::string() : sentence(why));
}

void Flow::halfClosed() {
  touch();
  worker_.deadlines().arm(*this, DeadlineKind::HalfClosed);
}

// --- The direct leg ---

void Flow::onDirectConnected() {
  touch();
  worker_.deadlines().arm(*this, DeadlineKind::Idle);
}
void Flow::onDirectBytes(bool up, size_t bytes) {
  touch();
  count(up, bytes);
}
void Flow::onDirectHalfClosed() { halfClosed(); }
void Flow::onDirectEnded(Reason outcome, std::string error) { end(outcome, std::move(error)); }
void Flow::onDirectTurnOver() { worker_.continueLater(*this); }

// --- The end ---

void Flow::count(bool up, size_t bytes) {
  (up ? bytesUp_ : bytesDown_) += bytes;
  auto& counters = worker_.counters();
  (up ? counters.bytesUp : counters.bytesDown)[static_cast<size_t>(carriage_)].add(bytes);
}

observe::FlowRecord Flow::record(Reason outcome, std::string error) const {
  return {.id = id_,
          .started = started_,
          .duration = std::chrono::steady_clock::now() - startedSteady_,
          .carriage = carriage_,
          .outcome = outcome,
          .error = std::move(error),
          .source = text(source_),
          .destination = text(destination_),
          .host = host_,
          .configuration = route_ ? route_->entry->id : std::string(),
          .bytesUp = bytesUp_,
          .bytesDown = bytesDown_,
          .user = user_};
}

void Flow::end(Reason outcome, std::string error) {
  if (state_ == State::Ended) return;
  state_ = State::Ended;
  worker_.deadlines().disarm(*this);
  worker_.poller().forget(*this);
  pending_.reset();
  if (outcome != Reason::Completed) {
    const linger reset{.l_onoff = 1, .l_linger = 0};
    (void)::setsockopt(client_.borrow(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (direct_) direct_->resetOnClose();
  }
  client_.reset();
  worker_.counters().flowsEnded[static_cast<size_t>(carriage_)][static_cast<size_t>(outcome)].add();
  worker_.record(record(outcome, std::move(error)));
  worker_.bury(*this);  // the stream and the direct leg go with the grave: calls of theirs may be running
}

}  // namespace wayleave::proxy
