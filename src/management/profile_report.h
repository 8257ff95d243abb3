#pragma once

// Collects findings while a profile is read, and knows the line of each key path.

#include <string>
#include <string_view>
#include <vector>

#include "management/profile_finding.h"
#include "plist/plist.h"

namespace wayleave::management {

// A name or value from the file, fit for a message: at most 100 characters, control characters replaced.
std::string shown(std::string_view text);

class Report {
 public:
  explicit Report(std::vector<Finding>& findings) : findings_(findings) {}

  void useLines(plist::Lines lines) { lines_ = std::move(lines); }
  // Names the payload that the next findings are about; "" returns to the top level.
  void setPayload(std::string payload) { payload_ = std::move(payload); }

  void error(std::string keyPath, std::string message, std::string hint = {}, Reason reason = Reason::BadInput) {
    add(Severity::Error, std::move(keyPath), std::move(message), std::move(hint), reason);
  }
  void warn(std::string keyPath, std::string message, std::string hint = {}) {
    add(Severity::Warning, std::move(keyPath), std::move(message), std::move(hint), Reason::BadInput);
  }
  void note(std::string keyPath, std::string message, std::string hint = {}) {
    add(Severity::Note, std::move(keyPath), std::move(message), std::move(hint), Reason::BadInput);
  }

 private:
  void add(Severity severity, std::string keyPath, std::string message, std::string hint, Reason reason);
  uint32_t lineOf(std::string_view keyPath) const;

  std::vector<Finding>& findings_;
  plist::Lines lines_;
  std::string payload_;
  bool full_ = false;
};

}  // namespace wayleave::management
