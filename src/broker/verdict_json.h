#pragma once

// What was seen of a caller, as the API shows it.

#include <nlohmann/json.hpp>

#include "broker/caller.h"
#include "broker/grants.h"

namespace wayleave::broker {

nlohmann::json verdictJson(const Verdict& verdict);
nlohmann::json nearMissesJson(const Entitlements& entitled);
// The [[grant]] that would describe this caller, to be completed by an administrator.
std::string suggestedGrant(const Verdict& verdict);

}  // namespace wayleave::broker
