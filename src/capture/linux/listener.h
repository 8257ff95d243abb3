#pragma once

// Listening sockets and the source that drains them.

#include <vector>

#include "capture/capture.h"
#include "capture/linux/owner_lookup.h"

namespace wayleave::capture::platform {

enum class Listening : uint8_t { Transparent, Plain };

// Non-blocking, SO_REUSEPORT (one socket per worker, the kernel spreads flows), marked as ours so that accepted sockets
// inherit the mark. Port 0: the kernel picks. Errors: Io.
Result<Fd> openListener(const Endpoint& endpoint, Listening kind);

// RLIMIT_NOFILE less what live flows may still need: connections to gateways and destinations, pipes, API calls.
int ceilingFromLimit();

struct SourceOptions {
  std::optional<Endpoint> fixedDestination;  // Plain: where every flow goes
  std::optional<OwnerLookup> owners;
  int descriptorCeiling = ceilingFromLimit();  // from this descriptor number on, flows stay queued
};
std::unique_ptr<FlowSource> makeListenerSource(boost::asio::io_context& loop, std::vector<Fd> listeners,
                                               SourceOptions options);

}  // namespace wayleave::capture::platform
