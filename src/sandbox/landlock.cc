#include "sandbox/landlock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/owned.h"

namespace wayleave::sandbox {
namespace {

// Debian 12's headers stop at ABI 2; these are include/uapi/linux/landlock.h of Linux 6.15 (ABI 7).
struct RulesetAttributes {
  uint64_t handledFiles;
  uint64_t handledNetwork;
  uint64_t scoped;
};
struct [[gnu::packed]] PathBeneath {
  uint64_t allowed;
  int32_t parent;
};
constexpr uint32_t kVersionFlag = 1;  // LANDLOCK_CREATE_RULESET_VERSION
constexpr int kRulePathBeneath = 1;
constexpr uint64_t kExecute = 1 << 0, kWriteFile = 1 << 1, kReadFile = 1 << 2, kReadDir = 1 << 3;
constexpr uint64_t kRefer = 1 << 13, kTruncate = 1 << 14, kIoctlDev = 1 << 15;
constexpr uint64_t kUpToAbi1 = (1 << 13) - 1;

uint64_t handledFiles(int abi) {
  uint64_t access = kUpToAbi1;
  if (abi >= 2) access |= kRefer;
  if (abi >= 3) access |= kTruncate;
  if (abi >= 5) access |= kIoctlDev;
  return access;
}

}  // namespace

Result<int> restrictFiles(const FilePolicy& policy) {
  const int abi = static_cast<int>(::syscall(SYS_landlock_create_ruleset, nullptr, 0, kVersionFlag));
  if (abi <= 0) return 0;

  RulesetAttributes attributes{.handledFiles = handledFiles(abi), .handledNetwork = 0, .scoped = 0};
  size_t size = sizeof attributes.handledFiles;
  if (abi >= 4) {
    size += sizeof attributes.handledNetwork;
    if (policy.denyTcp) attributes.handledNetwork = 0b11;  // BIND_TCP, CONNECT_TCP
  }
  if (abi >= 6) {
    size += sizeof attributes.scoped;
    attributes.scoped = 0b11;  // ABSTRACT_UNIX_SOCKET, SIGNAL
  }
  const Fd ruleset = Fd::adopt(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, size, 0)));
  if (!ruleset) return std::unexpected(errnoError(errno, "create the Landlock ruleset"));

  for (const FileAccess& entry : policy.paths) {
    const Fd path = Fd::adopt(::open(entry.path.c_str(), O_PATH | O_CLOEXEC));
    if (!path) continue;
    struct stat info{};
    if (::fstat(path.borrow(), &info) != 0) return std::unexpected(errnoError(errno, entry.path));
    uint64_t allowed = kReadFile | kReadDir;
    if (entry.write) allowed = attributes.handledFiles & ~kExecute;
    if (!S_ISDIR(info.st_mode)) allowed &= kReadFile | kWriteFile | kTruncate | kIoctlDev;
    allowed &= attributes.handledFiles;
    const PathBeneath rule{allowed, path.borrow()};
    if (::syscall(SYS_landlock_add_rule, ruleset.borrow(), kRulePathBeneath, &rule, 0) != 0)
      return std::unexpected(errnoError(errno, "Landlock rule for " + entry.path));
  }
  if (::syscall(SYS_landlock_restrict_self, ruleset.borrow(), 0) != 0)
    return std::unexpected(errnoError(errno, "apply the Landlock ruleset"));
  return abi;
}

}  // namespace wayleave::sandbox
