#include "broker/workers.h"

#include "base/log.h"

namespace wayleave::broker {

Workers::Workers(size_t threads, size_t mostWaiting) : mostWaiting_(mostWaiting) {
  for (size_t index = 0; index < threads; ++index) threads_.emplace_back([this] { run(); });
}

Workers::~Workers() { stop(); }

void Workers::stop() {
  std::deque<std::function<void()>> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(line_);
  }
  wake_.notify_all();
  threads_.clear();  // joins
}

bool Workers::submit(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || line_.size() >= mostWaiting_) return false;
    line_.push_back(std::move(work));
  }
  wake_.notify_one();
  return true;
}

size_t Workers::waiting() const {
  const std::lock_guard lock(mutex_);
  return line_.size();
}

void Workers::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !line_.empty(); });
    if (stopping_) return;
    std::function<void()> work = std::move(line_.front());
    line_.pop_front();
    lock.unlock();
    try {
      work();
    } catch (const std::exception& thrown) {
      log::error("a request failed inside the daemon", {{"what", thrown.what()}});
    }
    work = nullptr;  // its responder answers now, not when the next work comes
    lock.lock();
  }
}

}  // namespace wayleave::broker
