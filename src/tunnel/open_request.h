#pragma once

// One CONNECT that somebody waits for, from open() until its answer: the deadline, the cancellation and the promise that
// `done` runs once at most are kept here, once for all carriers. A request can move from carrier to carrier: a stream that
// the gateway did not process is tried on another connection, and ALPN may choose HTTP/1.1.

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>

#include "base/clock.h"
#include "tunnel/stream.h"

namespace wayleave::tunnel {

// What works on a request at the moment.
class Carrier {
 public:
  virtual ~Carrier() = default;
  // The request is cancelled or late: stop, and do not complete it.
  virtual void abandonRequest() = 0;
  virtual Error lateness() const = 0;  // what it was waiting for when the deadline passed
};

class OpenRequest : public std::enable_shared_from_this<OpenRequest> {
 public:
  OpenRequest(boost::asio::io_context& io, std::string authority, StreamEvents& events, Steady deadline, OpenDone done);

  // Destroying it cancels.
  std::unique_ptr<Opener::Pending> handle();
  void start();

  bool live() const { return static_cast<bool>(done_); }  // neither answered nor cancelled nor late
  const std::string& authority() const { return authority_; }
  StreamEvents& events() const { return events_; }
  Steady deadline() const { return deadline_; }
  void carryBy(Carrier* carrier) { carrier_ = carrier; }  // nullptr: nobody at the moment
  // For carriers: how often the gateway gave it back unprocessed.
  int countRetry() { return ++retries_; }
  // Whether it was taken from a connection that did not answer it, to be asked on another.
  bool moved() const { return moved_; }
  void setMoved() { moved_ = true; }

  // Runs `done`, unless it is not live() any more. On the loop, never from inside open().
  void complete(Result<std::unique_ptr<Stream>> result);
  // The same from anywhere.
  void failSoon(Error why);

 private:
  void stop();

  boost::asio::io_context& io_;
  std::string authority_;
  StreamEvents& events_;
  Steady deadline_;
  OpenDone done_;
  boost::asio::steady_timer timer_;
  Carrier* carrier_ = nullptr;
  int retries_ = 0;
  bool moved_ = false;
};

}  // namespace wayleave::tunnel
