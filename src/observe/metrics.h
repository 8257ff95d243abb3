#pragma once

// What proxyd counts. Each worker has a shard that it alone writes (plain loads and stores, no locked instruction, no
// shared cache line); a scrape adds the shards up. Names and labels are documented in docs/operations.md.

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/reason.h"
#include "observe/flow_record.h"

namespace wayleave::observe {

// Written by one thread, read by any.
class Counter {
 public:
  void add(uint64_t by = 1) { value_.store(value_.load(std::memory_order_relaxed) + by, std::memory_order_relaxed); }
  void subtract(uint64_t by = 1) { add(uint64_t{0} - by); }  // for gauges
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Seconds. Bounds reach from a warm tunnel on the loopback to a cold handshake with a queued hardware key.
class DurationHistogram {
 public:
  static constexpr std::array<double, 12> kBounds{0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10};
  void observe(std::chrono::nanoseconds duration);
  uint64_t bucket(size_t index) const { return buckets_[index].get(); }  // not cumulative; the last is "+Inf"
  uint64_t sumNanoseconds() const { return sum_.get(); }

 private:
  std::array<Counter, kBounds.size() + 1> buckets_;
  Counter sum_;
};

inline constexpr size_t kReasons = static_cast<size_t>(Reason::AttestationRefused) + 1;

struct alignas(64) WorkerMetrics {
  Counter flowsOpened;  // everything that was captured
  Counter flowsActive;
  std::array<std::array<Counter, kReasons>, kCarriages> flowsEnded;
  std::array<Counter, kCarriages> bytesUp, bytesDown;
  Counter acceptStarved;             // times accepting paused for want of descriptors or memory
  Counter hostsFound, hostsMissing;  // names looked for in first bytes
  Counter fallbacks;                 // flows that went direct because the tunnel failed and the policy said so
  DurationHistogram tunnelOpen;      // from the decision to the gateway's 2xx
};

// Values that are not a worker's.
struct Gauge {
  std::string name, help;
  double value = 0;
  bool counter = false;
};

// Prometheus text format 0.0.4.
std::string exposition(std::span<const WorkerMetrics* const> workers, const std::vector<Gauge>& others);

}  // namespace wayleave::observe
