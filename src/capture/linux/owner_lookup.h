#pragma once

// Which user opened a flow: one exact SOCK_DIAG query, about 10 us, answered by the kernel while send() runs.

#include "base/owned.h"
#include "capture/capture.h"

namespace wayleave::capture::platform {

class OwnerLookup {
 public:
  // Errors: Io.
  static Result<OwnerLookup> open();
  // `source` and `destination` as the application's socket has them. nullopt: the socket is gone already.
  std::optional<Owner> find(const Endpoint& source, const Endpoint& destination);

 private:
  explicit OwnerLookup(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace wayleave::capture::platform
