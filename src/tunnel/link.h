#pragma once

// One TLS connection to the gateway on a loop: dials, shakes hands (in the HandshakePool), then moves batches between the
// socket and whoever speaks HTTP over it.
//
// Down: batches from the socket, decrypted into the worker's shared buffer until that is full or the socket empty, handed over
// in one piece; what is not taken is kept and reading stops. Up: write() encrypts at once, flush() sends everything with one
// system call. Idle, a link owns a descriptor, OpenSSL's state and no buffer.

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <span>

#include "base/clock.h"
#include "base/result.h"
#include "tls/client_tls.h"
#include "tunnel/opener.h"

namespace wayleave::tunnel {

// All on the loop, and never from inside a call into the link. After onFailed() or Link::close() none comes.
class LinkEvents {
 public:
  virtual ~LinkEvents() = default;
  virtual void onEstablished() = 0;
  // Plain text in the worker's shared buffer, which may be scribbled on. Returns how much was taken: less pauses reading.
  virtual size_t onPlain(std::span<uint8_t> bytes) = 0;
  virtual void onBatchEnd() {}       // all that one wake-up brought has been handed over
  virtual void onDrained() = 0;      // writeRoom() was used up and is there again
  virtual void onEndOfStream() = 0;  // the gateway's close_notify: no more onPlain
  virtual void onFailed(const Error& why) = 0;
};

class Link : public std::enable_shared_from_this<Link> {
 public:
  using Endpoints = std::vector<boost::asio::ip::tcp::endpoint>;

  // Begins to dial; the outcome comes as onEstablished or onFailed: GatewayUnreachable, GatewayTimeout, the TLS reasons,
  // the signer's. `events` is used until close() or onFailed().
  static Result<std::shared_ptr<Link>> dial(boost::asio::io_context& io, const OpenerOptions& options,
                                            std::shared_ptr<tls::ClientContext> context, Endpoints endpoints,
                                            LinkEvents& events);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  void handOver(LinkEvents& events) { events_ = &events; }
  bool established() const { return phase_ == Phase::Open; }
  bool waitsForSigner() const { return signing_; }
  bool resumed() const { return resumed_; }
  std::string alpn() const { return tls_->negotiatedAlpn(); }

  // Bytes that may be written before output waits for the socket. Zero while a batch is still on its way.
  size_t writeRoom() const;
  void write(ByteView plain);  // encrypts; a failure comes as onFailed
  void flush();
  bool drained() const { return tls_->pendingOutput().empty(); }
  void wantDrained() { wantsDrained_ = true; }  // onDrained() when the output has gone out
  void resumeReading();
  void finishWriting();  // close_notify, then flush
  // Orderly for us, whatever the gateway does: no event comes after this.
  void close();

 private:
  enum class Phase : uint8_t { Connecting, Handshaking, Open, Closed };

  Link(boost::asio::io_context& io, const OpenerOptions& options, std::shared_ptr<tls::ClientContext> context,
       std::unique_ptr<tls::ClientTls> tls, Endpoints endpoints, LinkEvents& events);

  void connectNext();
  Result<int> openSocket(const boost::asio::ip::tcp::endpoint& endpoint) const;
  void connected();
  void arm(std::chrono::milliseconds timeout, std::function<void()> expired);

  void submitStep(bool maySign);
  void stepDone(tls::HandshakeState state);
  void awaitHandshakeBytes();
  void readHandshakeBytes();
  void handshakeFailed(Error why);

  void armRead();
  void readable();
  bool pump();
  bool pumpHeld();
  void pumpSoon();
  void gatewayEnded();
  void armWrite();
  void sendPending();
  void writeBroke(Error why);

  void failNow(Error why);
  void failSoon(Error why);

  boost::asio::io_context& io_;
  // Copied from the options: links may outlive their opener for the length of a handler.
  tls::HandshakePool& pool_;
  std::shared_ptr<WorkerBuffers> buffers_;
  std::function<Status(int)> socketOptions_;
  std::chrono::milliseconds connectTimeout_;
  std::chrono::milliseconds handshakeTimeout_;

  Endpoints endpoints_;
  size_t next_ = 0;
  std::string lastTrouble_;
  LinkEvents* events_;
  std::shared_ptr<tls::ClientContext> context_;  // until established
  std::unique_ptr<tls::ClientTls> tls_;
  boost::asio::posix::stream_descriptor socket_;
  std::optional<boost::asio::steady_timer> timer_;  // while dialling
  Steady handshakeDeadline_{};
  Bytes held_;  // decrypted, not taken yet; only while paused
  Phase phase_ = Phase::Connecting;
  bool stepping_ = false;  // a handshake step is in the pool: tls_ is not ours
  bool signing_ = false;   // and it may be waiting for the signer
  bool resumed_ = false;
  bool readArmed_ = false;
  bool writeArmed_ = false;
  bool paused_ = false;
  bool pumping_ = false;       // a turn is posted
  bool ended_ = false;         // onEndOfStream was told
  bool wantsDrained_ = false;
  std::optional<Error> broken_;  // why writing failed, while what the gateway still said is read
};

}  // namespace wayleave::tunnel
