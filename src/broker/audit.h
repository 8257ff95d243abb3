#pragma once

// What was asked of the identities and what became of it: JSON lines, only ever appended, each bound to the one before.
//
//   {"seq":7,"time":"2026-11-24T03:26:25Z","event":"sign","outcome":"OK",…,"prev":"<hash of line 6>","hash":"<this
//   line's>"}
//
// `hash` is SHA-256 over the line's bytes up to `,"hash":`. A line removed, altered or moved breaks the chain behind
// it; lines cut from the end contradict `audit.head`, a small file beside the log with the last line's number and hash.
// Not shown: a forger with identityd's own rights who rewrites all of it, head included. Lines are also sent to the
// system's log as they are made (number and hash), where such a forger cannot reach.
//
// Order is by number, so a clock that jumps does no harm. A line is in the kernel when append() returns and on disk
// within a second: a power failure can take the last second's lines, and `audit.head` with them. Once a line could not
// be brought to the disk, append() fails until the disk takes lines again: better no signature than one nobody knows
// of. The kernel reports such a loss once and then forgets the lines, so a line is added that names them. Files:
// audit.log, then audit.log.1 … after rotation; the chain goes on from file to file.

#include <unistd.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/owned.h"
#include "base/result.h"

namespace wayleave::broker {

struct AuditEntry {
  std::string event;    // "sign", "resolve", "list", "import", "commit", "renew", "remove", "attest", "start", …
  std::string outcome;  // text(Reason); "OK"
  pid_t pid = 0;
  uid_t uid = 0;
  std::string executable, sha256, unit;  // of the caller
  std::string grant;
  std::string identity, label;
  std::string scheme;
  std::string usage;   // "tls-client", "digest", "sign", …
  std::string detail;  // a sentence; never contents, never secrets
};

struct AuditLimits {
  off_t fileBytes = 16 * 1024 * 1024;  // about 30,000 signatures
  int files = 8;                       // rotated ones kept
  // Brings a file's contents to the disk. A test's disk fails here: no real one does so on demand.
  int (*sync)(int fd) = ::fdatasync;
};

class AuditLog {
 public:
  // `folder` exists. Continues the chain; a line torn by a crash is cut off and the fact recorded as an entry, and so
  // is a log that ends before its head says. Errors: Io, BadInput (the last line is not one of ours: the log is kept as
  // it is and nothing is signed; move it away).
  static Result<std::unique_ptr<AuditLog>> open(const std::string& folder, const Clock& clock, AuditLimits limits = {});
  ~AuditLog();

  // Thread-safe. When it fails nothing of the line remains, and what it would have recorded must not happen: better no
  // signature than one nobody knows of. Errors: Io.
  Status append(const AuditEntry& entry);
  uint64_t lastSequence() const;
  // The newest `count` lines, oldest first, without their line feeds. Errors: Io.
  Result<std::vector<std::string>> tail(size_t count) const;

 private:
  AuditLog(std::string folder, const Clock& clock, AuditLimits limits)
      : folder_(std::move(folder)), clock_(clock), limits_(limits) {}
  Status openFile();
  Status continueChain();
  Status rotate();
  Status writeLine(const AuditEntry& entry);
  void writeHead();
  // After a failure to bring lines to the disk: says so in the log, and tries again. Errors: Io.
  Status recover();
  Status sync();
  void syncLoop(std::stop_token stop);

  const std::string folder_;
  const Clock& clock_;
  const AuditLimits limits_;
  mutable std::mutex mutex_;
  Fd file_;
  Fd head_;
  off_t size_ = 0;
  uint64_t first_ = 1;  // oldest line that rotation has left
  uint64_t sequence_ = 0;
  std::string hash_;
  bool dirty_ = false;
  uint64_t synced_ = 0;    // the last line known to be on the disk
  int syncError_ = 0;      // errno of the failure since then; 0: none
  bool lossNoted_ = false;  // the line about it has been written
  std::condition_variable_any wake_;
  std::jthread sync_;
};

struct AuditFinding {
  std::string file;
  size_t line = 0;  // in that file, from 1; 0 for the file as a whole
  std::string message;
};
struct AuditReport {
  uint64_t lines = 0;
  uint64_t first = 0, last = 0;        // numbers
  std::vector<AuditFinding> findings;  // empty: intact. Bounded; the first ones tell where to look
};
// Reads everything. Safe beside a running log: lines appended meanwhile are left out. Errors: Io, NotFound (no log).
Result<AuditReport> verifyAudit(const std::string& folder);

}  // namespace wayleave::broker
