#pragma once

// Two walks over the values of a profile: taking secrets out of what is kept, and finding template variables that a
// management server should have filled in.

#include <optional>
#include <string>
#include <string_view>

#include "management/profile_report.h"
#include "plist/value.h"

namespace wayleave::management {

// Passwords, challenges, shared secrets: by the names that Apple's payloads and ours use.
bool isSecretKey(std::string_view key);

// Overwrites and replaces every string or data under a secret key, at any depth; strings become "(removed)".
void removeSecrets(plist::Dictionary& dictionary);

// "$FLEET_VAR_X", "${X}", "{{ x }}", "%HardwareUUID%", "YOUR-TOPIC-HERE": the first one in the text.
std::optional<std::string> templateVariable(std::string_view text);

// Warns about each string that still holds one; under a secret key without showing it.
void reportTemplateVariables(const plist::Dictionary& dictionary, const std::string& path, Report& report);

}  // namespace wayleave::management
