#pragma once

// Whole files, read with a bound and replaced without a moment in which neither the old nor the new one is there.

#include <sys/types.h>

#include <string>

#include "base/bytes.h"
#include "base/owned.h"
#include "base/result.h"

namespace wayleave {

// Reads a regular file (or a pipe, for `-` use readAll). Errors: NotFound, Io, BadInput when it is larger than `limit` bytes.
Result<Bytes> readFile(const std::string& path, size_t limit);
// Reads a descriptor to its end. Errors: Io, BadInput when more than `limit` bytes come.
Result<Bytes> readAll(int fd, size_t limit);
// Writes a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder. Errors: Io.
Status writeFileAtomically(const std::string& path, ByteView bytes, mode_t mode = 0600);
// Creates one folder with exactly `mode`, or checks that it exists as a folder. Errors: Io.
Status ensureFolder(const std::string& path, mode_t mode);

}  // namespace wayleave
