#include "management/installer_plan.h"

#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "localapi/json_reader.h"
#include "management/declarations/declaration.h"
#include "management/installer.h"

namespace wayleave::management {
namespace {

using localapi::ObjectReader;
using nlohmann::json;

// PKCS#12 first, ACME last; see installer.h.
int turn(const Payload& payload) {
  if (payload.as<Pkcs12Payload>() != nullptr) return 0;
  if (payload.as<ScepPayload>() != nullptr) return 1;
  return 2;
}

json planJson(const InstallPlan& plan) {
  json configurations = json::array();
  for (const localapi::ProxyConfiguration& configuration : plan.configurations)
    configurations.push_back({{"document", toJson(configuration)},
                              {"identityPayload", plan.identityOf.contains(configuration.id)
                                                      ? plan.identityOf.at(configuration.id)
                                                      : std::string{}}});
  json identities = json::array();
  for (const std::string& uuid : plan.identityPayloads)
    identities.push_back({{"payloadUuid", uuid}, {"accessGroup", plan.accessGroups.at(uuid)}});
  return {{"identifier", plan.identifier}, {"identities", identities}, {"configurations", configurations}};
}

// A key for binding the account to an external one is not kept, and is not needed again: the account is made by then. Nor is a
// SCEP challenge, in whose place `raw` has a word that must not be taken for one.
plist::Value withoutSecrets(const plist::Dictionary& payload) {
  plist::Dictionary out;
  for (const plist::Entry& entry : payload.entries()) {
    if (entry.key == "ExternalAccountBinding" || entry.key == "Challenge") continue;
    const plist::Dictionary* inner = entry.key == "PayloadContent" ? entry.value.dictionary() : nullptr;
    out.add(entry.key, inner != nullptr ? withoutSecrets(*inner) : entry.value);
  }
  return plist::Value(std::move(out));
}

std::string detailOf(const Payload& payload) {
  if (const auto* acme = payload.as<AcmePayload>()) return acme->directoryUrl;
  if (const auto* scep = payload.as<ScepPayload>()) return scep->url;
  if (const auto* vpn = payload.as<VpnPayload>())
    return vpn->proxy ? vpn->proxy->gatewayHost + ":" + std::to_string(vpn->proxy->gatewayPort) : vpn->type;
  if (const auto* certificate = payload.as<CertificatePayload>())
    return certificate->certificates.empty() ? std::string{} : certificate->certificates.front().subject;
  return {};
}

}  // namespace

InstallPlan planFor(const Profile& profile) {
  InstallPlan plan;
  plan.identifier = profile.identifier;
  plan.configurations = proxyConfigurations(profile);

  std::vector<const Payload*> identities;
  for (const Payload& payload : profile.payloads) {
    if (yieldsIdentity(payload.header.type)) {
      identities.push_back(&payload);
      plan.accessGroups.emplace(payload.header.uuid, kDefaultAccessGroup);
    }
  }
  for (const Payload& payload : profile.payloads) {
    const auto* vpn = payload.as<VpnPayload>();
    if (vpn == nullptr || vpn->identityPayloadUuid().empty()) continue;
    plan.identityOf[payload.header.uuid] = vpn->identityPayloadUuid();
    if (const auto found = plan.accessGroups.find(vpn->identityPayloadUuid()); found != plan.accessGroups.end())
      found->second = kVpnAccessGroup;
  }
  // After the VPN payloads: an identity that answers the MDM server serves for nothing else.
  for (const Payload& payload : profile.payloads)
    if (const auto* mdm = payload.as<MdmPayload>())
      if (const auto found = plan.accessGroups.find(mdm->identityPayloadUuid); found != plan.accessGroups.end())
        found->second = kMdmAccessGroup;
  std::ranges::stable_sort(identities, {}, [](const Payload* payload) { return turn(*payload); });
  for (const Payload* payload : identities) plan.identityPayloads.push_back(payload->header.uuid);
  return plan;
}

Result<std::vector<localapi::ProxyConfiguration>> withReferences(const InstallPlan& plan,
                                                                 const std::vector<InstalledIdentity>& identities) {
  std::vector<localapi::ProxyConfiguration> out = plan.configurations;
  for (localapi::ProxyConfiguration& configuration : out) {
    const auto wanted = plan.identityOf.find(configuration.id);
    if (wanted == plan.identityOf.end()) continue;
    const auto found = std::ranges::find(identities, wanted->second, &InstalledIdentity::payloadUuid);
    if (found == identities.end())
      return fail(Reason::Internal, "the identity of \"" + configuration.name + "\" was not staged");
    configuration.identityReference = found->reference;
  }
  return out;
}

Bytes enrolmentFor(const Profile& profile, const InstallPlan& plan) {
  plist::Array payloads;
  bool enrols = false;
  for (const Payload& payload : profile.payloads) {
    const bool enrolled = payload.as<AcmePayload>() != nullptr || payload.as<ScepPayload>() != nullptr;
    enrols = enrols || enrolled;
    if (enrolled || payload.as<CertificatePayload>() != nullptr) payloads.push_back(withoutSecrets(payload.raw));
  }
  if (!enrols) return {};
  plist::Dictionary kept;
  kept.set("PayloadType", "Configuration");
  kept.set("PayloadVersion", 1);
  kept.set("PayloadIdentifier", profile.identifier);
  kept.set("PayloadUUID", profile.uuid);
  kept.set("PayloadDisplayName", profile.displayName);
  kept.set("PayloadContent", std::move(payloads));
  const Result<Bytes> bytes = plist::toBinary(plist::Value(std::move(kept)));
  if (!bytes) return {};
  return toBytes(localapi::dump({{"plan", planJson(plan)}, {"profile", toBase64(*bytes)}}));
}

Result<EnrolmentRecord> readEnrolment(ByteView bytes, Wall now) {
  if (bytes.empty()) return fail(Reason::NotFound, "the profile enrols for nothing that can be enrolled again");
  const Result<json> document = localapi::parseJson(asText(bytes));
  if (!document) return withContext(document.error(), "enrolment record");
  if (!document->is_object() || !document->contains("plan")) return fail(Reason::BadInput, "enrolment record: no plan");

  EnrolmentRecord out;
  ObjectReader plan((*document)["plan"], "plan");
  plan.text("identifier", out.plan.identifier);
  plan.objects("identities", [&](ObjectReader& entry) {
    std::string uuid, group;
    entry.text("payloadUuid", uuid);
    entry.text("accessGroup", group);
    out.plan.identityPayloads.push_back(uuid);
    out.plan.accessGroups.emplace(uuid, group);
  });
  plan.objects("configurations", [&](ObjectReader& entry) {
    std::string text, identity;
    entry.text("document", text);
    entry.text("identityPayload", identity);
    if (!entry.ok()) return;
    Result<localapi::ProxyConfiguration> configuration = localapi::proxyConfigurationFromJson(text);
    if (!configuration) return entry.refuse("document", configuration.error().message);
    if (!identity.empty()) out.plan.identityOf.emplace(configuration->id, identity);
    out.plan.configurations.push_back(std::move(*configuration));
  });
  if (Status read = plan.finish(); !read) return withContext(read.error(), "enrolment record");

  Bytes profile;
  ObjectReader whole(*document, "record");
  whole.bytes("profile", profile);
  if (Status read = whole.finish(ObjectReader::Unknown::Ignore); !read) return withContext(read.error(), "enrolment record");
  ImportOptions options;
  options.now = now;
  ImportResult imported = importProfile(profile, options);
  if (!imported.profile) return withContext(toError(imported.findings), "enrolment record");
  out.profile = std::move(*imported.profile);
  return out;
}

std::vector<std::string> trustAnchorsOf(const Profile& profile) {
  std::vector<std::string> out;
  for (const Payload& payload : profile.payloads)
    if (const auto* certificates = payload.as<CertificatePayload>())
      for (const CertificateInfo& certificate : certificates->certificates) out.push_back(toPem(certificate.der));
  return out;
}

Result<Bytes> declarationsFor(const Profile& profile) {
  json out = json::array();
  for (const Payload& payload : profile.payloads)
    if (const auto* declarations = payload.as<DeclarationsPayload>())
      for (size_t i = 0; i < declarations->declarations.size(); ++i) {
        const Result<Bytes> kept = withoutInlineSecrets(declarations->declarations[i]);
        if (!kept) return withContext(kept.error(), payload.header.label() + ": declaration " + std::to_string(i));
        out.push_back(toBase64(*kept));
      }
  return out.empty() ? Bytes{} : toBytes(localapi::dump(out));
}

std::vector<Bytes> readDeclarations(ByteView kept) {
  std::vector<Bytes> out;
  if (kept.empty()) return out;
  const Result<json> document = localapi::parseJson(asText(kept));
  if (!document || !document->is_array()) return out;
  for (const json& entry : *document)
    if (entry.is_string())
      if (Result<Bytes> bytes = fromBase64(entry.get_ref<const std::string&>())) out.push_back(std::move(*bytes));
  return out;
}

std::string summaryFor(const ImportResult& imported) {
  json payloads = json::array(), findings = json::array();
  if (imported.profile)
    for (const Payload& payload : imported.profile->payloads)
      payloads.push_back({{"type", payload.header.type},
                          {"identifier", payload.header.identifier},
                          {"uuid", payload.header.uuid},
                          {"displayName", payload.header.displayName},
                          {"detail", detailOf(payload)}});
  for (const Finding& finding : imported.findings)
    findings.push_back({{"severity", text(finding.severity)},
                        {"payload", finding.payload},
                        {"keyPath", finding.keyPath},
                        {"message", finding.message},
                        {"hint", finding.hint},
                        {"line", finding.line}});
  json out{{"payloads", payloads}, {"findings", findings}};
  if (imported.profile) {
    out["organization"] = imported.profile->organization;
    out["description"] = imported.profile->description;
    out["removalDisallowed"] = imported.profile->removalDisallowed;
  }
  if (!imported.signature.signers.empty()) {
    const Signer& signer = imported.signature.signers.front();
    out["signerCertificates"] = json::array();  // ProfileList of the MDM protocol asks for them
    for (const CertificateInfo& certificate : signer.chain) out["signerCertificates"].push_back(toBase64(certificate.der));
    out["signer"] = signer.chain.front().subject;
    out["signerTrust"] = text(signer.trust);
    out["signerProblem"] = signer.trustProblem.empty() ? signer.weakness : signer.trustProblem;
  }
  return localapi::dump(out);
}

}  // namespace wayleave::management
