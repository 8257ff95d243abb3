#include "localapi/kept_connections.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>

namespace wayleave::localapi {
namespace {

// Every kept descriptor of this process, in use or not, for the child of a fork to close: it may take no lock then. What
// finds no place here is not kept.
class Descriptors {
 public:
  static Descriptors& ofThisProcess() {
    static Descriptors* const only = [] {
      auto* made = new Descriptors;  // never destroyed: forks happen while a program exits
      pthread_atfork(nullptr, nullptr, [] { ofThisProcess().closeAll(); });
      return made;
    }();
    return *only;
  }
  bool add(int fd) {
    for (std::atomic<int>& place : places_) {
      int none = -1;
      if (place.load(std::memory_order_relaxed) == -1 && place.compare_exchange_strong(none, fd)) return true;
    }
    return false;
  }
  void remove(int fd) {
    for (std::atomic<int>& place : places_) {
      int held = fd;
      if (place.load(std::memory_order_relaxed) == fd && place.compare_exchange_strong(held, -1)) return;
    }
  }

 private:
  Descriptors() {
    for (std::atomic<int>& place : places_) place = -1;
  }
  void closeAll() {
    for (std::atomic<int>& place : places_)
      if (const int fd = place.exchange(-1); fd != -1) ::close(fd);
  }
  std::array<std::atomic<int>, 256> places_;
};

// Nothing to read and not hung up: the daemon has neither closed it nor said what nobody asked for.
bool isQuiet(const Fd& socket) {
  pollfd poller{socket.borrow(), POLLIN, 0};
  return ::poll(&poller, 1, 0) == 0;
}

}  // namespace

KeptConnections::KeptConnections(size_t most) : most_(most), process_(::getpid()), state_(std::make_unique<State>()) {
  state_->idle.reserve(most);
  Descriptors::ofThisProcess();
}

KeptConnections::~KeptConnections() {
  // In a child neither the lock's state nor the descriptors (closed already, perhaps something else by now) are ours.
  if (inherited()) {
    static_cast<void>(state_.release());
    return;
  }
  for (const Fd& socket : state_->idle) Descriptors::ofThisProcess().remove(socket.borrow());
}

bool KeptConnections::inherited() const { return ::getpid() != process_; }

Result<KeptConnections::Turn> KeptConnections::take(Steady deadline) {
  if (inherited()) return Turn(nullptr, Fd{});
  std::unique_lock lock(state_->mutex);
  if (state_->taken < most_) {
    ++state_->taken;
  } else {
    Waiter self;
    state_->line.push_back(&self);
    if (!self.wake.wait_until(lock, deadline, [&] { return self.served; })) {
      std::erase(state_->line, &self);
      return fail(Reason::DeadlineExceeded, "other calls of this program kept every connection busy until the deadline");
    }
  }
  Turn turn(this, Fd{});
  while (!state_->idle.empty() && !turn.socket_) {
    Fd socket = std::move(state_->idle.back());
    state_->idle.pop_back();
    if (isQuiet(socket))
      turn.socket_ = std::move(socket);
    else
      Descriptors::ofThisProcess().remove(socket.borrow());
  }
  return turn;
}

void KeptConnections::Turn::use(Fd socket) {
  if (owner_ != nullptr && socket_) Descriptors::ofThisProcess().remove(socket_.borrow());
  socket_ = std::move(socket);
  if (owner_ != nullptr && socket_ && !Descriptors::ofThisProcess().add(socket_.borrow())) unlisted_ = true;
}

KeptConnections::Turn::~Turn() {
  if (owner_ == nullptr) return;
  if (socket_ && (!kept_ || unlisted_)) use(Fd{});
  const std::lock_guard lock(owner_->state_->mutex);
  if (socket_) owner_->state_->idle.push_back(std::move(socket_));
  if (owner_->state_->line.empty()) {
    --owner_->state_->taken;
    return;
  }
  Waiter* const next = owner_->state_->line.front();
  owner_->state_->line.pop_front();
  next->served = true;
  next->wake.notify_one();
}

}  // namespace wayleave::localapi
