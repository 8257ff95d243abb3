#pragma once

// The documents of managementd's API. Internal to the service.

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "management/installer.h"
#include "management/management_store.h"

namespace wayleave::management {

nlohmann::json profileListJson(const std::vector<ProfileRecord>& installed, const std::vector<ProfileRecord>& unfinished);
nlohmann::json profileJson(const ProfileRecord& profile);
nlohmann::json outcomeJson(const InstallOutcome& outcome);
nlohmann::json configurationsJson(const ConfigurationSet& set);
nlohmann::json eventJson(uint64_t sequence, std::string_view event, std::string_view identifier,
                         std::string_view message = {});

}  // namespace wayleave::management
