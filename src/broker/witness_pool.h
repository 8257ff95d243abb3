#pragma once

// Who looks at callers, in identityd. Reading another user's /proc/PID/exe takes CAP_SYS_PTRACE, its environment
// CAP_DAC_READ_SEARCH: together the right to read any process and any file. The process that holds the keys must not
// have them. So identityd forks *witnesses* before it gives up root: same user, those two capabilities, no keys, no
// sockets but one pair, a system call list without tracing, writing or making processes (sandbox/), and one question
// they answer: what do you see at this pidfd? (Weighed against: the capabilities in identityd itself, where seccomp
// cannot tell /proc/PID/mem from /proc/PID/exe; and a thread of identityd with the capability, which shares its memory
// and so is no boundary.) Where there is just one user (a user namespace, development) a witness needs no capability
// and works the same.
//
// Looking can be kept from ending. /proc/PID/maps waits for an exec in progress, and an exec closes descriptors: one on
// the caller's own user-space file system takes as long as the caller likes. With one witness one such caller would
// stop everybody. So:
//   There are several witnesses, and one user's processes occupy at most two of them.
//   A question that has not ended after `patience` ends with its witness: it is killed, and another is forked in its
//   place (by the keeper, witness_process.h: the wait can be killed, but not interrupted).
//   The user whose process it was is refused at once for `grudge`, without anybody looking.
// What remains: each user costs others two witnesses for `patience` once in patience + grudge. Users that one person
// commands (subordinate user ids) count as so many users, here as for connections.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "broker/witness.h"
#include "broker/witness_process.h"

namespace wayleave::broker {

struct WitnessLimits {
  // Twice what one user may occupy: it takes two users who are at it in the same moment before others wait.
  size_t witnesses = 4;
  size_t perUser = 2;
  // An answer takes well under a millisecond; after this long it is no matter of a busy machine any more.
  std::chrono::milliseconds patience{3000};
  // When all that a user may occupy has been occupied for so long, his next caller is refused rather than waits: the
  // threads that ask are few.
  std::chrono::milliseconds slow{500};
  // Short, as a machine that stood still for `patience` makes an honest user look like the other kind.
  std::chrono::milliseconds grudge{10'000};
};

class WitnessPool final : public Witness {
 public:
  // Forks the keeper, and it the witnesses: call it while the process has one thread and little memory of its own.
  // Errors: Io, and what sandbox reports: all of them are confined before this returns.
  static Result<std::unique_ptr<WitnessPool>> start(const WitnessSettings& settings, WitnessLimits limits = {});
  ~WitnessPool() override;

  Result<Observation> observe(uid_t uid, pid_t pid, int pidfd, ino_t connection) override;
  Result<std::string> glance(uid_t uid, pid_t pid, int descriptor) override;
  // True once the keeper has gone, or a witness that nobody killed: nobody can be verified any more, the daemon should
  // end and be started anew. (Not forked again: that would give whoever crashed it as many tries as he likes at one and
  // the same address layout.)
  bool lost() const;
  pid_t keeper() const { return keeper_; }
  std::vector<pid_t> witnesses() const;

 private:
  struct Post {
    Fd channel;
    pid_t pid = 0;
    uint64_t sequence = 0;
    bool occupied = false;
  };
  struct User {
    std::vector<Steady> asking;  // since when, each
    Steady refusedUntil{};
  };
  enum class Ending : uint8_t { Answered, TooLate, Gone };
  struct Answer {
    Ending ending = Ending::Answered;
    Result<Packet> packet;
  };

  explicit WitnessPool(WitnessLimits limits) : limits_(limits), posts_(limits.witnesses) {}
  Result<Post*> occupy(uid_t uid, Steady began);
  void vacate(Post& post, uid_t uid, Steady began, Ending ending);
  // The whole of a question, from a place until it is vacated. `limit`: of the answer, bytes.
  Result<Packet> put(uid_t uid, WitnessQuestion question, int pidfd, size_t limit);
  Answer ask(Post& post, WitnessQuestion question, int pidfd, size_t limit);
  // A fresh witness in the post's place. Not thread-safe.
  Status fill(Post& post);
  void forgetUsers(Steady now);

  const WitnessLimits limits_;
  Fd channel_;  // to the keeper
  pid_t keeper_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable vacated_;
  std::vector<Post> posts_;
  std::map<uid_t, User> users_;
  std::atomic<bool> lost_{false};
};

}  // namespace wayleave::broker
