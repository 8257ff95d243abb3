#pragma once

// Times as people say them.

#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace wayleave::cli {

// "2026-11-24T03:26:25Z", with or without a fraction; nullopt for anything else.
std::optional<Wall> parseTime(std::string_view text);
// "in 23 days", "3 h ago", "now".
std::string relative(Wall time, Wall now);
// The same for a text from a daemon; the text itself when it is no time, "" when empty.
std::string relative(std::string_view text, Wall now);

}  // namespace wayleave::cli
