#include "broker/signing_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

namespace wayleave::broker {
namespace {

// A key that has not signed for this long gives its thread back.
constexpr std::chrono::seconds kIdleThread{30};
constexpr std::chrono::milliseconds kStopPatience{2000};

struct Job {
  SigningRequest request;
  Steady submitted{};
  bool answered = false;  // with the state's mutex
  bool running = false;
};
using JobPtr = std::shared_ptr<Job>;

struct KeyQueue {
  std::map<uint64_t, std::deque<JobPtr>> callers;  // none is empty
  uint64_t lastServed = 0;
  size_t queued = 0;
  size_t threads = 0, idle = 0;  // idle: of the threads, those that wait for work
  std::condition_variable wake;

  JobPtr takeNext() {
    // The first caller behind the one served last, around the circle.
    auto caller = callers.upper_bound(lastServed);
    if (caller == callers.end()) caller = callers.begin();
    lastServed = caller->first;
    JobPtr job = std::move(caller->second.front());
    caller->second.pop_front();
    if (caller->second.empty()) callers.erase(caller);
    --queued;
    return job;
  }
  void remove(const JobPtr& job) {
    const auto caller = callers.find(job->request.caller);
    if (caller == callers.end()) return;
    queued -= std::erase(caller->second, job);
    if (caller->second.empty()) callers.erase(caller);
  }
};

}  // namespace

// Shared with the threads: one that a key holds up may outlive the queue.
struct SigningQueue::State : std::enable_shared_from_this<State> {
  explicit State(SigningLimits bounds) : limits(bounds) {}

  const SigningLimits limits;
  std::mutex mutex;
  std::condition_variable timerWake, ended;
  std::map<std::string, std::unique_ptr<KeyQueue>> keys;
  std::multimap<Steady, JobPtr> deadlines;
  SigningStatistics counts;
  size_t threads = 0;
  bool stopping = false;

  // Marks the job answered; true when this call is the one that may call done().
  static bool claim(const JobPtr& job) { return !std::exchange(job->answered, true); }

  void dropDeadline(const JobPtr& job) {
    for (auto [entry, end] = deadlines.equal_range(job->request.deadline); entry != end; ++entry)
      if (entry->second == job) {
        deadlines.erase(entry);
        return;
      }
  }

  void submit(SigningRequest request);
  // Takes out of `line` what nobody waits for any more: callers that hang up and ask again must not fill the queue with
  // their ghosts.
  std::vector<JobPtr> sweep(KeyQueue& queue, std::deque<JobPtr>& line);
  void work(const std::string& key, KeyQueue& queue);
  void runTimer();
  void startThread(std::function<void()> body) {
    ++threads;
    std::thread([self = shared_from_this(), body = std::move(body)] {
      body();
      const std::lock_guard lock(self->mutex);
      --self->threads;
      self->ended.notify_all();
    }).detach();
  }
};

std::vector<JobPtr> SigningQueue::State::sweep(KeyQueue& queue, std::deque<JobPtr>& line) {
  std::vector<JobPtr> swept;
  std::erase_if(line, [&](const JobPtr& job) {
    if (!job->request.abandoned || !job->request.abandoned() || !claim(job)) return false;
    dropDeadline(job);
    swept.push_back(job);
    return true;
  });
  queue.queued -= swept.size();
  counts.queued -= swept.size();
  counts.abandoned += swept.size();
  return swept;
}

void SigningQueue::State::submit(SigningRequest request) {
  const Steady now = std::chrono::steady_clock::now();
  auto job = std::make_shared<Job>();
  job->request = std::move(request);
  job->submitted = now;
  std::unique_lock lock(mutex);
  std::vector<JobPtr> ghosts;
  const auto bury = [&] {  // without the lock: done() is the caller's code
    for (const JobPtr& ghost : ghosts) ghost->request.done(fail(Reason::Cancelled, "the caller has gone"));
  };
  const auto refuse = [&](Reason reason, std::string message, std::string hint) {
    ++counts.refused;
    lock.unlock();
    bury();
    job->request.done(fail(reason, std::move(message), std::move(hint)));
  };
  if (stopping) return refuse(Reason::Cancelled, "the daemon is stopping", {});
  if (job->request.deadline <= now)
    return refuse(Reason::DeadlineExceeded, "the deadline had passed before it was asked", {});
  std::unique_ptr<KeyQueue>& slot = keys[job->request.key];
  if (!slot) slot = std::make_unique<KeyQueue>();
  KeyQueue& queue = *slot;
  if (queue.queued >= limits.perKey || (queue.callers.contains(job->request.caller) &&
                                        queue.callers[job->request.caller].size() >= limits.perCaller)) {
    for (auto& [caller, line] : queue.callers) std::ranges::move(sweep(queue, line), std::back_inserter(ghosts));
    std::erase_if(queue.callers, [](const auto& entry) { return entry.second.empty(); });
  }
  if (queue.queued >= limits.perKey)
    return refuse(Reason::Busy, fmt::format("{} signatures already wait for this key", queue.queued),
                  "the key is slow or asked too often; reuse connections and resume TLS sessions");
  std::deque<JobPtr>& line = queue.callers[job->request.caller];
  if (line.size() >= limits.perCaller)
    return refuse(Reason::Busy, fmt::format("{} signatures of this caller already wait for this key", line.size()),
                  "wait for answers before asking again");
  line.push_back(job);
  ++queue.queued;
  ++counts.queued;
  const bool earliest = deadlines.empty() || job->request.deadline < deadlines.begin()->first;
  deadlines.emplace(job->request.deadline, job);
  if (earliest) timerWake.notify_one();
  // A thread that was woken counts as idle until it runs: so work is compared with the idle, and not just notified.
  if (queue.queued > queue.idle && queue.threads < std::max<size_t>(job->request.threads, 1)) {
    ++queue.threads;
    startThread([this, key = job->request.key, &queue] { work(key, queue); });
  } else {
    queue.wake.notify_one();
  }
  lock.unlock();
  bury();
}

void SigningQueue::State::work(const std::string& key, KeyQueue& queue) {
  std::unique_lock lock(mutex);
  for (;;) {
    ++queue.idle;
    const bool woken = queue.wake.wait_for(lock, kIdleThread, [&] { return stopping || queue.queued > 0; });
    --queue.idle;
    if (!woken || stopping) {
      if (--queue.threads == 0 && !stopping) keys.erase(key);
      return;
    }
    const JobPtr job = queue.takeNext();
    --counts.queued;
    ++counts.running;
    job->running = true;
    lock.unlock();

    Result<Bytes> result = fail(Reason::Cancelled, "the caller has gone");
    const bool gone = job->request.abandoned && job->request.abandoned();
    const Steady start = std::chrono::steady_clock::now();
    if (!gone) {
      try {
        result = job->request.work();
      } catch (const std::exception& thrown) {
        result = fail(Reason::Internal, fmt::format("signing failed: {}", thrown.what()));
      }
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

    lock.lock();
    --counts.running;
    counts.longestSeconds = std::max(counts.longestSeconds, seconds);
    ++(gone ? counts.abandoned : result ? counts.completed : counts.failed);
    dropDeadline(job);
    if (claim(job)) {
      lock.unlock();
      job->request.done(std::move(result));
      lock.lock();
    }
  }
}

void SigningQueue::State::runTimer() {
  std::unique_lock lock(mutex);
  while (!stopping) {
    if (deadlines.empty()) {
      timerWake.wait(lock);
      continue;
    }
    const auto first = deadlines.begin();
    if (first->first > std::chrono::steady_clock::now()) {
      const Steady until = first->first;
      timerWake.wait_until(lock, until);
      continue;
    }
    const JobPtr job = first->second;
    deadlines.erase(first);
    if (!claim(job)) continue;
    ++counts.expired;
    std::string why = "the key did not answer before the deadline";
    if (!job->running) {
      const auto queue = keys.find(job->request.key);
      if (queue != keys.end()) queue->second->remove(job);
      --counts.queued;
      why = "the deadline passed while it waited behind other signatures of this key";
    }
    lock.unlock();
    job->request.done(fail(Reason::DeadlineExceeded, std::move(why), "the key is slow or asked too often"));
    lock.lock();
  }
}

SigningQueue::SigningQueue(SigningLimits limits) : state_(std::make_shared<State>(limits)) {
  const std::lock_guard lock(state_->mutex);
  state_->startThread([state = state_.get()] { state->runTimer(); });
}

SigningQueue::~SigningQueue() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  std::vector<JobPtr> unanswered;
  for (const auto& [deadline, job] : state_->deadlines)
    if (State::claim(job)) unanswered.push_back(job);
  state_->deadlines.clear();
  for (const auto& [key, queue] : state_->keys) queue->wake.notify_all();
  state_->timerWake.notify_all();
  lock.unlock();
  for (const JobPtr& job : unanswered) job->request.done(fail(Reason::Cancelled, "the daemon is stopping"));
  lock.lock();
  state_->ended.wait_for(lock, kStopPatience, [&] { return state_->threads == 0; });
}

void SigningQueue::submit(SigningRequest request) { state_->submit(std::move(request)); }

SigningStatistics SigningQueue::statistics() const {
  const std::lock_guard lock(state_->mutex);
  return state_->counts;
}

}  // namespace wayleave::broker
