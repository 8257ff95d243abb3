#include "base/clock.h"

#include <ctime>

namespace wayleave {

std::string rfc3339(Wall time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char out[32];
  const size_t length = std::strftime(out, sizeof out, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {out, length};
}

}  // namespace wayleave
