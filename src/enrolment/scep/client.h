#pragma once

// SCEP over HTTP (RFC 8894 section 4): three operations of one URL. What the answers mean is for authority.h and reply.h.

#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "enrolment/http.h"
#include "enrolment/pacer.h"
#include "enrolment/scep/authority.h"

namespace wayleave::enrolment::scep {

class Client {
 public:
  // `url` as in the payload; `caIdentifier`: the payload's Name, may be empty. References outlive the client.
  Client(Http& http, Pacer& pacer, std::string url, std::string caIdentifier)
      : http_(http), pacer_(pacer), url_(std::move(url)), caIdentifier_(std::move(caIdentifier)) {}

  // A server that does not know the operation has no capabilities. Errors of all: those of Http; NotEntitled (401, 403);
  // RateLimited (429); ServerError; Cancelled. A server in trouble (5xx) is asked three times.
  Result<Capabilities> capabilities();
  Result<std::vector<Bytes>> certificates();
  Result<Bytes> operate(ByteView message, const Capabilities& capabilities);

 private:
  Result<HttpResponse> exchange(const HttpRequest& request);
  std::string address(std::string_view operation, std::string_view message) const;

  Http& http_;
  Pacer& pacer_;
  std::string url_, caIdentifier_;
};

}  // namespace wayleave::enrolment::scep
