#pragma once

// Which part of the file system a daemon may touch, by Landlock (kernel 5.13 and later; what a kernel does not know is
// left out). Also refused, where the kernel can: TCP bind and connect, signals and abstract sockets to processes
// outside. Paths opened with O_PATH, stat, and connecting to a unix socket by its path are not restricted by Landlock.

#include <string>
#include <vector>

#include "base/result.h"

namespace wayleave::sandbox {

struct FileAccess {
  std::string path;  // a folder (with everything beneath) or a file; a path that does not exist is skipped
  bool write = false;
};

struct FilePolicy {
  std::vector<FileAccess> paths;
  bool denyTcp = true;
};

// For the calling thread and the threads it makes later: call it before there are others. Needs no_new_privs.
// Returns the kernel's Landlock ABI version, 0 when it has none (nothing is restricted then: say so in the log).
// Errors: Io.
Result<int> restrictFiles(const FilePolicy& policy);

}  // namespace wayleave::sandbox
