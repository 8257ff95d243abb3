#include "proxy/poller.h"

#include <cerrno>

#include "base/owned.h"

namespace wayleave::proxy {

Result<std::unique_ptr<Poller>> Poller::make(boost::asio::io_context& loop) {
  Fd epoll = Fd::adopt(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return std::unexpected(errnoError(errno, "create an epoll"));
  return std::make_unique<Poller>(loop, epoll.release());
}

Poller::Poller(boost::asio::io_context& loop, int epoll) : epoll_(loop, epoll) { wait(); }

Status Poller::add(int descriptor, Watcher& watcher) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &watcher;
  if (::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_ADD, descriptor, &event) != 0)
    return std::unexpected(errnoError(errno, "watch a descriptor"));
  return {};
}

void Poller::remove(int descriptor, Watcher& watcher) {
  ::epoll_ctl(epoll_.native_handle(), EPOLL_CTL_DEL, descriptor, nullptr);
  forget(watcher);
}

void Poller::forget(Watcher& watcher) {
  for (size_t i = next_; i < count_; ++i)
    if (batch_[i].data.ptr == &watcher) batch_[i].data.ptr = nullptr;
}

void Poller::wait() {
  epoll_.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](const boost::system::error_code& code) {
    if (code) return;  // destroyed: `this` is gone
    dispatch();
    wait();
  });
}

void Poller::dispatch() {
  const int ready = ::epoll_wait(epoll_.native_handle(), batch_.data(), static_cast<int>(batch_.size()), 0);
  count_ = ready > 0 ? static_cast<size_t>(ready) : 0;
  for (next_ = 0; next_ < count_;) {
    const epoll_event& event = batch_[next_++];
    if (event.data.ptr != nullptr) static_cast<Watcher*>(event.data.ptr)->onReady(event.events);
  }
  next_ = count_ = 0;
}

}  // namespace wayleave::proxy
