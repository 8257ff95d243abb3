#pragma once

// Who looks at callers, as the rest of the broker sees it. identityd has others look (witness_pool.h): reading another
// user's /proc takes rights that the process with the keys must not have.

#include "base/result.h"
#include "broker/observation.h"

namespace wayleave::broker {

class Witness {
 public:
  virtual ~Witness() = default;
  // `uid`: whose process it is, and so who pays when looking at it does not end. `connection`: as for observe().
  // Thread-safe; blocks. Errors: Unavailable (nobody can look, or this process kept whoever looked waiting), Busy (this
  // user's processes did so a moment ago: nobody looks now), Internal.
  virtual Result<Observation> observe(uid_t uid, pid_t pid, int pidfd, ino_t connection) = 0;
  // Does what was observed of a connection still stand? standingOf(), and its conditions; errors as observe().
  virtual Result<std::string> glance(uid_t uid, pid_t pid, int descriptor) = 0;
};

}  // namespace wayleave::broker
