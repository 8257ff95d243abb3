// The two daemons with a network, confined as they are, in a child that tries what each must and must not do.

#include "sandbox/daemons.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "base/file.h"
#include "sandbox/privileges.h"

namespace wayleave::sandbox {
namespace {

class DaemonsTest : public testing::Test {
 protected:
  DaemonsTest() {
    std::string name = (std::filesystem::temp_directory_path() / "wayleave-daemons.XXXXXX").string();
    folder = ::mkdtemp(name.data());
    for (const char* part : {"/state", "/run", "/identity"}) EXPECT_TRUE(ensureFolder(folder + part, 0700));
    EXPECT_TRUE(writeFileAtomically(folder + "/identity/machine.key", asBytes("secret")));
  }
  ~DaemonsTest() override { std::filesystem::remove_all(folder); }

  // 0, or the number of the step that went wrong.
  int confined(const Confinement& confinement, const std::function<int()>& steps) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(!noNewPrivileges() || !noCoreDumps() || !confine(confinement) ? 100 : steps());
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  // What neither may do.
  int neither() const {
    for (const int family : {AF_PACKET, AF_VSOCK, AF_BLUETOOTH, AF_ALG, AF_KEY})
      if (Fd::adopt(::socket(family, SOCK_RAW, 0)) || errno != EPERM) return 1;
    if (::syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0) != -1) return 2;
    if (::unshare(CLONE_NEWUSER) != -1 || errno != EPERM) return 3;
    if (::syscall(SYS_io_uring_setup, 1, nullptr) != -1 || errno != EPERM) return 4;
    if (::syscall(SYS_process_vm_readv, ::getppid(), nullptr, 0, nullptr, 0, 0) != -1 || errno != EPERM) return 5;
    if (landlock && readFile(folder + "/identity/machine.key", 100)) return 6;
    if (landlock && writeFileAtomically(folder + "/identity/planted", asBytes("x"))) return 7;
    if (!enforcesAllowList()) return 0;
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(0);
    if (pid > 0) return 8;
    char* const arguments[] = {nullptr};
    if (::execve("/bin/true", arguments, arguments) != -1 || errno != ENOSYS) return 9;
    if (::kill(::getppid(), 0) != -1) return 10;
    return 0;
  }
  // What both must.
  int both() const {
    for (const int family : {AF_INET, AF_UNIX, AF_NETLINK})
      if (!Fd::adopt(::socket(family, family == AF_NETLINK ? SOCK_RAW : SOCK_STREAM, 0))) return 20;
    if (!readFile("/etc/passwd", 1 << 20)) return 21;
    bool ran = false;
    std::thread([&] { ran = true; }).join();
    if (!ran) return 22;
    // Its socket's file, from beginning to end.
    const std::string path = folder + "/run/s";
    const Fd socket = Fd::adopt(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::bind(socket.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return 23;
    if (::chmod(path.c_str(), 0666) != 0 || ::listen(socket.borrow(), 1) != 0) return 24;
    if (::unlink(path.c_str()) != 0) return 25;
    return 0;
  }

  std::string folder;
  const bool landlock = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) > 0;
};

TEST_F(DaemonsTest, ManagementdWritesItsStateAndNothingElse) {
  EXPECT_EQ(0, confined(managementdConfinement(folder + "/state", folder + "/run"), [&] {
              if (!writeFileAtomically(folder + "/state/management.db", asBytes("x"))) return 30;
              if (enforcesAllowList() && ::syscall(SYS_splice, -1, nullptr, -1, nullptr, 1, 0) == -1 && errno != ENOSYS)
                return 31;
              const int step = neither();
              return step != 0 ? step : both();
            }));
}

TEST_F(DaemonsTest, ProxydOpensNothingForWriting) {
  EXPECT_EQ(0, confined(proxydConfinement(folder + "/run", {folder + "/identity-socket"}), [&] {
              if (landlock && writeFileAtomically(folder + "/state/x", asBytes("x"))) return 30;
              if (enforcesAllowList() && Fd::adopt(::open((folder + "/run/x").c_str(), O_CREAT | O_WRONLY, 0600)))
                return 31;
              if (::syscall(SYS_splice, -1, nullptr, -1, nullptr, 1, 0) != -1 || errno != EBADF) return 32;
              const int step = neither();
              return step != 0 ? step : both();
            }));
}

}  // namespace
}  // namespace wayleave::sandbox
