#pragma once

// Between two tries to reach a daemon: waits without polling. Private to this library.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>

namespace wayleave::localapi {

// True when asked to stop.
inline bool stoppedWithin(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, time, [] { return false; });
  return stop.stop_requested();
}

}  // namespace wayleave::localapi
