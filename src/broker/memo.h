#pragma once

// Remembers what a function of bytes and nothing else said of them. Keyed by the bytes themselves, so that nothing can go
// stale: a renewed certificate is other bytes.

#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::broker {

template <typename Value>
class Memo {
 public:
  // A machine has a handful of identities; beyond `most` values all are forgotten and the memo begins anew.
  explicit Memo(size_t most = 256) : most_(most) {}

  // Thread-safe; `decode` runs without the lock, for the first who asks, or for several at once. Errors are not kept.
  Result<std::shared_ptr<const Value>> of(const Bytes& bytes, const std::function<Result<Value>(ByteView)>& decode) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = known_.find(bytes); found != known_.end()) return found->second;
    }
    Result<Value> value = decode(bytes);
    if (!value) return propagate(value.error());
    auto shared = std::make_shared<const Value>(std::move(*value));
    const std::lock_guard lock(mutex_);
    if (known_.size() >= most_) known_.clear();
    return known_.try_emplace(bytes, std::move(shared)).first->second;
  }

 private:
  const size_t most_;
  std::mutex mutex_;
  std::map<Bytes, std::shared_ptr<const Value>> known_;
};

}  // namespace wayleave::broker
