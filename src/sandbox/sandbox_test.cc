// Each restriction is applied in a forked child, which tries what must fail and what must still work.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "base/file.h"
#include "sandbox/landlock.h"
#include "sandbox/privileges.h"
#include "sandbox/seccomp.h"

namespace wayleave::sandbox {
namespace {

// Exit status of `child`, which returns 0 when all went as it should, else the number of the step that did not.
int inChild(const std::function<int()>& child) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(child());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

bool canMakeSocket(int family, int type = SOCK_STREAM) {
  return static_cast<bool>(Fd::adopt(::socket(family, type | SOCK_CLOEXEC, 0)));
}

std::string freshFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "wayleave-sandbox.XXXXXX").string();
  return ::mkdtemp(name.data());
}

TEST(Seccomp, LeavesNoInternetSocketToAUnixOnlyPolicy) {
  EXPECT_EQ(0, inChild([] {
              if (!noNewPrivileges()) return 1;
              if (!restrictSystemCalls({.socketFamilies = {AF_UNIX}})) return 2;
              if (canMakeSocket(AF_INET) || errno != EPERM) return 3;
              if (canMakeSocket(AF_INET6)) return 4;
              if (canMakeSocket(AF_INET, SOCK_DGRAM)) return 5;
              if (canMakeSocket(AF_PACKET, SOCK_RAW)) return 6;
              if (canMakeSocket(AF_NETLINK, SOCK_RAW)) return 7;
              if (canMakeSocket(AF_VSOCK)) return 8;
              if (!canMakeSocket(AF_UNIX)) return 9;
              int pair[2];
              if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 10;
              return 0;
            }));
}

TEST(Seccomp, AllowsExactlyTheFamiliesNamed) {
  EXPECT_EQ(0, inChild([] {
              if (!noNewPrivileges()) return 1;
              if (!restrictSystemCalls({.socketFamilies = {AF_INET6, AF_UNIX}})) return 2;
              if (canMakeSocket(AF_INET)) return 3;
              if (!canMakeSocket(AF_INET6) && errno == EPERM) return 4;
              if (!canMakeSocket(AF_UNIX)) return 5;
              return 0;
            }));
}

TEST(Seccomp, ClosesTheWaysAroundTheFilter) {
  EXPECT_EQ(0, inChild([] {
              if (!noNewPrivileges() || !restrictSystemCalls({.socketFamilies = {AF_UNIX}})) return 1;
              if (::syscall(SYS_io_uring_setup, 1, nullptr) != -1 || errno != EPERM) return 2;
              if (::syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0) != -1 || errno != EPERM) return 3;
              if (::unshare(CLONE_NEWUSER) != -1 || errno != EPERM) return 4;
              if (::syscall(SYS_process_vm_readv, ::getpid(), nullptr, 0, nullptr, 0, 0) != -1 || errno != EPERM)
                return 5;
              return 0;
            }));
}

TEST(Seccomp, LetsThreadsStartButNoProcesses) {
  if (!enforcesAllowList()) GTEST_SKIP() << "sanitizer builds enforce only what is never allowed";
  EXPECT_EQ(0, inChild([] {
              if (!noNewPrivileges() || !restrictSystemCalls({.socketFamilies = {AF_UNIX}})) return 1;
              bool ran = false;
              std::thread([&] { ran = true; }).join();
              if (!ran) return 2;
              const pid_t pid = ::fork();
              if (pid == 0) ::_exit(0);
              return pid == -1 ? 0 : 3;
            }));
}

TEST(Seccomp, ReadOnlyPolicyOpensNothingForWriting) {
  if (!enforcesAllowList()) GTEST_SKIP() << "sanitizer builds enforce only what is never allowed";
  EXPECT_EQ(0, inChild([] {
              if (!noNewPrivileges() || !restrictSystemCalls({.socketFamilies = {}, .connections = false, .writesFiles = false})) return 1;
              if (!Fd::adopt(::open("/etc/passwd", O_RDONLY))) return 2;
              if (Fd::adopt(::open("/dev/null", O_RDWR))) return 3;
              if (Fd::adopt(::open("/tmp/wayleave-never", O_CREAT | O_WRONLY, 0600))) return 4;
              if (canMakeSocket(AF_UNIX)) return 5;
              return 0;
            }));
}

TEST(Landlock, LeavesOnlyTheNamedFolders) {
  const std::string folder = freshFolder();
  ASSERT_TRUE(ensureFolder(folder + "/state", 0700));
  ASSERT_TRUE(ensureFolder(folder + "/config", 0700));
  ASSERT_TRUE(writeFileAtomically(folder + "/config/a", asBytes("a")));
  ASSERT_TRUE(writeFileAtomically(folder + "/outside", asBytes("secret")));
  const int outcome = inChild([&] {
    if (!noNewPrivileges()) return 1;
    const Result<int> abi =
        restrictFiles({.paths = {{folder + "/state", true}, {folder + "/config", false}, {"/no/such", true}}});
    if (!abi) return 2;
    if (*abi == 0) return 77;
    if (!writeFileAtomically(folder + "/state/b", asBytes("b"))) return 3;
    if (!readFile(folder + "/config/a", 10)) return 4;
    if (writeFileAtomically(folder + "/config/c", asBytes("c"))) return 5;
    if (readFile(folder + "/outside", 10)) return 6;
    if (*abi >= 4) {
      const Fd tcp = Fd::adopt(::socket(AF_INET, SOCK_STREAM, 0));
      sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
      if (tcp && ::bind(tcp.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return 7;
    }
    return 0;
  });
  std::filesystem::remove_all(folder);
  if (outcome == 77) GTEST_SKIP() << "this kernel has no Landlock";
  EXPECT_EQ(0, outcome);
}

TEST(Privileges, GivesUpRootForGoodAndKeepsOneCapability) {
  const Result<Bytes> groups = readFile("/proc/self/setgroups", 16);
  if (::geteuid() != 0 || !groups || !asText(*groups).starts_with("allow"))
    GTEST_SKIP() << "needs root, or a user namespace with more than one user";
  EXPECT_EQ(0, inChild([] {
              const Account account{.uid = 64101, .gid = 64101, .groups = {64109}};
              if (const Status became = becomeUser(account, {CAP_NET_ADMIN}); !became)
                return became.error().message.find("Invalid argument") != std::string::npos ? 0
                                                                                            : 1;  // uid not mapped here
              if (::geteuid() != 64101 || ::getegid() != 64101) return 2;
              if (permitted({CAP_NET_ADMIN}).size() != 1) return 3;
              if (!permitted({CAP_SYS_PTRACE, CAP_SETUID, CAP_DAC_OVERRIDE, CAP_SYS_ADMIN}).empty()) return 4;
              if (::setuid(0) == 0) return 5;
              gid_t kept[4];
              if (::getgroups(4, kept) != 1 || kept[0] != 64109) return 6;
              return 0;
            }));
}

TEST(Privileges, RefusesAnotherUserWithoutRoot) {
  EXPECT_EQ(0, inChild([] {
              if (::geteuid() == 0 && ::setuid(64101) != 0) return 0;
              const Status became = becomeUser(Account{.uid = 64102, .gid = 64102, .groups = {}});
              return !became && became.error().reason == Reason::NotEntitled ? 0 : 1;
            }));
}

TEST(Privileges, LeavesNoCoreDumps) {
  EXPECT_EQ(0, inChild([] {
              if (!noCoreDumps()) return 1;
              if (::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) return 2;
              rlimit limit{};
              ::getrlimit(RLIMIT_CORE, &limit);
              return limit.rlim_max == 0 ? 0 : 3;
            }));
}

TEST(Accounts, AreFoundByNameNumberAndPair) {
  EXPECT_EQ(0u, findUser("root").value());
  EXPECT_EQ(4242u, findUser("4242").value());
  EXPECT_EQ(0u, findGroup("root").value());
  const Account pair = findAccount("64101:64103", {"no-such-group-here"}).value();
  EXPECT_EQ(64101u, pair.uid);
  EXPECT_EQ(64103u, pair.gid);
  EXPECT_TRUE(pair.groups.empty());
  EXPECT_EQ(Reason::NotFound, findAccount("no-such-user-here").error().reason);
  EXPECT_EQ(Reason::BadInput, findAccount(":5").error().reason);
}

}  // namespace
}  // namespace wayleave::sandbox
