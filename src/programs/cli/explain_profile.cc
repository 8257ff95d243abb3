#include "explain_profile.h"

#include <fmt/format.h>

#include <algorithm>

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

bool looksLikeProfile(ByteView bytes) {
  if (asText(bytes).starts_with("bplist0")) return true;
  if (bytes.size() > 4 && bytes[0] == 0x30 && (bytes[1] & 0x80) != 0) return true;  // CMS
  const std::string_view text = firstText(bytes);
  return text.starts_with("<?xml") || text.starts_with("<!DOCTYPE plist") || text.starts_with("<plist");
}

bool looksLikeDeclaration(ByteView bytes) {
  const std::string_view text = firstText(bytes);
  // `{length = …` is how NSData prints itself.
  return (text.starts_with('{') && text.find("length = ") > 8) || text.starts_with('[');
}

ProfileExplanation explainProfile(ByteView bytes, const Style& style) {
  const management::ImportResult result = management::importProfile(bytes);
  ProfileExplanation out;
  out.mistaken = !result.profile;
  out.json = {{"kind", "profile"}, {"identities", Json::array()}, {"findings", Json::array()}};
  if (result.profile) {
    const management::Profile& profile = *result.profile;
    out.text += fmt::format("profile {} · {} channel\n", printable(profile.identifier),
                            profile.scope == management::Scope::System ? "device" : "user");
    out.json["identifier"] = profile.identifier;
    bool any = false;
    for (const management::Payload& payload : profile.payloads) {
      const auto* declarations = payload.as<management::DeclarationsPayload>();
      if (declarations == nullptr) continue;
      for (const Bytes& one : declarations->declarations) {
        const Result<ProfileExplanation> read = explainDeclarations(one, style);
        if (!read) continue;  // a declaration about other things
        any = true;
        out.mistaken = out.mistaken || read->mistaken;
        out.text += "\n" + read->text;
        out.json["declarations"].push_back(read->json);
      }
    }
    for (const management::Payload& payload : profile.payloads) {
      const std::optional<Delivery> delivery = deliveryOf(payload, profile.scope);
      if (!delivery) continue;
      any = true;
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
    if (!any) out.text += "\nIt delivers no identity.\n";
  } else {
    out.text += "The profile is refused.\n";
  }
  if (!result.findings.empty()) out.text += "\nFindings\n";
  for (const management::Finding& finding : result.findings) {
    out.text += fmt::format("  {}: {}\n", management::text(finding.severity), printable(management::describe(finding)));
    out.json["findings"].push_back({{"severity", management::text(finding.severity)},
                                    {"payload", finding.payload},
                                    {"keyPath", finding.keyPath},
                                    {"line", finding.line},
                                    {"message", finding.message},
                                    {"hint", finding.hint}});
  }
  return out;
}

Result<ProfileExplanation> explainDeclarations(ByteView bytes, const Style& style) {
  const Result<DeclarationExplanation> read = explainDeclaration(bytes);
  if (!read) return propagate(read.error());
  ProfileExplanation out;
  out.mistaken = !read->mistakes.empty();
  out.json = {{"kind", "declaration"},
              {"identities", Json::array()},
              {"uses", read->uses},
              {"mistakes", read->mistakes},
              {"notes", read->notes}};
  for (const DeclaredIdentity& identity : read->identities) {
    const Fate fate = fateOf(identity.delivery);
    out.text += fmt::format("identity of {}\n{}", identity.name, toText(identity.delivery, fate, style));
    Json one = toJson(identity.delivery, fate);
    one["declaration"] = identity.name;
    out.json["identities"].push_back(std::move(one));
  }
  const auto list = [&](const char* heading, const std::vector<std::string>& lines) {
    if (!lines.empty()) out.text += fmt::format("{}{}\n", out.text.empty() ? "" : "\n", heading);
    for (const std::string& line : lines) out.text += "  " + line + "\n";
  };
  list("Who receives it", read->uses);
  list("Mistakes", read->mistakes);
  list("Notes", read->notes);
  return out;
}

}  // namespace wayleave::cli
