#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace wayleave::cli {

// The manual page wayleave(1) in mdoc, from the program's own command tree. `date`: "November 24, 2026".
std::string manualPage(const CLI::App& app, const std::string& date);

}  // namespace wayleave::cli
