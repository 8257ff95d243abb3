#include "observe/flow_journal.h"

#include <chrono>

namespace wayleave::observe {
namespace {

constexpr std::chrono::milliseconds kGather{10};
// What a burst made of a queue is not kept for the next one.
constexpr size_t kKeptCapacity = 256;

}  // namespace

FlowJournal::FlowJournal(Options options) : options_(std::move(options)), kept_(options_.kept, options_.keptBytes) {
  for (size_t i = 0; i < options_.workers; ++i) queues_.push_back(std::make_unique<Queue>());
  thread_ = std::thread([this] { run(); });
}

FlowJournal::~FlowJournal() {
  stopping_ = true;
  signal();
  thread_.join();
}

// One system call per burst at most: while the flag is up the thread has not looked yet.
void FlowJournal::signal() {
  if (!pending_.exchange(true)) pending_.notify_one();
}

void FlowJournal::add(size_t worker, FlowRecord record) {
  Queue& queue = *queues_[worker];
  {
    const std::lock_guard lock(queue.mutex);
    if (queue.records.size() >= options_.queuedPerWorker) {
      ++queue.dropped;
      return;
    }
    queue.records.push_back(std::move(record));
  }
  signal();
}

std::vector<FlowRecord> FlowJournal::latest(size_t limit, std::optional<uint32_t> user) const {
  const std::lock_guard lock(mutex_);
  return kept_.latest(limit, user);
}

void FlowJournal::watch(Watcher watcher) {
  const std::lock_guard lock(mutex_);
  std::erase_if(watchers_, [](const Watcher& old) { return !old.isAlive(); });
  watchers_.push_back(std::move(watcher));
}

uint64_t FlowJournal::dropped() const {
  uint64_t sum = 0;
  for (const auto& queue : queues_) {
    const std::lock_guard lock(queue->mutex);
    sum += queue->dropped;
  }
  return sum;
}

void FlowJournal::run() {
  std::vector<FlowRecord> batch;
  for (bool last = false; !last;) {
    pending_.wait(false);
    // Whoever queues meanwhile finds the flag up and wakes nobody: at thousands of short flows a second a wake-up for each
    // would cost more than the record.
    if (!stopping_) std::this_thread::sleep_for(kGather);
    last = stopping_;  // read before the flag goes down: what was queued before the stop is still written
    pending_ = false;
    for (const auto& queue : queues_) {
      {
        const std::lock_guard lock(queue->mutex);
        batch.swap(queue->records);
      }
      for (const FlowRecord& record : batch) write(record);
      batch.clear();
      if (batch.capacity() > kKeptCapacity) batch.shrink_to_fit();
    }
  }
}

void FlowJournal::write(const FlowRecord& record) {
  options_.log(record);
  const std::lock_guard lock(mutex_);
  std::erase_if(watchers_, [&](const Watcher& watcher) { return !watcher.onRecord(record); });
  kept_.add(record);
}

}  // namespace wayleave::observe
