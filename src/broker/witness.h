#pragma once

// Who looks at callers. Reading another user's /proc/PID/exe takes CAP_SYS_PTRACE, its environment CAP_DAC_READ_SEARCH:
// together the right to read any process and any file. The process that holds the keys must not have them. So identityd
// forks a *witness* before it gives up root: same user, those two capabilities, no keys, no sockets but one pair, a
// system call list without tracing, writing or making processes (sandbox/), and one question it answers: what do you
// see at this pidfd? (Weighed against: the capabilities in identityd itself, where seccomp cannot tell /proc/PID/mem
// from /proc/PID/exe; and a thread of identityd with the capability, which shares its memory and so is no boundary.)
// Where there is just one user (a user namespace, development) the witness needs no capability and works the same.
//
// The message is fixed-size plus one descriptor in, one JSON document plus one descriptor out, over SOCK_SEQPACKET.

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/owned.h"
#include "base/result.h"
#include "broker/observation.h"
#include "localapi/server.h"
#include "sandbox/privileges.h"

namespace wayleave::broker {

class Witness {
 public:
  virtual ~Witness() = default;
  // Thread-safe; blocks. Errors: Unavailable (the witness is gone, or did not answer in time), Internal.
  virtual Result<Observation> observe(pid_t pid, int pidfd, ino_t connection) = 0;
};

// Looks from this very process: for tests, and for programs that may see their callers anyway.
class DirectWitness final : public Witness {
 public:
  DirectWitness() : sockets_(SocketDiagnosis::open()) {}
  Result<Observation> observe(pid_t pid, int pidfd, ino_t connection) override;

 private:
  std::mutex mutex_;
  SocketDiagnosis sockets_;
};

class WitnessProcess final : public Witness {
 public:
  // Forks: call it while the process has one thread. The child becomes `account` (when given) and keeps the two
  // capabilities as far as it has them. `title`: argv's memory of the program, overwritten in the child so that `ps`
  // tells the two apart. Errors: Io, and what sandbox reports: the child is confined before this returns.
  static Result<std::unique_ptr<WitnessProcess>> start(const std::optional<sandbox::Account>& account,
                                                       std::span<char> title = {});
  ~WitnessProcess() override;

  // An answer takes well under a millisecond; after `kPatience` the kernel or a file system is stuck, and the caller is
  // refused rather than kept waiting.
  static constexpr std::chrono::seconds kPatience{3};
  Result<Observation> observe(pid_t pid, int pidfd, ino_t connection) override;
  pid_t pid() const { return pid_; }
  // True once the child has gone: nobody can be verified any more, the daemon should end and be started anew.
  bool lost() const;

 private:
  WitnessProcess(Fd channel, pid_t pid) : channel_(std::move(channel)), pid_(pid) {}
  std::mutex mutex_;
  Fd channel_;
  pid_t pid_;
  uint64_t sequence_ = 0;
  std::atomic<bool> lost_{false};
};

}  // namespace wayleave::broker
