#include "broker/trusted_path.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "base/owned.h"

namespace wayleave::broker {
namespace {

std::unexpected<Error> untrusted(std::string message, std::string hint) {
  return fail(Reason::Untrusted, std::move(message), std::move(hint));
}

}  // namespace

TrustedOwners TrustedOwners::ofThisMachine() {
  std::set<uid_t> owners{0};
  struct stat info{};
  if (::stat("/", &info) == 0) owners.insert(info.st_uid);
  if (::stat("/proc/self/exe", &info) == 0) owners.insert(info.st_uid);
  return TrustedOwners(std::move(owners));
}

Result<PathOwner> checkPath(const std::string& path, const TrustedOwners& owners, const FileIdentity* expected) {
  if (!path.starts_with('/')) return untrusted(fmt::format("'{}' is not an absolute path", path), {});
  Fd folder = Fd::adopt(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  struct stat parent{};
  if (!folder || ::fstat(folder.borrow(), &parent) != 0) return std::unexpected(errnoError(errno, "/"));

  std::string walked;
  std::string_view rest = path;
  for (;;) {
    const size_t start = rest.find_first_not_of('/');
    if (start == std::string_view::npos) break;
    rest.remove_prefix(start);
    const size_t slash = rest.find('/');
    const std::string part(rest.substr(0, slash));
    rest.remove_prefix(part.size());
    walked += '/' + part;
    if (part == "." || part == "..") return untrusted(fmt::format("{} is not a plain path", path), {});

    Fd next = Fd::adopt(::openat(folder.borrow(), part.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat info{};
    if (!next || ::fstat(next.borrow(), &info) != 0) {
      if (errno == ENOENT || errno == ENOTDIR)
        return fail(Reason::NotFound, fmt::format("{} is not there", walked),
                    "if the program was upgraded or moved while it ran, restart it");
      return untrusted(fmt::format("{} cannot be examined by the broker: {}", walked, std::strerror(errno)),
                       "install the program where its folders are readable by everyone");
    }
    if (S_ISLNK(info.st_mode))
      return untrusted(fmt::format("{} is a symbolic link", walked), "name the file the link leads to");
    if (!owners.contains(info.st_uid))
      return untrusted(fmt::format("{} belongs to user {}, who can change what it is", walked, info.st_uid),
                       "install the program as root");
    const bool shared = (info.st_mode & (S_IWGRP | S_IWOTH)) != 0;
    const bool sticky = S_ISDIR(info.st_mode) && (info.st_mode & S_ISVTX) != 0;
    if (shared && !sticky)
      return untrusted(fmt::format("{} is writable by {} (mode {:04o})", walked,
                                   (info.st_mode & S_IWOTH) != 0 ? "everyone" : fmt::format("group {}", info.st_gid),
                                   info.st_mode & 07777),
                       fmt::format("chmod go-w {}", walked));
    parent = info;
    folder = std::move(next);
  }
  if (!S_ISREG(parent.st_mode)) return untrusted(fmt::format("{} is not a regular file", path), {});
  if (expected != nullptr && (parent.st_dev != expected->device || parent.st_ino != expected->inode))
    return untrusted(
        fmt::format("{} is not the file that is running", path),
        "if the program was upgraded while it ran, restart it; a program in a container of its own must be "
        "granted by another description than its path");
  return PathOwner{parent.st_uid, parent.st_mode};
}

}  // namespace wayleave::broker
