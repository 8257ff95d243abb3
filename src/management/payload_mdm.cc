// com.apple.mdm and com.apple.declarations: payloads that bring more management.

#include <fmt/format.h>

#include "management/payload_reader.h"

namespace wayleave::management {
namespace {

void checkHttps(Keys& keys, std::string_view key, const std::string& url) {
  if (!url.starts_with("https://") || url.size() <= std::string_view("https://").size())
    keys.error(key, "is not an https URL");
}

// Devices refuse what Apple's protocol reference calls invalid access rights.
void readAccessRights(Keys& keys, MdmPayload& payload) {
  const auto rights = keys.integer("AccessRights", Need::Optional, 0, INT32_MAX);
  if (!rights) return;
  payload.accessRights = *rights;
  if (*rights == 0) keys.error("AccessRights", "is 0: a server without any right", "leave the key out for all rights, or write 8191");
  if ((*rights & 2) != 0 && (*rights & 1) == 0) keys.error("AccessRights", fmt::format("is {}: 2 (change profiles) needs 1 (see them)", *rights));
  if ((*rights & 128) != 0 && (*rights & 64) == 0)
    keys.error("AccessRights", fmt::format("is {}: 128 (change provisioning profiles) needs 64 (see them)", *rights));
}

std::vector<std::string> readPinning(Keys& keys, std::string_view key, const ReadContext& context) {
  std::vector<std::string> uuids;
  const auto references = keys.strings(key);
  if (!references) return uuids;
  for (size_t i = 0; i < references->size(); ++i)
    uuids.push_back(context.resolver.resolve((*references)[i], Resolver::Kind::Certificate,
                                             plist::childPath(keys.pathOf(key), i), context.report));
  return uuids;
}

}  // namespace

MdmPayload readMdmPayload(Keys& keys, const ReadContext& context) {
  MdmPayload payload;
  if (const std::string* reference = keys.string("IdentityCertificateUUID", Need::Required))
    payload.identityPayloadUuid = context.resolver.resolve(*reference, Resolver::Kind::Identity,
                                                           keys.pathOf("IdentityCertificateUUID"), context.report);
  if (const std::string* topic = keys.string("Topic", Need::Required)) {
    payload.topic = *topic;
    if (!topic->starts_with("com.apple.mgmt.")) keys.error("Topic", "does not start with com.apple.mgmt.");
  }
  if (const std::string* url = keys.string("ServerURL", Need::Required)) {
    payload.serverUrl = *url;
    checkHttps(keys, "ServerURL", *url);
  }
  payload.checkInUrl = payload.serverUrl;
  if (const std::string* url = keys.string("CheckInURL")) {
    payload.checkInUrl = *url;
    checkHttps(keys, "CheckInURL", *url);
  }
  payload.signMessage = keys.boolean("SignMessage").value_or(false);
  payload.checkOutWhenRemoved = keys.boolean("CheckOutWhenRemoved").value_or(false);
  readAccessRights(keys, payload);
  if (auto capabilities = keys.strings("ServerCapabilities")) payload.serverCapabilities = std::move(*capabilities);
  payload.serverPinningPayloadUuids = readPinning(keys, "ServerURLPinningCertificateUUIDs", context);
  payload.checkInPinningPayloadUuids = readPinning(keys, "CheckInURLPinningCertificateUUIDs", context);
  payload.pinningRevocationCheckRequired = keys.boolean("PinningRevocationCheckRequired").value_or(false);
  if (const std::string* mode = keys.string("EnrollmentMode")) {
    if (*mode != "BYOD" && *mode != "ADDE") keys.error("EnrollmentMode", "is neither BYOD nor ADDE");
    payload.enrollmentMode = *mode;
  }
  if (const std::string* account = keys.string("ManagedAppleID")) payload.managedAppleId = *account;
  if (const std::string* account = keys.string("AssignedManagedAppleID")) payload.managedAppleId = *account;
  keys.known({"UseDevelopmentAPNS", "PromptUserToAllowBootstrapTokenForAuthentication", "RequiredAppIDForMDM"});
  keys.finish();
  return payload;
}

DeclarationsPayload readDeclarationsPayload(Keys& keys, const ReadContext& context) {
  DeclarationsPayload payload;
  const plist::Array* items = keys.array("Declarations", Need::Required);
  keys.finish();
  if (items == nullptr) return payload;
  constexpr size_t kMost = 1000;
  if (items->size() > kMost) {
    keys.error("Declarations", fmt::format("has more than {} declarations", kMost));
    return payload;
  }
  for (size_t i = 0; i < items->size(); ++i) {
    const std::string path = plist::childPath(keys.pathOf("Declarations"), i);
    if (const Bytes* json = (*items)[i].data())
      payload.declarations.push_back(*json);
    else
      context.report.error(
          path, fmt::format("is {}, must be data holding the JSON text of one declaration", (*items)[i].typeName()));
  }
  if (items->empty()) keys.warn("Declarations", "is empty");
  return payload;
}

}  // namespace wayleave::management
