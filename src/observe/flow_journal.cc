#include "observe/flow_journal.h"

#include <algorithm>
#include <chrono>

namespace wayleave::observe {
namespace {

constexpr std::chrono::milliseconds kGather{10};

}  // namespace

FlowJournal::FlowJournal(Options options) : options_(std::move(options)) {
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

std::vector<FlowRecord> FlowJournal::latest(size_t limit) const {
  const std::lock_guard lock(mutex_);
  const size_t count = std::min(limit, kept_.size());
  return {kept_.rbegin(), kept_.rbegin() + static_cast<ptrdiff_t>(count)};
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
      for (FlowRecord& record : batch) write(std::move(record));
      batch.clear();
    }
  }
}

void FlowJournal::write(FlowRecord record) {
  options_.log(record);
  const std::lock_guard lock(mutex_);
  std::erase_if(watchers_, [&](const Watcher& watcher) { return !watcher.onRecord(record); });
  kept_.push_back(std::move(record));
  if (kept_.size() > options_.kept) kept_.pop_front();
}

}  // namespace wayleave::observe
