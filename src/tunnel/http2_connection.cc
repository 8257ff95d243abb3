#include "tunnel/http2_connection.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>

namespace wayleave::tunnel {
namespace {

// From here on the kernel gets its part while we frame the rest.
constexpr size_t kFlushEarlyBytes = WorkerBuffers::kBatchBytes / 2;

}  // namespace

Http2Connection::Http2Connection(boost::asio::io_context& io, Http2Pool& pool, const OpenerOptions& options)
    : io_(io),
      pool_(&pool),
      buffers_(options.buffers),
      pingInterval_(options.pingInterval),
      pingTimeout_(options.pingTimeout),
      idleRelease_(options.idleRelease),
      session_(*this, *buffers_),
      timer_(io) {}

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
  if (!std::exchange(heardOnce_, true) && pool_ != nullptr) pool_->connectionHasRoom(*this);
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

void Http2Connection::takeTurn() {
  if (over_ || !ready_) return;
  if (auto turned = session_.turn(); !turned) {
    end(turned.error(), true);
    return;
  }
  if (over_) return;
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
  if (session_.streams() == 0 && now >= idleSince_ + idleRelease_) {
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
