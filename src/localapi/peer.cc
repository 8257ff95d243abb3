#include "localapi/peer.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace wayleave::localapi {
namespace {

// Since Linux 6.5; Debian 12's headers are older than that.
constexpr int kSoPeerPidfd = 77;

// The kernel's bound on supplementary groups is 65536 (NGROUPS_MAX); a process with more than this is no caller of ours.
constexpr size_t kMostGroups = 65536;

Result<std::vector<gid_t>> groupsOf(int socket) {
  std::vector<gid_t> groups(32);
  for (;;) {
    socklen_t length = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length) == 0) {
      groups.resize(length / sizeof(gid_t));
      return groups;
    }
    if (errno != ERANGE || length / sizeof(gid_t) > kMostGroups)
      return std::unexpected(errnoError(errno, "read the peer's groups"));
    groups.resize(length / sizeof(gid_t));
  }
}

Fd pidfdOf(int socket, pid_t pid) {
  int raw = -1;
  socklen_t length = sizeof raw;
  if (getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &raw, &length) == 0) return Fd::adopt(raw);
  if (errno != ENOPROTOOPT) return {};  // the kernel knows the option: the peer is gone
  return Fd::adopt(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

}  // namespace

Result<Peer> peerOf(int socket) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    return std::unexpected(errnoError(errno, "read the peer's credentials"));
  Result<std::vector<gid_t>> groups = groupsOf(socket);
  if (!groups) return propagate(groups.error());

  Peer peer;
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;
  peer.gid = credentials.gid;
  peer.groups = std::move(*groups);
  peer.pidfd = pidfdOf(socket, credentials.pid);
  struct stat info{};
  if (fstat(socket, &info) == 0) peer.connection = info.st_ino;
  return peer;
}

bool isAdministrator(const Peer& peer, std::optional<gid_t> administrators) {
  if (peer.uid == 0 || peer.uid == geteuid()) return true;
  if (!administrators) return false;
  return peer.gid == *administrators || std::ranges::find(peer.groups, *administrators) != peer.groups.end();
}

}  // namespace wayleave::localapi
