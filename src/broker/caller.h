#pragma once

// Which program is asking, and how sure the broker is. A verdict is a list of conditions, each held or not with a
// sentence, so that a refusal can say which one failed. Grants (broker/grants.h) say which conditions they need.
//
// What no condition can show: that an approved process has not been taken over by its own user (ptrace before the
// request, a debugger that detached, a scrubbed environment), or by root. docs/threat-model.md says so too.

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "broker/digest_cache.h"
#include "broker/trusted_path.h"
#include "broker/witness.h"
#include "localapi/server.h"

namespace wayleave::broker {

enum class ConditionName : uint8_t {
  Alive,            // the process that connected is still there, so all facts are its own
  Executable,       // its executable could be opened and stayed the same while it was examined
  Path,             // the executable's path leads to it and cannot be changed by untrusted users
  Digest,           // its contents could be hashed
  NotTraced,        // no debugger
  LoaderVariables,  // no LD_PRELOAD, LD_AUDIT, LD_LIBRARY_PATH
  MappedCode,       // every library it runs is owned by trusted owners
  UserNamespace,    // it lives in the broker's user namespace
  Connection,       // it, as it is now, made the connection
  Undumpable,  // other processes of its user cannot attach to it; few programs are, so grants ask for it explicitly
};
inline constexpr size_t kConditionCount = 10;
std::string_view text(
    ConditionName name);  // "alive", "executable", "path", "digest", "not-traced", "loader-variables", …
Result<ConditionName> parseCondition(std::string_view name);

struct Condition {
  ConditionName name = ConditionName::Alive;
  bool held = false;
  std::string sentence;  // what was seen, held or not
  std::string hint;      // when not held
};

struct Verdict {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  std::string executable;  // path, empty when unknown
  std::string sha256;      // hex, empty when unknown
  uid_t owner = 0;         // of the executable; meaningful when Path is held
  mode_t mode = 0;
  std::string cgroup;
  std::string unit;
  std::array<Condition, kConditionCount> conditions;  // indexed by ConditionName

  const Condition& operator[](ConditionName name) const { return conditions[static_cast<size_t>(name)]; }
  Condition& operator[](ConditionName name) { return conditions[static_cast<size_t>(name)]; }
};

class CallerVerifier {
 public:
  // `witness` and `clock` outlive the verifier.
  CallerVerifier(Witness& witness, const Clock& clock, TrustedOwners owners = TrustedOwners::ofThisMachine())
      : witness_(witness), clock_(clock), owners_(std::move(owners)), digests_(clock) {}

  // For every request anew. The first of a connection is looked at in full; the verdict then holds for the next ones as
  // long as nothing has changed that it stands on (observation.h: checked for each), and for kLookAgain at most.
  // Thread-safe, for one request of a connection at a time. Blocks: about 0.4 ms in full, 0.1 ms after that; once per new
  // executable the time to hash it. Errors: Unavailable (nobody can be verified now), and those of the witness.
  Result<Verdict> verify(const localapi::Peer& peer);
  // What is not checked with each request: who owns the folders above the executable and its libraries (trusted owners
  // alone could have changed that), and code mapped in place of as much other code.
  static constexpr std::chrono::seconds kLookAgain{1};
  // For writing a grant: what would be seen of a running process (`connection` is not looked at), or of a program on
  // disk. Errors: NotFound, Unavailable; Untrusted and BadInput for a path.
  Result<Verdict> examineProcess(pid_t pid);
  Result<Verdict> examineFile(const std::string& path, uid_t payer);

 private:
  Result<Verdict> judge(const localapi::Peer& peer);
  void judgeImage(const Observation& seen, Verdict& verdict);
  void judgeCode(const Observation& seen, Verdict& verdict) const;

  Witness& witness_;
  const Clock& clock_;
  TrustedOwners owners_;
  DigestCache digests_;
};

}  // namespace wayleave::broker
