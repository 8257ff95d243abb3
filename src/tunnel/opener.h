#pragma once

// The front door of this library: one Opener per worker, gateway and identity.

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "tls/client_tls.h"
#include "tunnel/stream.h"

namespace wayleave::tunnel {

// Auto offers both and takes what the gateway chooses by ALPN (RFC 7301).
enum class Protocol : uint8_t { Auto, Http1, Http2 };

// What connections of one worker lend each other: no idle connection owns a batch buffer. Used on the loop only.
struct WorkerBuffers {
  // One system call per batch. Up: towards the gateway, 512 KiB measured a tenth to a quarter cheaper per byte than 256 with
  // many flows. Down: received by 256 KiB, handed to the application by up to 1 MiB: a tenth cheaper than by 256 KiB, and
  // 2 MiB no cheaper than 1.
  static constexpr size_t kBatchBytes = 512 * 1024;
  static constexpr size_t kReceiveBytes = 256 * 1024;
  static constexpr size_t kPlainBytes = 1024 * 1024;
  std::unique_ptr<uint8_t[]> plain{new uint8_t[kPlainBytes]};
  std::unique_ptr<uint8_t[]> cipher{new uint8_t[kReceiveBytes]};
  // Frames of HTTP/2 on their way into TLS records, four records at a time.
  static constexpr size_t kFramesBytes = 64 * 1024;
  std::unique_ptr<uint8_t[]> frames{new uint8_t[kFramesBytes]};
  tls::ChunkCache chunks;
};

struct OpenerOptions {
  std::string host;  // a name or an address; what TLS verifies is the context's serverName
  uint16_t port = 0;
  std::vector<std::string> addresses;  // literal; tried in order. Empty: `host` is looked up, off the loop
  Protocol protocol = Protocol::Auto;

  // Asked at every new connection, on the loop: the context of the current identity, or why there is none. Its ALPN list
  // must fit `protocol`: {"h2","http/1.1"}, {"http/1.1"} or {"h2"}.
  std::function<Result<std::shared_ptr<tls::ClientContext>>()> context;
  tls::HandshakePool* pool = nullptr;           // outlives no loop: destroy it before the io_context
  std::shared_ptr<WorkerBuffers> buffers;       // shared by the worker's openers; made here when null
  std::function<Status(int fd)> socketOptions;  // before connect: SO_MARK, so that our own traffic is not captured

  std::chrono::milliseconds connectTimeout{5'000};  // for each address
  // From connected to TLS established. A TPM that serves others signs within 600 ms, queued behind some of them.
  std::chrono::milliseconds handshakeTimeout{10'000};
  // A burst of flows on a cold gateway would ask the signer for as many signatures; after the first there is a ticket.
  size_t maxFullHandshakes = 4;
  // A dead peer must be noticed before a user gives up, about 30 s. ztunnel uses the same pair.
  std::chrono::milliseconds pingInterval{10'000};
  std::chrono::milliseconds pingTimeout{20'000};
  // A gateway that lives but leaves a request unanswered for so long may serve fewer streams at once than it says: the
  // request is asked again on another connection. Longer than a lost SYN on the gateway's way to the target, which costs 1 s.
  std::chrono::milliseconds answerPatience{1'500};
  std::chrono::milliseconds idleRelease{300'000};  // of an h2 connection without streams
  // The same while another connection takes requests: after a peak its connections, 60 KiB each, go within seconds.
  std::chrono::milliseconds spareRelease{10'000};
};

// `io` must run on one thread and outlive the opener. Streams may outlive it: they are closed with reason Drained.
std::unique_ptr<Opener> makeOpener(boost::asio::io_context& io, OpenerOptions options);

}  // namespace wayleave::tunnel
