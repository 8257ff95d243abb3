#pragma once

// When a configuration that could not be applied is tried again. Internal to the engine; on its thread only.

#include <algorithm>
#include <map>
#include <string>

#include "base/clock.h"
#include "management/declarations/declaration.h"

namespace wayleave::management {

class Attempts {
 public:
  struct Entry {
    std::string revision;
    DeclarationReason reason;
    bool mayPass = false;
    int failures = 0;
    Steady notBefore{};
  };

  // What became of this revision last time, or nullptr.
  const Entry* find(const std::string& identifier, const std::string& revision) const {
    const auto found = entries_.find(identifier);
    return found == entries_.end() || found->second.revision != revision ? nullptr : &found->second;
  }
  // What does not pass by itself is not tried again before the revision changes.
  void failed(const std::string& identifier, const std::string& revision, DeclarationReason reason, bool mayPass, Steady now) {
    Entry& entry = entries_[identifier];
    const int before = entry.revision == revision ? entry.failures : 0;
    const std::chrono::seconds pause = std::min<std::chrono::seconds>(std::chrono::seconds{5} * (1 << std::min(before, 10)), std::chrono::hours{1});
    entry = {revision, std::move(reason), mayPass, before + 1, mayPass ? now + pause : Steady::max()};
  }
  void forget(const std::string& identifier) { entries_.erase(identifier); }

 private:
  std::map<std::string, Entry> entries_;
};

}  // namespace wayleave::management
