#pragma once

// What a status report says, item by item, in Apple's form. Internal to the engine.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "management/declarations/declaration.h"

namespace wayleave::management {

enum class Validity : uint8_t { Unknown, Invalid, Valid };
std::string_view text(Validity validity);

struct DeclarationState {
  std::string source;
  DeclarationKind kind = DeclarationKind::Management;
  std::string type, identifier, serverToken;
  bool active = false;
  Validity valid = Validity::Unknown;
  std::vector<DeclarationReason> reasons;
};

// An entry of management.declarations; in status items the letter case of reasons is the small one.
nlohmann::json statusEntry(const DeclarationState& state);
// {"activations": […], "assets": […], "configurations": […], "management": […]}
nlohmann::json declarationsItem(const std::vector<DeclarationState>& states);
nlohmann::json clientCapabilities(const std::vector<std::string>& statusItems);

using StatusItems = std::map<std::string, nlohmann::json>;  // "management.declarations" → value

// The StatusReport that brings a server which knows `reported` (item → JSON text) up to date; nullopt when it is.
// Incremental arrays hold what changed, and what went with "_removed".
std::optional<nlohmann::json> statusReportFor(const StatusItems& items, const std::map<std::string, std::string>& reported, bool full);

}  // namespace wayleave::management
