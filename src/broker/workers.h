#pragma once

// A few threads and a bounded line of work in front of them.

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace wayleave::broker {

class Workers {
 public:
  Workers(size_t threads, size_t mostWaiting);
  ~Workers();  // lets what runs finish, drops what waits
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // False when the line is full, or we are stopping: `work` is dropped then.
  bool submit(std::function<void()> work);
  size_t waiting() const;
  // From now on submit() refuses; returns when no work runs any more.
  void stop();

 private:
  void run();

  const size_t mostWaiting_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> line_;
  bool stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace wayleave::broker
