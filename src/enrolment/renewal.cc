#include "enrolment/renewal.h"

#include <algorithm>

#include "base/bytes.h"

namespace wayleave::enrolment {

Wall renewalTime(Wall notBefore, Wall notAfter, std::string_view identity) {
  using std::chrono::seconds;
  const auto life = std::max(seconds{0}, std::chrono::duration_cast<seconds>(notAfter - notBefore));
  const bool shortLived = life <= seconds{30L * 24 * 3600};
  const auto due = shortLived ? life / 2 : life * 2 / 3;
  const uint32_t random = readU32(sha256(asBytes(identity)));
  const auto jitter = seconds{life.count() / 20 * static_cast<int64_t>(random >> 16) / 0xffff};
  return notBefore + std::max(seconds{0}, due - jitter);
}

std::chrono::seconds renewalBackoff(int failures) {
  constexpr std::chrono::seconds kMost{6 * 3600};
  const int doublings = std::clamp(failures - 1, 0, 9);
  return std::min(std::chrono::seconds{60} * (1 << doublings), kMost);
}

}  // namespace wayleave::enrolment
