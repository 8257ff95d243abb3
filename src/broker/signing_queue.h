#pragma once

// In front of each key: a bounded queue that is fair between callers, and the thread (or threads) that sign.
//
// A TPM signs one thing at a time and may take 600 ms; a caller that asks a hundred times must not keep another waiting
// for a minute, and a key that hangs must not keep other keys waiting at all. So: a queue and threads
// per key; within a queue the callers take turns; every request is answered at its deadline whatever the key does.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace wayleave::broker {

struct SigningLimits {
  // As many as the server holds connections, and as many as one user may have by default: whoever may connect may wait
  // until his deadline. What one caller asks delays no other: callers take turns.
  size_t perKey = 512;
  size_t perCaller = 64;
  size_t softwareThreads = 1;  // for each key in software
};

struct SigningRequest {
  std::string key;      // id
  // How many signatures this key makes at once. A TPM works on one at a time; a key in software takes what cores there are.
  size_t threads = 1;
  uint64_t caller = 0;  // who takes turns: the caller's user id, for example
  Steady deadline{};
  // Has the caller gone? Asked just before signing, and of those that wait when there is no room; must not block; may be
  // empty.
  std::function<bool()> abandoned;
  std::function<Result<Bytes>()> work;      // signs; runs on the key's thread
  std::function<void(Result<Bytes>)> done;  // exactly once, on any thread, maybe within submit(); must not block
};

struct SigningStatistics {
  size_t queued = 0, running = 0;
  uint64_t completed = 0, failed = 0, expired = 0, refused = 0, abandoned = 0;
  double longestSeconds = 0;
};

class SigningQueue {
 public:
  explicit SigningQueue(SigningLimits limits = {});
  // Answers what is queued with Cancelled. Waits a moment for keys at work; one that never returns keeps its thread,
  // which then touches nothing of ours any more.
  ~SigningQueue();

  // `done` gets: what work returned; Busy (queue full, or this caller's share of it); DeadlineExceeded; Cancelled (the
  // caller has gone, or we are stopping).
  void submit(SigningRequest request);
  SigningStatistics statistics() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace wayleave::broker
