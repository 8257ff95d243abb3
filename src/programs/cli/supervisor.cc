#include "supervisor.h"

#include <poll.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ranges>

#include <fmt/format.h>

#include "base/log.h"

namespace wayleave::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// A daemon that lives shorter than this did not start properly; after so many in a row restarting is hopeless.
constexpr seconds kEarlyDeath{2};
constexpr int kMostEarlyDeaths = 5;
constexpr milliseconds kFirstRestart{200};
constexpr milliseconds kLastRestart{5'000};
constexpr seconds kCleanupTimeout{10};

Status raiseAmbient(std::initializer_list<cap_value_t> capabilities) {
  cap_t caps = cap_get_proc();
  bool done = caps != nullptr;
  for (const cap_value_t value : capabilities) {
    cap_flag_value_t held = CAP_CLEAR;
    if (!done || cap_get_flag(caps, value, CAP_PERMITTED, &held) != 0 || held != CAP_SET) continue;
    done = cap_set_flag(caps, CAP_INHERITABLE, 1, &value, CAP_SET) == 0 && cap_set_proc(caps) == 0 &&
           cap_set_ambient(value, CAP_SET) == 0;
  }
  const int number = errno;
  cap_free(caps);
  if (!done) return std::unexpected(errnoError(number, "keep capabilities across exec"));
  return {};
}

Status giveUpRights(const DaemonSpec& spec) {
  const auto keep = [&](std::initializer_list<cap_value_t> capabilities) -> Status {
    if (Status became = sandbox::becomeUser(spec.account, capabilities); !became) return became;
    if (Status raised = raiseAmbient(capabilities); !raised) return raised;
    return sandbox::noNewPrivileges();
  };
  switch (spec.rights) {
    case Rights::None: return keep({});
    case Rights::Network: return keep({CAP_NET_ADMIN, CAP_NET_BIND_SERVICE});
    case Rights::Observe: return keep({CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH});
  }
  return fail(Reason::Internal, "unknown rights");
}

[[noreturn]] void become(const DaemonSpec& spec, const std::vector<std::string>& arguments, pid_t supervisor) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // A group of its own: Ctrl-C reaches the supervisor alone, which then stops the daemons in order.
  setpgid(0, 0);
  if (const Status given = giveUpRights(spec); !given) {
    log::failure("cannot start", given.error(), {{"daemon", spec.name}});
    _exit(126);
  }
  // After the change of user, which resets it. If we die, the daemons stop as if they were told to.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != supervisor) _exit(126);
  std::vector<char*> argv;
  std::string program = spec.program;
  argv.push_back(program.data());
  std::vector<std::string> owned = arguments;
  for (std::string& argument : owned) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  log::error("cannot start", {{"daemon", spec.name}, {"program", program}, {"error", std::strerror(errno)}});
  _exit(127);
}

Result<pid_t> spawn(const DaemonSpec& spec, const std::vector<std::string>& arguments) {
  const pid_t supervisor = getpid();
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return std::unexpected(errnoError(errno, "fork"));
  if (pid == 0) become(spec, arguments, supervisor);
  return pid;
}

std::string ending(int status) {
  if (WIFSIGNALED(status)) return fmt::format("killed by signal {}", WTERMSIG(status));
  return fmt::format("exit status {}", WEXITSTATUS(status));
}

}  // namespace

Supervisor::Supervisor(std::vector<DaemonSpec> specs) {
  for (DaemonSpec& spec : specs) daemons_.push_back({.spec = std::move(spec)});
}

Status Supervisor::run() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = Fd::adopt(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return std::unexpected(errnoError(errno, "create a signalfd"));

  for (Daemon& daemon : daemons_)
    if (const Status started = start(daemon); !started) {
      outcome_ = started;
      break;
    }
  while (outcome_ && !stopSignalWithin(untilNextRestart())) {
    collect();
    restartDue();
  }
  stopAll();
  return outcome_;
}

Status Supervisor::start(Daemon& daemon) {
  const Result<pid_t> pid = spawn(daemon.spec, daemon.spec.arguments);
  if (!pid) return withContext(pid.error(), "start " + daemon.spec.name);
  daemon.pid = *pid;
  daemon.started = steady_clock::now();
  daemon.restartAt.reset();
  log::info("started", {{"daemon", daemon.spec.name}, {"pid", std::to_string(*pid)}});
  return {};
}

bool Supervisor::stopSignalWithin(milliseconds time) {
  pollfd poller{signals_.borrow(), POLLIN, 0};
  if (poll(&poller, 1, static_cast<int>(time.count())) <= 0) return false;
  bool stop = false;
  signalfd_siginfo info{};
  while (read(signals_.borrow(), &info, sizeof info) == static_cast<ssize_t>(sizeof info))
    if (info.ssi_signo != SIGCHLD) stop = true;
  if (stop && stopping_) impatient_ = true;
  return stop;
}

void Supervisor::collect() {
  for (;;) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return;
    for (Daemon& daemon : daemons_)
      if (daemon.pid == pid) buried(daemon, status);
  }
}

void Supervisor::buried(Daemon& daemon, int status) {
  const bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  daemon.pid = 0;
  if (stopping_) {
    log::info("stopped", {{"daemon", daemon.spec.name}, {"ended", ending(status)}});
    if (!clean && outcome_)
      outcome_ = fail(Reason::Internal, fmt::format("{} ended with {}", daemon.spec.name, ending(status)));
    return;
  }
  log::warn("died", {{"daemon", daemon.spec.name}, {"ended", ending(status)}});
  cleanUp(daemon);
  const bool early = steady_clock::now() - daemon.started < kEarlyDeath;
  daemon.earlyDeaths = early ? daemon.earlyDeaths + 1 : 0;
  if (daemon.earlyDeaths >= kMostEarlyDeaths) {
    outcome_ = fail(Reason::Unavailable,
                    fmt::format("{} ended {} times in a row right after its start ({})", daemon.spec.name,
                                daemon.earlyDeaths, ending(status)),
                    "its log above says why");
    return;
  }
  const milliseconds pause = std::min(kLastRestart, kFirstRestart * (1 << daemon.earlyDeaths));
  daemon.restartAt = steady_clock::now() + pause;
}

void Supervisor::restartDue() {
  for (Daemon& daemon : daemons_)
    if (outcome_ && daemon.pid == 0 && daemon.restartAt && *daemon.restartAt <= steady_clock::now())
      outcome_ = start(daemon);
}

milliseconds Supervisor::untilNextRestart() const {
  milliseconds least{60'000};
  for (const Daemon& daemon : daemons_)
    if (daemon.restartAt)
      least = std::min(least, std::chrono::ceil<milliseconds>(*daemon.restartAt - steady_clock::now()));
  return std::max(milliseconds{0}, least);
}

// A proxyd that was killed could not take its routing rule away; without this, traffic would go nowhere until it is back.
void Supervisor::cleanUp(const Daemon& daemon) {
  if (daemon.spec.cleanup.empty()) return;
  const Result<pid_t> pid = spawn(daemon.spec, daemon.spec.cleanup);
  if (!pid) return log::failure("cannot clean up", pid.error(), {{"daemon", daemon.spec.name}});
  // A hung cleanup must not hang the supervisor.
  const Steady deadline = steady_clock::now() + kCleanupTimeout;
  int status = 0;
  while (waitpid(*pid, &status, WNOHANG) == 0) {
    if (steady_clock::now() >= deadline) {
      kill(*pid, SIGKILL);
      waitpid(*pid, &status, 0);
      break;
    }
    pollfd poller{signals_.borrow(), 0, 0};
    poll(&poller, 1, 20);
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    log::warn("cleanup failed", {{"daemon", daemon.spec.name}, {"ended", ending(status)}});
}

bool Supervisor::waitUntilGone(Daemon& daemon, milliseconds patience) {
  const Steady deadline = steady_clock::now() + patience;
  while (daemon.pid != 0 && !impatient_) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds{0}) return false;
    (void)stopSignalWithin(left);
    collect();
  }
  return daemon.pid == 0;
}

void Supervisor::stopAll() {
  stopping_ = true;
  for (Daemon& daemon : std::views::reverse(daemons_)) {
    if (daemon.pid == 0) continue;
    kill(daemon.pid, SIGTERM);
    if (waitUntilGone(daemon, daemon.spec.stopTimeout)) continue;
    log::warn("does not stop; killed", {{"daemon", daemon.spec.name}});
    kill(daemon.pid, SIGKILL);
    impatient_ = false;
    (void)waitUntilGone(daemon, seconds{5});
    cleanUp(daemon);
  }
}

}  // namespace wayleave::cli
