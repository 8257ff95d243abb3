#include "enrolment/mdm/transport.h"

#include <fmt/format.h>

#include "enrolment/mdm/messages.h"
#include "enrolment/mdm/signature.h"

namespace wayleave::enrolment::mdm {

Result<localapi::IdentityInfo> Transport::identity() {
  const Result<Bytes> reference = parts_.identity();
  if (!reference) return propagate(reference.error());
  Result<localapi::IdentityInfo> info = parts_.agent.resolve(*reference);
  if (!info) return withContext(info.error(), "the MDM identity");
  return info;
}

tls::ClientIdentity Transport::clientIdentity(const localapi::IdentityInfo& info) {
  return {info.chain, [&agent = parts_.agent, reference = info.reference](const tls::SignInput& input) {
            localapi::TlsSignRequest request;
            request.reference = reference;
            request.scheme = keys::text(input.scheme);
            request.tls13 = input.tls13;
            request.content = toBytes(input.input);
            return agent.signTls(request, input.deadline);
          }};
}

Result<std::unique_ptr<Http>> Transport::httpWithIdentity(const State& state, const std::vector<std::string>& anchors, size_t mostBytes) {
  const Result<localapi::IdentityInfo> info = identity();
  if (!info) return propagate(info.error());
  HttpOptions options;
  options.trustAnchorsPem = state.anchors;
  options.trustAnchorsPem.insert(options.trustAnchorsPem.end(), anchors.begin(), anchors.end());
  options.timeout = parts_.timeout;
  options.maxBodyBytes = mostBytes;
  options.identity = clientIdentity(*info);
  return makeHttp(std::move(options));
}

Result<Delivery> Transport::send(const State& state, Endpoint endpoint, std::string_view contentType, ByteView body) {
  const std::lock_guard lock(mutex_);
  const Result<localapi::IdentityInfo> info = identity();
  if (!info) return propagate(info.error());
  const bool checkIn = endpoint == Endpoint::CheckIn;
  const std::vector<std::string>& pins = checkIn ? state.checkInPins : state.serverPins;
  const std::vector<std::string>& trust = pins.empty() ? state.anchors : pins;
  Connection& connection = connections_[checkIn ? 0 : 1];
  if (!connection.http || connection.chain != info->chain || connection.trust != trust) {
    HttpOptions options;
    options.trustAnchorsPem = trust;
    options.onlyTheseAnchors = !pins.empty();
    options.timeout = parts_.timeout;
    options.maxBodyBytes = kMostAnswerBytes;
    options.identity = clientIdentity(*info);
    options.stop = parts_.stop;
    options.allowPlainHttp = parts_.allowPlainHttp;
    connection = {makeHttp(std::move(options)), info->chain, trust};
  }

  HttpRequest request;
  request.method = "PUT";
  request.url = checkIn ? state.checkInUrl : state.serverUrl;
  request.contentType = contentType;
  request.body = toBytes(body);
  if (state.signMessage) {
    const Result<std::string> signature = mdmSignature(parts_.agent, *info, body, std::chrono::steady_clock::now() + parts_.timeout);
    if (!signature) return propagate(signature.error());
    request.headers.push_back("Mdm-Signature: " + *signature);
  }
  Result<HttpResponse> response = connection.http->send(request);
  if (!response) return propagate(response.error());
  if (response->status >= 300 && response->status < 400)
    return fail(Reason::ServerError, fmt::format("{}: redirect ({}) refused", request.url, response->status),
                "the profile must name the server's own URL");
  Delivery delivery{response->status, std::move(response->body), std::nullopt};
  if (delivery.status == 401) delivery.unenrol = "401 Unauthorized";
  if (delivery.status == 403)
    if (const auto said = unrecognizedDevice(response->header("content-type"), delivery.body))
      delivery.unenrol = said->empty() ? "the server does not recognise this device" : *said;
  return delivery;
}

}  // namespace wayleave::enrolment::mdm
