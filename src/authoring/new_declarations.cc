#include "authoring/new_declarations.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "management/cms_certificate.h"

namespace wayleave::authoring {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kLongestIdentifier = 64;  // octets (Apple, declarationbase.yaml)

std::string written(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

class Writer {
 public:
  Writer(const NewProfile& profile, std::string documentUrl) : profile_(profile), documentUrl_(std::move(documentUrl)) {
    while (documentUrl_.ends_with('/')) documentUrl_.pop_back();
  }

  std::string named(std::string_view part) const { return fmt::format("{}.{}", profile_.identifier, part); }

  void declaration(const std::string& part, std::string_view type, Json payload, bool isSecret = false) {
    Json out{{"Type", type}, {"Identifier", named(part)}};
    out["ServerToken"] = toHex(sha256(asBytes(fmt::format("{}\n{}\n{}", type, named(part), written(payload))))).substr(0, 16);
    out["Payload"] = std::move(payload);
    files_.push_back({part + ".json", written(out), isSecret});
  }

  void asset(const std::string& part, std::string_view type, std::string_view contentType, const std::string& extension, const std::string& content, bool isSecret) {
    Json reference;
    if (documentUrl_.empty()) {
      reference = {{"DataURL", fmt::format("data:{};base64,{}", contentType, toBase64(asBytes(content)))}, {"ContentType", contentType}};
      return declaration(part, type, {{"Reference", std::move(reference)}}, isSecret);
    }
    reference = {{"DataURL", fmt::format("{}/{}.{}", documentUrl_, part, extension)},
                 {"ContentType", contentType},
                 {"Size", content.size()},
                 {"Hash-SHA-256", toHex(sha256(asBytes(content)))}};
    files_.push_back({fmt::format("documents/{}.{}", part, extension), content, isSecret});
    declaration(part, type, {{"Reference", std::move(reference)}, {"Authentication", {{"Type", "MDM"}}}});
  }

  void identity() {
    switch (profile_.identity) {
      case NewIdentity::Pkcs12: {
        Json document{{"Password", profile_.password ? std::string(profile_.password->viewText()) : std::string()}, {"Identity", toBase64(profile_.pkcs12)}};
        return asset("identity", "com.apple.asset.credential.identity", "application/json", "json", written(document), true);
      }
      case NewIdentity::Scep: {
        Json document{{"URL", profile_.scepUrl}};
        if (!profile_.scepName.empty()) document["Name"] = profile_.scepName;
        if (!profile_.caFingerprint.empty()) document["CAFingerprint"] = toBase64(profile_.caFingerprint);
        if (profile_.challenge) document["Challenge"] = std::string(profile_.challenge->viewText());
        document["Subject"] = subject();
        document["Key Type"] = "RSA";
        document["Keysize"] = profile_.keySize;
        document["Key Usage"] = 1;
        return asset("identity", "com.apple.asset.credential.scep", "application/json", "json", written(document), profile_.challenge.has_value());
      }
      case NewIdentity::Acme: {
        Json document{{"DirectoryURL", profile_.directoryUrl},
                      {"ClientIdentifier", profile_.clientIdentifier},
                      {"KeyType", text(profile_.keyType)},
                      {"KeySize", profile_.keySize},
                      {"HardwareBound", profile_.hardwareBound},
                      {"Attest", profile_.attest}};
        if (!profile_.attestationUrl.empty()) document["AttestationURL"] = profile_.attestationUrl;
        document["Subject"] = subject();
        document["UsageFlags"] = 1;
        document["ExtendedKeyUsage"] = {"1.3.6.1.5.5.7.3.2"};
        return asset("identity", "com.apple.asset.credential.acme", "application/json", "json", written(document), false);
      }
    }
  }

  void proxy(const std::vector<std::string>& anchors) {
    Json vendor{{"GatewayURL", profile_.gatewayUrl}, {"GatewayProtocol", profile_.gatewayProtocol}};
    if (!profile_.gatewayServerName.empty()) vendor["GatewayServerName"] = profile_.gatewayServerName;
    if (!profile_.gatewayAddresses.empty()) vendor["GatewayAddresses"] = profile_.gatewayAddresses;
    if (!anchors.empty()) vendor["TrustAnchorAssetReferences"] = anchors;
    vendor["IncludedNetworkRules"] = rules(profile_.included);
    if (!profile_.excluded.empty()) vendor["ExcludedNetworkRules"] = rules(profile_.excluded);
    vendor["FailurePolicy"] = profile_.failDirect ? "direct" : "block";
    vendor["ConnectTarget"] = profile_.connectByName ? "hostname" : "address";
    const size_t scheme = profile_.gatewayUrl.find("://");
    declaration("proxy", "com.apple.configuration.network.vpn.vpn-plugin",
                {{"VisibleName", profile_.name},
                 {"HostName", scheme == std::string::npos ? profile_.gatewayUrl : profile_.gatewayUrl.substr(scheme + 3)},
                 {"SubType", "com.wayleave.proxy"},
                 {"VendorConfig", std::move(vendor)},
                 {"Authentication", {{"Method", "Certificate"}, {"IdentityAssetReference", named("identity")}}},
                 {"Provider", {{"Type", "app-proxy"}}}});
  }

  std::vector<NewFile> take() { return std::move(files_); }

 private:
  Json subject() const {
    Json out = Json::array();
    for (const management::Rdn& rdn : profile_.subject) {
      Json pairs = Json::array();
      for (const auto& [name, value] : rdn) pairs.push_back(Json::array({name, value}));
      out.push_back(std::move(pairs));
    }
    return out;
  }

  static Json rules(const std::vector<NewRule>& list) {
    Json out = Json::array();
    for (const NewRule& rule : list) {
      Json entry{{"MatchProtocol", rule.protocol}};
      if (!rule.host.empty()) entry["MatchRemoteHost"] = rule.host;
      if (!rule.network.empty()) entry["MatchRemoteNetwork"] = rule.network;
      if (rule.prefix) entry["MatchRemotePrefix"] = *rule.prefix;
      if (rule.port != 0) entry["MatchRemotePort"] = std::to_string(rule.port);
      out.push_back(std::move(entry));
    }
    return out;
  }

  const NewProfile& profile_;
  std::string documentUrl_;
  std::vector<NewFile> files_;
};

}  // namespace

Result<std::vector<NewFile>> writeDeclarations(const NewProfile& profile, const std::string& documentUrl) {
  Writer writer(profile, documentUrl);
  if (const std::string longest = writer.named("gateway-ca-99"); longest.size() > kLongestIdentifier)
    return fail(Reason::BadInput, fmt::format("the identifier \"{}\" is too long: with a word added, a declaration's has at most {} octets", profile.identifier, kLongestIdentifier));
  std::vector<std::string> anchors;
  for (const Bytes& anchor : profile.trustAnchors) {
    const std::string part = profile.trustAnchors.size() == 1 ? std::string("gateway-ca") : fmt::format("gateway-ca-{}", anchors.size() + 1);
    anchors.push_back(writer.named(part));
    writer.asset(part, "com.apple.asset.credential.certificate", "application/pem", "pem", management::toPem(anchor), false);
  }
  writer.identity();
  writer.proxy(anchors);
  // Other systems know no transparent proxy in this declaration.
  writer.declaration("activation", "com.apple.activation.simple",
                     {{"StandardConfigurations", {writer.named("proxy")}}, {"Predicate", "@status(device.operating-system.family) == 'Linux'"}});
  return writer.take();
}

}  // namespace wayleave::authoring
