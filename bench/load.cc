// wayleave-bench-load: the two ends of a measured chain, one epoll loop each.
//
//   origin --plain PORT --connect PORT    serves flows that begin with one command byte; on the second port a CONNECT comes first
//                                         and is answered 200, so that this is gateway's forward proxy and origin in one
//   run --target ADDRESS:PORT --mode M --flows N --seconds S [--via-connect] [--watch PID,…]
//       down, up     bulk                                        prints: {"bytes", "seconds", "cpu", "failures"}
//       ping         1 KiB each way on open flows                prints: {"count", "p50", "p99", "seconds", "cpu", "failures"}
//       rate         open, 1 KiB each way, close                 prints: the same; with --count, ends after so many
//       idle         opens N flows, one exchange each, waits     prints: {"open", "failures"}; then reads a line from standard input
// The first quarter of a timed run, at most a second, is warm-up and not counted. Times are microseconds. "cpu" is what the watched
// processes used, user and system, between the same two moments as the count.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <sstream>
#include <unordered_map>

#include "base/bytes.h"
#include "base/owned.h"

namespace wayleave {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kBlock = 256 * 1024;
constexpr size_t kMessage = 1024;
constexpr std::string_view kRequest = "CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n";
constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\n\r\n";

// Flows that are being opened at the same time in `idle`: a queue of handshakes longer than the peers' own timeouts would
// measure their patience.
constexpr int kOpening = 64;

std::array<uint8_t, kBlock> g_block{};  // what bulk consists of, and where what is read goes

[[noreturn]] void stop(const char* what) {
  fmt::print(stderr, "{}: {}\n", what, std::strerror(errno));
  std::exit(1);
}

sockaddr_in address(const std::string& text) {
  const size_t colon = text.rfind(':');
  sockaddr_in out{};
  out.sin_family = AF_INET;
  if (colon == std::string::npos || ::inet_pton(AF_INET, text.substr(0, colon).c_str(), &out.sin_addr) != 1) stop("address");
  out.sin_port = htons(static_cast<uint16_t>(std::stoi(text.substr(colon + 1))));
  return out;
}

void noDelay(int fd) {
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

class Loop {
 public:
  Loop() : epoll_(Fd::adopt(::epoll_create1(EPOLL_CLOEXEC))) {}
  void watch(int fd, uint32_t events, bool known) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    ::epoll_ctl(epoll_.borrow(), known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
  }
  template <typename Handle>
  void turn(int milliseconds, const Handle& handle) {
    std::array<epoll_event, 256> events{};
    const int count = ::epoll_wait(epoll_.borrow(), events.data(), static_cast<int>(events.size()), milliseconds);
    for (int i = 0; i < count; ++i) handle(events[static_cast<size_t>(i)].data.fd, events[static_cast<size_t>(i)].events);
  }

 private:
  Fd epoll_;
};

// --- origin ---

struct Served {
  bool connect = false;
  char command = 0;
  std::string head;
  size_t owed = 0;  // bytes of answer for ping
  size_t got = 0;
};

void origin(uint16_t plain, uint16_t connect) {
  Loop loop;
  std::unordered_map<int, Served> flows;
  const auto listenOn = [&](uint16_t port) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int one = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_ANY);
    at.sin_port = htons(port);
    if (::bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 || ::listen(fd, 4096) != 0) stop("listen");
    loop.watch(fd, EPOLLIN, false);
    return fd;
  };
  const int plainListener = listenOn(plain), connectListener = listenOn(connect);
  const auto close = [&](int fd) {
    flows.erase(fd);
    ::close(fd);
  };
  for (;;) {
    loop.turn(1000, [&](int fd, uint32_t events) {
      if (fd == plainListener || fd == connectListener) {
        for (;;) {
          const int accepted = ::accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
          if (accepted < 0) return;
          noDelay(accepted);
          flows[accepted].connect = fd == connectListener;
          loop.watch(accepted, EPOLLIN, false);
        }
      }
      const auto found = flows.find(fd);
      if (found == flows.end()) return;
      Served& flow = found->second;
      if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        // Upload is thrown away in the kernel: the ends should cost as little as they can.
        ssize_t got = ::recv(fd, g_block.data(), g_block.size(), flow.command == 'U' ? MSG_TRUNC : 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return close(fd);
        size_t used = 0;
        const size_t have = got > 0 ? static_cast<size_t>(got) : 0;
        if (flow.connect) {
          while (used < have && !flow.head.ends_with("\r\n\r\n")) flow.head.push_back(static_cast<char>(g_block[used++]));
          if (flow.head.size() > 8192) return close(fd);
          if (!flow.head.ends_with("\r\n\r\n")) return;
          flow.connect = false;
          if (::send(fd, kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(kAnswer.size())) return close(fd);
        }
        if (flow.command == 0 && used < have) {
          flow.command = static_cast<char>(g_block[used++]);
          if (flow.command == 'D') loop.watch(fd, EPOLLIN | EPOLLOUT, true);
        }
        if (flow.command == 'P') {
          flow.got += have - used;
          for (; flow.got >= kMessage; flow.got -= kMessage)
            if (::send(fd, g_block.data(), kMessage, MSG_NOSIGNAL) != static_cast<ssize_t>(kMessage)) return close(fd);
        }
      }
      if ((events & EPOLLOUT) != 0 && flow.command == 'D')
        for (int n = 0; n < 4; ++n)
          if (::send(fd, g_block.data(), g_block.size(), MSG_NOSIGNAL) <= 0) {
            if (errno != EAGAIN) return close(fd);
            break;
          }
    });
  }
}

// --- load ---

struct Flow {
  bool connected = false, opened = false, commanded = false;
  size_t head = 0, got = 0;
  Clock::time_point from{};
};

struct Options {
  std::string target, mode;
  int flows = 1;
  double seconds = 3;
  int64_t count = 0;
  bool viaConnect = false;
  std::vector<int> watch;
};

// User and system time of these processes and of their threads that have ended, in seconds.
double cpuOf(const std::vector<int>& pids) {
  int64_t ticks = 0;
  for (const int pid : pids) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    std::string line;
    std::getline(file, line);
    const size_t name = line.rfind(')');
    if (name == std::string::npos) continue;
    std::istringstream rest(line.substr(name + 1));
    std::string skipped;
    for (int field = 3; field < 14; ++field) rest >> skipped;
    int64_t user = 0, system = 0;
    rest >> user >> system;
    ticks += user + system;
  }
  return static_cast<double>(ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

class Load {
 public:
  explicit Load(const Options& options) : options_(options), to_(address(options.target)) {}

  int run() {
    const auto begin = Clock::now();
    const bool counted = options_.count > 0;
    const double warm = counted ? 0 : std::min(1.0, options_.seconds / 4);
    countFrom_ = begin + seconds(warm);
    end_ = counted ? Clock::time_point::max() : begin + seconds(warm + options_.seconds);
    if (options_.mode == "idle") return idle();
    for (int n = 0; n < options_.flows; ++n) open();
    while (Clock::now() < countFrom_) turn();
    counting_ = true;
    const auto from = Clock::now();
    const double before = cpuOf(options_.watch);
    while (Clock::now() < end_ && !(counted && done_ + failures_ >= options_.count)) turn();
    const double cpu = cpuOf(options_.watch) - before;
    const double took = std::chrono::duration<double>(Clock::now() - from).count();
    fmt::print("{{\"seconds\": {:.4f}, \"cpu\": {:.3f}, \"failures\": {}, ", took, cpu, failures_);
    if (options_.mode == "down" || options_.mode == "up") {
      fmt::print("\"bytes\": {}}}\n", bytes_);
    } else {
      std::ranges::sort(times_);
      const auto at = [&](double share) {
        return times_.empty() ? 0.0F : times_[std::min(times_.size() - 1, static_cast<size_t>(share * static_cast<double>(times_.size())))];
      };
      fmt::print("\"count\": {}, \"p50\": {:.1f}, \"p99\": {:.1f}}}\n", times_.size(), at(0.5), at(0.99));
    }
    return 0;
  }

 private:
  static Clock::duration seconds(double value) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value)); }

  void turn() {
    loop_.turn(50, [&](int fd, uint32_t events) { handle(fd, events); });
  }

  int idle() {
    const auto patience = Clock::now() + std::chrono::seconds{120};
    int begun = 0;
    // Every flow has had one exchange when nothing is left to wait for.
    while (done_ + failures_ < options_.flows && Clock::now() < patience) {
      for (; begun < options_.flows && begun - done_ - failures_ < kOpening; ++begun) open();
      turn();
    }
    fmt::print("{{\"open\": {}, \"failures\": {}}}\n", done_, failures_);
    std::fflush(stdout);
    char line[16];
    return ::read(STDIN_FILENO, line, sizeof line) < 0 ? 1 : 0;
  }

  void open() {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return static_cast<void>(++failures_);
    noDelay(fd);
    spreadSource(fd);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&to_), sizeof to_) != 0 && errno != EINPROGRESS) {
      ::close(fd);
      return static_cast<void>(++failures_);
    }
    Flow& flow = flows_[fd];
    flow = Flow{};
    flow.from = Clock::now();
    loop_.watch(fd, EPOLLIN | EPOLLOUT, false);
  }

  // Thousands of flows a second from one address would run out of ports that are not in TIME_WAIT.
  void spreadSource(int fd) {
    if ((ntohl(to_.sin_addr.s_addr) >> 24) != 127 || options_.flows > 1000) return;
    const int one = 1;
    ::setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    sockaddr_in from{};
    from.sin_family = AF_INET;
    from.sin_addr.s_addr = htonl((127U << 24) + (2U << 16) + 1 + static_cast<uint32_t>(++sources_ % 64));
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0) stop("bind");
  }

  void close(int fd, bool failed) {
    flows_.erase(fd);
    ::close(fd);
    if (failed) ++failures_;
    if (options_.mode != "idle" && failures_ < 10000) open();
  }

  void begin(int fd, Flow& flow) {
    flow.commanded = true;
    const char command = options_.mode == "down" ? 'D' : options_.mode == "up" ? 'U' : 'P';
    if (command != 'P') {
      if (::send(fd, &command, 1, MSG_NOSIGNAL) != 1) return close(fd, true);
      loop_.watch(fd, command == 'U' ? EPOLLOUT | EPOLLIN : EPOLLIN, true);
      return;
    }
    std::array<uint8_t, kMessage + 1> message{};
    message[0] = 'P';
    if (options_.mode == "ping") flow.from = Clock::now();
    if (::send(fd, message.data(), message.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(message.size())) return close(fd, true);
    loop_.watch(fd, EPOLLIN, true);
  }

  void handle(int fd, uint32_t events) {
    const auto found = flows_.find(fd);
    if (found == flows_.end()) return;
    Flow& flow = found->second;
    if (!flow.connected && (events & EPOLLOUT) != 0) {
      flow.connected = true;
      if (options_.viaConnect) {
        if (::send(fd, kRequest.data(), kRequest.size(), MSG_NOSIGNAL) < 0) return close(fd, true);
        loop_.watch(fd, EPOLLIN, true);
        return;
      }
      flow.opened = true;
      return begin(fd, flow);
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
      const ssize_t got = ::recv(fd, g_block.data(), g_block.size(), flow.commanded && options_.mode == "down" ? MSG_TRUNC : 0);
      if (got == 0 || (got < 0 && errno != EAGAIN)) return close(fd, true);
      size_t have = got > 0 ? static_cast<size_t>(got) : 0;
      if (!flow.opened) {
        // The head ends with an empty line; nothing follows it, as the target speaks only when spoken to.
        flow.head += have;
        if (have < 4 || std::memcmp(g_block.data() + have - 4, "\r\n\r\n", 4) != 0) return;
        if (std::memcmp(g_block.data(), "HTTP/1.1 200", 12) != 0) return close(fd, true);
        flow.opened = true;
        return begin(fd, flow);
      }
      if (options_.mode == "down") {
        if (counting_) bytes_ += have;
      } else if (options_.mode != "up") {
        flow.got += have;
        if (flow.got >= kMessage) return answered(fd, flow);
      }
    }
    if ((events & EPOLLOUT) != 0 && flow.commanded && options_.mode == "up") {
      const ssize_t sent = ::send(fd, g_block.data(), g_block.size(), MSG_NOSIGNAL);
      if (sent > 0 && counting_) bytes_ += static_cast<uint64_t>(sent);
      if (sent < 0 && errno != EAGAIN) close(fd, true);
    }
  }

  void answered(int fd, Flow& flow) {
    flow.got -= kMessage;
    if (counting_) times_.push_back(std::chrono::duration<float, std::micro>(Clock::now() - flow.from).count());
    ++done_;
    if (options_.mode == "rate") return close(fd, false);
    if (options_.mode == "idle") return;
    flow.from = Clock::now();
    if (::send(fd, g_block.data(), kMessage, MSG_NOSIGNAL) != static_cast<ssize_t>(kMessage)) close(fd, true);
  }

  Options options_;
  sockaddr_in to_;
  Loop loop_;
  std::unordered_map<int, Flow> flows_;
  Clock::time_point countFrom_, end_;
  uint64_t bytes_ = 0;
  std::vector<float> times_;
  bool counting_ = false;
  int failures_ = 0, done_ = 0;
  size_t sources_ = 0;
};

}  // namespace
}  // namespace wayleave

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  CLI::App app("the two ends of a measured chain", "wayleave-bench-load");
  app.require_subcommand(1);
  uint16_t plain = 9100, connect = 9101;
  CLI::App* origin = app.add_subcommand("origin");
  origin->add_option("--plain", plain);
  origin->add_option("--connect", connect);
  origin->callback([&] { wayleave::origin(plain, connect); });
  wayleave::Options options;
  int status = 0;
  CLI::App* run = app.add_subcommand("run");
  run->add_option("--target", options.target)->required();
  run->add_option("--mode", options.mode)->required()->check(CLI::IsMember({"down", "up", "ping", "rate", "idle"}));
  run->add_option("--flows", options.flows)->check(CLI::Range(1, 20000));
  run->add_option("--seconds", options.seconds);
  run->add_option("--count", options.count)->check(CLI::Range(0, 100'000'000));
  run->add_option("--watch", options.watch)->delimiter(',');
  run->add_flag("--via-connect", options.viaConnect);
  run->callback([&] { status = wayleave::Load(options).run(); });
  CLI11_PARSE(app, argc, argv);
  return status;
}
