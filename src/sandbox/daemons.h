#pragma once

// What each daemon with a network keeps, in one place each, so that a test can hold it to that. (identityd's is
// broker/hardening.h, the witnesses' broker/witness_process.h.)

#include <string>

#include "base/result.h"
#include "sandbox/landlock.h"
#include "sandbox/seccomp.h"

namespace wayleave::sandbox {

struct Confinement {
  FilePolicy files;
  SyscallPolicy calls;
};

// Writes its state and its socket; reads what names, CA certificates and libraries are found by.
Confinement managementdConfinement(const std::string& stateFolder, const std::string& socketFolder);

// Opens nothing for writing: its flows are sockets, and its own socket's file is made and removed by other calls. Moves
// bytes by splice. `otherSocketFolders`: where the daemons listen that it asks.
Confinement proxydConfinement(const std::string& socketFolder, const std::vector<std::string>& otherSocketFolders);

// Landlock, then seccomp; for good. Needs no_new_privs and a process with one thread. A kernel without Landlock is
// logged and accepted. Errors: Io, Unsupported (a kernel without seccomp), Internal.
Status confine(const Confinement& confinement);

}  // namespace wayleave::sandbox
