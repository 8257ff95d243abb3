#pragma once

// Keeps a few daemons running in the foreground, each with its own user and capabilities. One thread; signals and
// children's deaths arrive through a signalfd, so nothing is done in a signal handler.

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/owned.h"
#include "base/result.h"
#include "sandbox/privileges.h"

namespace wayleave::cli {

// What a daemon keeps of root; everything else is given up, the bounding set too.
enum class Rights : uint8_t {
  None,
  Network,  // CAP_NET_ADMIN and CAP_NET_BIND_SERVICE: proxyd
  Observe,  // CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: identityd, whose witnesses and their keeper keep them (broker/witness_pool.h)
};

struct DaemonSpec {
  std::string name;  // for messages
  std::string program;
  std::vector<std::string> arguments;
  std::optional<sandbox::Account> account;  // nullopt: as we are
  Rights rights = Rights::None;
  std::vector<std::string> cleanup;         // arguments of the same program, run once after a crash
  std::chrono::seconds stopTimeout{5};
};

class Supervisor {
 public:
  // Starts in this order, stops in the reverse one.
  explicit Supervisor(std::vector<DaemonSpec> specs);

  // Runs until SIGTERM or SIGINT, or until a daemon cannot be kept up. A second signal stops without patience. Returns
  // an error when a daemon did not end with status 0, or could not be started.
  Status run();

 private:
  struct Daemon {
    DaemonSpec spec;
    pid_t pid = 0;  // 0: not running
    Steady started{};
    std::optional<Steady> restartAt;
    int earlyDeaths = 0;  // in a row
  };

  Status start(Daemon& daemon);
  void collect();
  void buried(Daemon& daemon, int status);
  void restartDue();
  void cleanUp(const Daemon& daemon);
  void stopAll();
  bool waitUntilGone(Daemon& daemon, std::chrono::milliseconds patience);
  // Waits for a signal at most this long; true when one of SIGTERM and SIGINT came.
  bool stopSignalWithin(std::chrono::milliseconds time);
  std::chrono::milliseconds untilNextRestart() const;

  std::vector<Daemon> daemons_;
  Fd signals_;
  bool stopping_ = false;
  bool impatient_ = false;
  Status outcome_;
};

}  // namespace wayleave::cli
