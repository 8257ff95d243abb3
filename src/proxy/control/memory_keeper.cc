#include "proxy/control/memory_keeper.h"

#include <malloc.h>

#include <condition_variable>
#include <mutex>
#include <utility>

namespace wayleave::proxy::control {

// What the journal's watcher holds on to: it may be asked once more when the keeper is gone.
struct MemoryKeeper::Counted {
  std::mutex mutex;
  std::condition_variable_any wake;
  size_t ended = 0;
  bool watching = true;
};

MemoryKeeper::MemoryKeeper(observe::FlowJournal& journal, Options options)
    : options_(std::move(options)), counted_(std::make_shared<Counted>()) {
  const auto alive = [counted = counted_] {
    const std::lock_guard lock(counted->mutex);
    return counted->watching;
  };
  journal.watch({.onRecord =
                     [counted = counted_, flows = options_.flows](const observe::FlowRecord&) {
                       const std::lock_guard lock(counted->mutex);
                       if (++counted->ended == flows) counted->wake.notify_all();
                       return counted->watching;
                     },
                 .isAlive = alive});
  thread_ = std::jthread([this](std::stop_token stop) { run(std::move(stop)); });
}

MemoryKeeper::~MemoryKeeper() {
  thread_.request_stop();
  thread_.join();
  const std::lock_guard lock(counted_->mutex);
  counted_->watching = false;
}

void MemoryKeeper::trim() { ::malloc_trim(0); }

void MemoryKeeper::run(std::stop_token stop) {
  std::unique_lock lock(counted_->mutex);
  while (counted_->wake.wait(lock, stop, [&] { return counted_->ended >= options_.flows; })) {
    for (int calm = 0; calm < options_.spans && !stop.stop_requested();) {
      counted_->ended = 0;
      counted_->wake.wait_for(lock, stop, options_.span, [] { return false; });
      calm = counted_->ended < options_.busy ? calm + 1 : 0;
    }
    if (stop.stop_requested()) return;
    counted_->ended = 0;
    lock.unlock();
    options_.giveBack();
    lock.lock();
  }
}

}  // namespace wayleave::proxy::control
