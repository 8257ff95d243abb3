#pragma once

// What an enrolment has reached, on disk before the next step begins, so that a crash at any step neither loses a key nor
// orders twice. One small file per enrolment; whoever finishes or gives up removes it.

#include <string>

#include "base/result.h"

namespace wayleave::enrolment {

struct JournalEntry {
  std::string key;        // the key's id in identityd, once made
  std::string directory;  // DirectoryURL the order belongs to
  std::string order;      // order URL, once placed
  bool answered = false;  // the challenge was answered: its key authorization is spent
  bool operator==(const JournalEntry&) const = default;
};

class Journal {
 public:
  // `path` need not exist yet. Errors: Io; BadInput (a file that is not ours: it is reported, never overwritten).
  static Result<Journal> open(std::string path);

  const JournalEntry& entry() const { return entry_; }
  Status record(JournalEntry entry);  // atomic, synced
  Status remove();

 private:
  explicit Journal(std::string path) : path_(std::move(path)) {}
  std::string path_;
  JournalEntry entry_;
};

}  // namespace wayleave::enrolment
