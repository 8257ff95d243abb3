#pragma once

// One loop, one thread, its own listener, its own tunnels, its own flows. Workers share nothing that is touched per byte or
// per HTTP/2 flow (a flow over HTTP/1.1 is a connection: it copies its TLS context and session ticket under a shared lock);
// orders reach a worker by posting to its loop.

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/intrusive/list.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "capture/capture.h"
#include "observe/flow_journal.h"
#include "observe/metrics.h"
#include "proxy/deadlines.h"
#include "proxy/flow.h"
#include "proxy/pipe_pool.h"
#include "proxy/policy.h"
#include "proxy/poller.h"

namespace wayleave::proxy {

struct WorkerOptions {
  size_t index = 0;
  // From the decision to the gateway's 2xx. A cold handshake with a queued hardware key may take seconds of it.
  std::chrono::milliseconds openDeadline{10'000};
  // For the first bytes that may name the host. A local client that speaks first does so within a millisecond; one that
  // waits for the server waits this long.
  std::chrono::milliseconds peekDeadline{500};
  std::chrono::milliseconds connectDeadline{30'000};  // of direct flows
  // After one side ended. Gateways are known that never end the other (Apache httpd over h2).
  std::chrono::milliseconds halfClosedDeadline{600'000};
  std::chrono::milliseconds idleDeadline{0};          // 0: an idle flow lives as long as its ends want; else up to twice this
  std::function<Status(int)> protect = capture::markOwn;  // every socket of ours, before connect; empty: nothing captures
};

// One configuration as this worker carries it out.
struct Route {
  std::shared_ptr<const Policy> policy;  // keeps `entry` alive
  const PolicyEntry* entry = nullptr;
  std::shared_ptr<tunnel::Opener> opener;  // shared with the route that replaces this one, when nothing about it changed
};

class Worker final : private capture::FlowHandler {
 public:
  // Errors: Io.
  static Result<std::unique_ptr<Worker>> make(WorkerOptions options, observe::FlowJournal& journal);
  ~Worker() override;

  boost::asio::io_context& loop() { return loop_; }
  const observe::WorkerMetrics& metrics() const { return metrics_; }  // from any thread

  // --- On the loop (or before it runs) ---
  void prepare(std::unique_ptr<capture::FlowSource> source) { source_ = std::move(source); }
  // `ownListeners`: where the sources listen; a flow to one of them is a loop.
  void serve(std::vector<capture::Endpoint> ownListeners);
  void apply(std::shared_ptr<const Policy> policy);
  void warmTunnels();
  void drainTunnels(const std::string& configuration);
  void closeTunnels(const std::string& configuration, const Error& why);
  // Takes no new flow; `done` runs when the last one ended.
  void drain(std::function<void()> done);
  void endAll(Reason outcome, const std::string& why);

  // --- For flows ---
  const WorkerOptions& options() const { return options_; }
  const std::vector<std::shared_ptr<Route>>& routes() const { return routes_; }
  Poller& poller() { return *poller_; }
  Deadlines& deadlines() { return deadlines_; }
  PipePool& pipes() { return pipes_; }
  std::span<uint8_t> buffer() { return {buffer_.get(), kBufferBytes}; }  // lent for the length of a call
  observe::WorkerMetrics& counters() { return metrics_; }
  void record(observe::FlowRecord record) { journal_.add(options_.index, std::move(record)); }
  bool isOwnListener(const capture::Endpoint& destination) const;
  void continueLater(Flow& flow);
  // Destroys it once the calls that are running have returned.
  void bury(Flow& flow);

 private:
  // One batch, one system call (docs/operations.md, "Relay").
  static constexpr size_t kBufferBytes = 512 * 1024;
  using Flows = boost::intrusive::list<Flow, boost::intrusive::constant_time_size<true>>;

  Worker(WorkerOptions options, observe::FlowJournal& journal);
  void onFlow(capture::CapturedFlow flow) override;
  void onStarved(int error) override;
  void clearLater();
  void returnMemory();

  WorkerOptions options_;
  observe::FlowJournal& journal_;
  observe::WorkerMetrics metrics_;
  boost::asio::io_context loop_{1};
  std::unique_ptr<Poller> poller_;
  Deadlines deadlines_;
  PipePool pipes_;
  std::unique_ptr<uint8_t[]> buffer_{new uint8_t[kBufferBytes]};
  std::unique_ptr<capture::FlowSource> source_;
  std::vector<capture::Endpoint> ownListeners_;
  std::vector<std::shared_ptr<Route>> routes_;
  Flows flows_;
  size_t peakFlows_ = 0;  // since memory was last given back
  std::vector<Flow*> waiting_;  // for their next turn
  std::vector<std::unique_ptr<Flow>> graveyard_;
  bool turnPosted_ = false, clearPosted_ = false;
  bool starvationLogged_ = false;
  std::function<void()> drained_;
  uint64_t lastFlow_ = 0;
};

}  // namespace wayleave::proxy
