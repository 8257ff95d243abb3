#include "management/service_json.h"

#include "management/profile_expiry.h"

namespace wayleave::management {
namespace {

using nlohmann::json;

json configurationJson(const localapi::ProxyConfiguration& configuration) {
  return json::parse(toJson(configuration), nullptr, false);
}

json brief(const ProfileRecord& profile) {
  json out{{"identifier", profile.identifier},
          {"uuid", profile.uuid},
          {"displayName", profile.displayName},
          {"state", text(profile.state)},
          {"installedAt", profile.changedAt},
          {"identities", profile.identities.size()},
          {"configurations", profile.configurations.size()}};
  if (const std::string removal = expectedRemoval(profile); !removal.empty()) out["removedAt"] = removal;
  return out;
}

}  // namespace

json profileListJson(const std::vector<ProfileRecord>& installed, const std::vector<ProfileRecord>& unfinished) {
  json profiles = json::array(), pending = json::array();
  for (const ProfileRecord& profile : installed) profiles.push_back(brief(profile));
  for (const ProfileRecord& profile : unfinished) pending.push_back(brief(profile));
  return {{"profiles", profiles}, {"unfinished", pending}};
}

json profileJson(const ProfileRecord& profile) {
  json out = json::parse(profile.summary, nullptr, false);
  if (!out.is_object()) out = json::object();
  out["identifier"] = profile.identifier;
  out["uuid"] = profile.uuid;
  out["displayName"] = profile.displayName;
  out["state"] = text(profile.state);
  out["installedAt"] = profile.changedAt;
  if (const std::string removal = expectedRemoval(profile); !removal.empty()) out["removedAt"] = removal;
  out["identities"] = json::array();
  for (const InstalledIdentity& identity : profile.identities)
    out["identities"].push_back({{"payloadUuid", identity.payloadUuid},
                                 {"id", identity.identity},
                                 {"reference", toBase64(identity.reference)}});
  out["configurations"] = json::array();
  for (const localapi::ProxyConfiguration& configuration : profile.configurations)
    out["configurations"].push_back(configurationJson(configuration));
  return out;
}

json outcomeJson(const InstallOutcome& outcome) {
  json out = profileJson(outcome.profile);
  out["replaced"] = outcome.replaced;
  out["sequence"] = outcome.sequence;
  return out;
}

json configurationsJson(const ConfigurationSet& set) {
  json configurations = json::array();
  for (const localapi::ProxyConfiguration& configuration : set.configurations)
    configurations.push_back(configurationJson(configuration));
  return {{"sequence", set.sequence}, {"configurations", configurations}};
}

json eventJson(uint64_t sequence, std::string_view event, std::string_view identifier, std::string_view message) {
  json out{{"sequence", sequence}, {"event", event}};
  if (!identifier.empty()) out["identifier"] = identifier;
  if (!message.empty()) out["message"] = message;
  return out;
}

}  // namespace wayleave::management
