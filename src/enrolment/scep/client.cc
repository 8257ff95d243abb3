#include "enrolment/scep/client.h"

#include <fmt/format.h>

#include "localapi/url.h"

namespace wayleave::enrolment::scep {
namespace {

constexpr int kAttempts = 3;
constexpr std::chrono::seconds kPause{2};

Status succeeded(const HttpResponse& response, std::string_view what) {
  if (response.status == 200) return {};
  const std::string said = fmt::format("{}: the SCEP server answered with HTTP status {}", what, response.status);
  if (response.status == 401 || response.status == 403) return fail(Reason::NotEntitled, said, "the server does not let this machine in");
  if (response.status == 429) return fail(Reason::RateLimited, said, "it will be tried again later");
  return fail(Reason::ServerError, said, response.status == 404 ? "look whether the URL is that of a SCEP server" : "look at the CA's log");
}

}  // namespace

std::string Client::address(std::string_view operation, std::string_view message) const {
  std::string out = fmt::format("{}{}operation={}", url_, url_.find('?') == std::string::npos ? "?" : "&", operation);
  if (!message.empty()) out += "&message=" + localapi::percentEncode(message);
  return out;
}

Result<HttpResponse> Client::exchange(const HttpRequest& request) {
  for (int attempt = 1;; ++attempt) {
    auto response = http_.send(request);
    const bool troubled = response && response->status >= 500 && response->status != 501;
    if (!troubled || attempt == kAttempts) return response;
    if (!pacer_.wait(kPause)) return fail(Reason::Cancelled, "stopping");
  }
}

Result<Capabilities> Client::capabilities() {
  const auto response = exchange({.url = address("GetCACaps", caIdentifier_)});
  if (!response) return propagate(response.error());
  if (response->status != 200) return Capabilities{};
  return parseCapabilities(asText(response->body));
}

Result<std::vector<Bytes>> Client::certificates() {
  const auto response = exchange({.url = address("GetCACert", caIdentifier_)});
  if (!response) return propagate(response.error());
  if (Status good = succeeded(*response, "GetCACert"); !good) return propagate(good.error());
  auto certificates = readCertificates(response->body);
  if (!certificates) return withContext(certificates.error(), "GetCACert");
  return certificates;
}

Result<Bytes> Client::operate(ByteView message, const Capabilities& capabilities) {
  HttpRequest request;
  if (capabilities.post) {
    request.method = "POST";
    request.url = address("PKIOperation", {});
    request.body = toBytes(message);
    request.contentType = "application/x-pki-message";
  } else {
    request.url = address("PKIOperation", toBase64(message));
  }
  auto response = exchange(request);
  if (!response) return propagate(response.error());
  if (Status good = succeeded(*response, "PKIOperation"); !good) return propagate(good.error());
  return std::move(response->body);
}

}  // namespace wayleave::enrolment::scep
