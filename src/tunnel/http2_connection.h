#pragma once

// One HTTP/2 connection to the gateway: a Link, a session, and the timers that find a dead peer and an idle connection.

#include <boost/asio/steady_timer.hpp>
#include <memory>

#include "tunnel/http2_session.h"
#include "tunnel/link.h"

namespace wayleave::tunnel {

class Http2Connection;

// The pool, as its connections see it. Called on the loop.
class Http2Pool {
 public:
  virtual ~Http2Pool() = default;
  virtual void connectionReady(Http2Connection& connection) = 0;
  virtual void connectionHasRoom(Http2Connection& connection) = 0;
  // The gateway chose HTTP/1.1: the link is established and belongs to whoever takes it.
  virtual void connectionIsHttp1(Http2Connection& connection, std::shared_ptr<Link> link) = 0;
  virtual void connectionGone(Http2Connection& connection, const Error& why) = 0;
  virtual void retryRequest(std::shared_ptr<OpenRequest> request, const Error& why) = 0;
};

class Http2Connection final : public LinkEvents, private Http2Host, public std::enable_shared_from_this<Http2Connection> {
 public:
  Http2Connection(boost::asio::io_context& io, Http2Pool& pool, const OpenerOptions& options);
  ~Http2Connection() override;

  Status dial(const OpenerOptions& options, std::shared_ptr<tls::ClientContext> context, Link::Endpoints endpoints);
  bool ready() const { return ready_; }
  bool accepts() const { return ready_ && session_.accepts(); }
  void request(std::shared_ptr<OpenRequest> request) { session_.request(std::move(request)); }
  size_t streams() const { return session_.streams(); }
  // The gateway has spoken: if it gives tickets, they are there, since they precede its first frame.
  bool heard() const { return heardOnce_; }
  bool waitsForSigner() const { return link_ && link_->waitsForSigner(); }
  void stopAccepting();              // closes when the last stream ends
  void close(const Error& why);      // now, with a word to the gateway; the pool is told
  void probe();                      // the network changed: is it alive?
  void forgetPool() { pool_ = nullptr; }

  // LinkEvents
  void onEstablished() override;
  size_t onPlain(std::span<uint8_t> bytes) override;
  void onBatchEnd() override;
  void onDrained() override;
  void onEndOfStream() override;
  void onFailed(const Error& why) override;

 private:
  // Http2Host
  void sendBytes(ByteView bytes) override { link_->write(bytes); }
  size_t sendRoom() const override { return link_ ? link_->writeRoom() : 0; }
  void wantDrained() override { link_->wantDrained(); }
  void wantTurn() override;
  void retry(std::shared_ptr<OpenRequest> request, const Error& why) override;
  void streamsChanged() override;

  void takeTurn();
  void end(const Error& why, bool sayGoodbye);
  void closeWhenDone();
  void armTimer();
  void onTimer();

  boost::asio::io_context& io_;
  Http2Pool* pool_;
  const std::shared_ptr<WorkerBuffers> buffers_;
  const std::chrono::milliseconds pingInterval_;
  const std::chrono::milliseconds pingTimeout_;
  const std::chrono::milliseconds idleRelease_;
  Http2Session session_;
  std::shared_ptr<Link> link_;
  boost::asio::steady_timer timer_;
  Steady heard_{};                   // newest bytes from the gateway
  Steady idleSince_{};               // no stream since; meaningful while there is none
  std::optional<Steady> pingSent_;   // unanswered
  bool ready_ = false;
  bool heardOnce_ = false;
  bool turnPosted_ = false;
  bool over_ = false;
};

}  // namespace wayleave::tunnel
