// Changes of the network, from rtnetlink's multicast groups. What changed is not looked at: whoever is told checks what it
// depends on, which is cheap and also right when messages were lost (ENOBUFS).

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "base/clock.h"
#include "base/log.h"
#include "capture/capture.h"

namespace wayleave::capture {
namespace {

// A new address brings routes, neighbours and a second address of the other family within a few milliseconds.
constexpr std::chrono::milliseconds kSettle{250};

Fd openMonitor() {
  Fd socket = Fd::adopt(::socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
  if (!socket || ::bind(socket.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return {};
  return socket;
}

void discardMessages(int socket) {
  std::array<char, 8192> buffer;
  while (::recv(socket, buffer.data(), buffer.size(), 0) >= 0 || errno == ENOBUFS || errno == EINTR) {
  }
}

}  // namespace

void watchNetwork(std::stop_token stop, const std::function<void()>& onChange) {
  const Fd monitor = openMonitor();
  const Fd wake = Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!monitor || !wake) {
    log::failure("network changes are not watched", errnoError(errno, "listen to rtnetlink"));
    return;
  }
  const std::stop_callback onStop(stop, [&] { ::eventfd_write(wake.borrow(), 1); });
  // From the first change of a burst, not from the last: a network that never rests must not keep us silent.
  std::optional<Steady> tellAt;
  while (!stop.stop_requested()) {
    const Steady now = std::chrono::steady_clock::now();
    if (tellAt && *tellAt <= now) {
      tellAt.reset();
      onChange();
      continue;
    }
    const int limit = tellAt ? static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(*tellAt - now).count()) : -1;
    pollfd wait[2]{{monitor.borrow(), POLLIN, 0}, {wake.borrow(), POLLIN, 0}};
    if (::poll(wait, 2, limit) <= 0 || wait[0].revents == 0) continue;
    discardMessages(monitor.borrow());
    if (!tellAt) tellAt = std::chrono::steady_clock::now() + kSettle;
  }
}

}  // namespace wayleave::capture
