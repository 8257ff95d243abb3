#pragma once

// HTTPS towards servers of others (ACME, attestation CA, SCEP, MDM), over libcurl. Blocking, bounded, TLS verified.

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "tls/client_tls.h"

namespace wayleave::enrolment {

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  Bytes body;
  std::string contentType;
  std::vector<std::string> headers;  // further "Name: value" lines
};

struct HttpResponse {
  int status = 0;
  std::multimap<std::string, std::string> headers;  // names in lower case
  Bytes body;
  // The first header of that name, or empty.
  std::string header(const std::string& lowerCaseName) const;
};

class Http {
 public:
  virtual ~Http() = default;
  // The answer whatever its status; redirects are not followed. Errors: Unavailable (no connection, name, or answer in
  // time), Untrusted (the server's certificate), BadInput (an answer beyond the bounds, a URL that may not be used).
  virtual Result<HttpResponse> send(const HttpRequest& request) = 0;
};

struct HttpOptions {
  std::vector<std::string> trustAnchorsPem;  // beside the system's store
  std::chrono::seconds timeout{30};          // for one exchange
  size_t maxBodyBytes = 1024 * 1024;
  bool onlyTheseAnchors = false;  // pinning: the system's store does not count
  // TLS client authentication; the signatures are asked of ClientIdentity::sign, on the calling thread.
  std::optional<tls::ClientIdentity> identity = {};
  std::stop_token stop = {};  // requested: an exchange under way ends within a second, as Cancelled
  bool allowPlainHttp = false;  // SCEP protects its messages itself and real servers use plain HTTP
};
std::unique_ptr<Http> makeHttp(HttpOptions options);

}  // namespace wayleave::enrolment
