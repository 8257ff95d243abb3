#pragma once

// The routing rule and the local route by which marked packets come back to us, through rtnetlink. Unlike the nftables
// table these outlive a process, so all of them carry our own protocol number and cleanup can find them without state.
// They are inert while nothing marks packets.

#include "base/result.h"

namespace wayleave::capture::platform {

struct RoutingOptions {
  bool v6 = true;
  bool fallbackRoute = false;
};

// Removes leftovers first. Errors: Io.
Status installRouting(const RoutingOptions& options);
// Returns how many rules and routes were removed. Errors: Io.
Result<int> removeRouting();

}  // namespace wayleave::capture::platform
