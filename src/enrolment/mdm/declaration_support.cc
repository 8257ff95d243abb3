#include "enrolment/mdm/declaration_support.h"

#include <fmt/format.h>

namespace wayleave::enrolment::mdm {
namespace {

Result<management::FetchedAsset> fetch(Client* client, const management::AssetRequest& request, std::stop_token stop) {
  std::unique_ptr<Http> http;
  if (request.withDeviceIdentity) {
    if (client == nullptr) return fail(Reason::Unsupported, "this machine cannot be enrolled, so it has no identity to show to an asset's server");
    Result<std::unique_ptr<Http>> made = client->httpWithIdentity(request.trustAnchors, request.mostBytes);
    if (!made) return propagate(made.error());
    http = std::move(*made);
  } else {
    http = makeHttp({.trustAnchorsPem = request.trustAnchors, .maxBodyBytes = request.mostBytes, .stop = std::move(stop)});
  }
  Result<HttpResponse> response = http->send({.url = request.url, .body = {}, .contentType = {}, .headers = {}});
  if (!response) return propagate(response.error());
  if (response->status != 200)
    return fail(response->status >= 500 ? Reason::ServerError : Reason::NotFound, fmt::format("{} answered {}", request.url, response->status));
  return management::FetchedAsset{Secret(std::move(response->body)), response->header("content-type")};
}

}  // namespace

management::AssetFetcher assetFetcher(Client* client) {
  return [client](const management::AssetRequest& request, std::stop_token stop) { return fetch(client, request, std::move(stop)); };
}

std::map<std::string, nlohmann::json> statusItems(const Device& device) {
  return {{"device.identifier.serial-number", device.serialNumber},
          {"device.identifier.udid", device.udid},
          {"device.model.family", "Linux"},
          {"device.model.identifier", device.model},
          {"device.model.marketing-name", device.modelName},
          {"device.operating-system.build-version", device.buildVersion},
          {"device.operating-system.family", "Linux"},
          {"device.operating-system.marketing-name", device.osName},
          {"device.operating-system.version", device.osVersion}};
}

}  // namespace wayleave::enrolment::mdm
