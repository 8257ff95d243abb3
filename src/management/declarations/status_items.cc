// Sources: Apple's schema of device-management, status/*, and the StatusReport of the DeclarativeManagement check-in.

#include "management/declarations/status_items.h"

#include "localapi/json_reader.h"

namespace wayleave::management {
namespace {

using nlohmann::json;

constexpr const char* kGroups[] = {"activations", "assets", "configurations", "management"};

// "device.model.family" goes into {"device": {"model": {"family": …}}}.
void place(json& into, const std::string& item, json value) {
  json* at = &into;
  size_t from = 0;
  for (size_t dot = item.find('.'); dot != std::string::npos; dot = item.find('.', from)) {
    at = &(*at)[item.substr(from, dot - from)];
    from = dot + 1;
  }
  (*at)[item.substr(from)] = std::move(value);
}

// Entries keyed by "identifier": those that are new or changed, and marks for those that went.
json difference(const json& before, const json& now) {
  json out = json::object();
  for (const char* group : kGroups) {
    json& changes = out[group] = json::array();
    std::map<std::string, json> old;
    if (before.is_object() && before.contains(group))
      for (const json& entry : before[group]) old.emplace(entry.value("identifier", ""), entry);
    for (const json& entry : now[group]) {
      const auto found = old.find(entry.value("identifier", ""));
      if (found == old.end() || found->second != entry) changes.push_back(entry);
      if (found != old.end()) old.erase(found);
    }
    for (const auto& [identifier, entry] : old) changes.push_back({{"identifier", identifier}, {"_removed", true}});
  }
  return out;
}

}  // namespace

std::string_view text(Validity validity) {
  switch (validity) {
    case Validity::Unknown: return "unknown";
    case Validity::Invalid: return "invalid";
    case Validity::Valid: return "valid";
  }
  return "?";
}

json statusEntry(const DeclarationState& state) {
  json out{{"identifier", state.identifier}, {"server-token", state.serverToken}, {"active", state.active}, {"valid", text(state.valid)}};
  if (!state.reasons.empty()) {
    json& reasons = out["reasons"] = json::array();
    for (const DeclarationReason& reason : state.reasons)
      reasons.push_back({{"code", reason.code}, {"description", reason.description}, {"details", reason.details}});
  }
  return out;
}

json declarationsItem(const std::vector<DeclarationState>& states) {
  json out = json::object();
  for (const char* group : kGroups) out[group] = json::array();
  for (const DeclarationState& state : states) out[kGroups[static_cast<size_t>(state.kind)]].push_back(statusEntry(state));
  return out;
}

json clientCapabilities(const std::vector<std::string>& statusItems) {
  const auto types = [](DeclarationKind kind) {
    json out = json::array();
    for (const std::string_view type : supportedTypes(kind)) out.push_back(type);
    return out;
  };
  return {{"supported-versions", {"1.0.0"}},
          {"supported-features", json::object()},
          {"supported-payloads",
           {{"declarations",
             {{"activations", types(DeclarationKind::Activation)},
              {"assets", types(DeclarationKind::Asset)},
              {"configurations", types(DeclarationKind::Configuration)},
              {"management", types(DeclarationKind::Management)}}},
            {"status-items", statusItems}}}};
}

std::optional<json> statusReportFor(const StatusItems& items, const std::map<std::string, std::string>& reported, bool full) {
  json values = json::object();
  for (const auto& [item, value] : items) {
    const auto known = reported.find(item);
    if (!full && known != reported.end() && known->second == localapi::dump(value)) continue;
    if (!full && known != reported.end() && item == "management.declarations") {
      const Result<json> before = localapi::parseJson(known->second);
      place(values, item, difference(before ? *before : json(), value));
    } else {
      place(values, item, value);
    }
  }
  if (values.empty()) return std::nullopt;
  json out{{"StatusItems", std::move(values)}, {"Errors", json::array()}};
  if (full) out["FullReport"] = true;
  return out;
}

}  // namespace wayleave::management
