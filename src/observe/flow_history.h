#pragma once

// The newest flow records, packed. A record costs what its texts need and some fifty bytes, in blocks that hold nothing else:
// the records of flows must not lie between what other flows left free, or closing ten thousand of them would give no page
// back. Bounded by number and by bytes. Not thread-safe.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "observe/flow_record.h"

namespace wayleave::observe {

class FlowHistory {
 public:
  static constexpr size_t kBlockBytes = 64 * 1024;

  // At most `records`, and at most `bytes` (but one block at least), whichever is reached first.
  FlowHistory(size_t records, size_t bytes);

  // A text longer than 4 KiB loses its end.
  void add(const FlowRecord& record);
  // Newest first; of one user's flows, when one is given.
  std::vector<FlowRecord> latest(size_t limit, std::optional<uint32_t> user = {}) const;
  size_t bytes() const { return blocks_.size() * kBlockBytes; }

 private:
  struct Block {
    std::unique_ptr<uint8_t[]> bytes{new uint8_t[kBlockBytes]};
    std::vector<uint16_t> starts;  // of its records
    size_t used = 0;
  };

  const size_t records_, mostBlocks_;
  std::deque<Block> blocks_;
  size_t held_ = 0;  // in all blocks; the oldest may hold some that are not among the newest `records_`
};

}  // namespace wayleave::observe
