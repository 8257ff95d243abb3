#pragma once

// The store's file: made, recognised, checked. Everything here happens before the first row is read.

#include <string>

#include "base/result.h"
#include "keychain/sqlite.h"

namespace wayleave::keychain {

// The layout this build reads and writes. A newer file is refused untouched; there is no older one yet.
inline constexpr int kSchemaVersion = 1;

// Opens the file, or creates it with mode 0600. A file of somebody else is recognised (application id) before anything
// is written to it. Errors: Io; BadInput (not ours, damaged); Unsupported is not used: a newer schema is BadInput too.
Result<Database> openStoreFile(const std::string& path);

}  // namespace wayleave::keychain
