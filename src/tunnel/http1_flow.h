#pragma once

// One tunnel over its own connection. See http1_opener.h.

#include "tunnel/http1_opener.h"
#include "tunnel/http_head.h"

namespace wayleave::tunnel {

class Http1Flow final : public LinkEvents, public Carrier, public std::enable_shared_from_this<Http1Flow> {
 public:
  Http1Flow(boost::asio::io_context& io, Http1Opener& opener, std::shared_ptr<OpenRequest> request);

  // `needsSigner`: it takes one of the opener's places for full handshakes until the gateway has spoken.
  void launch(std::shared_ptr<tls::ClientContext> context, bool needsSigner);
  void ask(std::shared_ptr<Link> link);  // established already
  void end(Error why);                   // to whom it may concern, at once
  void forgetOpener() { opener_ = nullptr; }
  bool waitsForPlace() const { return state_ == State::Queued; }

  // The stream's side.
  size_t writeCapacity() const;
  size_t write(ByteView bytes);
  void finishWriting();
  void resumeReading() { link_->resumeReading(); }
  void abandon();

  // LinkEvents
  void onEstablished() override;
  size_t onPlain(std::span<uint8_t> bytes) override;
  void onDrained() override;
  void onEndOfStream() override;
  void onFailed(const Error& why) override;
  // Carrier
  void abandonRequest() override { abandon(); }
  Error lateness() const override;

 private:
  enum class State : uint8_t { Queued, Linking, Asking, Open, Closed };

  size_t readHead(std::span<uint8_t> bytes);
  void releasePlace();
  void closeIfComplete();
  void writableSoon();
  void close();

  boost::asio::io_context& io_;
  Http1Opener* opener_;  // nullptr once it is gone
  std::shared_ptr<OpenRequest> request_;  // until answered
  StreamEvents& events_;
  std::shared_ptr<Link> link_;
  std::unique_ptr<ResponseHead> head_;  // while asking
  State state_ = State::Queued;
  bool holdsPlace_ = false;
  bool finished_ = false;  // we wrote our last byte
  bool ended_ = false;     // the target sent its last byte
};

}  // namespace wayleave::tunnel
