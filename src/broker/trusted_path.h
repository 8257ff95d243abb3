#pragma once

// Does a path still lead to the file that is running, and can nobody but trusted owners change where it leads?

#include <sys/types.h>

#include <set>
#include <string>

#include "base/result.h"
#include "broker/digest_cache.h"

namespace wayleave::broker {

// Whoever owns "/" (root; an overflow id inside a user namespace), root, and whoever owns this daemon's own executable:
// they could replace the daemon itself, so distrusting them would protect nothing.
class TrustedOwners {
 public:
  static TrustedOwners ofThisMachine();
  explicit TrustedOwners(std::set<uid_t> owners) : owners_(std::move(owners)) {}
  TrustedOwners with(uid_t uid) const {
    TrustedOwners more(*this);
    more.owners_.insert(uid);
    return more;
  }
  bool contains(uid_t uid) const { return owners_.contains(uid); }

 private:
  std::set<uid_t> owners_;
};

struct PathOwner {
  uid_t owner = 0;
  mode_t mode = 0;
};

// Walks `path` from "/" without following a symbolic link and checks each part: owned by a trusted owner, not writable
// by group or others (a sticky folder is fine when what is in it has a trusted owner). The last part must be `expected`
// when given (a path shown by /proc is one of the caller's mount namespace; here it may lead elsewhere). Errors:
// Untrusted, with the part and what is wrong with it; NotFound; Io.
Result<PathOwner> checkPath(const std::string& path, const TrustedOwners& owners, const FileIdentity* expected);

}  // namespace wayleave::broker
