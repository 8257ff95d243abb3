#pragma once

// A device and a network behind it, as two network namespaces that one child process owns: they vanish with it, whatever
// the test does. Works as root and, where user namespaces are allowed, as anybody.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>

#include "base/owned.h"
#include "capture/endpoint.h"

namespace wayleave::capture::lab {

inline constexpr int kCannotIsolate = 77;
inline constexpr unsigned kLimitSeconds = 60;  // a test that hangs dies

// Runs `body` in a child process with network namespaces of its own. Failures inside count as failures here.
inline void inNamespaces(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(kLimitSeconds);
    const uid_t uid = ::getuid();
    const gid_t gid = ::getgid();
    if (::unshare((uid == 0 ? 0 : CLONE_NEWUSER) | CLONE_NEWNET) != 0) ::_exit(kCannotIsolate);
    if (uid != 0) {
      std::ofstream("/proc/self/setgroups") << "deny";
      std::ofstream("/proc/self/uid_map") << "0 " << uid << " 1";
      std::ofstream("/proc/self/gid_map") << "0 " << gid << " 1";
    }
    body();
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kCannotIsolate) GTEST_SKIP() << "no right to make a network namespace";
  EXPECT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

inline void run(const std::string& command) { EXPECT_EQ(std::system(command.c_str()), 0) << command; }
inline std::string output(const std::string& command) {
  std::string text;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  char chunk[4096];
  while (pipe != nullptr && std::fgets(chunk, sizeof chunk, pipe) != nullptr) text += chunk;
  if (pipe != nullptr) ::pclose(pipe);
  return text;
}

inline Endpoint at(std::string_view address, uint16_t port) { return {rules::parseAddress(address).value(), port}; }

// device: 192.0.2.1, 2001:db8::1 on `uplink`; network: 192.0.2.2, 2001:db8::2, and 198.51.100.1, 2001:db8:1::1 behind it.
class Lab {
 public:
  Lab() : device_(open()) {
    EXPECT_EQ(::unshare(CLONE_NEWNET), 0);
    network_ = open();
    run("ip link set lo up");
    enter(device_);
    run("ip link set lo up && ip link add uplink type veth peer name net0 netns /proc/" + std::to_string(::getpid()) + "/fd/" +
        std::to_string(network_.borrow()));
    run("ip addr add 192.0.2.1/24 dev uplink && ip addr add 2001:db8::1/64 dev uplink nodad && ip link set uplink up");
    inNetwork([] {
      run("ip addr add 192.0.2.2/24 dev net0 && ip addr add 2001:db8::2/64 dev net0 nodad && ip link set net0 up");
      run("ip addr add 198.51.100.1/32 dev lo && ip addr add 2001:db8:1::1/128 dev lo nodad");
    });
    run("ip route add default via 192.0.2.2 && ip route add default via 2001:db8::2");
  }

  // Sockets made inside stay in the network's namespace.
  void inNetwork(const std::function<void()>& body) const {
    enter(network_);
    body();
    enter(device_);
  }

 private:
  static Fd open() { return Fd::adopt(::open("/proc/self/ns/net", O_RDONLY)); }  // inherited by `ip`: no O_CLOEXEC
  static void enter(const Fd& space) { EXPECT_EQ(::setns(space.borrow(), CLONE_NEWNET), 0); }
  Fd device_;
  Fd network_;
};

inline Fd listenOn(const Endpoint& endpoint) {
  Fd socket = Fd::adopt(::socket(endpoint.address.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(socket.borrow(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_storage address;
  const socklen_t length = toSockaddr(endpoint, address);
  EXPECT_EQ(::bind(socket.borrow(), reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(::listen(socket.borrow(), 64), 0);
  return socket;
}

// A finished connect, or an empty handle with errno set. `mark` makes it one of our own sockets.
inline Fd connectTo(const Endpoint& endpoint, bool mark = false) {
  Fd socket = Fd::adopt(::socket(endpoint.address.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (mark) {
    EXPECT_TRUE(markOwn(socket.borrow()));
  }
  const timeval limit{5, 0};
  ::setsockopt(socket.borrow(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  ::setsockopt(socket.borrow(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_storage address;
  const socklen_t length = toSockaddr(endpoint, address);
  if (::connect(socket.borrow(), reinterpret_cast<sockaddr*>(&address), length) != 0) return {};
  return socket;
}

inline bool readable(const Fd& socket, int milliseconds) {
  pollfd wait{socket.borrow(), POLLIN, 0};
  return ::poll(&wait, 1, milliseconds) == 1;
}

}  // namespace wayleave::capture::lab
