#pragma once

// Profiles that go by themselves: at their RemovalDate, or DurationUntilRemoval seconds after their installation, whichever is
// earlier.
//
// A clock that jumps must neither remove a profile early nor keep it for ever:
// - RemovalDate is a moment of the wall clock, and nothing else can tell it. It counts as reached when the clock has said so
//   for `settle`, which outlasts the moment between a wrong clock at boot and its correction.
// - A duration is counted by the time since boot, sleep included, which does not jump. What was counted is written down now and
//   then, with the boot it belongs to. Within one boot a restarted daemon reads the difference; over a reboot only the wall clock
//   knows, so it is believed after `settle`, and never backwards.

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "management/management_store.h"
#include "management/profile.h"

namespace wayleave::management {

// ProfileRecord::removal of a profile that is installed now; empty when it stays.
std::string removalOf(const Profile& profile, Wall now);
// When it goes, as far as can be told: RFC 3339, or empty.
std::string expectedRemoval(const ProfileRecord& profile);

class ProfileExpiry {
 public:
  struct Parts {
    ManagementStore& store;
    const Clock& clock;  // the wall clock
    // Time since boot, sleep included, and which boot that is.
    std::function<std::chrono::milliseconds()> uptime;
    std::string boot;
    std::chrono::milliseconds settle = std::chrono::seconds{10};
  };
  // The kernel's.
  static std::chrono::milliseconds uptime();
  static std::string boot();

  explicit ProfileExpiry(Parts parts);

  struct Look {
    std::vector<std::string> due;                    // identifiers of installed profiles
    std::optional<std::chrono::milliseconds> again;  // when to look again; nullopt: not before a profile was installed
  };
  Look look();

 private:
  const Parts parts_;
  const std::chrono::milliseconds started_;
  std::map<std::string, std::chrono::milliseconds> dueSince_;  // installation → uptime at which it was first seen to be due
};

}  // namespace wayleave::management
