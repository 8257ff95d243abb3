#include "broker/observation.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>

#include "base/bytes.h"
#include "base/file.h"

namespace wayleave::broker {
namespace {

// An environment larger than the kernel's default stack share (8 MiB / 4) is not an ordinary program's.
constexpr size_t kMostEnvironmentBytes = 2 * 1024 * 1024;
// A browser maps about 1,500 lines; 4 MiB is ten times that.
constexpr size_t kMostMapsBytes = 4 * 1024 * 1024;
constexpr size_t kMostMountBytes = 4 * 1024 * 1024;
constexpr size_t kMostCodeFiles = 512;
constexpr size_t kMostDescriptors = 65536;
constexpr size_t kMostVariableChars = 200;
constexpr size_t kMostLoaderVariables = 16;
constexpr std::array<std::string_view, 3> kLoaderVariables = {"LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"};

using Folder = Handle<DIR, closedir>;

Fd openIn(const Fd& folder, const char* name, int flags) {
  return Fd::adopt(::openat(folder.borrow(), name, flags | O_CLOEXEC));
}

Result<std::string> readIn(const Fd& folder, const char* name, size_t limit) {
  const Fd fd = openIn(folder, name, O_RDONLY);
  if (!fd) return std::unexpected(errnoError(errno, name));
  Result<Bytes> bytes = readAll(fd.borrow(), limit);
  if (!bytes) return withContext(bytes.error(), name);
  return std::string(asText(*bytes));
}

std::string linkIn(const Fd& folder, const char* name) {
  std::string target(PATH_MAX + 1, '\0');
  const ssize_t length = ::readlinkat(folder.borrow(), name, target.data(), target.size());
  target.resize(length < 0 ? 0 : static_cast<size_t>(length));
  return target;
}

// Calls `line` for each line until it returns false.
template <typename Function>
void eachLine(std::string_view text, Function&& line) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (!line(text.substr(0, end)) || end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

std::optional<uint64_t> numberAfter(std::string_view text, std::string_view key, int base = 10) {
  std::optional<uint64_t> found;
  eachLine(text, [&](std::string_view line) {
    if (!line.starts_with(key)) return true;
    line.remove_prefix(key.size());
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
    uint64_t value = 0;
    if (std::from_chars(line.data(), line.data() + line.size(), value, base).ec == std::errc{}) found = value;
    return false;
  });
  return found;
}

// The nth space-separated field.
std::string_view field(std::string_view line, size_t index) {
  for (;; --index) {
    const size_t start = line.find_first_not_of(' ');
    if (start == std::string_view::npos) return {};
    line.remove_prefix(start);
    const size_t end = line.find(' ');
    if (index == 0) return line.substr(0, end);
    if (end == std::string_view::npos) return {};
    line.remove_prefix(end);
  }
}

// Of one of our own descriptors.
std::string ownDescriptorInfo(int fd) {
  const Fd self = Fd::adopt(::open("/proc/self/fdinfo", O_PATH | O_DIRECTORY | O_CLOEXEC));
  return readIn(self, std::to_string(fd).c_str(), 4096).value_or(std::string{});
}

struct FileSystem {
  std::string type;
  std::string device;  // "major:minor"
};

// Without asking the file system: a hostile FUSE server could keep statfs waiting for ever.
FileSystem fileSystemOf(const Fd& process, int file) {
  const std::optional<uint64_t> mount = numberAfter(ownDescriptorInfo(file), "mnt_id:");
  const Result<std::string> mounts = readIn(process, "mountinfo", kMostMountBytes);
  if (!mount || !mounts) return {};
  FileSystem found;
  const std::string number = std::to_string(*mount);
  eachLine(*mounts, [&](std::string_view line) {
    if (field(line, 0) != number) return true;
    const size_t separator = line.find(" - ");
    if (separator != std::string_view::npos)
      found = {std::string(field(line.substr(separator + 3), 0)), std::string(field(line, 2))};
    return false;
  });
  return found;
}

// Is it mounted where we see it, too? (By device: namespaces have mounts of their own of one file system.)
bool isMountedHere(std::string_view device) {
  const Fd self = Fd::adopt(::open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const Result<std::string> mounts = readIn(self, "mountinfo", kMostMountBytes);
  bool found = false;
  if (mounts) eachLine(*mounts, [&](std::string_view line) { return !(found = field(line, 2) == device); });
  return found;
}

void readImage(const Fd& process, Observation& seen) {
  seen.executable = linkIn(process, "exe");
  if (seen.executable.empty()) {
    seen.imageProblem = fmt::format("its executable cannot be read: {}", std::strerror(errno));
    return;
  }
  const Fd handle = openIn(process, "exe", O_PATH);
  if (!handle) {
    seen.imageProblem = fmt::format("its executable cannot be opened: {}", std::strerror(errno));
    return;
  }
  const FileSystem fileSystem = fileSystemOf(process, handle.borrow());
  seen.fileSystem = fileSystem.type;
  if (seen.fileSystem.empty() || seen.fileSystem.starts_with("fuse")) return;  // judged by the reader; never opened
  // Any user can mount an overlay in a namespace of his own, over a user-space file system of his own: reading there may
  // never end, and whoever hashes it is not a witness that can be replaced.
  if (seen.fileSystem == "overlay" && !isMountedHere(fileSystem.device)) {
    seen.imageProblem = "its executable is on an overlay that is not mounted where the broker sees it";
    return;
  }
  seen.image = openIn(process, "exe", O_RDONLY | O_NONBLOCK);
  if (!seen.image)
    seen.imageProblem = fmt::format("its executable cannot be opened for reading: {}", std::strerror(errno));
}

void readCode(Result<std::string> maps, Observation& seen) {
  if (!maps) {
    seen.codeProblem = maps.error().message;
    return;
  }
  std::set<std::string_view> known;
  eachLine(*maps, [&](std::string_view line) {
    // address perms offset dev inode path
    const std::string_view permissions = field(line, 1);
    const size_t path = line.find('/');
    if (permissions.size() < 3 || permissions[2] != 'x' || path == std::string_view::npos) return true;
    const std::string_view name = line.substr(path);
    if (!known.insert(name).second) return true;
    uint64_t inode = 0;
    const std::string_view digits = field(line, 4);
    std::from_chars(digits.data(), digits.data() + digits.size(), inode);
    seen.code.push_back({std::string(name), inode});
    if (seen.code.size() < kMostCodeFiles) return true;
    seen.codeProblem = fmt::format("it has mapped more than {} files of code", kMostCodeFiles);
    return false;
  });
}

void readEnvironment(const Fd& process, Observation& seen) {
  const Result<std::string> environment = readIn(process, "environ", kMostEnvironmentBytes);
  if (!environment) {
    seen.environmentProblem = environment.error().message;
    return;
  }
  std::string_view rest = *environment;
  while (!rest.empty()) {
    const size_t end = rest.find('\0');
    const std::string_view entry = rest.substr(0, end);
    const size_t equals = entry.find('=');
    // An empty value is ignored by the loader too.
    if (equals != std::string_view::npos && equals + 1 < entry.size() &&
        std::ranges::find(kLoaderVariables, entry.substr(0, equals)) != kLoaderVariables.end())
      seen.loaderVariables.emplace_back(entry.substr(0, kMostVariableChars));
    if (seen.loaderVariables.size() == kMostLoaderVariables) break;  // one refuses
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
}

// Which file the descriptor is, and that an exec would close it.
std::string standingOfDescriptor(std::string_view info) {
  const std::optional<uint64_t> flags = numberAfter(info, "flags:", 8);
  if (!flags || (*flags & O_CLOEXEC) == 0) return {};
  return fmt::format("connection {} {}\n", numberAfter(info, "ino:").value_or(0), numberAfter(info, "mnt_id:").value_or(0));
}

// What of the process an observation depends on and can change without an exec, and what an exec changes: the executable
// and its name; the memory's layout as the loader left it; how much code is mapped; debugger, users, dumpable; cgroup and
// user namespace.
std::string standingOfProcess(const Fd& process, pid_t pid) {
  std::string out = linkIn(process, "exe");
  // Without asking a file system on which the executable may lie by now: it need not answer.
  struct statx image{};
  struct stat folder{};
  const Result<std::string> status = readIn(process, "status", 64 * 1024);
  const Result<std::string> cgroup = readIn(process, "cgroup", 64 * 1024);
  // Of the first thread alone: the sums over all threads would cost with their number.
  const Result<std::string> layout = readIn(process, fmt::format("task/{}/stat", pid).c_str(), 4096);
  if (out.empty() || !status || !cgroup || !layout || ::fstat(process.borrow(), &folder) != 0 ||
      ::statx(process.borrow(), "exe", AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &image) != 0)
    return {};
  out += fmt::format("\n{}:{} {} {} {}.{} {}.{}\n{} {}\n{}", image.stx_dev_major, image.stx_dev_minor, image.stx_ino,
                     image.stx_size, image.stx_mtime.tv_sec, image.stx_mtime.tv_nsec, image.stx_ctime.tv_sec,
                     image.stx_ctime.tv_nsec, linkIn(process, "ns/user"), folder.st_uid, *cgroup);
  constexpr std::array<std::string_view, 5> kLines = {"Uid:", "Gid:", "TracerPid:", "VmExe:", "VmLib:"};
  eachLine(*status, [&](std::string_view line) {
    if (std::ranges::any_of(kLines, [&](std::string_view key) { return line.starts_with(key); }))
      out.append(line).push_back('\n');
    return true;
  });
  // proc(5), counted from the state, behind the name (which may hold anything): starttime; startcode, endcode, startstack;
  // start_data to env_end.
  const size_t name = layout->rfind(')');
  if (name == std::string::npos) return {};
  size_t index = 0;
  std::string_view rest = std::string_view(*layout).substr(name + 1);
  while (!rest.empty()) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    const std::string_view word = rest.substr(0, rest.find(' '));
    if (index == 19 || (index >= 23 && index <= 25) || (index >= 42 && index <= 48)) out.append(word).push_back(' ');
    rest.remove_prefix(word.size());
    ++index;
  }
  return out.append("\n");
}

void readConnection(const Fd& process, ino_t connection, SocketDiagnosis& sockets, Observation& seen) {
  if (connection == 0) {
    seen.connectionDetail = "there is no connection to look at";
    return;
  }
  const ino_t theirs = sockets.peerOf(connection);
  if (theirs == 0) {
    seen.connectionDetail =
        "the kernel does not tell who holds the other end (unix_diag missing, or the caller is in another "
        "network namespace, or it has hung up)";
    return;
  }
  const Folder table(::fdopendir(openIn(process, "fdinfo", O_RDONLY | O_DIRECTORY).release()));
  if (!table) {
    seen.connectionDetail = fmt::format("its descriptors cannot be read: {}", std::strerror(errno));
    return;
  }
  const Fd folder = Fd::adopt(::dup(::dirfd(table.get())));
  const Fd links = openIn(process, "fd", O_PATH | O_DIRECTORY);
  const std::string wanted = fmt::format("socket:[{}]", theirs);
  size_t looked = 0;
  while (const dirent* entry = ::readdir(table.get())) {
    if (entry->d_name[0] == '.') continue;
    if (++looked > kMostDescriptors) {
      seen.connectionDetail = fmt::format("it has more than {} descriptors", kMostDescriptors);
      return;
    }
    // The link tells a socket and its inode for a quarter of the time that the description takes; a program may have
    // hundreds.
    char link[32];
    const ssize_t length = ::readlinkat(links.borrow(), entry->d_name, link, sizeof link);
    if (length < 0 || std::string_view(link, static_cast<size_t>(length)) != wanted) continue;
    const Result<std::string> info = readIn(folder, entry->d_name, 64 * 1024);
    // A file on a disk can have the same inode number, and a caller can be made to open one: the mount tells them
    // apart.
    if (!info || numberAfter(*info, "ino:") != theirs || numberAfter(*info, "mnt_id:") != sockets.socketMount())
      continue;
    const std::optional<uint64_t> flags = numberAfter(*info, "flags:", 8);
    const bool closes = flags && (*flags & O_CLOEXEC) != 0;
    std::from_chars(entry->d_name, entry->d_name + std::strlen(entry->d_name), seen.descriptor);
    seen.standing = standingOfDescriptor(*info);
    seen.connection = closes ? ConnectionFinding::Own : ConnectionFinding::Inherited;
    seen.connectionDetail = fmt::format("descriptor {} of the caller", entry->d_name);
    if (!closes) return;  // one that survives exec is enough to doubt it
  }
  if (seen.connection == ConnectionFinding::Unknown) {
    seen.connection = ConnectionFinding::Elsewhere;
    seen.connectionDetail = "it is in none of the caller's descriptors";
  }
}

// The kernel gives the files of an undumpable process to root.
std::optional<bool> dumpableOf(const Fd& process, std::string_view status) {
  struct stat info{};
  const std::optional<uint64_t> uid = numberAfter(status, "Uid:");
  if (!uid || ::fstat(process.borrow(), &info) != 0) return std::nullopt;
  if (*uid == 0) return std::nullopt;  // owned by root either way
  return info.st_uid == *uid;
}

bool isAlive(int pidfd) {
  pollfd entry{pidfd, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 0;  // readable once the process has exited
}

bool isProcess(int pidfd, pid_t pid) {
  return numberAfter(ownDescriptorInfo(pidfd), "Pid:") == static_cast<uint64_t>(pid);
}

}  // namespace

SocketDiagnosis SocketDiagnosis::open() {
  SocketDiagnosis diagnosis;
  diagnosis.netlink_ = Fd::adopt(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (diagnosis.netlink_)
    diagnosis.mount_ = numberAfter(ownDescriptorInfo(diagnosis.netlink_.borrow()), "mnt_id:").value_or(0);
  return diagnosis;
}

ino_t SocketDiagnosis::peerOf(ino_t socket) {
  if (!netlink_) return 0;
  struct {
    nlmsghdr header;
    unix_diag_req body;
  } request{};
  request.header = {sizeof request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, ++sequence_, 0};
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0u;
  request.body.udiag_ino = static_cast<uint32_t>(socket);
  request.body.udiag_show = UDIAG_SHOW_PEER;
  request.body.udiag_cookie[0] = request.body.udiag_cookie[1] = ~0u;
  if (::send(netlink_.borrow(), &request, sizeof request, 0) < 0) return 0;

  alignas(nlmsghdr) std::array<char, 4096> buffer;
  for (;;) {  // answers to requests that were given up on are skipped
    // The answer is queued before send returns; the timeout is for kernels that change their mind.
    pollfd entry{netlink_.borrow(), POLLIN, 0};
    if (::poll(&entry, 1, 1000) != 1) return 0;
    const ssize_t got = ::recv(netlink_.borrow(), buffer.data(), buffer.size(), 0);
    if (got < static_cast<ssize_t>(sizeof(nlmsghdr))) return 0;
    const auto* header = reinterpret_cast<const nlmsghdr*>(buffer.data());
    if (header->nlmsg_seq != sequence_) continue;
    if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY) return 0;
    const size_t length = std::min<size_t>(header->nlmsg_len, static_cast<size_t>(got));
    size_t offset = NLMSG_SPACE(sizeof(unix_diag_msg));
    while (offset + sizeof(nlattr) <= length) {
      nlattr attribute;
      std::memcpy(&attribute, buffer.data() + offset, sizeof attribute);
      if (attribute.nla_len < sizeof attribute || offset + attribute.nla_len > length) return 0;
      if (attribute.nla_type == UNIX_DIAG_PEER && attribute.nla_len >= sizeof attribute + sizeof(uint32_t)) {
        uint32_t inode = 0;
        std::memcpy(&inode, buffer.data() + offset + sizeof attribute, sizeof inode);
        return inode;
      }
      offset += NLA_ALIGN(attribute.nla_len);
    }
    return 0;
  }
}

Observation observe(pid_t pid, int pidfd, ino_t connection, SocketDiagnosis& sockets) {
  Observation seen;
  const Fd process = Fd::adopt(::open(fmt::format("/proc/{}", pid).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!process || !isProcess(pidfd, pid)) return seen;

  const std::string before = connection != 0 ? standingOfProcess(process, pid) : std::string();
  readImage(process, seen);
  Result<std::string> maps = readIn(process, "maps", kMostMapsBytes);  // waits for an exec in progress: see the header
  readConnection(process, connection, sockets, seen);
  // What was read until here is covered from both sides; what is read from here on cannot change unnoticed later.
  if (seen.connection != ConnectionFinding::Own || before.empty() || before != standingOfProcess(process, pid))
    seen.standing.clear();
  else
    seen.standing.insert(0, before);
  readCode(std::move(maps), seen);
  readEnvironment(process, seen);

  if (const Result<std::string> cgroup = readIn(process, "cgroup", 64 * 1024)) {
    std::string named;  // the hybrid layout keeps systemd's tree under its own name
    eachLine(*cgroup, [&](std::string_view line) {
      if (line.starts_with("0::") && line.size() > 4) seen.cgroup = std::string(line.substr(3));
      const size_t legacy = line.find(":name=systemd:");
      if (legacy != std::string_view::npos) named = std::string(line.substr(legacy + 14));
      return true;
    });
    if (seen.cgroup.empty()) seen.cgroup = named.empty() ? "/" : named;
  }
  if (const Result<std::string> status = readIn(process, "status", 64 * 1024)) {
    if (const auto tracer = numberAfter(*status, "TracerPid:")) seen.tracer = static_cast<pid_t>(*tracer);
    seen.dumpable = dumpableOf(process, *status);
  }
  const Fd self = Fd::adopt(::open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const std::string theirs = linkIn(process, "ns/user");
  const std::string ours = linkIn(self, "ns/user");
  if (!theirs.empty() && !ours.empty()) seen.sameUserNamespace = theirs == ours;

  if (seen.image) {  // the same program as at the beginning?
    struct stat first{};
    struct stat last{};
    const Fd again = openIn(process, "exe", O_PATH);
    if (!again || ::fstat(seen.image.borrow(), &first) != 0 || ::fstat(again.borrow(), &last) != 0 ||
        first.st_dev != last.st_dev || first.st_ino != last.st_ino) {
      seen.image.reset();
      seen.imageProblem = "it became another program while it was examined";
    }
  }
  seen.alive = isAlive(pidfd);
  return seen;
}

std::string standingOf(pid_t pid, int descriptor) {
  const Fd process = Fd::adopt(::open(fmt::format("/proc/{}", pid).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!process) return {};
  // The descriptor first: while it is there, what made it is what runs.
  const Result<std::string> info = readIn(process, fmt::format("fdinfo/{}", descriptor).c_str(), 64 * 1024);
  const std::string connection = info ? standingOfDescriptor(*info) : std::string();
  if (connection.empty()) return {};
  std::string out = standingOfProcess(process, pid);
  if (out.empty()) return {};
  return out += connection;
}

std::string systemUnit(std::string_view cgroup) {
  while (!cgroup.empty()) {
    cgroup.remove_prefix(1);  // the slash
    const size_t slash = cgroup.find('/');
    const std::string_view part = cgroup.substr(0, slash);
    if (part == "user.slice" || part.starts_with("user@")) return {};
    for (const std::string_view suffix : {".service", ".scope", ".socket"})
      if (part.ends_with(suffix)) return std::string(part);
    if (slash == std::string_view::npos) return {};
    cgroup.remove_prefix(slash);
  }
  return {};
}

}  // namespace wayleave::broker
