#pragma once

// What identityd gives up before it serves anybody (generic pieces: sandbox/). Afterwards: no root, no capability, no
// way to new ones; no socket but unix ones, no new process, no tracing; files only in its state folder and what it must
// read; no core dump, no debugger of the same user; private numbers of software keys in locked memory, as far as the
// limit allows.

#include <string>

#include "base/result.h"

namespace wayleave::broker {

struct HardeningOptions {
  std::string stateFolder;
  std::string socketFolder;
  std::string grantsFolder;
  std::string tcti;  // its device, if it names one
};

// For a process that has become its own user already, before it makes its first thread. Errors: Io, Unsupported (a
// kernel without seccomp): then do not serve. A kernel without Landlock is logged and accepted.
Status harden(const HardeningOptions& options);

}  // namespace wayleave::broker
