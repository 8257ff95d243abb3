#pragma once

// The head of an HTTP/1.1 answer to CONNECT (RFC 9112 sections 2 to 6, RFC 9110 section 9.3.6), read from whatever
// arrives in whatever pieces. Sans-IO. What follows the head of a 2xx belongs to the tunnel.
//
// Strict where a lenient reader could be led to take tunnel bytes for head or head for tunnel: only CRLF (and bare LF,
// section 2.2) ends a line, no obs-fold, no control characters, no white space before the colon. Interim 1xx heads are
// skipped. Content-Length and Transfer-Encoding of a 2xx are ignored, as RFC 9110 section 9.3.6 demands; the body of a
// refusal is not read, since the connection is closed.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::tunnel {

class ResponseHead {
 public:
  // Bytes of all heads of one answer together. Squid's refusals are near 1 KiB; cookies and policies make others bigger.
  static constexpr size_t kMaxHeadBytes = 16 * 1024;
  static constexpr int kMaxInterim = 8;

  struct Done {
    int status = 0;
    std::string reasonPhrase;  // printable, as sent, at most 64 bytes
    size_t consumed = 0;       // of the bytes of this call: the rest is the tunnel's
  };
  struct NeedMore {};
  using Progress = std::variant<NeedMore, Done>;

  // Feed pieces in order until Done or an error. Errors: GatewayProtocolError.
  Result<Progress> feed(ByteView bytes);

 private:
  Result<bool> endOfLine();  // true: the final head is complete
  Status statusLine(std::string_view line);
  static Status fieldLine(std::string_view line);

  std::string line_;
  size_t total_ = 0;
  int interim_ = 0;
  bool inFields_ = false;
  int status_ = 0;
  std::string phrase_;
};

}  // namespace wayleave::tunnel
