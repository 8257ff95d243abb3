#pragma once

// The public sample files that a developer may have beside the checkout; they are not part of the repository.

#include <cstdlib>
#include <filesystem>
#include <string>

namespace wayleave::test {

// WAYLEAVE_SAMPLES, or ../shared/samples beside the source folder. May not exist.
inline std::filesystem::path samplesFolder() {
  if (const char* named = std::getenv("WAYLEAVE_SAMPLES")) return named;
  return std::filesystem::path(WAYLEAVE_SOURCE_DIR) / "../shared/samples";
}

}  // namespace wayleave::test
