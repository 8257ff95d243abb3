#pragma once

// Which declarations of one source are active and which are wrong. Pure: declarations and status items in, verdicts out.
//
// Admission is atomic, application is not: an activation applies nothing while one of its configurations is missing or
// invalid, or an asset of them is; once it is admitted each configuration succeeds or fails by itself. A configuration of a
// type that is not carried out here does not count (docs/declarations.md).

#include <map>
#include <set>
#include <string>
#include <vector>

#include "management/declarations/declaration.h"

namespace wayleave::management {

struct Judged {
  Declaration declaration;
  bool active = false;
  std::vector<DeclarationReason> reasons;  // the declaration's own first
  // Configurations. An active one is to be in force. A held one belongs to an activation that failed: what is in force stays.
  bool held = false;
};

struct Evaluation {
  std::vector<Judged> all;
  const Judged* find(DeclarationKind kind, std::string_view identifier) const;
  std::set<std::string> subscriptions;  // names of status items
};

Evaluation evaluate(std::vector<Declaration> declarations, const std::map<std::string, nlohmann::json>& statusItems);

// For @property and for reports.
nlohmann::json toJson(const plist::Value& value);

}  // namespace wayleave::management
