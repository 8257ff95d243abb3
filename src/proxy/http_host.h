#pragma once

// The host of an HTTP/1 request (RFC 9112 section 3.2) from the first bytes of a flow.

#include "proxy/client_hello.h"

namespace wayleave::proxy {

// Waits for the whole head, so that a second Host field is seen: such a request names no host. An IP literal is no name.
PeekResult httpHostOf(ByteView firstBytes);

// Either protocol, told apart by the first byte.
PeekResult hostOf(ByteView firstBytes);

}  // namespace wayleave::proxy
