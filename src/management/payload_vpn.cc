// com.apple.vpn.managed. Only VPNType TransparentProxy is carried out; the others are valid, reported and skipped.
//
// Real files differ from Apple's schema here more than anywhere else (docs/profile.md lists what is accepted): every
// TransparentProxy profile found in the wild has a RemoteAddress that the schema lacks, switches come as booleans, and
// the default ProviderType does not fit a transparent proxy.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "management/payload_reader.h"
#include "management/shape.h"

namespace wayleave::management {
namespace {

constexpr std::string_view kOurSubType = "com.wayleave.proxy";
constexpr std::array<std::string_view, 6> kVpnTypes{"VPN", "L2TP", "IPSec", "IKEv2", "AlwaysOn", "TransparentProxy"};

void readAuthentication(Keys& keys, const ReadContext& context, bool ours, TransparentProxySettings& settings) {
  const auto method = keys.choice<AuthenticationMethod>(
      "AuthenticationMethod", {{"Password", AuthenticationMethod::Password},
                               {"Certificate", AuthenticationMethod::Certificate},
                               {"Password+Certificate", AuthenticationMethod::PasswordAndCertificate}});
  settings.authenticationMethod = method.value_or(AuthenticationMethod::Password);
  const bool wantsCertificate = settings.authenticationMethod != AuthenticationMethod::Password;

  if (const std::string* reference = keys.string("PayloadCertificateUUID")) {
    settings.identityPayloadUuid = context.resolver.resolve(*reference, Resolver::Kind::Identity,
                                                            keys.pathOf("PayloadCertificateUUID"), context.report);
    if (!wantsCertificate)
      keys.warn("AuthenticationMethod",
                fmt::format("is {}, but PayloadCertificateUUID names an identity; it is used",
                            keys.has("AuthenticationMethod") ? "Password" : "missing (Password)"),
                "write Certificate");
  } else if (wantsCertificate && !keys.has("PayloadCertificateUUID")) {
    const std::string message = "is missing, but AuthenticationMethod asks for a certificate";
    if (ours)
      keys.error("PayloadCertificateUUID", message, "name the PayloadUUID of a pkcs12, acme or scep payload");
    else
      keys.warn("PayloadCertificateUUID", message);
  }
  if (const std::string* password = keys.string("Password")) {
    settings.password = Secret::copyOf(*password);
    if (settings.authenticationMethod == AuthenticationMethod::Certificate)
      keys.warn("Password", "is given, but AuthenticationMethod is Certificate");
    else if (ours)
      keys.warn("Password", "is not used: Wayleave authenticates with certificates only");
  }
}

TransparentProxySettings readTransparentProxy(const plist::Dictionary& dictionary, const std::string& path,
                                              const ReadContext& context, bool ours) {
  TransparentProxySettings settings;
  Keys keys(dictionary, path, context.report);
  readAuthentication(keys, context, ours, settings);
  if (const std::string* name = keys.string("ProviderBundleIdentifier")) settings.providerBundleIdentifier = *name;
  if (const std::string* text = keys.string("ProviderDesignatedRequirement"))
    settings.providerDesignatedRequirement = *text;
  settings.providerType = keys.choice<ProviderType>("ProviderType", {{"packet-tunnel", ProviderType::PacketTunnel},
                                                                     {"app-proxy", ProviderType::AppProxy}})
                              .value_or(ProviderType::PacketTunnel);
  if (settings.providerType == ProviderType::PacketTunnel)
    keys.warn("ProviderType",
              keys.has("ProviderType") ? "is packet-tunnel; a transparent proxy is an app-proxy"
                                       : "is missing; the default packet-tunnel does not fit a transparent proxy",
              "write app-proxy");
  if (const auto order = keys.integer("Order", Need::Optional, 1, INT32_MAX)) settings.order = static_cast<int>(*order);
  settings.disconnectOnIdle = keys.zeroOrOne("DisconnectOnIdle").value_or(false);
  if (const auto timer = keys.integer("DisconnectOnIdleTimer", Need::Optional, 0, INT32_MAX)) {
    settings.disconnectOnIdleTimer = std::chrono::seconds(*timer);
    if (!settings.disconnectOnIdle) keys.warn("DisconnectOnIdleTimer", "has no effect without DisconnectOnIdle 1");
  }
  settings.enforceRoutes = keys.zeroOrOne("EnforceRoutes").value_or(false);
  settings.onDemandEnabled = keys.zeroOrOne("OnDemandEnabled").value_or(false);
  settings.onDemandRules = readOnDemandRules(keys);
  if (ours && (settings.disconnectOnIdle || settings.onDemandEnabled || !settings.onDemandRules.empty()))
    context.report.note(path, "on-demand rules and disconnecting when idle do not apply: the proxy is always on");
  for (const std::string_view key : {"RemoteAddress", "AuthName", "AuthPassword"})
    keys.mistaken(key, "Apple's schema has it for other VPN types; real transparent-proxy profiles carry it");
  keys.finish();
  return settings;
}

// Dictionaries that have no effect here, and are checked all the same: a device refuses a profile for them.
constexpr std::array<std::string_view, 3> kDnsProtocols{"Cleartext", "HTTPS", "TLS"};
constexpr std::array<std::string_view, 3> kMethods{"Password", "Certificate", "Password+Certificate"};
constexpr std::array<std::string_view, 2> kProviders{"packet-tunnel", "app-proxy"};
constexpr std::array kDnsKeys{ShapeKey{.name = "DNSProtocol", .kind = ValueKind::String, .words = kDnsProtocols},
                              ShapeKey{"ServerURL", ValueKind::String},
                              ShapeKey{"ServerName", ValueKind::String},
                              ShapeKey{.name = "ServerAddresses", .kind = ValueKind::Array, .required = true, .items = ValueKind::String},
                              ShapeKey{.name = "SearchDomains", .kind = ValueKind::Array, .items = ValueKind::String},
                              ShapeKey{"DomainName", ValueKind::String},
                              ShapeKey{.name = "SupplementalMatchDomains", .kind = ValueKind::Array, .items = ValueKind::String},
                              ShapeKey{"SupplementalMatchDomainsNoSearch", ValueKind::Switch},
                              ShapeKey{"PayloadCertificateUUID", ValueKind::String}};
constexpr std::array kProxyKeys{ShapeKey{"ProxyAutoConfigEnable", ValueKind::Switch},
                                ShapeKey{"ProxyAutoDiscoveryEnable", ValueKind::Switch},
                                ShapeKey{"ProxyAutoConfigURLString", ValueKind::String},
                                ShapeKey{.name = "SupplementalMatchDomains", .kind = ValueKind::Array, .items = ValueKind::String},
                                ShapeKey{"HTTPEnable", ValueKind::Switch},
                                ShapeKey{"HTTPProxy", ValueKind::String},
                                ShapeKey{.name = "HTTPPort", .kind = ValueKind::Integer, .least = 0, .most = 65535},
                                ShapeKey{"HTTPProxyUsername", ValueKind::String},
                                ShapeKey{"HTTPProxyPassword", ValueKind::String},
                                ShapeKey{"HTTPSEnable", ValueKind::Switch},
                                ShapeKey{"HTTPSProxy", ValueKind::String},
                                ShapeKey{.name = "HTTPSPort", .kind = ValueKind::Integer, .least = 0, .most = 65535}};
constexpr std::array kIpv4Keys{ShapeKey{"OverridePrimary", ValueKind::Switch}};
constexpr std::array kVpnKeys{ShapeKey{"RemoteAddress", ValueKind::String},
                              ShapeKey{"AuthName", ValueKind::String},
                              ShapeKey{"AuthPassword", ValueKind::String},
                              ShapeKey{"Password", ValueKind::String},
                              ShapeKey{.name = "AuthenticationMethod", .kind = ValueKind::String, .words = kMethods},
                              ShapeKey{"PayloadCertificateUUID", ValueKind::String},
                              ShapeKey{"ProviderBundleIdentifier", ValueKind::String},
                              ShapeKey{"ProviderDesignatedRequirement", ValueKind::String},
                              ShapeKey{.name = "ProviderType", .kind = ValueKind::String, .words = kProviders},
                              ShapeKey{"DisconnectOnIdle", ValueKind::Switch},
                              ShapeKey{"DisconnectOnIdleTimer", ValueKind::Integer},
                              ShapeKey{"IncludeAllNetworks", ValueKind::Switch},
                              ShapeKey{"EnforceRoutes", ValueKind::Switch},
                              ShapeKey{"ExcludeLocalNetworks", ValueKind::Switch},
                              ShapeKey{"ExcludeCellularServices", ValueKind::Switch},
                              ShapeKey{"ExcludeAPNs", ValueKind::Switch},
                              ShapeKey{"ExcludeDeviceCommunication", ValueKind::Switch},
                              ShapeKey{"OnDemandEnabled", ValueKind::Switch},
                              ShapeKey{"OnDemandUserOverrideDisabled", ValueKind::Switch},
                              ShapeKey{.name = "OnDemandMatchDomainsAlways", .kind = ValueKind::Array, .items = ValueKind::String},
                              ShapeKey{.name = "OnDemandMatchDomainsNever", .kind = ValueKind::Array, .items = ValueKind::String},
                              ShapeKey{.name = "OnDemandMatchDomainsOnRetry", .kind = ValueKind::Array, .items = ValueKind::String},
                              ShapeKey{"OnDemandRules", ValueKind::Array}};

// The identities that the settings of other VPN types name must be there; of what kind they may be, those types say.
void checkReferences(const plist::Dictionary& dictionary, const std::string& path, const ReadContext& context) {
  for (const plist::Entry& entry : dictionary.entries()) {
    const std::string at = plist::childPath(path, shown(entry.key));
    if (entry.value.dictionary() != nullptr) checkReferences(*entry.value.dictionary(), at, context);
    if (entry.key == "PayloadCertificateUUID" && entry.value.string() != nullptr) context.resolver.require(*entry.value.string(), at, context.report);
  }
}

void needs(const plist::Dictionary& dictionary, std::string_view key, std::string_view other, const std::string& path, Report& report) {
  if (dictionary.contains(key) && !dictionary.contains(other))
    report.error(plist::childPath(path, other), fmt::format("is missing, but there is {}", key));
}

void checkDns(const plist::Dictionary& dns, const std::string& path, Report& report) {
  const plist::Value* protocol = dns.find("DNSProtocol");
  if (protocol == nullptr) return report.warn(plist::childPath(path, "DNSProtocol"), "is missing: since macOS 11 the schema requires it");
  if (protocol->string() == nullptr) return;  // reported already
  for (const auto& [name, server] : {std::pair{"HTTPS", "ServerURL"}, {"TLS", "ServerName"}})
    if (*protocol->string() == name && !dns.contains(server))
      report.error(plist::childPath(path, server), fmt::format("is missing: DNSProtocol is {}", name));
}

void readRest(Keys& keys, const ReadContext& context) {
  const std::pair<std::string_view, Shape> known[] = {{"VPN", kVpnKeys}, {"DNS", kDnsKeys}, {"Proxies", kProxyKeys}, {"IPv4", kIpv4Keys},
                                                      {"PPP", {}},       {"IPSec", {}},     {"IKEv2", {}},           {"AlwaysOn", {}}};
  for (const auto& [key, shape] : known) {
    const plist::Dictionary* dictionary = keys.dictionary(key);
    if (dictionary == nullptr) continue;
    if (!shape.empty()) checkShape(*dictionary, shape, keys.pathOf(key), context.report);
    checkReferences(*dictionary, keys.pathOf(key), context);
    if (key == "VPN") {
      Keys inner(*dictionary, keys.pathOf(key), context.report);
      readOnDemandRules(inner);
    }
    if (key == "DNS") checkDns(*dictionary, keys.pathOf(key), context.report);
    if (key == "Proxies") {
      needs(*dictionary, "HTTPProxy", "HTTPPort", keys.pathOf(key), context.report);
      needs(*dictionary, "HTTPSProxy", "HTTPSPort", keys.pathOf(key), context.report);
    }
  }
}

void declareRest(Keys& keys) {
  keys.known({"TransparentProxy", "VendorConfig"});
  for (const std::string_view key : {"OnDemandEnabled", "OnDemandRules"})
    keys.mistaken(key, "it belongs inside the dictionary of the VPN type");
  for (const std::string_view key : {"VPNUUID", "OnDemandMatchAppEnabled"})
    keys.mistaken(key, "it belongs to com.apple.vpn.managed.applayer");
}

}  // namespace

VpnPayload readVpnPayload(Keys& keys, const ReadContext& context) {
  VpnPayload payload;
  const std::string* type = keys.string("VPNType", Need::Required);
  if (const std::string* name = keys.string("UserDefinedName", Need::Required)) payload.userDefinedName = *name;
  declareRest(keys);
  readRest(keys, context);
  if (type == nullptr) {
    keys.known({"VPNSubType"});
    keys.finish();
    return payload;
  }
  payload.type = *type;
  const bool needsSubType = *type == "VPN" || *type == "TransparentProxy";
  if (const std::string* subType = keys.string("VPNSubType", needsSubType ? Need::Required : Need::Optional)) {
    payload.subType = *subType;
    if (*type == "IKEv2" && !subType->empty()) keys.error("VPNSubType", "must be empty with VPNType IKEv2");
  }
  if (const plist::Dictionary* vendor = keys.dictionary("VendorConfig")) {
    payload.vendorConfig = *vendor;
    Keys others(*vendor, keys.pathOf("VendorConfig"), context.report);
    for (const std::string_view key : kOthersVendorKeys) others.string(key);
  }

  if (std::ranges::find(kVpnTypes, *type) == kVpnTypes.end()) {
    keys.error("VPNType", fmt::format("is \"{}\"", shown(*type)), "Wayleave carries out TransparentProxy");
  } else if (*type != "TransparentProxy") {
    keys.warn("VPNType", fmt::format("{} is not supported; the payload is skipped", *type),
              "Wayleave carries out TransparentProxy");
  } else {
    const bool ours = payload.subType == kOurSubType;
    if (!ours && !payload.subType.empty())
      keys.warn("VPNSubType",
                fmt::format("{} is another vendor's provider; the payload is skipped", shown(payload.subType)),
                fmt::format("Wayleave's is {}", kOurSubType));
    if (const plist::Dictionary* settings = keys.dictionary("TransparentProxy", Need::Required))
      payload.transparentProxy = readTransparentProxy(*settings, keys.pathOf("TransparentProxy"), context, ours);
    if (ours) {
      if (!keys.has("VendorConfig"))
        keys.error("VendorConfig", "is missing: it names the gateway");
      else
        readVendorConfig(payload.vendorConfig, keys.pathOf("VendorConfig"), context, payload);
    }
  }
  keys.finish();
  return payload;
}

}  // namespace wayleave::management
