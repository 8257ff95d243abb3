#include "explain_profile.h"

#include <fmt/format.h>

#include <algorithm>

#include "authoring/lint.h"
#include "keychain/explain/declaration.h"
#include "management/profile.h"

namespace wayleave::cli {
namespace {

using namespace keychain::explain;
using Json = nlohmann::ordered_json;

std::string_view firstText(ByteView bytes) {
  std::string_view text = asText(bytes);
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  const size_t start = text.find_first_not_of(" \t\r\n");
  return start == std::string_view::npos ? std::string_view() : text.substr(start);
}

std::optional<Delivery> deliveryOf(const management::Payload& payload, management::Scope scope) {
  Delivery out;
  out.channel = scope == management::Scope::System ? DeliveryChannel::Device : DeliveryChannel::User;
  if (const auto* p12 = payload.as<management::Pkcs12Payload>()) {
    out.source = DeliverySource::Pkcs12;
    out.keyIsExtractable = p12->keyIsExtractable;
    out.allowAllAppsAccess = p12->allowAllAppsAccess;
  } else if (const auto* scep = payload.as<management::ScepPayload>()) {
    out.source = DeliverySource::Scep;
    out.keyIsExtractable = scep->keyIsExtractable;
    out.allowAllAppsAccess = scep->allowAllAppsAccess;
  } else if (const auto* acme = payload.as<management::AcmePayload>()) {
    out.source = DeliverySource::Acme;
    out.hardwareBound = acme->hardwareBound;
    out.attest = acme->attest;
    out.keyIsExtractable = acme->keyIsExtractable;
    out.allowAllAppsAccess = acme->allowAllAppsAccess;
  } else {
    return std::nullopt;
  }
  return out;
}

// The payloads of the profile that refer to an identity.
std::vector<std::string> usersOf(const management::Profile& profile, const std::string& uuid) {
  std::vector<std::string> out;
  for (const management::Payload& payload : profile.payloads) {
    const auto* vpn = payload.as<management::VpnPayload>();
    const auto* mdm = payload.as<management::MdmPayload>();
    if ((vpn != nullptr && vpn->identityPayloadUuid() == uuid) || (mdm != nullptr && mdm->identityPayloadUuid == uuid))
      out.push_back(printable(payload.header.label()));
  }
  return out;
}

}  // namespace

namespace {

void add(ProfileExplanation& out, const DeclarationExplanation& read, const Style& style) {
  for (const DeclaredIdentity& identity : read.identities) {
    const Fate fate = fateOf(identity.delivery);
    out.text += fmt::format("{}identity of {}\n{}", out.text.empty() ? "" : "\n", identity.name, toText(identity.delivery, fate, style));
    Json one = toJson(identity.delivery, fate);
    one["declaration"] = identity.name;
    out.json["identities"].push_back(std::move(one));
  }
  const auto list = [&](const char* key, const char* heading, const std::vector<std::string>& lines) {
    if (!lines.empty()) out.text += fmt::format("{}{}\n", out.text.empty() ? "" : "\n", heading);
    for (const std::string& line : lines) {
      out.text += "  " + line + "\n";
      out.json[key].push_back(line);
    }
  };
  list("uses", "Who receives it", read.uses);
  list("notes", "Notes", read.notes);
}

void addProfile(ProfileExplanation& out, ByteView bytes, const Style& style) {
  const management::ImportResult result = management::importProfile(bytes);
  if (!result.profile) {
    out.text += "The profile is refused.\n";
    return;
  }
  const management::Profile& profile = *result.profile;
  out.text += fmt::format("profile {} · {} channel\n", printable(profile.identifier), profile.scope == management::Scope::System ? "device" : "user");
  out.json["identifier"] = profile.identifier;
  for (const management::Payload& payload : profile.payloads)
    if (const auto* declarations = payload.as<management::DeclarationsPayload>())
      for (const Bytes& one : declarations->declarations)
        if (const Result<DeclarationExplanation> read = explainDeclaration(one)) add(out, *read, style);
  for (const management::Payload& payload : profile.payloads) {
    const std::optional<Delivery> delivery = deliveryOf(payload, profile.scope);
    if (!delivery) continue;
    const Fate fate = fateOf(*delivery);
    out.text += fmt::format("\nidentity of {}\n", printable(payload.header.label()));
    Json one = toJson(*delivery, fate);
    one["payload"] = payload.header.identifier;
    one["usedBy"] = Json::array();
    for (const std::string& user : usersOf(profile, payload.header.uuid)) {
      out.text += fmt::format("  used by {}\n", user);
      one["usedBy"].push_back(user);
    }
    out.text += toText(*delivery, fate, style);
    out.json["identities"].push_back(std::move(one));
  }
}

void addFindings(ProfileExplanation& out, const std::vector<authoring::LintFinding>& findings) {
  if (!findings.empty()) out.text += fmt::format("{}Findings\n", out.text.empty() ? "" : "\n");
  for (const authoring::LintFinding& finding : findings) {
    std::string place = finding.line == 0 ? std::string() : fmt::format("line {}: ", finding.line);
    if (!finding.where.empty()) place += finding.where + ": ";
    out.text += fmt::format("  {}: {}\n", management::text(finding.severity),
                            printable(place + finding.message + (finding.hint.empty() ? "" : " (" + finding.hint + ")")));
    out.json["findings"].push_back({{"severity", management::text(finding.severity)},
                                    {"rule", finding.rule},
                                    {"where", finding.where},
                                    {"line", finding.line},
                                    {"message", finding.message},
                                    {"hint", finding.hint}});
  }
}

const char* nameOf(authoring::FileKind kind) {
  switch (kind) {
    case authoring::FileKind::Profile: return "profile";
    case authoring::FileKind::Declaration: return "declaration";
    case authoring::FileKind::Document: return "document";
    case authoring::FileKind::MdmBody: return "mdm-message";
  }
  return "?";
}

}  // namespace

bool looksManaged(ByteView bytes) {
  if (asText(bytes).starts_with("bplist0")) return true;
  if (bytes.size() > 4 && bytes[0] == 0x30 && (bytes[1] & 0x80) != 0) return true;  // CMS
  if (asText(bytes).starts_with("\xff\xfe") || asText(bytes).starts_with("\xfe\xff")) return true;  // UTF-16
  const std::string_view text = firstText(bytes);
  if (text.starts_with("<?xml") || text.starts_with("<!DOCTYPE plist") || text.starts_with("<plist")) return true;
  // `{length = …` is how NSData prints itself.
  return (text.starts_with('{') && text.find("length = ") > 8) || text.starts_with('[');
}

ProfileExplanation explainManaged(const std::string& file, const Bytes& bytes, const Style& style) {
  const authoring::LintInput input{file, bytes};
  const authoring::FileKind kind = authoring::kindOf(input);
  ProfileExplanation out;
  out.json = {{"kind", nameOf(kind)}, {"identities", Json::array()}, {"findings", Json::array()}};
  switch (kind) {
    case authoring::FileKind::Profile: addProfile(out, bytes, style); break;
    case authoring::FileKind::Declaration:
    case authoring::FileKind::Document:
      if (const Result<DeclarationExplanation> read = explainDeclaration(bytes)) add(out, *read, style);
      break;
    case authoring::FileKind::MdmBody: break;
  }
  const std::vector<authoring::LintFinding> findings = authoring::lint({input});
  out.mistaken = authoring::count(findings).errors > 0;
  if (out.json["identities"].empty() && kind != authoring::FileKind::MdmBody && !out.mistaken)
    out.text += fmt::format("{}It delivers no identity.\n", out.text.empty() ? "" : "\n");
  addFindings(out, findings);
  return out;
}

}  // namespace wayleave::cli
