// The XML is written by hand rather than by plist::toXml, which has no comments; a reader learns from those why a key is there.

#include "authoring/new_profile.h"

#include <fmt/format.h>

namespace wayleave::authoring {
namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      default: out += c;
    }
  return out;
}

class Xml {
 public:
  void open(std::string_view element) { line(fmt::format("<{}>", element)), ++depth_; }
  void close(std::string_view element) { --depth_, line(fmt::format("</{}>", element)); }
  void comment(std::string_view text) { line(fmt::format("<!-- {} -->", text)); }  // ours alone: no "--" in it
  void key(std::string_view name) { line(fmt::format("<key>{}</key>", name)); }
  void string(std::string_view name, std::string_view value) { key(name), string(value); }
  void string(std::string_view value) { line(fmt::format("<string>{}</string>", escaped(value))); }
  void integer(std::string_view name, int64_t value) { key(name), line(fmt::format("<integer>{}</integer>", value)); }
  void boolean(std::string_view name, bool value) { key(name), line(value ? "<true/>" : "<false/>"); }
  void data(std::string_view name, ByteView bytes) {
    constexpr size_t kColumns = 64;
    key(name), line("<data>");
    const std::string base64 = toBase64(bytes);
    for (size_t i = 0; i < base64.size(); i += kColumns) line(base64.substr(i, kColumns));
    line("</data>");
  }
  std::string take() { return std::move(out_); }

 private:
  void line(std::string_view text) { out_ += std::string(depth_, '\t') + std::string(text) + "\n"; }
  std::string out_;
  size_t depth_ = 0;
};

void header(Xml& xml, std::string_view type, const std::string& identifier, const std::string& uuid, std::string_view name) {
  xml.string("PayloadType", type);
  xml.integer("PayloadVersion", 1);
  xml.string("PayloadIdentifier", identifier);
  xml.string("PayloadUUID", uuid);
  xml.string("PayloadDisplayName", name);
}

void subject(Xml& xml, const management::Subject& rdns) {
  xml.key("Subject");
  xml.open("array");
  for (const management::Rdn& rdn : rdns) {
    xml.open("array");
    for (const auto& [name, value] : rdn) {
      xml.open("array");
      xml.string(name);
      xml.string(value);
      xml.close("array");
    }
    xml.close("array");
  }
  xml.close("array");
}

void pkcs12(Xml& xml, const NewProfile& profile) {
  xml.data("PayloadContent", profile.pkcs12);
  if (!profile.password) return;
  xml.comment("in the clear beside its key: whoever reads this file has the identity");
  xml.string("Password", profile.password->viewText());
}

void scep(Xml& xml, const NewProfile& profile) {
  xml.key("PayloadContent");
  xml.open("dict");
  xml.string("URL", profile.scepUrl);
  if (!profile.scepName.empty()) xml.string("Name", profile.scepName);
  if (!profile.caFingerprint.empty()) {
    xml.comment("of the CA's certificate: authenticates the CA before the challenge is sent to it");
    xml.data("CAFingerprint", profile.caFingerprint);
  }
  if (profile.challenge) {
    xml.comment("in the clear: let the server put a challenge for one use into each device's profile");
    xml.string("Challenge", profile.challenge->viewText());
  }
  subject(xml, profile.subject);
  xml.string("Key Type", "RSA");
  xml.integer("Keysize", profile.keySize);
  xml.comment("1: signing, which is all that TLS client authentication needs");
  xml.integer("Key Usage", 1);
  xml.boolean("KeyIsExtractable", false);
  xml.close("dict");
}

void acme(Xml& xml, const NewProfile& profile) {
  xml.string("DirectoryURL", profile.directoryUrl);
  xml.comment("what the CA knows the device by; different for every device");
  xml.string("ClientIdentifier", profile.clientIdentifier);
  xml.string("KeyType", text(profile.keyType));
  xml.integer("KeySize", profile.keySize);
  xml.comment("true: the key is made in the TPM (Secure Enclave) and never leaves it; EC 256 or 384 only");
  xml.boolean("HardwareBound", profile.hardwareBound);
  xml.comment("true: the hardware vouches for the key to the CA");
  xml.boolean("Attest", profile.attest);
  if (!profile.attestationUrl.empty()) {
    xml.comment("Wayleave's own key, which Apple's systems ignore: the CA that vouches for this machine's TPM");
    xml.string("AttestationURL", profile.attestationUrl);
  }
  subject(xml, profile.subject);
  xml.integer("UsageFlags", 1);
  xml.key("ExtendedKeyUsage");
  xml.open("array");
  xml.comment("client authentication");
  xml.string("1.3.6.1.5.5.7.3.2");
  xml.close("array");
  xml.boolean("KeyIsExtractable", false);
}

void identity(Xml& xml, const NewProfile& profile, const std::string& uuid) {
  const std::string identifier = profile.identifier + ".identity";
  xml.comment("the identity that the device shows to the gateway");
  xml.open("dict");
  switch (profile.identity) {
    case NewIdentity::Pkcs12:
      header(xml, "com.apple.security.pkcs12", identifier, uuid, "Device identity (PKCS #12)");
      pkcs12(xml, profile);
      break;
    case NewIdentity::Scep:
      header(xml, "com.apple.security.scep", identifier, uuid, "Device identity (SCEP)");
      scep(xml, profile);
      break;
    case NewIdentity::Acme:
      header(xml, "com.apple.security.acme", identifier, uuid, "Device identity (ACME)");
      acme(xml, profile);
      break;
  }
  xml.close("dict");
}

void rules(Xml& xml, std::string_view key, const std::vector<NewRule>& list) {
  xml.key(key);
  xml.open("array");
  for (const NewRule& rule : list) {
    xml.open("dict");
    xml.string("MatchProtocol", rule.protocol);
    if (!rule.host.empty()) xml.string("MatchRemoteHost", rule.host);
    if (!rule.network.empty()) xml.string("MatchRemoteNetwork", rule.network);
    if (rule.prefix) xml.integer("MatchRemotePrefix", *rule.prefix);
    if (rule.port != 0) xml.string("MatchRemotePort", std::to_string(rule.port));
    xml.close("dict");
  }
  xml.close("array");
}

void vendorConfig(Xml& xml, const NewProfile& profile, const std::vector<std::string>& anchors) {
  xml.key("VendorConfig");
  xml.open("dict");
  xml.string("GatewayURL", profile.gatewayUrl);
  xml.string("GatewayProtocol", profile.gatewayProtocol);
  if (!profile.gatewayServerName.empty()) xml.string("GatewayServerName", profile.gatewayServerName);
  if (!profile.gatewayAddresses.empty()) {
    xml.key("GatewayAddresses");
    xml.open("array");
    for (const std::string& address : profile.gatewayAddresses) xml.string(address);
    xml.close("array");
  }
  if (!anchors.empty()) {
    xml.comment("nothing else is trusted for the gateway, the system's CAs neither");
    xml.key("TrustAnchorPayloadUUIDs");
    xml.open("array");
    for (const std::string& uuid : anchors) xml.string(uuid);
    xml.close("array");
  }
  xml.comment("which flows go to the gateway; a name of two or more labels means everything below it");
  rules(xml, "IncludedNetworkRules", profile.included);
  if (!profile.excluded.empty()) {
    xml.comment("which flows do not, whatever the inclusions say");
    rules(xml, "ExcludedNetworkRules", profile.excluded);
  }
  xml.comment("of included flows while the gateway cannot carry them: block or direct");
  xml.string("FailurePolicy", profile.failDirect ? "direct" : "block");
  xml.comment("what CONNECT names: address, or the hostname that the program itself named");
  xml.string("ConnectTarget", profile.connectByName ? "hostname" : "address");
  xml.close("dict");
}

void proxy(Xml& xml, const NewProfile& profile, const std::string& identityUuid, const std::vector<std::string>& anchors) {
  xml.comment("the proxy");
  xml.open("dict");
  header(xml, "com.apple.vpn.managed", profile.identifier + ".proxy", randomUuid(), profile.name);
  xml.string("UserDefinedName", profile.name);
  xml.string("VPNType", "TransparentProxy");
  xml.string("VPNSubType", "com.wayleave.proxy");
  xml.key("TransparentProxy");
  xml.open("dict");
  xml.string("AuthenticationMethod", "Certificate");
  xml.comment("the PayloadUUID of the identity");
  xml.string("PayloadCertificateUUID", identityUuid);
  xml.comment("always given: the default packet-tunnel does not fit a transparent proxy");
  xml.string("ProviderType", "app-proxy");
  xml.close("dict");
  vendorConfig(xml, profile, anchors);
  xml.close("dict");
}

}  // namespace

std::string writeProfile(const NewProfile& profile) {
  const std::string identityUuid = randomUuid();
  std::vector<std::string> anchors;
  Xml xml;
  xml.open("dict");
  xml.comment("a profile of the same PayloadIdentifier replaces this one");
  header(xml, "Configuration", profile.identifier, randomUuid(), profile.name);
  if (!profile.organization.empty()) xml.string("PayloadOrganization", profile.organization);
  xml.string("PayloadScope", "System");
  xml.key("PayloadContent");
  xml.open("array");
  identity(xml, profile, identityUuid);
  for (const Bytes& anchor : profile.trustAnchors) {
    anchors.push_back(randomUuid());
    xml.comment("a CA that issues the gateway's certificate");
    xml.open("dict");
    header(xml, "com.apple.security.root", fmt::format("{}.ca{}", profile.identifier, anchors.size()), anchors.back(), "Gateway CA");
    xml.data("PayloadContent", anchor);
    xml.close("dict");
  }
  proxy(xml, profile, identityUuid, anchors);
  xml.close("array");
  xml.close("dict");
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
         "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n"
         "<plist version=\"1.0\">\n" + xml.take() + "</plist>\n";
}

}  // namespace wayleave::authoring
