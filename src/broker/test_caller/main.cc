// Plays a caller of the broker in tests: connects as it is told, and may then turn into another program.
//
//   connect SOCKET cloexec|inherit              connects, sends one byte, waits for the end
//   exec SOCKET cloexec|inherit PROGRAM ARG…    connects, sends one byte, becomes PROGRAM
//   hold-and-exec SOCKET PROGRAM ARG…           connects; a child of its keeps the connection, it becomes PROGRAM
//   open-and-exec SOCKET FILE PROGRAM ARG…      as exec cloexec, with FILE open, to be closed by the exec
//   map-code SOCKET FILE                        maps FILE as code, as the loader does with a library, and connects
//   map-memory SOCKET                           maps a file that exists in memory alone as code, and connects
//   user-namespace SOCKET                       connects from a user namespace of its own
//   when-told SOCKET exec PROGRAM ARG…          connects; at the first byte it hears it becomes PROGRAM, with LD_PRELOAD set
//   when-told SOCKET hand-on                    … a child of its has the connection, and it no more
//   when-told SOCKET map-code FILE              … it maps FILE as code; after these two it connects again, to say so
//   wait                                        waits until it is killed
//   traced-connect SOCKET                       a child that it traces connects

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

int connectTo(const char* path, bool closeOnExec) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | (closeOnExec ? SOCK_CLOEXEC : 0), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(2);
  if (::write(fd, "x", 1) != 1) ::_exit(3);
  return fd;
}

bool mapCode(int file) {
  return file >= 0 && ::ftruncate(file, 4096) == 0 &&
         ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) != MAP_FAILED;
}

int waitForEnd(int fd) {
  char byte = 0;
  while (::read(fd, &byte, 1) > 0) {
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string_view mode = count > 1 ? arguments[1] : "";
  if (mode == "wait") return ::pause();
  if (mode == "connect" && count == 4)
    return waitForEnd(connectTo(arguments[2], std::string_view(arguments[3]) == "cloexec"));
  if (mode == "exec" && count > 4) {
    connectTo(arguments[2], std::string_view(arguments[3]) == "cloexec");
    ::execv(arguments[4], arguments + 4);
    return 4;
  }
  if (mode == "open-and-exec" && count > 4) {
    if (::open(arguments[3], O_RDONLY | O_CLOEXEC) < 0) return 5;
    connectTo(arguments[2], true);
    ::execv(arguments[4], arguments + 4);
    return 4;
  }
  if (mode == "map-code" && count == 4)
    return mapCode(::open(arguments[3], O_RDWR | O_CLOEXEC)) ? waitForEnd(connectTo(arguments[2], true)) : 5;
  if (mode == "map-memory" && count == 3)
    return mapCode(::memfd_create("library", MFD_CLOEXEC)) ? waitForEnd(connectTo(arguments[2], true)) : 5;
  if (mode == "user-namespace" && count == 3)
    return ::unshare(CLONE_NEWUSER) == 0 ? waitForEnd(connectTo(arguments[2], true)) : 5;
  if (mode == "hold-and-exec" && count > 3) {
    const int fd = connectTo(arguments[2], true);
    const pid_t self = ::getpid();
    if (::fork() == 0) {
      while (::getppid() == self && waitForEnd(fd) != 0) {
      }
      return 0;
    }
    ::execv(arguments[3], arguments + 3);
    return 4;
  }
  if (mode == "when-told" && count > 3) {
    const int fd = connectTo(arguments[2], true);
    const std::string_view action = arguments[3];
    char byte = 0;
    if (::read(fd, &byte, 1) != 1) return 6;
    if (action == "exec" && count > 4) {
      ::setenv("LD_PRELOAD", "/tmp/evil.so", 1);
      ::execv(arguments[4], arguments + 4);
      return 4;
    }
    if (action == "hand-on") {
      const pid_t self = ::getpid();
      if (::fork() == 0) {
        while (::getppid() == self && waitForEnd(fd) != 0) {
        }
        return 0;
      }
      ::close(fd);
    } else if (action == "map-code" && count == 5) {
      if (!mapCode(::open(arguments[4], O_RDWR | O_CLOEXEC))) return 5;
    }
    return waitForEnd(connectTo(arguments[2], true));
  }
  if (mode == "traced-connect" && count == 3) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      return waitForEnd(connectTo(arguments[2], true));
    }
    int status = 0;
    while (::waitpid(child, &status, 0) == child && !WIFEXITED(status) && !WIFSIGNALED(status))
      ::ptrace(PTRACE_CONT, child, nullptr, nullptr);
    return 0;
  }
  return 1;
}
