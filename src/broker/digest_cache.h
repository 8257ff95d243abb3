#pragma once

// SHA-256 of executables, remembered by what the kernel changes whenever a file's contents change.

#include <sys/stat.h>

#include <map>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "base/owned.h"
#include "base/result.h"
#include "broker/token_bucket.h"

namespace wayleave::broker {

struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  int64_t modifiedNs = 0;
  int64_t changedNs = 0;  // ctime cannot be set back by the file's owner
  auto operator<=>(const FileIdentity&) const = default;
  static FileIdentity of(const struct stat& info);
};

class DigestCache {
 public:
  // Larger executables exist (browsers reach 300 MB); hashing one takes about a second of a core.
  static constexpr off_t kMostBytes = 512 * 1024 * 1024;
  // What one user's programs may make us hash: a burst, then bytes per second. Fresh copies of a large file are how a
  // caller would keep the broker busy (the SPIRE agent documents the same hole).
  static constexpr double kBurstBytes = 512.0 * 1024 * 1024;
  static constexpr double kBytesPerSecond = 16.0 * 1024 * 1024;

  explicit DigestCache(const Clock& clock) : clock_(clock) {}
  // Lower-case hex. `uid` pays. Thread-safe; blocks while it reads. Errors: BadInput (too large, changed while it was
  // read, not a regular file), RateLimited, Io.
  Result<std::string> digest(const Fd& file, uid_t uid);

 private:
  const Clock& clock_;
  std::mutex mutex_;
  std::map<FileIdentity, std::string> known_;
  std::map<uid_t, TokenBucket> budgets_;
};

}  // namespace wayleave::broker
