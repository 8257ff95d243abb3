#pragma once

// Connections that a client keeps open between its calls, and a bound on how many it has at once: a program with a
// thousand threads asks through a few connections, its threads waiting their turn.
//
// Forks: a connection belongs to the process that made it, and the daemon refuses what any other writes to it. In a child
// the descriptors are closed as it begins; what the parent keeps is not touched. A child that goes on with its parent's
// object gets a fresh connection for each call and keeps none, because a lock may have been held by another thread of the
// parent when it forked.

#include <sys/types.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/owned.h"
#include "base/result.h"

namespace wayleave::localapi {

class KeptConnections {
 public:
  explicit KeptConnections(size_t most);
  ~KeptConnections();
  KeptConnections(const KeptConnections&) = delete;
  KeptConnections& operator=(const KeptConnections&) = delete;

  // A turn, and perhaps a connection with it. Both end when it is destroyed, unless the connection is to be kept.
  class Turn {
   public:
    Turn(Turn&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), socket_(std::move(other.socket_)), kept_(other.kept_),
          unlisted_(other.unlisted_) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn();
    // A kept connection, which a moment ago was not closed; empty when the caller has to make one.
    const Fd& socket() const { return socket_; }
    // Instead of the one there is, which is closed.
    void use(Fd socket);
    // It may serve the next call: nothing is under way on it.
    void keep() { kept_ = true; }

   private:
    friend class KeptConnections;
    Turn(KeptConnections* owner, Fd socket) : owner_(owner), socket_(std::move(socket)) {}
    KeptConnections* owner_;  // null in the child of a fork
    Fd socket_;
    bool kept_ = false;
    bool unlisted_ = false;  // the child of a fork would not close it: so it is not kept
  };
  // Waits until fewer than `most` turns are taken, first come first served. Thread-safe. Errors: DeadlineExceeded.
  Result<Turn> take(Steady deadline);

 private:
  struct Waiter {
    std::condition_variable wake;
    bool served = false;  // the turn that ended is this one's: `taken` counts it already
  };
  struct State {
    std::mutex mutex;
    std::deque<Waiter*> line;
    size_t taken = 0;
    std::vector<Fd> idle;  // the last one used last: few callers keep few connections alive
  };
  bool inherited() const;

  const size_t most_;
  const pid_t process_;
  std::unique_ptr<State> state_;
};

}  // namespace wayleave::localapi
