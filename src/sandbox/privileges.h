#pragma once

// Giving up what a daemon does not need: root, capabilities, the right to gain new ones, core dumps. Call while the
// process has one thread: capabilities belong to threads, and a thread that exists already keeps what it has.

#include <sys/capability.h>
#include <sys/types.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace wayleave::sandbox {

struct Account {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
};

// "name", "number" or "number:number". Reads /etc/passwd and /etc/group themselves, not NSS: a daemon that is about to
// be sandboxed must not load the plugins of a directory service. `extraGroups` are added where they exist (a missing
// one is no error: a machine without a TPM has no group tss). Errors: NotFound, BadInput.
Result<Account> findAccount(std::string_view name, std::initializer_list<std::string_view> extraGroups = {});
Result<uid_t> findUser(std::string_view nameOrNumber);   // Errors: NotFound, Io
Result<gid_t> findGroup(std::string_view nameOrNumber);  // Errors: NotFound, Io

// Becomes `account` for good and keeps just `capabilities` (permitted and effective; nothing is inheritable or
// ambient). Without root it only changes capabilities, and an account other than our own is an error. Errors: Io (the
// kernel refused), NotEntitled (not root).
Status becomeUser(const std::optional<Account>& account, std::initializer_list<cap_value_t> capabilities = {});
// Permitted and effective become the part of `capabilities` that we have; bounding and ambient sets are emptied as far
// as we may. Errors: Io.
Status keepOnly(std::initializer_list<cap_value_t> capabilities);
// The part of `wanted` that this process has in its permitted set.
std::vector<cap_value_t> permitted(std::initializer_list<cap_value_t> wanted);

// No setuid program can raise us again. Errors: Io.
Status noNewPrivileges();
// PR_SET_DUMPABLE 0 (which also keeps same-uid processes from attaching a debugger) and RLIMIT_CORE 0. Errors: Io.
Status noCoreDumps();

}  // namespace wayleave::sandbox
