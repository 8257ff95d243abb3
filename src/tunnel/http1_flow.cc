#include "tunnel/http1_flow.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>

#include "tunnel/connect_answer.h"

namespace wayleave::tunnel {
namespace {

class Http1Stream final : public Stream {
 public:
  explicit Http1Stream(std::shared_ptr<Http1Flow> flow) : flow_(std::move(flow)) {}
  ~Http1Stream() override { flow_->abandon(); }
  size_t writeCapacity() const override { return flow_->writeCapacity(); }
  size_t write(ByteView bytes) override { return flow_->write(bytes); }
  void finishWriting() override { flow_->finishWriting(); }
  void resumeReading() override { flow_->resumeReading(); }

 private:
  std::shared_ptr<Http1Flow> flow_;
};

}  // namespace

Http1Flow::Http1Flow(boost::asio::io_context& io, Http1Opener& opener, std::shared_ptr<OpenRequest> request)
    : io_(io), opener_(&opener), request_(std::move(request)), events_(request_->events()) {
  request_->carryBy(this);
}

void Http1Flow::launch(std::shared_ptr<tls::ClientContext> context, bool needsSigner) {
  state_ = State::Linking;
  holdsPlace_ = needsSigner;
  opener_->addresses_.get([weak = weak_from_this(), context = std::move(context)](const auto& endpoints) {
    const auto self = weak.lock();
    if (!self || self->state_ != State::Linking || self->opener_ == nullptr) return;
    if (!endpoints) {
      self->end(endpoints.error());
      return;
    }
    auto link = Link::dial(self->io_, self->opener_->options_, context, *endpoints, *self);
    if (link)
      self->link_ = std::move(*link);
    else
      self->end(std::move(link.error()));
  });
}

void Http1Flow::ask(std::shared_ptr<Link> link) {
  link_ = std::move(link);
  link_->handOver(*this);
  state_ = State::Asking;
  head_ = std::make_unique<ResponseHead>();
  const std::string& authority = request_->authority();
  link_->write(asBytes(fmt::format("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", authority)));
  link_->flush();
}

void Http1Flow::onEstablished() {
  const auto self = shared_from_this();
  if (link_->alpn() != "h2") {
    ask(link_);
    return;
  }
  if (opener_ == nullptr || !opener_->onHttp2_) {
    end({Reason::GatewayProtocolError, "the gateway insists on HTTP/2, and the profile on HTTP/1.1", {}});
    return;
  }
  auto request = std::move(request_);
  request->carryBy(nullptr);
  const auto handler = opener_->onHttp2_;
  close();
  handler(std::move(request));
}

size_t Http1Flow::onPlain(std::span<uint8_t> bytes) {
  const auto self = shared_from_this();
  releasePlace();  // the tickets stand before the first plain text
  if (state_ == State::Asking) return readHead(bytes);
  return state_ == State::Open ? events_.onData(bytes) : bytes.size();
}

size_t Http1Flow::readHead(std::span<uint8_t> bytes) {
  auto progress = head_->feed(bytes);
  if (!progress) {
    end(std::move(progress.error()));
    return bytes.size();
  }
  const auto* done = std::get_if<ResponseHead::Done>(&*progress);
  if (done == nullptr) return bytes.size();
  if (done->status > 299) {
    end(refusal(done->status, request_->authority(), done->reasonPhrase));
    return bytes.size();
  }
  const size_t consumed = done->consumed;
  state_ = State::Open;
  head_.reset();
  std::exchange(request_, nullptr)->complete(std::make_unique<Http1Stream>(shared_from_this()));
  if (state_ != State::Open || consumed == bytes.size()) return consumed;
  return consumed + events_.onData(bytes.subspan(consumed));
}

// ---- The stream's side.

// Nothing more until the last batch has gone out: full batches cost least, and the kernel's buffer is queue enough.
size_t Http1Flow::writeCapacity() const {
  if (state_ != State::Open || finished_) return 0;
  if (link_->drained()) return link_->writeRoom();
  link_->wantDrained();
  return 0;
}

size_t Http1Flow::write(ByteView bytes) {
  const size_t taken = std::min(bytes.size(), writeCapacity());
  if (taken == 0) return 0;
  link_->write(bytes.first(taken));
  link_->flush();
  if (link_->drained()) {
    if (taken < bytes.size()) writableSoon();
  } else {
    link_->wantDrained();
  }
  return taken;
}

void Http1Flow::writableSoon() {
  boost::asio::post(io_, [self = shared_from_this()] {
    if (self->writeCapacity() > 0) self->events_.onWritable();
  });
}

void Http1Flow::finishWriting() {
  if (state_ != State::Open || std::exchange(finished_, true)) return;
  link_->finishWriting();
  if (!link_->drained()) {
    link_->wantDrained();
    return;
  }
  boost::asio::post(io_, [self = shared_from_this()] { self->closeIfComplete(); });
}

void Http1Flow::abandon() {
  if (state_ == State::Closed) return;
  if (link_) link_->close();
  request_.reset();
  close();
}

// ---- The link's side.

void Http1Flow::onDrained() {
  const auto self = shared_from_this();
  if (state_ != State::Open) return;
  if (finished_)
    closeIfComplete();
  else
    events_.onWritable();
}

void Http1Flow::onEndOfStream() {
  const auto self = shared_from_this();
  if (state_ == State::Asking) {
    end({Reason::GatewayClosed, fmt::format("the gateway closed before it answered CONNECT {}", request_->authority()), {}});
    return;
  }
  if (state_ != State::Open) return;
  ended_ = true;
  events_.onEndOfStream();
  closeIfComplete();
}

void Http1Flow::closeIfComplete() {
  if (state_ == State::Open && ended_ && finished_ && link_->drained())
    end({Reason::Completed, "both directions ended", {}});
}

void Http1Flow::onFailed(const Error& why) {
  if (why.reason == Reason::GatewayUnreachable && opener_ != nullptr) opener_->addresses_.forget();
  Error told = why;
  if (state_ == State::Asking && why.reason == Reason::GatewayClosed)
    told.message = fmt::format("no answer to CONNECT {}: {}", request_->authority(), why.message);
  end(std::move(told));
}

Error Http1Flow::lateness() const {
  switch (state_) {
    case State::Queued:
      return {Reason::DeadlineExceeded,
              fmt::format("no TLS connection for {} in time: other handshakes waited for the identity's signatures",
                          request_->authority()),
              "the key's device is slow; a gateway that issues session tickets or speaks HTTP/2 needs fewer signatures"};
    case State::Linking:
      if (link_ && link_->waitsForSigner())
        return {Reason::DeadlineExceeded, "the identity did not sign the TLS handshake in time", {}};
      return {Reason::GatewayTimeout, "no TLS connection to the gateway in time", {}};
    case State::Asking:
    case State::Open:
    case State::Closed: break;
  }
  return {Reason::GatewayTimeout, fmt::format("the gateway did not answer CONNECT {} in time", request_->authority()), {}};
}

void Http1Flow::end(Error why) {
  const auto self = shared_from_this();
  const State before = state_;
  if (before == State::Closed) return;
  if (link_) link_->close();
  auto request = std::exchange(request_, nullptr);
  close();
  if (before == State::Open)
    events_.onClosed(why);
  else if (request)
    request->complete(std::unexpected(std::move(why)));
}

void Http1Flow::releasePlace() {
  if (std::exchange(holdsPlace_, false) && opener_ != nullptr) opener_->fullHandshakeOver();
}

void Http1Flow::close() {
  const auto self = shared_from_this();
  state_ = State::Closed;
  releasePlace();
  if (link_) link_->close();
  if (opener_ != nullptr) opener_->gone(*this);
}

}  // namespace wayleave::tunnel
