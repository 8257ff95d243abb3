#include "enrolment/mdm/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/log.h"
#include "localapi/json_reader.h"

namespace wayleave::enrolment::mdm {
namespace {

using management::Profile;
using management::ProfileRecord;
using nlohmann::json;
using plist::Dictionary;
using plist::Value;

constexpr const char* kOurs = "WayleaveErrorDomain";
constexpr const char* kAppleMdm = "MCMDMErrorDomain";
constexpr const char* kAppleInstall = "MCInstallationErrorDomain";
// As Apple's devices use them (Mobile Device Management Protocol Reference, "Error Codes").
constexpr int kNotAuthorized = 12'007, kMalformedRequest = 12'008, kInternalInconsistency = 12'010, kProfileNotManaged = 12'013,
              kInvalidRequestType = 12'021, kProfileNotInstalled = 12'075;
constexpr int kInstallationFailure = 4'001, kRemovalDatePassed = 4'006;

Answer failed(std::string domain, int code, std::string description) {
  return {"Error", {}, {{std::move(domain), code, std::move(description)}}};
}
Answer malformed(std::string description) {
  return {"CommandFormatError", {}, {{kAppleMdm, kMalformedRequest, std::move(description)}}};
}
// The cause as an element of its own: our own words, with the reason that our logs use too.
Answer failedBecause(std::string domain, int code, std::string description, const Error& cause) {
  Answer answer = failed(std::move(domain), code, std::move(description));
  answer.errors.push_back({kOurs, static_cast<int>(cause.reason), fmt::format("{}: {}", text(cause.reason), describe(cause))});
  return answer;
}
bool isForLater(const Error& error) {
  return error.reason == Reason::Busy || error.reason == Reason::Cancelled || error.reason == Reason::Unavailable;
}

Answer installProfile(const CommandContext& context, const Command& command, Aftermath& aftermath) {
  const Value* payload = command.parameters.find("Payload");
  if (payload == nullptr || payload->data() == nullptr) return malformed("InstallProfile needs Payload, as data");
  // Whether it was there decides what becomes of the claim when the installation fails.
  const auto installed = context.machine.profiles();
  if (!installed) return {.status = "NotNow"};
  std::string claimed;
  bool enrolment = false, known = false, removalDatePassed = false;
  const auto permit = [&](const Profile& profile) -> Status {
    const bool mdm = std::ranges::any_of(profile.payloads, [](const auto& one) { return one.template as<management::MdmPayload>() != nullptr; });
    enrolment = profile.identifier == context.ownership.enrolmentProfile();
    if (enrolment) return context.ownership.mayReplaceEnrolment(profile);
    if (mdm) return fail(Reason::Conflict, "this machine is enrolled already; a server cannot enrol it with another");
    for (const management::Payload& one : profile.payloads)
      if (one.as<management::DeclarationsPayload>() != nullptr)
        return fail(Reason::Unsupported, "com.apple.declarations can be installed by hand only",
                    "use declarative management over the enrolment");
    known = std::ranges::find(*installed, profile.identifier, &ProfileRecord::identifier) != installed->end();
    if (known && !context.ownership.manages(profile.identifier))
      return fail(Reason::Conflict, "a profile with this identifier was installed by hand", "remove it at the machine first");
    claimed = profile.identifier;
    removalDatePassed = profile.removalDate && *profile.removalDate <= std::chrono::system_clock::now();
    return context.ownership.claim(profile.identifier);
  };
  const auto outcome = context.machine.install(*payload->data(), permit);
  if (outcome) {
    aftermath.renewedEnrolment = enrolment;
    return {};
  }
  if (outcome.error().reason == Reason::Pending) return {};  // decided: it will be there
  const bool stays = known || outcome.error().reason == Reason::Cancelled;  // cancelled: the next start goes on
  if (!claimed.empty() && !stays)
    if (const Status gone = context.ownership.disclaim(claimed); !gone)
      log::failure("cannot note that a profile was not installed", gone.error(), {{"identifier", claimed}});
  if (isForLater(outcome.error())) return {.status = "NotNow"};
  const int code = removalDatePassed && outcome.error().reason == Reason::BadInput ? kRemovalDatePassed : kInstallationFailure;
  return failedBecause(kAppleInstall, code, "The profile could not be installed.", outcome.error());
}

Answer removeProfile(const CommandContext& context, const Command& command, Aftermath& aftermath) {
  const Value* identifier = command.parameters.find("Identifier");
  if (identifier == nullptr || identifier->string() == nullptr) return malformed("RemoveProfile needs Identifier, a string");
  const std::string& name = *identifier->string();
  // A server may always end the enrolment, whatever its rights.
  if (name == context.ownership.enrolmentProfile()) {
    aftermath.leave = true;
    return {};
  }
  if (context.accessRights != 0 && (context.accessRights & kChangeProfiles) == 0)
    return failed(kAppleMdm, kNotAuthorized, "RemoveProfile needs access right 2, which the enrolment does not give.");
  if (!context.ownership.manages(name)) {
    const auto installed = context.machine.profiles();
    if (!installed) return {.status = "NotNow"};
    if (std::ranges::find(*installed, name, &ProfileRecord::identifier) == installed->end())
      return failed(kAppleMdm, kProfileNotInstalled, fmt::format("The profile “{}” is not installed.", name));
    return failed(kAppleMdm, kProfileNotManaged, fmt::format("The profile “{}” is not managed by this server.", name));
  }
  const Status removed = context.machine.remove(name);
  if (!removed && removed.error().reason != Reason::NotFound && removed.error().reason != Reason::Pending) {
    if (isForLater(removed.error())) return {.status = "NotNow"};
    return failedBecause(kAppleMdm, kInternalInconsistency, fmt::format("The profile “{}” could not be removed.", name), removed.error());
  }
  if (const Status gone = context.ownership.disclaim(name); !gone)
    log::failure("cannot note that a profile was removed", gone.error(), {{"identifier", name}});
  return {};
}

bool managedOnly(const Command& command) {
  const Value* value = command.parameters.find("ManagedOnly");
  return value != nullptr && value->boolean().value_or(false);
}

bool belongs(const CommandContext& context, const std::string& identifier) {
  return identifier == context.ownership.enrolmentProfile() || context.ownership.manages(identifier);
}

void copyText(const json& from, const char* name, Dictionary& to, const char* key) {
  if (const auto found = from.find(name); found != from.end() && found->is_string() && !found->get_ref<const std::string&>().empty())
    to.set(key, found->get<std::string>());
}

Dictionary profileEntry(const ProfileRecord& profile) {
  Dictionary entry;
  entry.set("PayloadIdentifier", profile.identifier);
  entry.set("PayloadUUID", profile.uuid);
  entry.set("PayloadVersion", 1);
  entry.set("PayloadDisplayName", profile.displayName);
  entry.set("HasRemovalPasscode", false);
  entry.set("IsEncrypted", false);
  const Result<json> summary = localapi::parseJson(profile.summary);
  if (!summary || !summary->is_object()) return entry;
  copyText(*summary, "organization", entry, "PayloadOrganization");
  copyText(*summary, "description", entry, "PayloadDescription");
  entry.set("PayloadRemovalDisallowed", summary->value("removalDisallowed", json()) == true);
  plist::Array payloads, signers;
  for (const json& payload : summary->value("payloads", json::array())) {
    if (!payload.is_object()) continue;
    Dictionary item;
    item.set("PayloadVersion", 1);
    copyText(payload, "type", item, "PayloadType");
    copyText(payload, "identifier", item, "PayloadIdentifier");
    copyText(payload, "uuid", item, "PayloadUUID");
    copyText(payload, "displayName", item, "PayloadDisplayName");
    payloads.emplace_back(std::move(item));
  }
  for (const json& certificate : summary->value("signerCertificates", json::array()))
    if (certificate.is_string())
      if (auto der = fromBase64(certificate.get_ref<const std::string&>())) signers.emplace_back(std::move(*der));
  entry.set("PayloadContent", std::move(payloads));
  if (!signers.empty()) entry.set("SignerCertificates", std::move(signers));
  return entry;
}

Answer profileList(const CommandContext& context, const Command& command, Aftermath&) {
  const auto profiles = context.machine.profiles();
  if (!profiles) return {.status = "NotNow"};
  plist::Array list;
  for (const ProfileRecord& profile : *profiles)
    if (!managedOnly(command) || belongs(context, profile.identifier)) list.emplace_back(profileEntry(profile));
  Answer answer;
  answer.results.set("ProfileList", std::move(list));
  return answer;
}

// Of an RFC 2253 name; the whole name where it has none.
std::string commonName(const std::string& subject) {
  const size_t at = subject.find("CN=");
  return at == std::string::npos ? subject : subject.substr(at + 3, subject.find(',', at) - at - 3);
}

Answer certificateList(const CommandContext& context, const Command& command, Aftermath&) {
  const auto identities = context.agent.list();
  if (!identities) return {.status = "NotNow"};
  plist::Array list;
  std::set<Bytes> seen;
  const auto add = [&](const std::string& name, bool isIdentity, const Bytes& der) {
    if (!seen.insert(der).second) return;
    Dictionary entry;
    entry.set("CommonName", name);
    entry.set("IsIdentity", isIdentity);
    entry.set("Data", der);
    list.emplace_back(std::move(entry));
  };
  for (const localapi::IdentityInfo& identity : *identities) {
    if (managedOnly(command) && !belongs(context, identity.profileIdentifier)) continue;
    const auto shown = context.agent.show(identity.id);
    if (!shown || shown->chain.empty()) continue;
    for (size_t i = 0; i < shown->chain.size(); ++i) {
      const auto certificate = management::readCertificate(shown->chain[i]);
      add(certificate ? commonName(certificate->subject) : identity.label, i == 0, shown->chain[i]);
    }
  }
  Answer answer;
  answer.results.set("CertificateList", std::move(list));
  return answer;
}

Answer deviceInformation(const CommandContext& context, const Command& command, Aftermath&) {
  std::vector<std::string> queries;
  if (const Value* value = command.parameters.find("Queries")) {
    if (value->array() == nullptr) return malformed("Queries must be an array");
    for (const Value& query : *value->array()) {
      if (query.string() == nullptr) return malformed("Queries must hold strings");
      queries.push_back(*query.string());
    }
  }
  Answer answer;
  answer.results.set("QueryResponses", queryResponses(context.device, queries));
  return answer;
}

Answer declarativeManagement(const CommandContext&, const Command& command, Aftermath& aftermath) {
  aftermath.synchronise = true;
  if (const Value* value = command.parameters.find("Data")) {
    if (value->data() == nullptr) return malformed("Data must be data");
    aftermath.tokens = *value->data();
  }
  return {};
}

struct Handler {
  Answer (*run)(const CommandContext&, const Command&, Aftermath&);
  int64_t right;  // 0: none needed
  bool changes;   // not while something else is being changed
};

}  // namespace

Answer carryOut(const CommandContext& context, const Command& command, Aftermath& aftermath) {
  static const std::map<std::string_view, Handler> kHandlers{
      {"InstallProfile", {installProfile, kChangeProfiles, true}},
      {"RemoveProfile", {removeProfile, 0, true}},  // looks at its right by itself
      {"ProfileList", {profileList, kInspectProfiles, false}},
      {"CertificateList", {certificateList, kInspectProfiles, false}},
      {"DeviceInformation", {deviceInformation, kQueryDevice, false}},
      {"DeclarativeManagement", {declarativeManagement, 0, false}},
  };
  if (command.requestType.empty()) return malformed("The command has no RequestType.");
  const auto found = kHandlers.find(command.requestType);
  if (found == kHandlers.end())
    return failed(kAppleMdm, kInvalidRequestType, fmt::format("“{}” is not a valid request type.", command.requestType));
  const Handler& handler = found->second;
  if (context.accessRights != 0 && handler.right != 0 && (context.accessRights & handler.right) == 0)
    return failed(kAppleMdm, kNotAuthorized,
                  fmt::format("{} needs access right {}, which the enrolment does not give.", command.requestType, handler.right));
  if (handler.changes && context.machine.busy()) return {.status = "NotNow"};
  return handler.run(context, command, aftermath);
}

}  // namespace wayleave::enrolment::mdm
