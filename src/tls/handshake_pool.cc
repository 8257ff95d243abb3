#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "tls/client_tls.h"

namespace wayleave::tls {
namespace {

// Some threads with one queue.
class Crew {
 public:
  Crew(size_t threads, size_t limit) : limit_(limit) {
    for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Crew() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  Status submit(std::function<void()> step) {
    {
      const std::lock_guard lock(mutex_);
      if (queue_.size() >= limit_) return fail(Reason::Busy, "too many TLS handshakes are waiting");
      queue_.push_back(std::move(step));
    }
    wake_.notify_one();
    return {};
  }

 private:
  void work() {
    for (;;) {
      std::function<void()> step;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (stopping_) return;
        step = std::move(queue_.front());
        queue_.pop_front();
      }
      step();
    }
  }

  const size_t limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

struct HandshakePool::Impl {
  Crew signing;
  Crew resuming;
};

HandshakePool::HandshakePool(Options options)
    : impl_(new Impl{{options.signingThreads, options.queueLimit}, {options.resumingThreads, options.queueLimit}}) {}
HandshakePool::~HandshakePool() = default;

Status HandshakePool::submit(bool mayBlock, std::function<void()> step) {
  return (mayBlock ? impl_->signing : impl_->resuming).submit(std::move(step));
}

}  // namespace wayleave::tls
