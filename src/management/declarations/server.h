#pragma once

// The two sides of declarative device management that management/ does not do itself: talking to the server that
// declares (enrolment/mdm, over the DeclarativeManagement check-in) and downloading what declarations refer to
// (programs/managementd wires an HTTP client in). Both are called on the service's change thread only.

#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::management {

class DeclarationServer {
 public:
  virtual ~DeclarationServer() = default;

  // The body of one endpoint: "tokens", "declaration-items", "declaration/KIND/IDENTIFIER" with KIND one of activation,
  // asset, configuration, management. The identifier is as the server wrote it, not escaped. Errors: NotFound for a 404,
  // which means that there is no such declaration; any other error means that nothing is known.
  virtual Result<Bytes> fetch(std::string_view endpoint) = 0;
  // Endpoint "status": the JSON of a StatusReport. An error means that the report is sent again later.
  virtual Status report(ByteView statusReport) = 0;
};

struct AssetRequest {
  std::string url;  // https
  // Authentication.Type MDM: TLS with the device's management identity. Without an enrolment this is an error.
  bool withDeviceIdentity = true;
  size_t mostBytes = 0;  // more is an error, and is not read to its end
  // PEM of the certificates that active com.apple.configuration.security.certificate configurations brought: the server may
  // be trusted through them, beside the system's store (and the pinning of the enrolment).
  std::vector<std::string> trustAnchors = {};
};
struct FetchedAsset {
  Secret body;              // credential documents hold passwords and keys
  std::string contentType;  // of the answer, as it stands in the header; "" = none
};
// Errors: anything that is not a 200, in a sentence that names the status. Cancelled when `stop` was requested.
using AssetFetcher = std::function<Result<FetchedAsset>(const AssetRequest& request, std::stop_token stop)>;

}  // namespace wayleave::management
