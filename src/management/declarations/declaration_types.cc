// Sources: Apple's schema of device-management (declarations/*), OS 27 state.

#include "management/declarations/declaration_types.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace wayleave::management {
namespace {

const std::vector<std::string_view> kIdentities = {kAcmeAsset, kIdentityAsset, kScepAsset};

void readActivation(Keys& keys, TypeContext& context) {
  context.declaration.configurations = keys.strings("StandardConfigurations", Need::Required).value_or(std::vector<std::string>{});
  if (const std::string* predicate = keys.string("Predicate")) context.declaration.predicateText = *predicate;
  context.close(keys);
}

// Dictionaries whose settings have no meaning for a transparent proxy: their keys are known, their values are not used.
void readUnused(Keys& keys, std::string_view key, std::initializer_list<std::string_view> inner, TypeContext& context) {
  const plist::Dictionary* dictionary = keys.dictionary(key);
  if (dictionary == nullptr) return;
  Keys nested(*dictionary, keys.pathOf(key), keys.report());
  nested.known(inner);
  context.close(nested);
}

void readVpnPlugin(Keys& keys, TypeContext& context) {
  keys.string("VisibleName", Need::Required);
  keys.string("HostName", Need::Required);
  keys.string("SubType", Need::Required);
  if (const plist::Dictionary* vendor = keys.dictionary("VendorConfig")) {
    Keys ours(*vendor, keys.pathOf("VendorConfig"), keys.report());  // the rest is checked as a profile's is
    if (const auto anchors = ours.strings("TrustAnchorAssetReferences"))
      for (const std::string& anchor : *anchors)
        context.declaration.assets.push_back({anchor, ours.pathOf("TrustAnchorAssetReferences"), {kCertificateAsset}});
  }
  if (const plist::Dictionary* authentication = keys.dictionary("Authentication", Need::Required)) {
    Keys inner(*authentication, keys.pathOf("Authentication"), keys.report());
    enum class Method { Password, Certificate, Both };
    const auto method = inner.choice<Method>(
        "Method", {{"Password", Method::Password}, {"Certificate", Method::Certificate}, {"Password+Certificate", Method::Both}},
        Need::Required);
    context.useAsset(inner, "CredentialsAssetReference",
                     method == Method::Password || method == Method::Both ? Need::Required : Need::Optional, {kPasswordAsset});
    context.useAsset(inner, "IdentityAssetReference",
                     method == Method::Certificate || method == Method::Both ? Need::Required : Need::Optional, kIdentities);
    context.close(inner);
  }
  if (const plist::Dictionary* provider = keys.dictionary("Provider")) {
    Keys inner(*provider, keys.pathOf("Provider"), keys.report());
    inner.choice<int>("Type", {{"packet-tunnel", 0}, {"app-proxy", 1}});
    inner.string("ComposedIdentifier");
    context.close(inner);
  }
  readUnused(keys, "NetworkRouting",
             {"EnforceRoutes", "IncludeAllNetworks", "ExcludeLocalNetworks", "ExcludeCellularServices", "ExcludeAPNs", "ExcludeDeviceCommunication"},
             context);
  readUnused(keys, "Idle", {"Disconnect", "Timer"}, context);
  readUnused(keys, "OnDemand", {"Enabled", "DisableUserOverride", "Rules"}, context);
  readUnused(keys, "DNS",
             {"Protocol", "ServerAddresses", "ServerURL", "ServerName", "SearchDomains", "DomainName", "SupplementalMatchDomains",
              "SupplementalMatchDomainsNoSearch", "IdentityAssetReference"},
             context);
  readUnused(keys, "Proxies", {"AutoConfigEnable", "AutoDiscoveryEnable", "AutoConfigURLString", "SupplementalMatchDomains", "Protocol"},
             context);
  context.close(keys);
}

void readSecurityIdentity(Keys& keys, TypeContext& context) {
  context.useAsset(keys, "CredentialAssetReference", Need::Required, kIdentities);
  keys.boolean("AllowAllAppsAccess");
  keys.boolean("KeyIsExtractable");
  context.close(keys);
}

void readSecurityCertificate(Keys& keys, TypeContext& context) {
  context.useAsset(keys, "CredentialAssetReference", Need::Required, {kCertificateAsset});
  context.close(keys);
}

// AppConfig, and each value of ExtensionConfigs.
void readAppConfig(const plist::Dictionary& dictionary, const std::string& path, Report& report, TypeContext& context) {
  Keys keys(dictionary, path, report);
  context.useAsset(keys, "DataAssetReference", Need::Optional, {kDataAsset});
  const auto list = [&](std::string_view key, const std::vector<std::string_view>& types) {
    const plist::Array* items = keys.array(key);
    if (items == nullptr) return;
    for (size_t i = 0; i < items->size(); ++i) {
      const std::string itemPath = plist::childPath(keys.pathOf(key), i);
      const plist::Dictionary* item = (*items)[i].dictionary();
      if (item == nullptr) {
        report.error(itemPath, "must be a dictionary");
        continue;
      }
      Keys inner(*item, itemPath, report);
      inner.string("Identifier", Need::Required);
      context.useAsset(inner, "AssetReference", Need::Required, types);
      context.close(inner);
    }
  };
  list("Passwords", {kPasswordAsset});
  list("Identities", kIdentities);
  list("Certificates", {kCertificateAsset});
  context.close(keys);
}

void readManagedApp(Keys& keys, TypeContext& context) {
  int names = 0;
  for (const std::string_view key : {"AppStoreID", "BundleID", "AppComposedIdentifier"}) names += keys.string(key) != nullptr ? 1 : 0;
  if (names != 1) keys.error("AppComposedIdentifier", fmt::format("exactly one of AppStoreID, BundleID and AppComposedIdentifier must be there, not {}", names));
  keys.boolean("iOSApp");
  keys.known({"ManifestURL", "InstallBehavior", "UpdateBehavior", "IncludeInBackup", "Attributes"});
  if (const plist::Dictionary* config = keys.dictionary("AppConfig"))
    readAppConfig(*config, keys.pathOf("AppConfig"), keys.report(), context);
  if (const plist::Dictionary* extensions = keys.dictionary("ExtensionConfigs"))
    for (const plist::Entry& entry : extensions->entries()) {
      const std::string path = plist::childPath(keys.pathOf("ExtensionConfigs"), shown(entry.key));
      if (const plist::Dictionary* config = entry.value.dictionary())
        readAppConfig(*config, path, keys.report(), context);
      else
        keys.report().error(path, "must be a dictionary");
    }
  context.useAsset(keys, "LegacyAppConfigAssetReference", Need::Optional, {kDataAsset});
  context.close(keys);
}

void readLegacy(Keys& keys, TypeContext& context) {
  const std::string* url = keys.string("ProfileURL");
  if (url != nullptr && !url->starts_with("https://")) keys.error("ProfileURL", "is not an https URL");
  context.useAsset(keys, "ProfileAssetReference", Need::Optional, {kDataAsset});
  if (keys.has("ProfileURL") == keys.has("ProfileAssetReference"))
    keys.error("ProfileURL", "exactly one of ProfileURL and ProfileAssetReference must be there");
  const bool interactive = context.declaration.type == kLegacyInteractive;
  if (interactive) keys.string("VisibleName", Need::Required);
  context.close(keys);
}

void readSubscriptions(Keys& keys, TypeContext& context) {
  if (const plist::Array* items = keys.array("StatusItems", Need::Required))
    for (size_t i = 0; i < items->size(); ++i) {
      const std::string path = plist::childPath(keys.pathOf("StatusItems"), i);
      const plist::Dictionary* item = (*items)[i].dictionary();
      if (item == nullptr) {
        keys.report().error(path, "must be a dictionary");
        continue;
      }
      Keys inner(*item, path, keys.report());
      inner.string("Name", Need::Required);
      context.close(inner);
    }
  context.close(keys);
}

void readTest(Keys& keys, TypeContext& context) {
  keys.string("Echo", Need::Required);
  context.useAsset(keys, "EchoDataAssetReference", Need::Optional, {kDataAsset});
  keys.choice<int>("ReturnStatus", {{"Installed", 0}, {"Failed", 1}, {"Unlocked", 2}});
  context.close(keys);
}

void readAsset(Keys& keys, TypeContext& context) {
  AssetSource source;
  if (const plist::Dictionary* reference = keys.dictionary("Reference", Need::Required)) {
    Keys inner(*reference, keys.pathOf("Reference"), keys.report());
    if (const std::string* url = inner.string("DataURL", Need::Required)) {
      source.url = *url;
      if (!url->starts_with("https://") && !url->starts_with("data:"))
        inner.error("DataURL", "is not an https URL", "content can also stand in the declaration: data:application/json;base64,…");
    }
    if (const std::string* type = inner.string("ContentType")) source.contentType = *type;
    if (const auto size = inner.integer("Size", Need::Optional, 0)) source.size = static_cast<uint64_t>(*size);
    if (const std::string* hash = inner.string("Hash-SHA-256")) {
      source.sha256 = *hash;
      std::ranges::transform(source.sha256, source.sha256.begin(), [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
      if (const Result<Bytes> bytes = fromHex(*hash); !bytes || bytes->size() != 32) inner.error("Hash-SHA-256", "is not 64 hexadecimal digits");
    }
    context.close(inner);
  }
  if (const plist::Dictionary* authentication = keys.dictionary("Authentication")) {
    Keys inner(*authentication, keys.pathOf("Authentication"), keys.report());
    inner.choice<int>("Type", {{"MDM", 0}, {"None", 1}}, Need::Required);
    if (const plist::Value* type = authentication->find("Type"); type != nullptr && type->string() != nullptr)
      source.authentication = *type->string();
    context.close(inner);
  }
  const std::string_view type = context.declaration.type;
  if (type == kAcmeAsset || type == kScepAsset || type == kIdentityAsset)
    keys.choice<int>("Accessible", {{"Default", 0}, {"AfterFirstUnlock", 1}});
  context.close(keys);
  context.declaration.source = std::move(source);
}

void readUserIdentity(Keys& keys, TypeContext& context) {
  keys.string("FullName");
  keys.string("EmailAddress");
  context.close(keys);
}

void readOrganization(Keys& keys, TypeContext& context) {
  keys.string("Name", Need::Required);
  keys.known({"Email", "URL", "Proof"});
  context.close(keys);
}

void readProperties(Keys&, TypeContext&) {}  // any key, any value

void readServerCapabilities(Keys& keys, TypeContext& context) {
  keys.string("Version", Need::Required);
  keys.dictionary("SupportedFeatures", Need::Required);
  keys.known({"SupportedPayloads"});
  context.close(keys);
}

struct TypeRow {
  DeclarationKind kind;
  std::string_view type;
  TypeReader reader;
};
constexpr std::array kTypes = {
    TypeRow{DeclarationKind::Activation, "com.apple.activation.simple", readActivation},
    TypeRow{DeclarationKind::Asset, kAcmeAsset, readAsset},
    TypeRow{DeclarationKind::Asset, kIdentityAsset, readAsset},
    TypeRow{DeclarationKind::Asset, kScepAsset, readAsset},
    TypeRow{DeclarationKind::Asset, kCertificateAsset, readAsset},
    TypeRow{DeclarationKind::Asset, kPasswordAsset, readAsset},
    TypeRow{DeclarationKind::Asset, kDataAsset, readAsset},
    TypeRow{DeclarationKind::Asset, "com.apple.asset.useridentity", readUserIdentity},
    TypeRow{DeclarationKind::Configuration, kVpnPlugin, readVpnPlugin},
    TypeRow{DeclarationKind::Configuration, kSecurityIdentity, readSecurityIdentity},
    TypeRow{DeclarationKind::Configuration, kSecurityCertificate, readSecurityCertificate},
    TypeRow{DeclarationKind::Configuration, kManagedApp, readManagedApp},
    TypeRow{DeclarationKind::Configuration, kLegacy, readLegacy},
    TypeRow{DeclarationKind::Configuration, kLegacyInteractive, readLegacy},
    TypeRow{DeclarationKind::Configuration, kStatusSubscriptions, readSubscriptions},
    TypeRow{DeclarationKind::Configuration, kTest, readTest},
    TypeRow{DeclarationKind::Management, "com.apple.management.organization-info", readOrganization},
    TypeRow{DeclarationKind::Management, kProperties, readProperties},
    TypeRow{DeclarationKind::Management, "com.apple.management.server-capabilities", readServerCapabilities},
};

std::vector<std::string_view> typesOf(DeclarationKind kind) {
  std::vector<std::string_view> out;
  for (const TypeRow& row : kTypes)
    if (row.kind == kind) out.push_back(row.type);
  return out;
}

}  // namespace

void TypeContext::useAsset(Keys& keys, std::string_view key, Need need, std::vector<std::string_view> types) {
  if (const std::string* identifier = keys.string(key, need))
    declaration.assets.push_back({*identifier, keys.pathOf(key), std::move(types)});
}

TypeReader readerOf(std::string_view type) {
  const auto found = std::ranges::find(kTypes, type, &TypeRow::type);
  return found == kTypes.end() ? nullptr : found->reader;
}

bool holdsSecret(std::string_view assetType) {
  // An ACME document may hold the key of an external account, a SCEP one the challenge.
  return assetType == kIdentityAsset || assetType == kPasswordAsset || assetType == kScepAsset || assetType == kAcmeAsset;
}

const std::vector<std::string_view>& supportedTypes(DeclarationKind kind) {
  static const std::vector<std::string_view> activations = typesOf(DeclarationKind::Activation);
  static const std::vector<std::string_view> assets = typesOf(DeclarationKind::Asset);
  static const std::vector<std::string_view> configurations = typesOf(DeclarationKind::Configuration);
  static const std::vector<std::string_view> management = typesOf(DeclarationKind::Management);
  switch (kind) {
    case DeclarationKind::Activation: return activations;
    case DeclarationKind::Asset: return assets;
    case DeclarationKind::Configuration: return configurations;
    case DeclarationKind::Management: return management;
  }
  return management;
}

}  // namespace wayleave::management
