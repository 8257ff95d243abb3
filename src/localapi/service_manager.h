#pragma once

// sd_notify(3) without libsystemd: one datagram to the socket that the service manager names in NOTIFY_SOCKET.

#include <string_view>

namespace wayleave::localapi {

// "READY=1", "STOPPING=1", "STATUS=…". Does nothing when nobody asked to be told; a failure is only logged, because a
// daemon that serves must not end for a supervisor that does not listen.
void tellServiceManager(std::string_view state);

}  // namespace wayleave::localapi
