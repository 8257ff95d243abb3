#include "sandbox/privileges.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>

#include "base/owned.h"
#include "base/sanitizers.h"

#if defined(WAYLEAVE_ADDRESS_SANITIZER)
// LeakSanitizer attaches to its own process at exit, which an undumpable process does not allow: without this every
// hardened daemon of a sanitizer build would end with its fatal error.
extern "C" int __lsan_is_turned_off();
extern "C" int __lsan_is_turned_off() { return ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1 ? 0 : 1; }
#endif

namespace wayleave::sandbox {
namespace {

struct CapFree {
  void operator()(cap_t caps) const { cap_free(caps); }
};
using Caps = std::unique_ptr<std::remove_pointer_t<cap_t>, CapFree>;
using File = Handle<FILE, fclose>;

std::optional<uint32_t> number(std::string_view text) {
  uint32_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<File> openDatabase(const char* path) {
  File file(::fopen(path, "re"));
  if (!file) return std::unexpected(errnoError(errno, path));
  return file;
}

// Needs CAP_SETPCAP, which an unprivileged daemon lacks; no_new_privs makes the bounding set moot there.
void dropBounding(const std::vector<cap_value_t>& kept) {
  for (cap_value_t value = 0; cap_get_bound(value) >= 0; ++value)
    if (std::ranges::find(kept, value) == kept.end()) (void)cap_drop_bound(value);
}

struct PasswdEntry {
  uid_t uid;
  gid_t gid;
};
Result<PasswdEntry> passwdEntry(std::string_view name) {
  Result<File> file = openDatabase("/etc/passwd");
  if (!file) return propagate(file.error());
  while (const passwd* entry = ::fgetpwent(file->get()))
    if (name == entry->pw_name) return PasswdEntry{entry->pw_uid, entry->pw_gid};
  return fail(Reason::NotFound, fmt::format("there is no user '{}'", name), "create it, or give a number");
}

}  // namespace

Result<uid_t> findUser(std::string_view nameOrNumber) {
  if (const auto value = number(nameOrNumber)) return *value;
  const Result<PasswdEntry> entry = passwdEntry(nameOrNumber);
  if (!entry) return propagate(entry.error());
  return entry->uid;
}

Result<gid_t> findGroup(std::string_view nameOrNumber) {
  if (const auto value = number(nameOrNumber)) return *value;
  Result<File> file = openDatabase("/etc/group");
  if (!file) return propagate(file.error());
  while (const group* entry = ::fgetgrent(file->get()))
    if (nameOrNumber == entry->gr_name) return entry->gr_gid;
  return fail(Reason::NotFound, fmt::format("there is no group '{}'", nameOrNumber), "create it, or give a number");
}

Result<Account> findAccount(std::string_view name, std::initializer_list<std::string_view> extraGroups) {
  Account account;
  const size_t colon = name.find(':');
  const std::string_view user = name.substr(0, colon);
  if (user.empty()) return fail(Reason::BadInput, "the user is empty", "give a name, a number, or uid:gid");
  if (const auto uid = number(user)) {
    account.uid = *uid;
    account.gid = *uid;
  } else {
    const Result<PasswdEntry> entry = passwdEntry(user);
    if (!entry) return propagate(entry.error());
    account.uid = entry->uid;
    account.gid = entry->gid;
  }
  if (colon != std::string_view::npos) {
    const Result<gid_t> gid = findGroup(name.substr(colon + 1));
    if (!gid) return propagate(gid.error());
    account.gid = *gid;
  }
  for (const std::string_view extra : extraGroups)
    if (const Result<gid_t> gid = findGroup(extra)) account.groups.push_back(*gid);
  return account;
}

std::vector<cap_value_t> permitted(std::initializer_list<cap_value_t> wanted) {
  std::vector<cap_value_t> held;
  const Caps caps(cap_get_proc());
  for (const cap_value_t value : wanted) {
    cap_flag_value_t set = CAP_CLEAR;
    if (caps && cap_get_flag(caps.get(), value, CAP_PERMITTED, &set) == 0 && set == CAP_SET) held.push_back(value);
  }
  return held;
}

Status keepOnly(std::initializer_list<cap_value_t> capabilities) {
  const std::vector<cap_value_t> held = permitted(capabilities);
  dropBounding(held);
  (void)cap_reset_ambient();
  const Caps caps(cap_init());
  if (!caps) return std::unexpected(errnoError(errno, "prepare capabilities"));
  for (const cap_value_t value : held)
    for (const cap_flag_t flag : {CAP_PERMITTED, CAP_EFFECTIVE})
      if (cap_set_flag(caps.get(), flag, 1, &value, CAP_SET) != 0)
        return std::unexpected(errnoError(errno, "prepare capabilities"));
  if (cap_set_proc(caps.get()) != 0) return std::unexpected(errnoError(errno, "give up capabilities"));
  return {};
}

Status becomeUser(const std::optional<Account>& account, std::initializer_list<cap_value_t> capabilities) {
  if (account && (account->uid != ::geteuid() || account->gid != ::getegid())) {
    if (::geteuid() != 0)
      return fail(Reason::NotEntitled, fmt::format("only root can become uid {}", account->uid),
                  "start as root, or as that user");
    dropBounding(permitted(capabilities));  // later we lack the right to
    // Across the change of uid the kernel clears every capability unless told not to.
    if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return std::unexpected(errnoError(errno, "keep capabilities"));
    if (::setgroups(account->groups.size(), account->groups.data()) != 0)
      return std::unexpected(errnoError(errno, "set the groups"));
    if (::setresgid(account->gid, account->gid, account->gid) != 0)
      return std::unexpected(errnoError(errno, fmt::format("become gid {}", account->gid)));
    if (::setresuid(account->uid, account->uid, account->uid) != 0)
      return std::unexpected(errnoError(errno, fmt::format("become uid {}", account->uid)));
  }
  if (const Status kept = keepOnly(capabilities); !kept) return kept;
  if (account && account->uid != 0 && ::setresuid(0, 0, 0) == 0)
    return fail(Reason::Internal, "root could be regained after giving it up");
  return {};
}

Status noNewPrivileges() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return std::unexpected(errnoError(errno, "set no_new_privs"));
  return {};
}

Status noCoreDumps() {
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) return std::unexpected(errnoError(errno, "limit core dumps"));
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return std::unexpected(errnoError(errno, "become undumpable"));
  return {};
}

}  // namespace wayleave::sandbox
