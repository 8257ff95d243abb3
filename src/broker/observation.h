#pragma once

// What the kernel says about a process, read through /proc under a pidfd. Facts only; broker/caller.h judges them.
//
// Two races decide the design.
//   Process id reuse. /proc is opened once by number and everything is read beneath that descriptor, which stays bound
//   to the one process; that it is the pidfd's process is shown by the pidfd still being alive afterwards, since a
//   number is never reused before its process has been reaped. Exec after connect. A hostile program connects, sends
//   its request, and execs (or has a child of its keep the socket while it execs) a program that holds a grant.
//   Credentials do not change with exec. So the caller's own end of this very connection is looked up (unix_diag) and
//   must stand in its descriptor table with close-on-exec set: such a descriptor cannot have survived an exec, so the
//   program being examined is the one that connected. The kernel swaps the executable a moment before it closes
//   descriptors; opening /proc/PID/maps waits for an exec in progress (exec_update_lock), and the descriptor is looked
//   at after that.
//
// A kept connection brings request after request, and all of this for each would cost half as much as a signature. So an
// observation comes with what it *stands* on: the descriptor (still there and closed on exec: no exec since), and what of
// the process can change without an exec, or tells of one. While that is the same, word for word, the observation holds.

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/owned.h"
#include "base/result.h"

namespace wayleave::broker {

enum class ConnectionFinding : uint8_t {
  Own,        // in the caller's table, closes on exec
  Inherited,  // in the caller's table, but would survive an exec: who made it is not known
  Elsewhere,  // not in the caller's table: another process holds it
  Unknown,    // the kernel did not say (no unix_diag, another network namespace, no connection to look at)
};

struct MappedFile {
  std::string path;  // as in maps, with " (deleted)" when it is
  uint64_t inode = 0;
};

struct Observation {
  bool alive = false;      // after everything below had been read
  std::string executable;  // the link's text; " (deleted)" at the end when the file is gone
  Fd image;                // the executable itself, for reading; empty when it could not be opened
  std::string imageProblem;
  std::string fileSystem;  // type, of the mount the executable is on
  std::string cgroup;
  std::optional<pid_t> tracer;  // 0: nobody
  std::optional<bool> dumpable;
  std::vector<std::string> loaderVariables;  // "LD_PRELOAD=/x.so", shortened
  std::string environmentProblem;
  std::vector<MappedFile> code;  // files mapped executable
  std::string codeProblem;
  std::optional<bool> sameUserNamespace;
  ConnectionFinding connection = ConnectionFinding::Unknown;
  std::string connectionDetail;
  int descriptor = -1;  // the caller's own number of the connection
  // standingOf() when all of the above began to be read; empty when the connection is not its own, or when something
  // changed meanwhile: then the next request must be looked at in full.
  std::string standing;
};

// Finds the other end of a unix connection by inode, through a netlink socket opened beforehand (a witness may not
// open one later). Sees connections made in the network namespace it was opened in.
class SocketDiagnosis {
 public:
  static SocketDiagnosis open();  // a kernel without unix_diag: every answer is 0
  ino_t peerOf(ino_t socket);     // 0 when unknown
  // The kernel's one mount of sockets: inode numbers mean nothing without it.
  uint64_t socketMount() const { return mount_; }

 private:
  Fd netlink_;
  uint64_t mount_ = 0;
  uint32_t sequence_ = 0;
};

// Never fails: what cannot be read is said in the fields. `connection`: inode of our end, 0 = none to look at.
// Blocks for about 0.1 ms, longer with many open descriptors.
Observation observe(pid_t pid, int pidfd, ino_t connection, SocketDiagnosis& sockets);

// What an observation stands on, to be compared as a whole; empty when it cannot be read, or the descriptor is gone.
// Whoever compares must know that `pid` is still the process observed (its pidfd has not become readable), afterwards.
// Never waits for an exec or a file system. Blocks for about 0.03 ms.
std::string standingOf(pid_t pid, int descriptor);

// The systemd unit in a cgroup path, empty when there is none that only the system manager can have made: units under
// a user manager, and what a delegated unit makes beneath itself, do not count.
std::string systemUnit(std::string_view cgroup);

}  // namespace wayleave::broker
