#include "proxy/proxy.h"

#include <pthread.h>

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <csignal>
#include <mutex>

#include "base/log.h"

namespace wayleave::proxy {
namespace {

// splice() to a closed socket raises SIGPIPE and knows no MSG_NOSIGNAL.
void blockPipeSignal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void runLoop(boost::asio::io_context& loop) {
  blockPipeSignal();
  for (;;) {
    try {
      loop.run();
      return;
    } catch (const std::exception& error) {  // memory, or a bug: the other flows go on
      log::error("a handler threw", {{"error", error.what()}});
    }
  }
}

// Outlives the call that waits on it: a worker may answer after the grace is over.
struct Countdown {
  std::mutex mutex;
  std::condition_variable done;
  size_t left = 0;
};

}  // namespace

Result<std::unique_ptr<Proxy>> Proxy::make(const ProxyOptions& options, observe::FlowJournal& journal,
                                           const MakeSource& makeSource) {
  std::unique_ptr<Proxy> proxy(new Proxy());
  for (size_t i = 0; i < options.workers; ++i) {
    WorkerOptions own = options.worker;
    own.index = i;
    auto worker = Worker::make(std::move(own), journal);
    if (!worker) return propagate(worker.error());
    auto source = makeSource((*worker)->loop());
    if (!source) return withContext(source.error(), "worker " + std::to_string(i));
    (*worker)->prepare(std::move(*source));
    proxy->workers_.push_back(std::move(*worker));
  }
  return proxy;
}

Proxy::~Proxy() { (void)stop(std::chrono::milliseconds{0}); }

void Proxy::start(std::vector<capture::Endpoint> ownListeners) {
  for (const auto& worker : workers_) {
    guards_.emplace_back(worker->loop().get_executor());
    worker->serve(ownListeners);
    threads_.emplace_back([&loop = worker->loop()] { runLoop(loop); });
  }
}

void Proxy::everywhere(const std::function<void(Worker&)>& order) {
  for (const auto& worker : workers_) boost::asio::post(worker->loop(), [&worker = *worker, order] { order(worker); });
}

void Proxy::apply(std::shared_ptr<const Policy> policy) {
  everywhere([policy = std::move(policy)](Worker& worker) { worker.apply(policy); });
}

void Proxy::warmTunnels() { everywhere([](Worker& worker) { worker.warmTunnels(); }); }

void Proxy::drainTunnels(const std::string& configuration) {
  everywhere([configuration](Worker& worker) { worker.drainTunnels(configuration); });
}

void Proxy::closeTunnels(const std::string& configuration, const Error& why) {
  everywhere([configuration, why](Worker& worker) { worker.closeTunnels(configuration, why); });
}

bool Proxy::stop(std::chrono::milliseconds grace) {
  if (threads_.empty()) return true;
  auto countdown = std::make_shared<Countdown>();
  countdown->left = workers_.size();
  everywhere([countdown](Worker& worker) {
    worker.drain([countdown] {
      const std::lock_guard lock(countdown->mutex);
      if (--countdown->left == 0) countdown->done.notify_all();
    });
  });
  bool drained = false;
  {
    std::unique_lock lock(countdown->mutex);
    drained = countdown->done.wait_for(lock, grace, [&] { return countdown->left == 0; });
  }
  everywhere([](Worker& worker) {
    worker.endAll(Reason::Drained, "the proxy stops");
    worker.loop().stop();
  });
  guards_.clear();
  threads_.clear();  // joins
  return drained;
}

std::vector<const observe::WorkerMetrics*> Proxy::metrics() const {
  std::vector<const observe::WorkerMetrics*> all;
  for (const auto& worker : workers_) all.push_back(&worker->metrics());
  return all;
}

}  // namespace wayleave::proxy
