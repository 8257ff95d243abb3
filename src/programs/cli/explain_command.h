#pragma once

// wayleave explain: what a reference, an OSStatus, a keychain, a profile or a declaration means. Offline.

#include <CLI/CLI.hpp>

namespace wayleave::cli {

// `exitCode` is set when the command has run: 0 explained; 3 the predicted lookup fails or the reference names nothing
// in the given keychain; 4 an export was refused; 6 input refused.
void addExplainCommand(CLI::App& app, int& exitCode);

}  // namespace wayleave::cli
