// Sources: Apple's schema of device-management (declarations/*), OS 27 state.

#include "management/declarations/declaration_types.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "management/payload_reader.h"
#include "management/shape.h"

namespace wayleave::management {
namespace {

const std::vector<std::string_view> kIdentities = {kAcmeAsset, kIdentityAsset, kScepAsset};

void readActivation(Keys& keys, TypeContext& context) {
  context.declaration.configurations = keys.strings("StandardConfigurations", Need::Required).value_or(std::vector<std::string>{});
  if (const std::string* predicate = keys.string("Predicate")) context.declaration.predicateText = *predicate;
  context.close(keys);
}

// Settings that have no meaning for a transparent proxy or on this system: checked, and not used.
constexpr std::array kRoutingKeys{ShapeKey{"EnforceRoutes", ValueKind::Boolean},           ShapeKey{"IncludeAllNetworks", ValueKind::Boolean},
                                  ShapeKey{"ExcludeLocalNetworks", ValueKind::Boolean},    ShapeKey{"ExcludeCellularServices", ValueKind::Boolean},
                                  ShapeKey{"ExcludeAPNs", ValueKind::Boolean},             ShapeKey{"ExcludeDeviceCommunication", ValueKind::Boolean}};
constexpr std::array kIdleKeys{ShapeKey{"Disconnect", ValueKind::Boolean}, ShapeKey{"Timer", ValueKind::Integer}};

constexpr std::array<std::string_view, 2> kDomainActions{"ConnectIfNeeded", "NeverConnect"};
constexpr std::array<std::string_view, 5> kActions{"Allow", "Connect", "Disconnect", "EvaluateConnection", "Ignore"};
constexpr std::array<std::string_view, 3> kInterfaces{"Ethernet", "WiFi", "Cellular"};
constexpr std::array kActionParameterKeys{ShapeKey{.name = "Domains", .kind = ValueKind::Array, .required = true, .items = ValueKind::String},
                                          ShapeKey{.name = "DomainAction", .kind = ValueKind::String, .required = true, .words = kDomainActions},
                                          ShapeKey{.name = "RequiredDNSServers", .kind = ValueKind::Array, .items = ValueKind::String},
                                          ShapeKey{.name = "RequiredURLStringProbe", .kind = ValueKind::String}};
constexpr std::array kOnDemandRuleKeys{ShapeKey{.name = "Action", .kind = ValueKind::String, .required = true, .words = kActions},
                                       ShapeKey{.name = "ActionParameters", .kind = ValueKind::Array, .keys = kActionParameterKeys},
                                       ShapeKey{.name = "DNSDomainMatch", .kind = ValueKind::Array, .items = ValueKind::String},
                                       ShapeKey{.name = "DNSServerAddressMatch", .kind = ValueKind::Array, .items = ValueKind::String},
                                       ShapeKey{.name = "InterfaceTypeMatch", .kind = ValueKind::String, .words = kInterfaces},
                                       ShapeKey{.name = "SSIDMatch", .kind = ValueKind::Array, .items = ValueKind::String},
                                       ShapeKey{.name = "URLStringProbe", .kind = ValueKind::String}};
constexpr std::array kOnDemandKeys{ShapeKey{"Enabled", ValueKind::Boolean}, ShapeKey{"DisableUserOverride", ValueKind::Boolean},
                                   ShapeKey{.name = "Rules", .kind = ValueKind::Array, .keys = kOnDemandRuleKeys}};

constexpr std::array kProxyServerKeys{ShapeKey{"Enable", ValueKind::Boolean}, ShapeKey{"HostName", ValueKind::String},
                                      ShapeKey{.name = "Port", .kind = ValueKind::Integer, .least = 0, .most = 65535}};

constexpr std::array<std::string_view, 2> kInstall{"Optional", "Required"};
constexpr std::array<std::string_view, 2> kAssignment{"Device", "User"};
constexpr std::array<std::string_view, 3> kUpdates{"AlwaysOn", "AlwaysOff", "StoreSettings"};
constexpr std::array kLicenseKeys{ShapeKey{.name = "Assignment", .kind = ValueKind::String, .words = kAssignment},
                                  ShapeKey{.name = "VPPType", .kind = ValueKind::String, .words = kAssignment}};
constexpr std::array kInstallKeys{ShapeKey{.name = "Install", .kind = ValueKind::String, .words = kInstall},
                                  ShapeKey{.name = "License", .kind = ValueKind::Dictionary, .keys = kLicenseKeys},
                                  ShapeKey{.name = "Version", .kind = ValueKind::Integer},
                                  ShapeKey{.name = "AllowDownloadsOverCellular", .kind = ValueKind::String, .words = kUpdates}};
constexpr std::array kUpdateKeys{ShapeKey{.name = "AutomaticAppUpdates", .kind = ValueKind::String, .required = true, .words = kUpdates}};
constexpr std::array kAttributeKeys{
    ShapeKey{.name = "AssociatedDomains", .kind = ValueKind::Array, .items = ValueKind::String},
    ShapeKey{"AssociatedDomainsEnableDirectDownloads", ValueKind::Boolean}, ShapeKey{"CellularSliceUUID", ValueKind::String},
    ShapeKey{"ContentFilterUUID", ValueKind::String}, ShapeKey{"DNSProxyUUID", ValueKind::String}, ShapeKey{"Hideable", ValueKind::Boolean},
    ShapeKey{"Lockable", ValueKind::Boolean}, ShapeKey{"RelayUUID", ValueKind::String}, ShapeKey{"TapToPayScreenLock", ValueKind::Boolean},
    ShapeKey{"VPNUUID", ValueKind::String}};
constexpr std::array kProofKeys{ShapeKey{"IdentityToken", ValueKind::String}};

void readUnused(Keys& keys, std::string_view key, Shape shape, TypeContext& context) {
  if (const plist::Dictionary* dictionary = keys.dictionary(key))
    checkShape(*dictionary, shape, keys.pathOf(key), keys.report(), &context.unknown);
}

void readDns(Keys& keys, TypeContext& context) {
  const plist::Dictionary* dns = keys.dictionary("DNS");
  if (dns == nullptr) return;
  Keys inner(*dns, keys.pathOf("DNS"), keys.report());
  enum class Protocol { Cleartext, Https, Tls };
  const auto protocol = inner.choice<Protocol>(
      "Protocol", {{"Cleartext", Protocol::Cleartext}, {"HTTPS", Protocol::Https}, {"TLS", Protocol::Tls}}, Need::Required);
  inner.string("ServerURL", protocol == Protocol::Https ? Need::Required : Need::Optional);
  inner.string("ServerName", protocol == Protocol::Tls ? Need::Required : Need::Optional);
  inner.strings("ServerAddresses", Need::Required);
  inner.strings("SearchDomains");
  inner.string("DomainName");
  inner.strings("SupplementalMatchDomains");
  inner.boolean("SupplementalMatchDomainsNoSearch");
  context.useAsset(inner, "IdentityAssetReference", Need::Optional, kIdentities, false);
  context.close(inner);
}

void readProxies(Keys& keys, TypeContext& context) {
  const plist::Dictionary* proxies = keys.dictionary("Proxies");
  if (proxies == nullptr) return;
  Keys inner(*proxies, keys.pathOf("Proxies"), keys.report());
  inner.boolean("AutoConfigEnable");
  inner.boolean("AutoDiscoveryEnable");
  inner.string("AutoConfigURLString");
  inner.strings("SupplementalMatchDomains");
  if (const plist::Dictionary* protocol = inner.dictionary("Protocol")) {
    Keys servers(*protocol, inner.pathOf("Protocol"), keys.report());
    for (const std::string_view name : {"HTTP", "HTTPS"}) {
      readUnused(servers, name, kProxyServerKeys, context);
      const plist::Dictionary* server = servers.dictionary(name);
      if (server != nullptr && server->contains("HostName") && !server->contains("Port"))
        keys.report().error(plist::childPath(servers.pathOf(name), "Port"), "is missing, but there is a HostName");
    }
    context.useAsset(servers, "CredentialsAssetReference", Need::Optional, {kPasswordAsset});
    context.close(servers);
  }
  context.close(inner);
}

// "com.example.agent", or with what `open` and `close` enclose: "com.example.agent (TEAM123456)".
bool isComposed(std::string_view text, char open, char close) {
  const auto isBundle = [](std::string_view name) {
    return !name.empty() && std::ranges::all_of(name, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
    });
  };
  const size_t space = text.find(' ');
  if (space == std::string_view::npos) return isBundle(text);
  const std::string_view rest = text.substr(space + 1);
  return isBundle(text.substr(0, space)) && rest.size() > 2 && rest.front() == open && rest.back() == close;
}

// Our own proxy: what a profile says in VendorConfig, but for what is said in another way here (docs/declarations.md).
void readOurVendorConfig(Keys& keys, const plist::Dictionary& vendor, TypeContext& context) {
  const std::string path = keys.pathOf("VendorConfig");
  Keys ours(vendor, path, keys.report());
  ours.integer("Order", Need::Optional, 1, INT32_MAX);
  if (vendor.contains("TrustAnchorPayloadUUIDs"))
    ours.error("TrustAnchorPayloadUUIDs", "names payloads of a profile, and here are none", "TrustAnchorAssetReferences names assets");
  plist::Dictionary rest;
  for (const plist::Entry& entry : vendor.entries())
    if (entry.key != "Order" && entry.key != "TrustAnchorAssetReferences" && entry.key != "TrustAnchorPayloadUUIDs") rest.add(entry.key, entry.value);
  const std::string* host = keys.string("HostName");
  if (!rest.contains("GatewayURL") && host != nullptr) rest.set("GatewayURL", "https://" + *host);
  const std::vector<PayloadHeader> none;
  const Resolver resolver(none);
  const PayloadHeader header;
  VpnPayload payload;
  readVendorConfig(rest, path, {header, resolver, keys.report(), Wall{}}, payload, &context.unknown);
}

void readVpnPlugin(Keys& keys, TypeContext& context) {
  keys.string("VisibleName", Need::Required);
  keys.string("HostName", Need::Required);
  const std::string* subType = keys.string("SubType", Need::Required);
  const bool isOurs = subType != nullptr && *subType == "com.wayleave.proxy";
  if (isOurs) {
    const plist::Dictionary none;
    const plist::Dictionary* vendor = keys.dictionary("VendorConfig");
    readOurVendorConfig(keys, vendor != nullptr ? *vendor : none, context);
  }
  if (const plist::Dictionary* vendor = keys.dictionary("VendorConfig")) {
    Keys ours(*vendor, keys.pathOf("VendorConfig"), keys.report());  // the rest is checked as a profile's is
    for (const std::string_view key : kOthersVendorKeys) ours.string(key);
    if (const auto anchors = ours.strings("TrustAnchorAssetReferences"))
      for (const std::string& anchor : *anchors)
        context.declaration.assets.push_back({anchor, ours.pathOf("TrustAnchorAssetReferences"), {kCertificateAsset}, true});
  }
  if (const plist::Dictionary* authentication = keys.dictionary("Authentication", Need::Required)) {
    Keys inner(*authentication, keys.pathOf("Authentication"), keys.report());
    enum class Method { Password, Certificate, Both };
    const auto method = inner.choice<Method>(
        "Method", {{"Password", Method::Password}, {"Certificate", Method::Certificate}, {"Password+Certificate", Method::Both}},
        Need::Required);
    if (isOurs && method && *method != Method::Certificate) inner.warn("Method", "Wayleave proves the device by certificate only: it will not apply this", "write Certificate");
    context.useAsset(inner, "CredentialsAssetReference",
                     method == Method::Password || method == Method::Both ? Need::Required : Need::Optional, {kPasswordAsset});
    context.useAsset(inner, "IdentityAssetReference",
                     method == Method::Certificate || method == Method::Both ? Need::Required : Need::Optional, kIdentities);
    context.close(inner);
  }
  if (const plist::Dictionary* provider = keys.dictionary("Provider")) {
    Keys inner(*provider, keys.pathOf("Provider"), keys.report());
    if (inner.choice<int>("Type", {{"packet-tunnel", 0}, {"app-proxy", 1}}) == 0 && isOurs)
      inner.warn("Type", "is packet-tunnel; a transparent proxy is an app-proxy: Wayleave will not apply this", "write app-proxy");
    if (const std::string* composed = inner.string("ComposedIdentifier"); composed != nullptr && !isComposed(*composed, '{', '}'))
      inner.error("ComposedIdentifier", fmt::format("is \"{}\"", shown(*composed)), "a bundle identifier, or with its requirement: com.example.agent {identifier …}");
    context.close(inner);
  }
  readUnused(keys, "NetworkRouting", kRoutingKeys, context);
  readUnused(keys, "Idle", kIdleKeys, context);
  readUnused(keys, "OnDemand", kOnDemandKeys, context);
  readDns(keys, context);
  readProxies(keys, context);
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
  for (const std::string_view key : {"AppStoreID", "BundleID", "ManifestURL", "AppComposedIdentifier"}) names += keys.string(key) != nullptr ? 1 : 0;
  if (names != 1) keys.error("AppComposedIdentifier", fmt::format("exactly one of AppStoreID, BundleID, ManifestURL and AppComposedIdentifier must be there, not {}", names));
  if (keys.has("ManifestURL")) keys.warn("ManifestURL", "does not exist on macOS", "AppComposedIdentifier names an app that came some other way");
  if (const std::string* composed = keys.string("AppComposedIdentifier"); composed != nullptr && !isComposed(*composed, '(', ')'))
    keys.error("AppComposedIdentifier", fmt::format("is \"{}\"", shown(*composed)), "a bundle identifier, or with its team: com.example.agent (TEAM123456)");
  keys.boolean("iOSApp");
  keys.boolean("IncludeInBackup");
  readUnused(keys, "InstallBehavior", kInstallKeys, context);
  readUnused(keys, "UpdateBehavior", kUpdateKeys, context);
  readUnused(keys, "Attributes", kAttributeKeys, context);
  if (const plist::Dictionary* config = keys.dictionary("AppConfig"))
    readAppConfig(*config, keys.pathOf("AppConfig"), keys.report(), context);
  if (const plist::Dictionary* extensions = keys.dictionary("ExtensionConfigs"))
    for (const plist::Entry& entry : extensions->entries()) {
      const std::string path = plist::childPath(keys.pathOf("ExtensionConfigs"), shown(entry.key));
      if (!isComposed(entry.key, '(', ')'))
        keys.report().error(path, "is no composed identifier", "a bundle identifier, or with its team: com.example.agent.extension (TEAM123456)");
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

// Servers send these documents under one media type each; another one would be refused when it is downloaded.
void checkContentType(Keys& keys, std::string_view asset, std::string_view given) {
  if (given.empty() || asset == kDataAsset) return;
  const bool certificate = asset == kCertificateAsset;
  const std::string_view type = given.substr(0, given.find(';'));
  const bool fits = certificate ? type == "application/pkcs1" || type == "application/pem" : type == "application/json";
  if (!fits)
    keys.warn("ContentType", fmt::format("is {}", shown(given)), certificate ? "certificates are application/pkcs1 or application/pem" : "this document is application/json");
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
    checkContentType(inner, context.declaration.type, source.contentType);
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
  keys.string("Email");
  keys.string("URL");
  readUnused(keys, "Proof", kProofKeys, context);
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

void TypeContext::useAsset(Keys& keys, std::string_view key, Need need, std::vector<std::string_view> types, bool isUsed) {
  if (const std::string* identifier = keys.string(key, need))
    declaration.assets.push_back({*identifier, keys.pathOf(key), std::move(types), isUsed});
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
