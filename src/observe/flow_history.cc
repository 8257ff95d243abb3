#include "observe/flow_history.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace wayleave::observe {
namespace {

constexpr size_t kMostText = 4096;
constexpr size_t kTexts = 5;

struct Head {
  uint64_t id, bytesUp, bytesDown;
  Wall::rep started;
  std::chrono::nanoseconds::rep duration;
  uint32_t user;
  bool hasUser;
  Carriage carriage;
  Reason outcome;
  std::array<uint16_t, kTexts> lengths;
};
static_assert(std::is_trivially_copyable_v<Head> && sizeof(Head) + kTexts * kMostText <= FlowHistory::kBlockBytes);
static_assert(FlowHistory::kBlockBytes <= size_t{UINT16_MAX} + 1);

template <typename Record>
auto textsOf(Record& record) {
  return std::array{&record.error, &record.source, &record.destination, &record.host, &record.configuration};
}

Head headAt(const uint8_t* at) {
  Head head;
  std::memcpy(&head, at, sizeof head);
  return head;
}

FlowRecord unpack(const Head& head, const uint8_t* at) {
  FlowRecord record;
  record.id = head.id;
  record.started = Wall{Wall::duration{head.started}};
  record.duration = std::chrono::nanoseconds{head.duration};
  record.carriage = head.carriage;
  record.outcome = head.outcome;
  record.bytesUp = head.bytesUp;
  record.bytesDown = head.bytesDown;
  if (head.hasUser) record.user = head.user;
  const auto texts = textsOf(record);
  at += sizeof head;
  for (size_t i = 0; i < kTexts; at += head.lengths[i++]) texts[i]->assign(reinterpret_cast<const char*>(at), head.lengths[i]);
  return record;
}

}  // namespace

FlowHistory::FlowHistory(size_t records, size_t bytes) : records_(records), mostBlocks_(std::max<size_t>(1, bytes / kBlockBytes)) {}

void FlowHistory::add(const FlowRecord& record) {
  Head head{.id = record.id,
            .bytesUp = record.bytesUp,
            .bytesDown = record.bytesDown,
            .started = record.started.time_since_epoch().count(),
            .duration = record.duration.count(),
            .user = record.user.value_or(0),
            .hasUser = record.user.has_value(),
            .carriage = record.carriage,
            .outcome = record.outcome,
            .lengths = {}};
  const auto texts = textsOf(record);
  size_t size = sizeof head;
  for (size_t i = 0; i < kTexts; ++i) size += head.lengths[i] = static_cast<uint16_t>(std::min(texts[i]->size(), kMostText));
  if (blocks_.empty() || blocks_.back().used + size > kBlockBytes) {
    if (blocks_.size() == mostBlocks_) {
      held_ -= blocks_.front().starts.size();
      blocks_.pop_front();
    }
    blocks_.emplace_back();
  }
  Block& block = blocks_.back();
  block.starts.push_back(static_cast<uint16_t>(block.used));
  uint8_t* at = block.bytes.get() + block.used;
  std::memcpy(at, &head, sizeof head);
  at += sizeof head;
  for (size_t i = 0; i < kTexts; at += head.lengths[i++]) std::memcpy(at, texts[i]->data(), head.lengths[i]);
  block.used += size;
  ++held_;
  while (held_ - blocks_.front().starts.size() >= records_ && blocks_.size() > 1) {
    held_ -= blocks_.front().starts.size();
    blocks_.pop_front();
  }
}

std::vector<FlowRecord> FlowHistory::latest(size_t limit, std::optional<uint32_t> user) const {
  std::vector<FlowRecord> found;
  size_t seen = 0;
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block)
    for (auto start = block->starts.rbegin(); start != block->starts.rend(); ++start) {
      if (found.size() == limit || seen++ == records_) return found;
      const uint8_t* at = block->bytes.get() + *start;
      const Head head = headAt(at);
      if (!user || (head.hasUser && head.user == *user)) found.push_back(unpack(head, at));
    }
  return found;
}

}  // namespace wayleave::observe
