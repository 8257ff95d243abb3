#include "proxy/worker.h"

#include <malloc.h>

#include <algorithm>
#include <boost/asio/post.hpp>

#include "base/log.h"

namespace wayleave::proxy {
namespace {

constexpr int kWorkerBits = 8;  // of a flow's id: unique across workers without asking anyone
// Fewer flows than this leave too little behind to look for it.
constexpr size_t kTrimFlows = 256;

}  // namespace

Result<std::unique_ptr<Worker>> Worker::make(WorkerOptions options, observe::FlowJournal& journal) {
  std::unique_ptr<Worker> worker(new Worker(std::move(options), journal));
  auto poller = Poller::make(worker->loop_);
  if (!poller) return propagate(poller.error());
  worker->poller_ = std::move(*poller);
  return worker;
}

Worker::Worker(WorkerOptions options, observe::FlowJournal& journal)
    : options_(std::move(options)),
      journal_(journal),
      deadlines_(loop_, {options_.peekDeadline, options_.connectDeadline, options_.halfClosedDeadline, options_.idleDeadline}) {}

Worker::~Worker() {
  source_.reset();
  drained_ = nullptr;
  endAll(Reason::Drained, "the proxy stops");
  graveyard_.clear();
  routes_.clear();
}

void Worker::serve(std::vector<capture::Endpoint> ownListeners) {
  ownListeners_ = std::move(ownListeners);
  source_->start(*this);
}

void Worker::apply(std::shared_ptr<const Policy> policy) {
  std::vector<std::shared_ptr<Route>> next;
  for (const PolicyEntry& entry : policy->entries) {
    auto route = std::make_shared<Route>(Route{policy, &entry, nullptr});
    for (const auto& old : routes_)
      if (old->entry->id == entry.id && old->entry->generation == entry.generation) route->opener = old->opener;
    if (!route->opener) route->opener = entry.makeOpener(loop_);
    next.push_back(std::move(route));
  }
  routes_.swap(next);
  for (const auto& old : next) {
    const auto same = std::find_if(routes_.begin(), routes_.end(),
                                   [&](const auto& route) { return route->entry->id == old->entry->id; });
    if (same == routes_.end())
      old->opener->closeAll(Error{Reason::IdentityUnavailable, "the configuration was removed", {}});
    else if ((*same)->opener != old->opener)
      old->opener->drain();
  }
}

void Worker::warmTunnels() {
  for (const auto& route : routes_) route->opener->warm();
}

void Worker::drainTunnels(const std::string& configuration) {
  for (const auto& route : routes_)
    if (route->entry->id == configuration) route->opener->drain();
}

void Worker::closeTunnels(const std::string& configuration, const Error& why) {
  for (const auto& route : routes_)
    if (route->entry->id == configuration) route->opener->closeAll(why);
}

void Worker::drain(std::function<void()> done) {
  if (source_) source_->pause();
  drained_ = std::move(done);
  if (flows_.empty() && drained_) std::exchange(drained_, nullptr)();
}

void Worker::endAll(Reason outcome, const std::string& why) {
  while (!flows_.empty()) flows_.front().end(outcome, why);
}

bool Worker::isOwnListener(const capture::Endpoint& destination) const {
  return std::find(ownListeners_.begin(), ownListeners_.end(), destination) != ownListeners_.end();
}

void Worker::continueLater(Flow& flow) {
  if (std::find(waiting_.begin(), waiting_.end(), &flow) == waiting_.end()) waiting_.push_back(&flow);
  if (std::exchange(turnPosted_, true)) return;
  boost::asio::post(loop_, [this] {
    turnPosted_ = false;
    std::vector<Flow*> turn;
    turn.swap(waiting_);
    // A flow that ends during this turn is only buried: its memory is good until the graveyard is cleared.
    for (Flow* next : turn) next->continueRelay();
  });
}

void Worker::bury(Flow& flow) {
  std::erase(waiting_, &flow);
  flows_.erase(flows_.iterator_to(flow));
  graveyard_.emplace_back(&flow);
  metrics_.flowsActive.subtract();
  clearLater();
  if (flows_.empty() && drained_) boost::asio::post(loop_, std::exchange(drained_, nullptr));
}

void Worker::clearLater() {
  if (std::exchange(clearPosted_, true)) return;
  boost::asio::post(loop_, [this] {
    clearPosted_ = false;
    std::vector<std::unique_ptr<Flow>> dead;
    dead.swap(graveyard_);
    dead.clear();
    returnMemory();
  });
}

// What closed flows owned lies free in the heap, in between what lives: the kernel gets it back only when asked. That takes
// milliseconds, so it is done when most of the flows of a peak have gone, not as they go.
void Worker::returnMemory() {
  peakFlows_ = std::max(peakFlows_, flows_.size());
  if (peakFlows_ < kTrimFlows || flows_.size() > peakFlows_ / 8) return;
  peakFlows_ = flows_.size();
  ::malloc_trim(0);
}

void Worker::onFlow(capture::CapturedFlow captured) {
  starvationLogged_ = false;
  metrics_.flowsOpened.add();
  metrics_.flowsActive.add();
  const uint64_t id = (++lastFlow_ << kWorkerBits) | options_.index;
  auto* flow = new Flow(*this, std::move(captured), id);  // owned by flows_ until bury() hands it to the graveyard
  flows_.push_back(*flow);
  peakFlows_ = std::max(peakFlows_, flows_.size());
  flow->start();
}

void Worker::onStarved(int error) {
  metrics_.acceptStarved.add();
  if (std::exchange(starvationLogged_, true)) return;  // it repeats every few milliseconds until flows end
  log::failure("new flows wait in the kernel",
               errnoError(error, "accept a flow"), {{"flows", std::to_string(flows_.size())}});
}

}  // namespace wayleave::proxy
