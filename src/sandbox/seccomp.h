#pragma once

// Which system calls a daemon may make, as a seccomp filter (libseccomp). An allow-list: what is not named fails with
// ENOSYS, so that the C library falls back to its older ways. Whatever the list says, these are never allowed: other
// address families than the policy's, io_uring (it makes sockets past the filter), other architectures' calls, tracing,
// mounting, namespaces, kernel keyrings, BPF.
//
// Under AddressSanitizer and ThreadSanitizer the allow-list would have to follow the sanitizers' runtime; there only
// the "never" list is enforced, which still proves the address families.

#include <vector>

#include "base/result.h"

namespace wayleave::sandbox {

struct SyscallPolicy {
  // First argument of socket(): everything else fails with EPERM. socketpair is AF_UNIX only.
  std::vector<int> socketFamilies;
  // bind, listen, accept, connect and what belongs to them. Without: only the sockets that are there already, or netlink.
  bool connections = true;
  // fork, execve, wait. Threads are always allowed.
  bool processes = false;
  // May the process write to file systems (create, rename, remove), or only read?
  bool writesFiles = true;
  // More system calls by number (SCMP_SYS), for what a daemon alone needs.
  std::vector<int> also;
};

// For every thread of the process, and for good. Needs no_new_privs. Errors: Unsupported (a kernel without seccomp),
// Internal.
Status restrictSystemCalls(const SyscallPolicy& policy);

// Does this build enforce the allow-list, or (sanitizers) just the list of what is never allowed?
bool enforcesAllowList();

}  // namespace wayleave::sandbox
