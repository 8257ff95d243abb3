#include "broker/verdict_json.h"

#include <fmt/format.h>

namespace wayleave::broker {

using nlohmann::json;

json verdictJson(const Verdict& verdict) {
  json conditions = json::array();
  for (const Condition& condition : verdict.conditions) {
    json entry{{"name", text(condition.name)}, {"held", condition.held}, {"sentence", condition.sentence}};
    if (!condition.hint.empty()) entry["hint"] = condition.hint;
    conditions.push_back(std::move(entry));
  }
  return {{"pid", verdict.pid},
          {"uid", verdict.uid},
          {"gid", verdict.gid},
          {"groups", verdict.groups},
          {"executable", verdict.executable},
          {"sha256", verdict.sha256},
          {"cgroup", verdict.cgroup},
          {"unit", verdict.unit},
          {"conditions", std::move(conditions)}};
}

json nearMissesJson(const Entitlements& entitled) {
  json out = json::array();
  for (const Entitlements::NearMiss& miss : entitled.nearMisses())
    out.push_back({{"grant", miss.grant}, {"failures", miss.failures}, {"hint", miss.hint}});
  return out;
}

std::string suggestedGrant(const Verdict& verdict) {
  std::string accept;
  for (const Condition& condition : verdict.conditions)
    if (!condition.held && condition.name != ConditionName::Undumpable && condition.name != ConditionName::Connection)
      accept += fmt::format("# {}: {}\n", text(condition.name), condition.sentence);
  // TOML basic strings escape as JSON strings do.
  return fmt::format(
      "{}[[grant]]\nname = \"\"\nexecutable = {}\n# sha256 = \"{}\"  # only these contents; must follow every upgrade\n"
      "user = {}\n{}access-groups = []\nusages = []  # tls-client, sign, list\n",
      accept.empty() ? accept : "# These conditions do not hold; repair them, or say accept = [\"…\"]:\n" + accept,
      json(verdict.executable).dump(-1, ' ', false, json::error_handler_t::replace), verdict.sha256, verdict.uid,
      verdict.unit.empty() ? std::string{} : fmt::format("# unit = \"{}\"\n", verdict.unit));
}

}  // namespace wayleave::broker
