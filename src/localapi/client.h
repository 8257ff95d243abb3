#pragma once

// Blocking HTTP client for the local APIs. One connection per call, unless the caller says that it may be kept.

#include <chrono>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "localapi/kept_connections.h"

namespace wayleave::localapi {

struct ClientResponse {
  int status = 0;
  std::string contentType;
  std::string body;
};

class Client {
 public:
  // `kept`: for callKept(), which must not be called without. Shared, because clients of one program share a daemon's bound.
  explicit Client(std::string socketPath, std::chrono::milliseconds timeout = std::chrono::seconds{30},
                  std::shared_ptr<KeptConnections> kept = {});
  // The answer whatever its status. Errors: Unavailable (nobody listens; hint says which daemon to start),
  // DeadlineExceeded, Io.
  Result<ClientResponse> call(std::string_view method, std::string_view path, std::string_view body = {},
                              std::string_view contentType = "application/json") const;
  Result<ClientResponse> callBy(Steady deadline, std::string_view method, std::string_view path,
                                std::string_view body = {}, std::string_view contentType = "application/json") const;
  // As callBy(), over a connection that was kept or will be. For requests that may be made twice: a daemon that closes an
  // idle connection just when a request arrives leaves open whether it saw it, and it is then asked again. Errors: also
  // DeadlineExceeded when the program's other calls had every connection.
  Result<ClientResponse> callKept(Steady deadline, std::string_view method, std::string_view path,
                                  std::string_view body = {}) const;
  // The body of a 2xx answer; any other answer becomes the Error its JSON carries (reason, message, hint, OSStatus).
  Result<std::string> callJson(std::string_view method, std::string_view path, std::string_view body = {},
                               std::string_view contentType = "application/json") const;
  // Follows a stream of JSON lines until it ends, `onLine` returns false, or `stop` is requested. `onOpen` runs once when
  // the daemon has begun to stream, before the first line. Both run on the calling thread.
  Status follow(std::string_view path, const std::function<bool(std::string_view line)>& onLine, std::stop_token stop,
                const std::function<void()>& onOpen = {}) const;

  const std::string& socketPath() const { return socketPath_; }

 private:
  std::string socketPath_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<KeptConnections> kept_;
};

// The inverse of errorResponse().
Error errorFromResponse(const ClientResponse& response);

}  // namespace wayleave::localapi
