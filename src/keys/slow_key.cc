#include "keys/slow_key.h"

#include <algorithm>
#include <thread>

namespace wayleave::keys {

Result<Bytes> SlowKey::signDigest(SignatureScheme scheme, ByteView digest, Steady deadline) {
  {
    std::unique_lock lock(mutex_);
    if (!freed_.wait_until(lock, deadline, [this] { return !busy_; }))
      return fail(Reason::DeadlineExceeded, "the slow key was busy until the deadline");
    busy_ = true;
  }
  Result<Bytes> signature = signAlone(scheme, digest, deadline);
  {
    const std::lock_guard lock(mutex_);
    busy_ = false;
  }
  freed_.notify_one();
  return signature;
}

Result<Bytes> SlowKey::signAlone(SignatureScheme scheme, ByteView digest, Steady deadline) {
  const uint64_t number = signatures_++;
  const Steady ready = std::chrono::steady_clock::now() + delay_;
  std::this_thread::sleep_until(std::min(ready, deadline));
  if (ready > deadline) return fail(Reason::DeadlineExceeded, "the slow key was not ready before the deadline");
  if (fault_)
    if (auto fault = fault_(number); !fault) return propagate(fault.error());
  return inner_->signDigest(scheme, digest, deadline);
}

}  // namespace wayleave::keys
