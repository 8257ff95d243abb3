#pragma once

// One screen from the answers of the three daemons: what is wrong first, each with what to do, then what there is.
// No daemon is asked here and nothing is printed: JSON in, text out.

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.h"

namespace wayleave::cli {

struct Problem {
  bool grave = true;   // something does not work; otherwise: something will not
  std::string what;    // one sentence
  std::string action;  // what to do; may be empty
};

// `all`: {"identity": …, "management": …, "proxy": …} as the daemons' GET /v1/status answers, or {"error": {reason, message,
// hint}} of one that did not; "identities" as GET /v1/identities.
std::vector<Problem> problemsOf(const nlohmann::json& all, Wall now);

struct ScreenStyle {
  size_t width = 80;
  bool colour = false;
};
std::string statusScreen(const nlohmann::json& all, const std::vector<Problem>& problems, Wall now, const ScreenStyle& style);

}  // namespace wayleave::cli
