#pragma once

// Time as a dependency: tests own it.

#include <chrono>
#include <string>

namespace wayleave {

using Steady = std::chrono::steady_clock::time_point;
using Wall = std::chrono::system_clock::time_point;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Steady now() const = 0;     // never jumps; for deadlines
  virtual Wall wallNow() const = 0;   // may jump; for certificate validity and logs
};

class SystemClock final : public Clock {
 public:
  Steady now() const override { return std::chrono::steady_clock::now(); }
  Wall wallNow() const override { return std::chrono::system_clock::now(); }
};

// Moves only when told to. Not thread-safe: advance it while nothing reads it.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(Wall start = Wall{std::chrono::seconds{1'800'000'000}}) : wall_(start) {}
  Steady now() const override { return steady_; }
  Wall wallNow() const override { return wall_; }
  void advance(std::chrono::nanoseconds by) {
    steady_ += std::chrono::duration_cast<Steady::duration>(by);
    wall_ += std::chrono::duration_cast<Wall::duration>(by);
  }
  void jumpWall(std::chrono::nanoseconds by) { wall_ += std::chrono::duration_cast<Wall::duration>(by); }

 private:
  Steady steady_{};
  Wall wall_;
};

// RFC 3339 in UTC with seconds: 2026-11-24T03:26:25Z.
std::string rfc3339(Wall time);

}  // namespace wayleave
