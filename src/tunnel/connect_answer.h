#pragma once

// What is said in a CONNECT, whatever carries it.

#include <string>

#include "base/result.h"
#include "tunnel/stream.h"

namespace wayleave::tunnel {

// "host:port" with IPv6 in brackets: the request target (RFC 9110 section 9.3.6). Errors: BadInput for a host or port that
// could not stand in a request line: empty, longer than 255 bytes, with characters outside names and addresses, port 0.
Result<std::string> authorityOf(const Target& target);

// A final status other than 2xx as the reason the tunnel did not open. `phrase` is printable.
Error refusal(int status, std::string_view authority, std::string_view phrase);

}  // namespace wayleave::tunnel
