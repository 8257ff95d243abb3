#include "sandbox/seccomp.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

#include "base/owned.h"
#include "base/sanitizers.h"

namespace wayleave::sandbox {
namespace {

using Filter = std::unique_ptr<void, FreeWith<seccomp_release>>;

// By name, resolved at run time: a name that this machine's libseccomp does not know is skipped.
constexpr std::array kAlways = {
    // memory, threads, signals, time
    "brk", "mmap", "munmap", "mprotect", "mremap", "madvise", "mlock", "mlock2", "munlock", "membarrier", "futex",
    "futex_waitv", "set_robust_list", "get_robust_list", "rseq", "set_tid_address", "sched_yield", "sched_getaffinity",
    "sched_setaffinity", "sched_getparam", "sched_getscheduler", "getcpu", "exit", "exit_group", "rt_sigaction",
    "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "rt_sigpending", "rt_sigsuspend", "sigaltstack",
    "restart_syscall", "tgkill", "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday",
    "time", "getitimer", "pause",
    // who and where we are
    "getpid", "getppid", "gettid", "getpgrp", "getsid", "getuid", "geteuid", "getgid", "getegid", "getresuid",
    "getresgid", "getgroups", "capget", "uname", "sysinfo", "getrusage", "getrlimit", "prlimit64", "times", "prctl",
    "arch_prctl", "umask", "getrandom", "getcwd",
    // descriptors
    "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "close",
    "close_range", "dup", "dup2", "dup3", "fcntl", "lseek", "ioctl", "pipe", "pipe2", "eventfd2", "timerfd_create",
    "timerfd_settime", "timerfd_gettime", "signalfd4", "poll", "ppoll", "select", "pselect6", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "pidfd_open", "pidfd_send_signal",
    // looking at files (opening is below: it depends on the flags)
    "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getdents64", "fadvise64", "flock",
    // sockets (socket and socketpair are below: they depend on the family)
    "sendto", "sendmsg", "recvfrom", "recvmsg"};
constexpr std::array kConnections = {"bind",       "listen",     "accept",   "accept4",  "connect", "getsockname", "getpeername",
                                     "getsockopt", "setsockopt", "sendmmsg", "recvmmsg", "shutdown"};
constexpr std::array kWritesFiles = {"open",   "openat",    "creat",           "rename",    "renameat",    "renameat2",
                                     "unlink", "unlinkat",  "mkdir",           "mkdirat",   "rmdir",       "link",
                                     "linkat", "chmod",     "fchmod",          "fchmodat",  "fchmodat2",   "chown",
                                     "fchown", "fchownat",  "lchown",          "truncate",  "ftruncate",   "fallocate",
                                     "fsync",  "fdatasync", "sync_file_range", "utimensat", "memfd_create"};
constexpr std::array kProcesses = {"clone", "clone3", "fork", "vfork",   "execve", "execveat",
                                   "wait4", "waitid", "kill", "setpgid", "setsid"};
// Refused in every build, even where the allow-list is off.
constexpr std::array kNever = {"ptrace",
                               "process_vm_readv",
                               "process_vm_writev",
                               "process_madvise",
                               "pidfd_getfd",
                               "kcmp",
                               "io_uring_setup",
                               "io_uring_enter",
                               "io_uring_register",
                               "bpf",
                               "perf_event_open",
                               "userfaultfd",
                               "mount",
                               "umount2",
                               "move_mount",
                               "open_tree",
                               "fsopen",
                               "fsmount",
                               "fsconfig",
                               "fspick",
                               "mount_setattr",
                               "pivot_root",
                               "chroot",
                               "unshare",
                               "setns",
                               "keyctl",
                               "add_key",
                               "request_key",
                               "init_module",
                               "finit_module",
                               "delete_module",
                               "kexec_load",
                               "kexec_file_load",
                               "reboot",
                               "swapon",
                               "swapoff",
                               "acct",
                               "quotactl",
                               "open_by_handle_at",
                               "name_to_handle_at",
                               "iopl",
                               "ioperm",
                               "settimeofday",
                               "clock_settime",
                               "adjtimex",
                               "clock_adjtime",
                               "sethostname",
                               "setdomainname",
                               "syslog",
                               "vhangup",
                               "modify_ldt",
                               "personality",
                               "lookup_dcookie"};

class Builder {
 public:
  explicit Builder(uint32_t defaultAction) : filter_(seccomp_init(defaultAction)), default_(defaultAction) {}
  explicit operator bool() const { return filter_ != nullptr; }

  template <size_t N>
  void all(uint32_t action, const std::array<const char*, N>& names) {
    for (const char* name : names) one(action, seccomp_syscall_resolve_name(name));
  }
  void one(uint32_t action, int number) { rule(action, number, {}); }
  void rule(uint32_t action, int number, std::vector<scmp_arg_cmp> arguments) {
    if (number == __NR_SCMP_ERROR || action == default_ || failure_ != 0) return;
    const int code = seccomp_rule_add_array(filter_.get(), action, number, static_cast<unsigned>(arguments.size()),
                                            arguments.data());
    // A call that this architecture lacks is no failure: it cannot be made.
    if (code != 0 && code != -EDOM && code != -EFAULT) failure_ = code;
  }
  Status load() {
    if (failure_ == 0) failure_ = seccomp_attr_set(filter_.get(), SCMP_FLTATR_CTL_TSYNC, 1);
    if (failure_ == 0) failure_ = seccomp_load(filter_.get());
    if (failure_ == 0) return {};
    const Reason reason = failure_ == -EINVAL || failure_ == -ENOSYS ? Reason::Unsupported : Reason::Internal;
    return fail(reason, fmt::format("seccomp filter: error {}", failure_), "the kernel needs CONFIG_SECCOMP_FILTER");
  }

 private:
  Filter filter_;
  uint32_t default_;
  int failure_ = 0;
};

// Conditions on one argument; libseccomp's own macros are C compound literals.
scmp_arg_cmp equals(unsigned index, uint64_t value) { return {index, SCMP_CMP_EQ, value, 0}; }
scmp_arg_cmp below(unsigned index, uint64_t value) { return {index, SCMP_CMP_LT, value, 0}; }
scmp_arg_cmp above(unsigned index, uint64_t value) { return {index, SCMP_CMP_GT, value, 0}; }
scmp_arg_cmp masked(unsigned index, uint64_t mask, uint64_t value) { return {index, SCMP_CMP_MASKED_EQ, mask, value}; }

void refuseOtherFamilies(Builder& builder, std::vector<int> families) {
  // libseccomp ORs rules and cannot say "none of these" in one, so the gaps between the allowed numbers are refused.
  std::ranges::sort(families);
  const int socketCall = SCMP_SYS(socket);
  uint64_t next = 0;
  for (const int family : families) {
    const uint64_t value = static_cast<uint64_t>(family);
    for (uint64_t gap = next; gap < value; ++gap) builder.rule(SCMP_ACT_ERRNO(EPERM), socketCall, {equals(0, gap)});
    next = value + 1;
  }
  if (next == 0) {
    builder.one(SCMP_ACT_ERRNO(EPERM), socketCall);
    return;
  }
  builder.rule(SCMP_ACT_ERRNO(EPERM), socketCall, {above(0, next - 1)});
  builder.rule(SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socketpair), {below(0, AF_UNIX)});
  builder.rule(SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socketpair), {above(0, AF_UNIX)});
}

}  // namespace

bool enforcesAllowList() {
#if defined(WAYLEAVE_ADDRESS_SANITIZER) || defined(WAYLEAVE_THREAD_SANITIZER)
  return false;
#else
  return true;
#endif
}

Status restrictSystemCalls(const SyscallPolicy& policy) {
  Builder builder(enforcesAllowList() ? SCMP_ACT_ERRNO(ENOSYS) : SCMP_ACT_ALLOW);
  if (!builder) return fail(Reason::Internal, "seccomp filter: no memory");
  builder.all(SCMP_ACT_ERRNO(EPERM), kNever);
  if (!enforcesAllowList()) {
    refuseOtherFamilies(builder, policy.socketFamilies);
    return builder.load();
  }

  builder.all(SCMP_ACT_ALLOW, kAlways);
  if (policy.connections) builder.all(SCMP_ACT_ALLOW, kConnections);
  for (const int number : policy.also) builder.one(SCMP_ACT_ALLOW, number);
  for (const int family : policy.socketFamilies)
    builder.rule(SCMP_ACT_ALLOW, SCMP_SYS(socket), {equals(0, static_cast<uint64_t>(family))});
  refuseOtherFamilies(builder, policy.socketFamilies);
  builder.rule(SCMP_ACT_ALLOW, SCMP_SYS(socketpair), {equals(0, AF_UNIX)});
  if (policy.writesFiles) {
    builder.all(SCMP_ACT_ALLOW, kWritesFiles);
  } else {
    constexpr uint64_t kWriting = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND;
    builder.rule(SCMP_ACT_ALLOW, SCMP_SYS(open), {masked(1, kWriting, 0)});
    builder.rule(SCMP_ACT_ALLOW, SCMP_SYS(openat), {masked(2, kWriting, 0)});
  }
  if (policy.processes) {
    builder.all(SCMP_ACT_ALLOW, kProcesses);
  } else {
    // glibc makes threads by clone when clone3, whose flags a filter cannot see, is missing.
    builder.rule(SCMP_ACT_ALLOW, SCMP_SYS(clone), {masked(0, CLONE_THREAD, CLONE_THREAD)});
  }
  return builder.load();
}

}  // namespace wayleave::sandbox
