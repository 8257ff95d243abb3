#pragma once

// HTTP/1.1 + JSON on a unix socket: the transport of every local API. `curl --unix-socket` works. The peer is known from
// the kernel (SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD), taken at accept, never from what it says; and every byte of a
// request is the peer's own (SO_PASSCRED): one sent by any other process that holds the connection is refused.

#include <sys/types.h>

#include <any>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/owned.h"
#include "base/result.h"

namespace wayleave::localapi {

struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  // Names the process itself, not the number: pid reuse cannot fool it. Empty on kernels without SO_PEERPIDFD (< 6.5),
  // where pidfd_open at accept is used instead.
  Fd pidfd;
  // Inode of the accepted socket (fstat): by it the broker finds the caller's end of this very connection (unix_diag) and
  // proves that the program it examined is the one that connected. 0 when unknown.
  ino_t connection = 0;
  // What the handler wants to know again with the connection's next request. A request is handed over when the one before
  // has been answered, so whoever touches this before answering needs no lock.
  mutable std::any remembered;
};

struct Request {
  std::string method;  // "GET", "POST", "PUT", "DELETE"
  std::string path;    // decoded, without the query: "/v1/identities/ABC"
  std::map<std::string, std::string> query;
  std::string contentType;
  std::string body;
  std::shared_ptr<const Peer> peer;
};

struct Response {
  int status = 200;
  std::string contentType = "application/json";
  std::string body;
};

// {"error":{"code":…,"reason":…,"message":…,"hint":…}} with the HTTP status that fits the reason (docs/architecture.md).
Response errorResponse(const Error& error);

// An open chunked answer: one JSON document per line. send() queues (bounded: a reader that falls 256 events behind is cut
// off and must reconnect); returns false once the reader is gone. Safe from any thread.
class EventStream {
 public:
  virtual ~EventStream() = default;
  virtual bool send(std::string jsonLine) = 0;
  // False once the reader is gone: whoever keeps a list of streams drops those, or it grows with every visitor.
  virtual bool isOpen() const { return true; }
};

// Answers one request, exactly once, from any thread. Dropping it unanswered answers 500.
class Responder {
 public:
  virtual ~Responder() = default;
  virtual void respond(Response response) = 0;
  virtual std::shared_ptr<EventStream> openStream() = 0;  // instead of respond()
  // Has the caller hung up, so that nobody would read the answer? Work that has not begun may then be dropped. A caller
  // that only closed its sending side still listens. Safe from any thread.
  virtual bool gone() const { return false; }
};

// Runs on the server's thread: must not block. Hand long work (a signature) to another thread and respond from there.
using Handler = std::function<void(Request, std::shared_ptr<Responder>)>;

struct ServerLimits {
  size_t bodyBytes = 8 * 1024 * 1024;        // a profile with icons; requests to identityd stay far below
  size_t headerBytes = 16 * 1024;
  size_t connections = 512;
  size_t connectionsPerUid = 64;
  // Connections kept open between requests. They give way: one more of the same user, or a caller that finds no room,
  // closes the one that has been idle longest.
  size_t keptPerUid = 32;
  size_t requestsPerConnection = 10'000;     // then it is closed with the answer
  std::chrono::seconds requestTimeout{10};   // from the first byte to the last: slow senders are cut
  std::chrono::seconds idleTimeout{30};      // before the first request and between requests
};

class Server {
 public:
  // Binds and listens at once; an existing socket file that nobody serves is replaced, a served one is an error.
  // `mode`: of the socket file. Errors: Io, Conflict.
  static Result<std::unique_ptr<Server>> listen(std::string socketPath, mode_t mode, Handler handler,
                                                ServerLimits limits = {});
  virtual ~Server() = default;  // stops, closes every connection, removes the socket file
  virtual void start() = 0;     // serves on a thread of its own
};

}  // namespace wayleave::localapi
