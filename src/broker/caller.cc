#include "broker/caller.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

namespace wayleave::broker {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

// Of a connection: what its last full look found.
struct LastLook {
  Verdict verdict;
  int descriptor = -1;
  std::string standing;
  Steady until{};
};

void set(Verdict& verdict, ConditionName name, bool held, std::string sentence, std::string hint = {}) {
  verdict[name] = {name, held, std::move(sentence), held ? std::string{} : std::move(hint)};
}

bool stillAlive(int pidfd) {
  pollfd entry{pidfd, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 0;
}

// Of a file that is gone: could others than the trusted owners have put it there? The folders that are still there have
// been checked, but a sticky one (/tmp) counts as trusted for the sake of what is in it, and there nothing is left to see.
bool couldBeAnyones(std::filesystem::path path) {
  struct stat info{};
  do path = path.parent_path();
  while (::stat(path.c_str(), &info) != 0 && path.has_relative_path());
  return (info.st_mode & (S_IWGRP | S_IWOTH)) != 0;
}

void judgeTracing(const Observation& seen, Verdict& verdict) {
  if (!seen.tracer)
    set(verdict, ConditionName::NotTraced, false, "whether it is traced could not be read");
  else if (*seen.tracer == 0)
    set(verdict, ConditionName::NotTraced, true, "no debugger is attached");
  else
    set(verdict, ConditionName::NotTraced, false, fmt::format("process {} traces it", *seen.tracer),
        "detach the debugger");

  if (!seen.dumpable)
    set(verdict, ConditionName::Undumpable, false, "whether it is dumpable cannot be told");
  else
    set(verdict, ConditionName::Undumpable, !*seen.dumpable,
        *seen.dumpable ? "it is dumpable: other processes of its user can attach to it" : "it is not dumpable",
        "prctl(PR_SET_DUMPABLE, 0) in the program");
}

void judgeEnvironment(const Observation& seen, Verdict& verdict) {
  if (!seen.environmentProblem.empty())
    set(verdict, ConditionName::LoaderVariables, false,
        fmt::format("its environment could not be read: {}", seen.environmentProblem));
  else if (seen.loaderVariables.empty())
    set(verdict, ConditionName::LoaderVariables, true, "no loader variable was set when it started");
  else
    set(verdict, ConditionName::LoaderVariables, false,
        fmt::format("it was started with {}", fmt::join(seen.loaderVariables, " ")), "start it without that variable");

  if (!seen.sameUserNamespace)
    set(verdict, ConditionName::UserNamespace, false, "its user namespace could not be read");
  else
    set(verdict, ConditionName::UserNamespace, *seen.sameUserNamespace,
        *seen.sameUserNamespace
            ? "it is in the broker's user namespace"
            : "it is in a user namespace of its own, where it can mount any library over the real one",
        "run it outside of a user namespace");
}

void judgeConnection(const Observation& seen, Verdict& verdict) {
  switch (seen.connection) {
    case ConnectionFinding::Own:
      return set(verdict, ConditionName::Connection, true,
                 fmt::format("the connection is {}, closed on exec: this program made it", seen.connectionDetail));
    case ConnectionFinding::Inherited:
      return set(
          verdict, ConditionName::Connection, false,
          fmt::format("the connection is {}, but not closed on exec: another program may have made it and then become "
                      "this one",
                      seen.connectionDetail),
          "the client must open its socket with SOCK_CLOEXEC");
    case ConnectionFinding::Elsewhere:
      return set(verdict, ConditionName::Connection, false,
                 "the process that connected no longer holds the connection: " + seen.connectionDetail);
    case ConnectionFinding::Unknown:
      return set(verdict, ConditionName::Connection, false,
                 "that this program made the connection could not be shown: " + seen.connectionDetail);
  }
}

}  // namespace

std::string_view text(ConditionName name) {
  switch (name) {
    case ConditionName::Alive: return "alive";
    case ConditionName::Executable: return "executable";
    case ConditionName::Path: return "path";
    case ConditionName::Digest: return "digest";
    case ConditionName::NotTraced: return "not-traced";
    case ConditionName::LoaderVariables: return "loader-variables";
    case ConditionName::MappedCode: return "mapped-code";
    case ConditionName::UserNamespace: return "user-namespace";
    case ConditionName::Connection: return "connection";
    case ConditionName::Undumpable: return "undumpable";
  }
  return "corrupted";
}

Result<ConditionName> parseCondition(std::string_view name) {
  for (size_t index = 0; index < kConditionCount; ++index)
    if (text(static_cast<ConditionName>(index)) == name) return static_cast<ConditionName>(index);
  return fail(Reason::BadInput, fmt::format("'{}' is not a condition", name));
}

void CallerVerifier::judgeImage(const Observation& seen, Verdict& verdict) {
  verdict.executable = seen.executable;
  const bool fuse = seen.fileSystem.starts_with("fuse");
  if (!seen.image) {
    std::string problem = seen.imageProblem;
    if (problem.empty())
      problem = fuse ? "its executable is on a user-space file system, which may answer differently each time"
                     : "its executable is on a file system that could not be identified";
    set(verdict, ConditionName::Executable, false, problem, "install the program on a local file system");
    set(verdict, ConditionName::Path, false, "its executable is not known");
    set(verdict, ConditionName::Digest, false, "its executable is not known");
    return;
  }
  set(verdict, ConditionName::Executable, true, fmt::format("it runs {}", seen.executable));

  Result<std::string> digest = digests_.digest(seen.image, verdict.uid);
  if (digest) {
    verdict.sha256 = *digest;
    set(verdict, ConditionName::Digest, true, "SHA-256 " + *digest);
  } else {
    set(verdict, ConditionName::Digest, false, digest.error().message, digest.error().hint);
  }

  struct stat info{};
  if (::fstat(seen.image.borrow(), &info) != 0)
    return set(verdict, ConditionName::Path, false, "its executable cannot be examined");
  if (seen.executable.ends_with(kDeleted))
    return set(verdict, ConditionName::Path, false, "its executable was removed or replaced since it started",
               "restart the program");
  const FileIdentity identity = FileIdentity::of(info);
  const Result<PathOwner> path = checkPath(seen.executable, owners_, &identity);
  if (!path) return set(verdict, ConditionName::Path, false, path.error().message, path.error().hint);
  verdict.owner = path->owner;
  verdict.mode = path->mode;
  set(verdict, ConditionName::Path, true,
      fmt::format("{} and all folders above belong to trusted owners and are writable by nobody else",
                  seen.executable));
}

// A preloaded library can wipe its variable from the environment; it is harder to hide from the map of the process.
void CallerVerifier::judgeCode(const Observation& seen, Verdict& verdict) const {
  if (!seen.codeProblem.empty()) return set(verdict, ConditionName::MappedCode, false, seen.codeProblem);
  for (const MappedFile& file : seen.code) {
    std::string path = file.path;
    const bool deleted = path.ends_with(kDeleted);
    if (deleted) path.resize(path.size() - kDeleted.size());
    const auto flag = [&](std::string why) {
      set(verdict, ConditionName::MappedCode, false, fmt::format("it runs code from {}: {}", file.path, why),
          "run it with libraries that root installed");
    };
    if (path.starts_with("/memfd:") || path.starts_with("/dev/shm/")) return flag("memory that has no file");
    const Result<PathOwner> owner = checkPath(path, owners_, nullptr);
    if (owner) continue;
    // An upgraded library stays mapped as deleted until the program restarts; its folder still tells who could put it
    // there.
    if (deleted && owner.error().reason == Reason::NotFound && !couldBeAnyones(path)) continue;
    if (path == verdict.executable) continue;  // judged by its own condition
    return flag(owner.error().message);
  }
  set(verdict, ConditionName::MappedCode, true,
      fmt::format("all {} files of code belong to trusted owners", seen.code.size()));
}

Result<Verdict> CallerVerifier::judge(const localapi::Peer& peer) {
  Verdict verdict;
  verdict.pid = peer.pid;
  verdict.uid = peer.uid;
  verdict.gid = peer.gid;
  verdict.groups = peer.groups;
  for (size_t index = 0; index < kConditionCount; ++index) {
    const auto name = static_cast<ConditionName>(index);
    set(verdict, name, false, "not examined: the process has ended");
  }
  if (!peer.pidfd) return verdict;

  const Steady began = clock_.now();
  const Result<Observation> seen = witness_.observe(peer.uid, peer.pid, peer.pidfd.borrow(), peer.connection);
  if (!seen) return propagate(seen.error());
  if (!seen->alive) {
    set(verdict, ConditionName::Alive, false, "the process that connected ended while it was examined");
    return verdict;
  }
  verdict.cgroup = seen->cgroup;
  verdict.unit = systemUnit(seen->cgroup);
  judgeImage(*seen, verdict);
  judgeCode(*seen, verdict);
  judgeTracing(*seen, verdict);
  judgeEnvironment(*seen, verdict);
  judgeConnection(*seen, verdict);
  // After everything that was read: what has ended by now may have been somebody else's number in between.
  const bool alive = stillAlive(peer.pidfd.borrow());
  set(verdict, ConditionName::Alive, alive,
      alive ? fmt::format("process {} is the one that connected", peer.pid)
            : "the process that connected ended while it was examined");
  // A digest that was refused for the moment must be asked for again.
  if (alive && !seen->standing.empty() && verdict[ConditionName::Digest].held)
    peer.remembered = LastLook{verdict, seen->descriptor, seen->standing, began + kLookAgain};
  return verdict;
}

Result<Verdict> CallerVerifier::verify(const localapi::Peer& peer) {
  if (const auto* last = std::any_cast<LastLook>(&peer.remembered); last != nullptr && clock_.now() < last->until) {
    const Result<std::string> standing = witness_.glance(peer.uid, peer.pid, last->descriptor);
    if (!standing) return propagate(standing.error());
    // Alive after it was read, so it was read of the process that connected.
    if (*standing == last->standing && stillAlive(peer.pidfd.borrow())) return last->verdict;
  }
  peer.remembered.reset();
  return judge(peer);
}

Result<Verdict> CallerVerifier::examineProcess(pid_t pid) {
  localapi::Peer peer;
  peer.pid = pid;
  peer.pidfd = Fd::adopt(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!peer.pidfd) return fail(Reason::NotFound, fmt::format("there is no process {}", pid));
  struct stat info{};
  if (::stat(fmt::format("/proc/{}", pid).c_str(), &info) == 0) {
    peer.uid = info.st_uid;
    peer.gid = info.st_gid;
  }
  Result<Verdict> verdict = judge(peer);
  if (verdict) set(*verdict, ConditionName::Connection, true, "not looked at: it is not the one that is asking");
  return verdict;
}

Result<Verdict> CallerVerifier::examineFile(const std::string& path, uid_t payer) {
  Verdict verdict;
  verdict.executable = path;
  const Result<PathOwner> owner = checkPath(path, owners_, nullptr);
  if (!owner && owner.error().reason == Reason::NotFound) return propagate(owner.error());
  for (size_t index = 0; index < kConditionCount; ++index)
    set(verdict, static_cast<ConditionName>(index), true, "not looked at: a file, not a process");
  if (owner) {
    verdict.owner = owner->owner;
    verdict.mode = owner->mode;
    set(verdict, ConditionName::Path, true, fmt::format("{} and all folders above belong to trusted owners", path));
  } else {
    set(verdict, ConditionName::Path, false, owner.error().message, owner.error().hint);
  }
  // O_NONBLOCK: the path is the asker's choice and may be a pipe.
  const Fd file = Fd::adopt(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  Result<std::string> digest =
      file ? digests_.digest(file, payer) : Result<std::string>(std::unexpected(errnoError(errno, path)));
  if (digest) verdict.sha256 = *digest;
  set(verdict, ConditionName::Digest, digest.has_value(), digest ? "SHA-256 " + *digest : digest.error().message);
  return verdict;
}

}  // namespace wayleave::broker
