#pragma once

// Endpoints as the socket calls want them.

#include <sys/socket.h>

#include "capture/capture.h"

namespace wayleave::capture {

// Returns the length of what was written.
socklen_t toSockaddr(const Endpoint& endpoint, sockaddr_storage& out);
// Anything but AF_INET and AF_INET6 becomes 0.0.0.0:0.
Endpoint fromSockaddr(const sockaddr_storage& address);
// getsockname(); 0.0.0.0:0 when it fails.
Endpoint localEndpoint(int socket);

}  // namespace wayleave::capture
