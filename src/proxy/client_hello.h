#pragma once

// The server name of a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3) from the first bytes of a flow. Reads
// just what it needs, strictly, and never past the end; verifies nothing cryptographic.

#include <cstdint>
#include <string>

#include "base/bytes.h"

namespace wayleave::proxy {

enum class Peek : uint8_t {
  NeedMore,  // so far it looks right
  None,      // not this protocol, malformed, or without a usable name
  Found,
};

struct PeekResult {
  Peek peek = Peek::None;
  std::string host;  // lower case, no trailing dot; only when Found
};

PeekResult serverNameOf(ByteView firstBytes);

// A DNS name as rules compare it: lower case, one trailing dot dropped. Empty when it is no name (an address, a bad character,
// too long).
std::string normalisedHost(std::string_view text);

}  // namespace wayleave::proxy
