#include "capture/linux/owner_lookup.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fmt/format.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>

namespace wayleave::capture::platform {
namespace {

struct Query {
  nlmsghdr header;
  inet_diag_req_v2 body;
};

}  // namespace

Result<OwnerLookup> OwnerLookup::open() {
  Fd socket = Fd::adopt(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!socket) return std::unexpected(errnoError(errno, "open a sock_diag socket"));
  return OwnerLookup(std::move(socket));
}

std::optional<Owner> OwnerLookup::find(const Endpoint& source, const Endpoint& destination) {
  Query query{};
  query.header.nlmsg_len = sizeof query;
  query.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  query.header.nlmsg_flags = NLM_F_REQUEST;
  query.header.nlmsg_seq = ++sequence_;
  query.body.sdiag_family = source.address.v6 ? AF_INET6 : AF_INET;
  query.body.sdiag_protocol = IPPROTO_TCP;
  query.body.idiag_states = ~0u;
  const size_t bytes = source.address.v6 ? 16 : 4;
  std::memcpy(query.body.id.idiag_src, source.address.bytes.data(), bytes);
  std::memcpy(query.body.id.idiag_dst, destination.address.bytes.data(), bytes);
  query.body.id.idiag_sport = htons(source.port);
  query.body.id.idiag_dport = htons(destination.port);
  query.body.id.idiag_cookie[0] = query.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  if (::send(socket_.borrow(), &query, sizeof query, 0) < 0) return std::nullopt;

  alignas(nlmsghdr) std::array<char, 1024> answer;
  for (;;) {
    const ssize_t got = ::recv(socket_.borrow(), answer.data(), answer.size(), MSG_DONTWAIT);
    if (got < static_cast<ssize_t>(sizeof(nlmsghdr))) return std::nullopt;
    const auto* header = reinterpret_cast<const nlmsghdr*>(answer.data());
    if (header->nlmsg_seq != sequence_) continue;  // an earlier answer that nobody waited for
    if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY || got < static_cast<ssize_t>(sizeof(nlmsghdr) + sizeof(inet_diag_msg)))
      return std::nullopt;
    inet_diag_msg found;
    std::memcpy(&found, answer.data() + sizeof(nlmsghdr), sizeof found);
    if (found.idiag_inode == 0) return std::nullopt;  // closed already: nobody's
    return Owner{.uid = found.idiag_uid, .socketInode = found.idiag_inode};
  }
}

}  // namespace wayleave::capture::platform

namespace wayleave::capture {
namespace {

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};
using Folder = std::unique_ptr<DIR, CloseFolder>;

std::string readLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = ::readlink(path.c_str(), target, sizeof target);
  return length > 0 ? std::string(target, static_cast<size_t>(length)) : std::string();
}

bool holdsSocket(const std::string& process, std::string_view link) {
  const Folder descriptors(::opendir((process + "/fd").c_str()));
  if (!descriptors) return false;  // gone, or another user's
  while (const dirent* entry = ::readdir(descriptors.get()))
    if (entry->d_name[0] != '.' && readLink(process + "/fd/" + entry->d_name) == link) return true;
  return false;
}

}  // namespace

Result<OwningProcess> processOfSocket(uint64_t inode) {
  const std::string link = fmt::format("socket:[{}]", inode);
  const Folder processes(::opendir("/proc"));
  if (!processes) return std::unexpected(errnoError(errno, "open /proc"));
  while (const dirent* entry = ::readdir(processes.get())) {
    const std::string_view name = entry->d_name;
    int pid = 0;
    const auto [stop, code] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (code != std::errc{} || stop != name.data() + name.size()) continue;
    const std::string process = fmt::format("/proc/{}", pid);
    if (holdsSocket(process, link)) return OwningProcess{pid, readLink(process + "/exe")};
  }
  return fail(Reason::NotFound, fmt::format("no process that may be looked into holds socket {}", inode));
}

}  // namespace wayleave::capture
