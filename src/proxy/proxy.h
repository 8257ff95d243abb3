#pragma once

// The workers together: threads, orders to all of them, an orderly end. Called from one controlling thread.

#include <boost/asio/executor_work_guard.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "proxy/worker.h"

namespace wayleave::proxy {

struct ProxyOptions {
  size_t workers = 2;
  WorkerOptions worker;  // for each; `index` is set here
};

class Proxy {
 public:
  using MakeSource = std::function<Result<std::unique_ptr<capture::FlowSource>>(boost::asio::io_context&)>;

  // Makes workers and their sources; nothing runs yet. `journal` has a queue per worker and outlives this. Errors: Io.
  static Result<std::unique_ptr<Proxy>> make(const ProxyOptions& options, observe::FlowJournal& journal,
                                             const MakeSource& makeSource);
  ~Proxy();  // ends what still lives with reason Drained

  // `ownListeners`: known only after the sources were made.
  void start(std::vector<capture::Endpoint> ownListeners);
  void apply(std::shared_ptr<const Policy> policy);
  // An identity became ready, or the network changed: have connections before flows ask, find out which ones died.
  void warmTunnels();
  // The identity was renewed: new tunnels use the new one, old ones drain.
  void drainTunnels(const std::string& configuration);
  // The identity is gone: its tunnels close now and their flows say why.
  void closeTunnels(const std::string& configuration, const Error& why);
  // Takes no new flow and waits until the last one ended, `grace` at most; what lives then is ended with reason Drained.
  // Stops the threads. Returns whether everything ended by itself.
  bool stop(std::chrono::milliseconds grace);

  std::vector<const observe::WorkerMetrics*> metrics() const;

 private:
  Proxy() = default;
  void everywhere(const std::function<void(Worker&)>& order);

  using Guard = boost::asio::executor_work_guard<boost::asio::io_context::executor_type>;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Guard> guards_;
  std::vector<std::jthread> threads_;
};

}  // namespace wayleave::proxy
