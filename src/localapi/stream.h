#pragma once

// Events on their way to one reader. Internal to this library.

#include <deque>
#include <fmt/format.h>
#include <mutex>
#include <string>
#include <utility>

#include "localapi/session.h"

namespace wayleave::localapi {

// A reader this far behind has stopped reading; what it missed it must look up again anyway.
inline constexpr size_t kMostQueuedEvents = 256;

// The queue between whoever sends events and the session that writes them.
class Stream {
 public:
  explicit Stream(std::shared_ptr<Session> session) : session_(std::move(session)), core_(session_->sharedCore()) {}

  bool send(std::string line) {
    const std::lock_guard lock(mutex_);
    if (gone_ || ended_) return false;
    if (queue_.size() >= kMostQueuedEvents) {
      gone_ = true;
      queue_.clear();
      core_->post([session = session_] { session->close(); });
      return false;
    }
    queue_.push_back(std::move(line));
    wake();
    return true;
  }
  bool isOpen() const {
    const std::lock_guard lock(mutex_);
    return !gone_;
  }
  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    wake();
  }
  void readerGone() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    queue_.clear();
  }

  struct Batch {
    std::string chunk;  // ready for the wire; empty when there is nothing to write
    bool last = false;
  };
  Batch take() {
    const std::lock_guard lock(mutex_);
    woken_ = false;
    Batch batch;
    std::string lines;
    for (const std::string& line : queue_) lines.append(line).push_back('\n');
    queue_.clear();
    if (!lines.empty()) batch.chunk = fmt::format("{:x}\r\n{}\r\n", lines.size(), lines);
    batch.last = ended_;
    if (ended_) batch.chunk += "0\r\n\r\n";
    return batch;
  }

 private:
  void wake() {  // with the mutex held
    if (std::exchange(woken_, true)) return;
    core_->post([session = session_] { session->flushStream(); });
  }

  const std::shared_ptr<Session> session_;
  const std::shared_ptr<ServerCore> core_;
  mutable std::mutex mutex_;
  std::deque<std::string> queue_;
  bool woken_ = false;
  bool ended_ = false;
  bool gone_ = false;
};

}  // namespace wayleave::localapi
