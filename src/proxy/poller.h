#pragma once

// Readiness of a worker's thousands of descriptors: one epoll of our own inside the worker's Asio loop.
//
// Why not Asio's descriptors: each wait there costs an epoll_ctl and a heap-allocated operation that an idle flow would own
// for hours. Here a descriptor is registered once, edge-triggered for everything, and an idle flow owns nothing. The price
// is one epoll_wait more per wake-up of the loop, shared by all flows that are ready.

#include <sys/epoll.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>

#include "base/result.h"

namespace wayleave::proxy {

class Watcher {
 public:
  // EPOLL* bits. Edge-triggered: what is not used up now will not be told again.
  virtual void onReady(uint32_t events) = 0;

 protected:
  ~Watcher() = default;
};

class Poller {
 public:
  // Errors: Io.
  static Result<std::unique_ptr<Poller>> make(boost::asio::io_context& loop);
  Poller(boost::asio::io_context& loop, int epoll);
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  // Both directions, hang-ups and errors, until remove(). Errors: Io.
  Status add(int descriptor, Watcher& watcher);
  // Must be called before the descriptor is closed or the watcher destroyed; no onReady() follows.
  void remove(int descriptor, Watcher& watcher);
  // The same for a descriptor that is closed right after and that nothing else refers to: the kernel then forgets it itself.
  void forget(Watcher& watcher);

 private:
  void wait();
  void dispatch();

  boost::asio::posix::stream_descriptor epoll_;
  std::array<epoll_event, 256> batch_;
  size_t next_ = 0, count_ = 0;  // of the batch that is being dispatched
};

}  // namespace wayleave::proxy
