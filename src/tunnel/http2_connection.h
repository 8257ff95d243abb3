#pragma once

// One HTTP/2 connection to the gateway: a Link, a session, and the timers that find a dead peer and an idle connection.

#include <boost/asio/steady_timer.hpp>
#include <deque>
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
  // A request without an answer for OpenerOptions::answerPatience, and none asked after it was answered. `silent`: the gateway
  // has not said anything at all since.
  virtual void requestIgnored(Http2Connection& connection, int32_t id, bool silent) = 0;
  virtual bool connectionIsSpare(const Http2Connection& connection) const = 0;  // another takes requests
};

class Http2Connection final : public LinkEvents, private Http2Host, public std::enable_shared_from_this<Http2Connection> {
 public:
  Http2Connection(boost::asio::io_context& io, Http2Pool& pool, const OpenerOptions& options);
  ~Http2Connection() override;

  Status dial(const OpenerOptions& options, std::shared_ptr<tls::ClientContext> context, Link::Endpoints endpoints);
  bool ready() const { return ready_; }
  bool accepts() const { return ready_ && !distrusted_ && !clogged() && session_.accepts(); }
  void request(std::shared_ptr<OpenRequest> request);
  std::shared_ptr<OpenRequest> unanswered(int32_t id) const { return session_.unanswered(id); }
  std::shared_ptr<OpenRequest> withdraw(int32_t id) { return session_.withdraw(id); }
  size_t answeredStreams() const { return session_.answeredStreams(); }
  void serveAtMost(size_t streams) { session_.serveAtMost(streams); }
  void distrust() { distrusted_ = true; }  // no request until the gateway is heard again
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
  void wantTurnLater() override;
  void retry(std::shared_ptr<OpenRequest> request, const Error& why) override;
  void streamsChanged() override;
  void windowClosed(bool closed) override;

  bool clogged() const;
  void takeTurn();
  void end(const Error& why, bool sayGoodbye);
  void closeWhenDone();
  void awaitAnswers();
  void armTimer();
  void onTimer();

  boost::asio::io_context& io_;
  Http2Pool* pool_;
  const std::shared_ptr<WorkerBuffers> buffers_;
  const std::chrono::milliseconds pingInterval_;
  const std::chrono::milliseconds pingTimeout_;
  const std::chrono::milliseconds answerPatience_;
  const std::chrono::milliseconds idleRelease_;
  const std::chrono::milliseconds spareRelease_;
  Http2Session session_;
  std::shared_ptr<Link> link_;
  boost::asio::steady_timer timer_;
  boost::asio::steady_timer later_;
  boost::asio::steady_timer patience_;
  struct Asked {
    Steady at;
    int32_t id;
  };
  std::deque<Asked> asked_;          // some of them answered meanwhile
  Steady heard_{};                   // newest bytes from the gateway
  Steady lastTurn_{};
  Steady idleSince_{};               // no stream since; meaningful while there is none
  std::optional<Steady> pingSent_;   // unanswered
  std::optional<Steady> closedSince_;  // the gateway's window
  bool ready_ = false;
  bool heardOnce_ = false;
  bool distrusted_ = false;
  bool patient_ = false;             // patience_ runs
  bool turnPosted_ = false;
  bool turnPlanned_ = false;         // for later
  bool over_ = false;
};

}  // namespace wayleave::tunnel
