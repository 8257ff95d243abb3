#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace wayleave {

Result<Bytes> readAll(int fd, size_t limit) {
  Bytes out;
  for (;;) {
    constexpr size_t kStep = 64 * 1024;
    const size_t before = out.size();
    out.resize(before + kStep);
    const ssize_t got = ::read(fd, out.data() + before, kStep);
    if (got < 0) {
      out.resize(before);
      if (errno == EINTR) continue;
      return std::unexpected(errnoError(errno, "read"));
    }
    out.resize(before + static_cast<size_t>(got));
    if (got == 0) return out;
    if (out.size() > limit) return fail(Reason::BadInput, fmt::format("larger than the limit of {} bytes", limit));
  }
}

Result<Bytes> readFile(const std::string& path, size_t limit) {
  const Fd fd = Fd::adopt(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::unexpected(errnoError(errno, path, errno == ENOENT ? Reason::NotFound : Reason::Io));
  Result<Bytes> bytes = readAll(fd.borrow(), limit);
  if (!bytes) return withContext(bytes.error(), path);
  return bytes;
}

Status writeFileAtomically(const std::string& path, ByteView bytes, mode_t mode) {
  std::string temporary = path + ".XXXXXX";
  const Fd fd = Fd::adopt(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return std::unexpected(errnoError(errno, "create " + temporary));
  const auto give_up = [&](std::string_view what) {
    Error error = errnoError(errno, fmt::format("{} {}", what, temporary));
    ::unlink(temporary.c_str());
    return std::unexpected(std::move(error));
  };
  if (::fchmod(fd.borrow(), mode) != 0) return give_up("chmod");
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = ::write(fd.borrow(), bytes.data() + done, bytes.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return give_up("write");
    done += static_cast<size_t>(wrote);
  }
  if (::fsync(fd.borrow()) != 0) return give_up("sync");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return give_up("rename");
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const Fd directory = Fd::adopt(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.borrow()) != 0) return std::unexpected(errnoError(errno, "sync " + folder));
  return {};
}

Status ensureFolder(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0) {
    if (::chmod(path.c_str(), mode) != 0) return std::unexpected(errnoError(errno, "chmod " + path));  // past the umask
    return {};
  }
  if (errno != EEXIST) return std::unexpected(errnoError(errno, "create folder " + path));
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) return std::unexpected(errnoError(errno, path));
  if (!S_ISDIR(info.st_mode)) return fail(Reason::Io, path + " exists and is not a folder");
  return {};
}

}  // namespace wayleave
