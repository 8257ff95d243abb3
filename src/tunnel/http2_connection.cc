#include "tunnel/http2_connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>

namespace wayleave::tunnel {
namespace {

// From here on the kernel gets its part while we frame the rest.
constexpr size_t kFlushEarlyBytes = WorkerBuffers::kBatchBytes / 2;
// For how long tiny writes are gathered: a thousand frames a second at most, and nothing that a person or a protocol of
// questions and answers notices.
constexpr std::chrono::milliseconds kGather{1};
// A full window is everyday life in a bulk transfer: it opens again within a round trip.
constexpr std::chrono::milliseconds kClogged{300};

}  // namespace

Http2Connection::Http2Connection(boost::asio::io_context& io, Http2Pool& pool, const OpenerOptions& options)
    : io_(io),
      pool_(&pool),
      buffers_(options.buffers),
      pingInterval_(options.pingInterval),
      pingTimeout_(options.pingTimeout),
      answerPatience_(options.answerPatience),
      idleRelease_(options.idleRelease),
      spareRelease_(options.spareRelease),
      session_(*this, *buffers_),
      timer_(io),
      later_(io),
      patience_(io) {}

Http2Connection::~Http2Connection() {
  if (link_) link_->close();
}

Status Http2Connection::dial(const OpenerOptions& options, std::shared_ptr<tls::ClientContext> context,
                             Link::Endpoints endpoints) {
  auto link = Link::dial(io_, options, std::move(context), std::move(endpoints), *this);
  if (!link) return propagate(link.error());
  link_ = std::move(*link);
  return {};
}

void Http2Connection::onEstablished() {
  const auto self = shared_from_this();
  if (link_->alpn() != "h2") {
    over_ = true;
    if (pool_ != nullptr) pool_->connectionIsHttp1(*this, std::exchange(link_, nullptr));
    return;
  }
  heard_ = idleSince_ = Steady::clock::now();
  if (auto started = session_.start(); !started) {
    end(started.error(), false);
    return;
  }
  ready_ = true;
  wantTurn();
  armTimer();
  if (pool_ != nullptr) pool_->connectionReady(*this);
  closeWhenDone();
}

size_t Http2Connection::onPlain(std::span<uint8_t> bytes) {
  const auto self = shared_from_this();
  if (over_) return bytes.size();
  if (pingSent_) {  // whatever it said, it lives
    pingSent_.reset();
    armTimer();
  }
  if (auto received = session_.receive(bytes); !received) end(received.error(), true);
  return bytes.size();
}

void Http2Connection::onBatchEnd() {
  const auto self = shared_from_this();
  if (over_) return;
  heard_ = Steady::clock::now();
  const bool trustedAgain = std::exchange(distrusted_, false);
  if ((!std::exchange(heardOnce_, true) || trustedAgain) && pool_ != nullptr) pool_->connectionHasRoom(*this);
  link_->flush();
  closeWhenDone();
}

void Http2Connection::onDrained() {
  const auto self = shared_from_this();
  session_.drained();
}

void Http2Connection::onEndOfStream() {
  end({Reason::GatewayClosed, "the gateway closed the connection that carried this tunnel", {}}, false);
}

void Http2Connection::onFailed(const Error& why) { end(why, false); }

// ---- Turns: what all streams wrote in one turn of the loop leaves with one system call.

void Http2Connection::wantTurn() {
  if (link_ && WorkerBuffers::kBatchBytes - link_->writeRoom() >= kFlushEarlyBytes) link_->flush();
  if (std::exchange(turnPosted_, true)) return;
  boost::asio::post(io_, [self = shared_from_this()] {
    self->turnPosted_ = false;
    self->takeTurn();
  });
}

void Http2Connection::wantTurnLater() {
  if (turnPosted_ || turnPlanned_) return;
  const Steady due = lastTurn_ + kGather;
  if (due <= Steady::clock::now()) return wantTurn();
  turnPlanned_ = true;
  later_.expires_at(due);
  later_.async_wait([weak = weak_from_this()](const boost::system::error_code& code) {
    const auto self = weak.lock();
    if (!self) return;
    self->turnPlanned_ = false;
    if (!code) self->takeTurn();
  });
}

void Http2Connection::takeTurn() {
  if (over_ || !ready_) return;
  if (auto turned = session_.turn(); !turned) {
    end(turned.error(), true);
    return;
  }
  if (over_) return;
  lastTurn_ = Steady::clock::now();
  link_->flush();
  closeWhenDone();
}

void Http2Connection::retry(std::shared_ptr<OpenRequest> request, const Error& why) {
  if (pool_ != nullptr)
    pool_->retryRequest(std::move(request), why);
  else
    request->complete(std::unexpected(why));
}

void Http2Connection::streamsChanged() {
  if (session_.streams() == 0) {
    idleSince_ = Steady::clock::now();  // looked at whenever a PING is due
    if (session_.draining()) wantTurn();
  }
  if (pool_ != nullptr && !session_.draining()) pool_->connectionHasRoom(*this);
}

void Http2Connection::windowClosed(bool closed) {
  const bool wasClogged = clogged();
  closedSince_ = closed ? std::optional(Steady::clock::now()) : std::nullopt;
  if (wasClogged && pool_ != nullptr) pool_->connectionHasRoom(*this);
}

bool Http2Connection::clogged() const { return closedSince_ && Steady::clock::now() - *closedSince_ > kClogged; }

// ---- Ends.

void Http2Connection::stopAccepting() {
  session_.stopAccepting();
  if (ready_) wantTurn();
}

void Http2Connection::closeWhenDone() {
  if (!over_ && ready_ && session_.draining() && session_.streams() == 0)
    end({Reason::Completed, "the connection had no more streams", {}}, true);
}

void Http2Connection::close(const Error& why) { end(why, true); }

void Http2Connection::end(const Error& why, bool sayGoodbye) {
  if (std::exchange(over_, true)) return;
  const auto self = shared_from_this();
  timer_.cancel();
  later_.cancel();
  patience_.cancel();
  if (link_ && link_->established()) {
    if (sayGoodbye) {
      session_.goAway();
      link_->finishWriting();
    }
    link_->close();
  }
  const bool wasReady = std::exchange(ready_, false);
  if (link_) link_->close();
  Http2Pool* pool = std::exchange(pool_, nullptr);
  if (pool != nullptr) pool->connectionGone(*this, why);
  // A connection that had served and went away under a request: a gateway closing an idle connection crossed it on the
  // wire. No byte of the flow was sent, so asking again is safe.
  const bool crossed = wasReady && session_.answeredBefore() && why.reason == Reason::GatewayClosed;
  pool_ = pool;
  session_.failAll(why, crossed);
  pool_ = nullptr;
}

// ---- Requests that wait for their answer.

void Http2Connection::request(std::shared_ptr<OpenRequest> request) {
  const int32_t id = session_.request(std::move(request));
  if (id < 0) return;
  const Steady now = Steady::clock::now();
  asked_.push_back({now, id});
  awaitAnswers();
  // After silence the path may be dead. A living gateway answers this at once, however long the target takes.
  if (now - heard_ >= answerPatience_) probe();
}

void Http2Connection::awaitAnswers() {
  while (!asked_.empty() && session_.unanswered(asked_.front().id) == nullptr) asked_.pop_front();
  if (asked_.empty() || patient_ || over_) return;
  patient_ = true;
  patience_.expires_at(asked_.front().at + answerPatience_);
  patience_.async_wait([weak = weak_from_this()](const boost::system::error_code& code) {
    const auto self = weak.lock();
    if (!self) return;
    self->patient_ = false;
    if (code) return;
    const Steady due = Steady::clock::now() - self->answerPatience_;
    while (!self->asked_.empty() && self->asked_.front().at <= due) {
      const Asked asked = self->asked_.front();
      self->asked_.pop_front();
      // Whatever was answered after it was asked later: then it is the target that takes its time.
      if (self->over_ || self->pool_ == nullptr || !self->session_.unanswered(asked.id) ||
          self->session_.newestAnswered() > asked.id)
        continue;
      self->pool_->requestIgnored(*self, asked.id, self->heard_ < asked.at);
    }
    self->awaitAnswers();
  });
}

// ---- Liveness and idleness.

void Http2Connection::armTimer() {
  if (over_) return;
  timer_.expires_at(pingSent_ ? *pingSent_ + pingTimeout_ : heard_ + pingInterval_);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& code) {
    const auto self = weak.lock();
    if (!code && self && !self->over_) self->onTimer();
  });
}

void Http2Connection::onTimer() {
  const Steady now = Steady::clock::now();
  if (pingSent_ && now >= *pingSent_ + pingTimeout_) {
    end({Reason::GatewayTimeout, fmt::format("the gateway did not answer a PING within {} ms", pingTimeout_.count()),
         "the network between this machine and the gateway lost the connection"},
        false);
    return;
  }
  const bool spare = pool_ != nullptr && pool_->connectionIsSpare(*this);
  if (session_.streams() == 0 && now >= idleSince_ + (spare ? std::min(spareRelease_, idleRelease_) : idleRelease_)) {
    end({Reason::IdleTimeout, "the connection was idle", {}}, true);
    return;
  }
  if (!pingSent_ && now >= heard_ + pingInterval_) probe();
  armTimer();
}

void Http2Connection::probe() {
  if (over_ || !ready_ || pingSent_) return;
  pingSent_ = Steady::clock::now();
  session_.ping();
  armTimer();
}

}  // namespace wayleave::tunnel
