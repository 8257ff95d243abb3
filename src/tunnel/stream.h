#pragma once

// One open CONNECT tunnel as a byte stream, whatever carries it (a TLS connection of its own over HTTP/1.1, or a stream of a
// shared HTTP/2 connection), and the pool that opens them. Everything here belongs to one worker's loop: no locks.

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::tunnel {

// The target of a CONNECT: authority-form, RFC 9110 section 9.3.6.
struct Target {
  std::string host;  // name or textual address, IPv6 without brackets
  uint16_t port = 0;
};

// What happens to a stream; implemented by the flow. Called on the loop, never from inside a call the flow itself makes
// into the stream.
class StreamEvents {
 public:
  virtual ~StreamEvents() = default;
  // Bytes from the target, in a buffer the worker lends for the length of the call. Returns how many were taken; fewer than
  // offered pauses the stream (the rest is kept) until resumeReading().
  virtual size_t onData(ByteView bytes) = 0;
  // Several pieces in order, none empty, when one wake-up brought more than one: an HTTP/2 gateway sends DATA frames of
  // 16 KiB. Returns how many bytes were taken of all. A flow that owns a socket overrides it with one writev().
  virtual size_t onDataParts(std::span<const ByteView> parts) {
    size_t taken = 0;
    for (const ByteView part : parts) {
      const size_t now = onData(part);
      taken += now;
      if (now < part.size()) break;
    }
    return taken;
  }
  virtual void onWritable() = 0;     // writeCapacity() is above 0 again, after it was 0 or write() took less than offered
  virtual void onEndOfStream() = 0;  // the target sent its last byte; writing may go on
  // The stream is gone, both ways; last call. Completed when both directions ended in order, or when the target did and the
  // gateway takes no more; otherwise why.
  virtual void onClosed(const Error& why) = 0;
};

// Destroying it before onClosed abandons the tunnel (RST_STREAM, or closing the connection).
class Stream {
 public:
  virtual ~Stream() = default;
  virtual size_t writeCapacity() const = 0;    // bytes write() would take now
  virtual size_t write(ByteView bytes) = 0;    // takes min(size, writeCapacity())
  virtual void finishWriting() = 0;            // half-close towards the target, after all that was written
  virtual void resumeReading() = 0;
};

using OpenDone = std::function<void(Result<std::unique_ptr<Stream>>)>;

// Opens tunnels to one gateway with one identity. Owned by a worker.
class Opener {
 public:
  virtual ~Opener() = default;
  // `done` runs once, on the loop, after the gateway answered 2xx or something failed; never before open() returns.
  // `events` must outlive the stream. Returns a handle whose cancel() drops the request (done then never runs).
  class Pending {
   public:
    virtual ~Pending() = default;  // destroying it cancels
  };
  virtual std::unique_ptr<Pending> open(const Target& target, StreamEvents& events,
                                        std::chrono::steady_clock::time_point deadline, OpenDone done) = 0;
  // New tunnels use a new identity or trust from now on; existing ones drain. Removed: existing ones close with `why`.
  virtual void drain() = 0;
  virtual void closeAll(const Error& why) = 0;
  // At start, and when the network changed or the machine woke: have a connection before a flow asks, and find out at once
  // which of the old ones died. Does nothing where each tunnel has its own connection.
  virtual void warm() {}
};

}  // namespace wayleave::tunnel
