#pragma once

// Carries flow records away from the workers. A worker only moves its record into a queue of its own; a thread of the
// journal's writes the log line, keeps the latest records and tells the watchers. So no worker ever waits for the log's
// descriptor, for a reader of the API, or for another worker.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "observe/flow_history.h"
#include "observe/flow_record.h"

namespace wayleave::observe {

class FlowJournal {
 public:
  struct Options {
    size_t workers = 1;
    size_t kept = 10'000;            // records for GET /v1/flows…
    size_t keptBytes = 1024 * 1024;  // …but no more than this: at usual lengths both are reached together
    size_t queuedPerWorker = 8'192;  // beyond it records are counted and dropped
    std::function<void(const FlowRecord&)> log = writeToLog;
  };
  struct Watcher {
    std::function<bool(const FlowRecord&)> onRecord;              // on the journal's thread; false: no more
    std::function<bool()> isAlive = [] { return true; };          // asked when others come: visitors must not pile up
  };

  explicit FlowJournal(Options options);
  ~FlowJournal();  // what is queued is written first
  FlowJournal(const FlowJournal&) = delete;
  FlowJournal& operator=(const FlowJournal&) = delete;

  // From worker `worker`'s thread.
  void add(size_t worker, FlowRecord record);
  // From any thread. Newest first; of one user's flows, when one is given.
  std::vector<FlowRecord> latest(size_t limit, std::optional<uint32_t> user = {}) const;
  void watch(Watcher watcher);
  uint64_t dropped() const;

 private:
  struct alignas(64) Queue {
    std::mutex mutex;  // between one worker and the journal's thread, which holds it for a swap
    std::vector<FlowRecord> records;
    uint64_t dropped = 0;
  };

  void run();
  void signal();
  void write(const FlowRecord& record);

  Options options_;
  std::vector<std::unique_ptr<Queue>> queues_;
  mutable std::mutex mutex_;  // of what follows; never taken by a worker
  FlowHistory kept_;
  std::vector<Watcher> watchers_;
  std::atomic<bool> pending_{false};  // something is queued: set by whoever queues into silence
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace wayleave::observe
