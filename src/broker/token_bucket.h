#pragma once

// Rate limits: so many at once, so many per second after that.

#include <algorithm>
#include <chrono>

#include "base/clock.h"

namespace wayleave::broker {

class TokenBucket {
 public:
  // Starts full. `capacity`: most tokens at once; `perSecond`: how fast they come back.
  TokenBucket(double capacity, double perSecond, Steady now)
      : capacity_(capacity), perSecond_(perSecond), tokens_(capacity), filledAt_(now) {}

  bool take(double tokens, Steady now) {
    refill(now);
    if (tokens_ < tokens) return false;
    tokens_ -= tokens;
    return true;
  }
  // Until `tokens` can be taken; more than the capacity never can, and is counted as if the capacity were asked.
  std::chrono::milliseconds waitFor(double tokens, Steady now) {
    refill(now);
    const double missing = std::min(tokens, capacity_) - tokens_;
    if (missing <= 0) return std::chrono::milliseconds{0};
    if (perSecond_ <= 0) return std::chrono::hours{24};
    return std::chrono::ceil<std::chrono::milliseconds>(std::chrono::duration<double>(missing / perSecond_));
  }
  bool full(Steady now) const { return TokenBucket(*this).waitFor(capacity_, now).count() == 0; }

 private:
  void refill(Steady now) {
    if (now <= filledAt_) return;
    tokens_ = std::min(capacity_, tokens_ + std::chrono::duration<double>(now - filledAt_).count() * perSecond_);
    filledAt_ = now;
  }

  double capacity_;
  double perSecond_;
  double tokens_;
  Steady filledAt_;
};

}  // namespace wayleave::broker
