#include "management/declarations/synthesis.h"

#include <algorithm>

#include <fmt/format.h>

#include "management/cms.h"
#include "management/declarations/declaration_types.h"
#include "management/payload.h"
#include "plist/plist.h"

namespace wayleave::management {
namespace {

std::unexpected<AssetProblem> refuse(std::string code, const Declaration& configuration, const std::string& sentence) {
  nlohmann::json details{{"Error", sentence}};
  if (code == "Error.ConfigurationNotSupported")
    details = {{"Identifier", configuration.identifier}, {"ServerToken", configuration.serverToken}};
  return std::unexpected(AssetProblem{{std::move(code), sentence, std::move(details)}, false});
}

const plist::Dictionary* dictionaryAt(const plist::Dictionary& from, std::string_view key) {
  const plist::Value* value = from.find(key);
  return value == nullptr ? nullptr : value->dictionary();
}
std::string textAt(const plist::Dictionary& from, std::string_view key) {
  const plist::Value* value = from.find(key);
  return value == nullptr || value->string() == nullptr ? std::string{} : *value->string();
}

plist::Dictionary without(const plist::Dictionary& from, std::string_view key) {
  plist::Dictionary out;
  for (const plist::Entry& entry : from.entries())
    if (entry.key != key) out.add(entry.key, entry.value);
  return out;
}

plist::Dictionary withHeader(plist::Dictionary payload, const std::string& identifier, const std::string& uuid, const std::string& name) {
  payload.set("PayloadVersion", 1);
  payload.set("PayloadIdentifier", identifier);
  payload.set("PayloadUUID", uuid);
  payload.set("PayloadDisplayName", name);
  return payload;
}

struct Making {
  std::string_view source;
  const Declaration& configuration;
  std::string identifier;
  plist::Array payloads = {};

  std::string uuidOf(const std::string& asset) const { return assetPayloadUuid(source, configuration.identifier, asset); }
};

std::expected<void, AssetProblem> addAssets(Making& making, const std::map<std::string, Ingredient>& assets) {
  for (const auto& [identifier, ingredient] : assets) {
    auto payload = payloadOf(*ingredient.declaration, ingredient.content);
    if (!payload) return std::unexpected(payload.error());
    if (making.configuration.type == kSecurityIdentity)
      for (const char* key : {"AllowAllAppsAccess", "KeyIsExtractable"})
        if (const plist::Value* value = making.configuration.payload.find(key)) payload->set(key, *value);
    making.payloads.push_back(withHeader(std::move(*payload), making.identifier + ":" + identifier, making.uuidOf(identifier), identifier));
  }
  return {};
}

std::expected<void, AssetProblem> addProxy(Making& making) {
  const Declaration& configuration = making.configuration;
  const plist::Dictionary& from = configuration.payload;
  if (textAt(from, "SubType") != "com.wayleave.proxy")
    return refuse("Error.ConfigurationNotSupported", configuration, fmt::format("SubType {} is another vendor's", textAt(from, "SubType")));
  const plist::Dictionary* authentication = dictionaryAt(from, "Authentication");
  const std::string method = authentication == nullptr ? std::string{} : textAt(*authentication, "Method");
  if (method != "Certificate")
    return refuse("Error.ConfigurationNotSupported", configuration, fmt::format("Authentication.Method {}: the proxy proves the device by certificate only", method));
  if (const plist::Dictionary* provider = dictionaryAt(from, "Provider"); provider != nullptr && textAt(*provider, "Type") == "packet-tunnel")
    return refuse("Error.ConfigurationNotSupported", configuration, "Provider.Type packet-tunnel: a transparent proxy is an app-proxy");

  plist::Dictionary vendor, proxy;
  proxy.set("AuthenticationMethod", method);
  proxy.set("PayloadCertificateUUID", making.uuidOf(textAt(*authentication, "IdentityAssetReference")));
  proxy.set("ProviderType", "app-proxy");
  if (const plist::Dictionary* given = dictionaryAt(from, "VendorConfig"))
    for (const plist::Entry& entry : given->entries()) {
      if (entry.key == "Order") {
        proxy.set("Order", entry.value);
      } else if (entry.key == "TrustAnchorAssetReferences") {
        plist::Array uuids;
        if (const plist::Array* references = entry.value.array())
          for (const plist::Value& reference : *references)
            if (reference.string() != nullptr) uuids.push_back(making.uuidOf(*reference.string()));
        vendor.set("TrustAnchorPayloadUUIDs", std::move(uuids));
      } else {
        vendor.set(entry.key, entry.value);
      }
    }
  if (!vendor.contains("GatewayURL")) vendor.set("GatewayURL", "https://" + textAt(from, "HostName"));
  plist::Dictionary payload;
  payload.set("PayloadType", "com.apple.vpn.managed");
  payload.set("UserDefinedName", textAt(from, "VisibleName"));
  payload.set("VPNType", "TransparentProxy");
  payload.set("VPNSubType", "com.wayleave.proxy");
  payload.set("TransparentProxy", std::move(proxy));
  payload.set("VendorConfig", std::move(vendor));
  making.payloads.push_back(withHeader(std::move(payload), making.identifier + ":proxy", derivedUuid(making.identifier), textAt(from, "VisibleName")));
  return {};
}

std::expected<Secret, AssetProblem> written(const Declaration& configuration, plist::Dictionary profile) {
  Result<Bytes> bytes = plist::toBinary(plist::Value(std::move(profile)));
  if (!bytes) return refuse("Error.ConfigurationIsInvalid", configuration, bytes.error().message);
  return Secret(std::move(*bytes));
}

void addIdentities(const plist::Dictionary& config, std::map<std::string, std::string>& out) {
  const plist::Value* list = config.find("Identities");
  if (list == nullptr || list->array() == nullptr) return;
  for (const plist::Value& item : *list->array())
    if (item.dictionary() != nullptr) out[textAt(*item.dictionary(), "Identifier")] = textAt(*item.dictionary(), "AssetReference");
}

}  // namespace

std::string declaredIdentifier(std::string_view source, std::string_view configuration) {
  return fmt::format("{}{}:{}", kDeclaredPrefix, source, configuration);
}

std::string derivedUuid(std::string_view text) {
  Bytes digest = sha256(asBytes(text));
  digest.resize(16);
  digest[6] = static_cast<uint8_t>((digest[6] & 0x0f) | 0x80);
  digest[8] = static_cast<uint8_t>((digest[8] & 0x3f) | 0x80);
  std::string hex = toHex(digest);
  std::ranges::transform(hex, hex.begin(), [](char c) { return c >= 'a' ? static_cast<char>(c - 32) : c; });
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4), hex.substr(20));
}

std::string assetPayloadUuid(std::string_view source, std::string_view configuration, std::string_view asset) {
  return derivedUuid(fmt::format("{}\n{}", declaredIdentifier(source, configuration), asset));
}

bool becomesProfile(std::string_view type) {
  return type == kVpnPlugin || type == kSecurityIdentity || type == kSecurityCertificate || type == kManagedApp || type == kLegacy ||
         type == kLegacyInteractive;
}

bool isIngredient(std::string_view assetType) {
  return assetType == kIdentityAsset || assetType == kAcmeAsset || assetType == kScepAsset || assetType == kCertificateAsset;
}

std::expected<Secret, AssetProblem> profileOf(std::string_view source, const Declaration& configuration, const std::string& revision,
                                              const std::map<std::string, Ingredient>& assets) {
  Making making{source, configuration, declaredIdentifier(source, configuration.identifier)};
  if (auto added = addAssets(making, assets); !added) return std::unexpected(added.error());
  if (configuration.type == kVpnPlugin)
    if (auto added = addProxy(making); !added) return std::unexpected(added.error());
  plist::Dictionary profile;
  profile.set("PayloadType", "Configuration");
  profile.set("PayloadVersion", 1);
  profile.set("PayloadIdentifier", making.identifier);
  profile.set("PayloadUUID", revision);
  profile.set("PayloadDisplayName", "Declaration " + configuration.identifier);
  profile.set("PayloadContent", std::move(making.payloads));
  return written(configuration, std::move(profile));
}

std::expected<Secret, AssetProblem> legacyProfileOf(std::string_view source, const Declaration& configuration, const std::string& revision,
                                                    ByteView bytes, Wall now) {
  Bytes content = toBytes(bytes);
  if (looksLikeCms(bytes)) {
    Result<SignedContent> verified = verifyCms(bytes, {.useSystemStore = true}, now);
    if (!verified) return refuse("Error.ConfigurationCannotBeDeserialized", configuration, describe(verified.error()));
    content = std::move(verified->content);
  }
  Result<plist::Document> document = plist::parse(content);
  if (!document) return refuse("Error.ConfigurationCannotBeDeserialized", configuration, describe(document.error()));
  plist::Dictionary* profile = document->root.dictionary();
  if (profile == nullptr) return refuse("Error.ConfigurationCannotBeDeserialized", configuration, "is not a profile");
  if (const plist::Value* payloads = profile->find("PayloadContent"); payloads != nullptr && payloads->array() != nullptr)
    for (const plist::Value& payload : *payloads->array())
      if (payload.dictionary() != nullptr)
        if (const std::string type = textAt(*payload.dictionary(), "PayloadType"); type == "com.apple.mdm" || type == "com.apple.declarations")
          return refuse("Error.ConfigurationIsInvalid", configuration, "the profile holds " + type + ", which a declaration may not bring");
  profile->set("PayloadIdentifier", declaredIdentifier(source, configuration.identifier));
  profile->set("PayloadUUID", revision);
  // How long it stays, the declaration says; a duration would end and begin again. A date holds.
  if (profile->contains("DurationUntilRemoval")) *profile = without(*profile, "DurationUntilRemoval");
  return written(configuration, std::move(*profile));
}

std::map<std::string, std::map<std::string, std::string>> managedIdentities(const Declaration& configuration) {
  std::map<std::string, std::map<std::string, std::string>> out;
  std::string own = textAt(configuration.payload, "AppComposedIdentifier");
  if (own.empty()) own = textAt(configuration.payload, "BundleID");
  if (const plist::Dictionary* config = dictionaryAt(configuration.payload, "AppConfig"); config != nullptr && !own.empty())
    addIdentities(*config, out[own]);
  if (const plist::Dictionary* extensions = dictionaryAt(configuration.payload, "ExtensionConfigs"))
    for (const plist::Entry& entry : extensions->entries())
      if (const plist::Dictionary* config = entry.value.dictionary()) addIdentities(*config, out[entry.key]);
  return out;
}

}  // namespace wayleave::management
