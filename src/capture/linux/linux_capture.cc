// Ties the pieces together: listeners first (the rules name their ports), then the claim on the table (fails when another
// proxy runs, before anything was changed), then routes, then rules. Removal runs backwards, so that no moment exists in
// which packets are marked and have nowhere to go.

#include <fmt/format.h>

#include "base/log.h"
#include "capture/endpoint.h"
#include "capture/linux/listener.h"
#include "capture/linux/nft_table.h"
#include "capture/linux/routing.h"
#include "capture/linux/ruleset.h"

namespace wayleave::capture {
namespace {

using platform::NftTable;

rules::Address loopback(bool v6) { return rules::parseAddress(v6 ? "::1" : "127.0.0.1").value(); }

class LinuxCapture final : public Capture {
 public:
  LinuxCapture(const CaptureOptions& options, NftTable table) : options_(options), table_(std::move(table)) {}
  ~LinuxCapture() override {
    if (auto gone = remove(); !gone) log::failure("capture rules could not be removed", gone.error());
  }

  Result<std::unique_ptr<FlowSource>> makeSource(boost::asio::io_context& loop) override {
    std::vector<Fd> listeners;
    auto v4 = listen({loopback(false), listenerV4_ ? listenerV4_->port : options_.listenPort}, listenerV4_);
    if (!v4) return propagate(v4.error());
    listeners.push_back(std::move(*v4));
    if (useV6_) {
      auto v6 = listen({loopback(true), listenerV6_ ? listenerV6_->port : options_.listenPort}, listenerV6_);
      if (v6) {
        listeners.push_back(std::move(*v6));
      } else if (listenerV6_) {
        return propagate(v6.error());
      } else {  // IPv6 is off on this machine: there are no such flows
        useV6_ = false;
        log::failure("IPv6 flows are not captured", v6.error());
      }
    }
    platform::SourceOptions source;
    switch (options_.owner) {
      case OwnerDetail::None: break;
      case OwnerDetail::User:
        if (auto owners = platform::OwnerLookup::open())
          source.owners = std::move(*owners);
        else
          log::failure("flows are recorded without their user", owners.error());
        break;
    }
    return platform::makeListenerSource(loop, std::move(listeners), std::move(source));
  }

  Status apply(const CapturePlan& plan) override {
    if (!platform::catchesAnything(plan)) return remove();
    if (!listenerV4_) return fail(Reason::Internal, "rules were applied before any source was made");
    if (!installed_) {
      if (auto ok = table_.claim(); !ok) return ok;
      if (auto ok = platform::installRouting({.v6 = listenerV6_.has_value(), .fallbackRoute = options_.fallbackRoute}); !ok) {
        removeQuietly();
        return ok;
      }
    }
    if (auto ok = load(plan); !ok) {
      if (!installed_) removeQuietly();
      return ok;
    }
    installed_ = true;
    return {};
  }

  Status drain() override { return installed_ ? load({}) : Status{}; }

  Status remove() override {
    if (!installed_) return {};
    if (auto gone = table_.remove(); !gone) return gone;
    installed_ = false;
    if (auto gone = platform::removeRouting(); !gone) return propagate(gone.error());
    return {};
  }

  bool installed() const override { return installed_; }
  std::vector<Endpoint> listeners() const override {
    std::vector<Endpoint> all;
    if (listenerV4_) all.push_back(*listenerV4_);
    if (listenerV6_) all.push_back(*listenerV6_);
    return all;
  }

 private:
  static Result<Fd> listen(const Endpoint& endpoint, std::optional<Endpoint>& bound) {
    auto socket = platform::openListener(endpoint, platform::Listening::Transparent);
    if (socket) bound = localEndpoint(socket->borrow());
    return socket;
  }
  Status load(const CapturePlan& plan) {
    return table_.run(platform::compileRuleset(
        plan, {.listenerV4 = *listenerV4_, .listenerV6 = listenerV6_, .replace = true}));
  }
  void removeQuietly() {
    (void)table_.remove();
    (void)platform::removeRouting();
  }

  CaptureOptions options_;
  NftTable table_;
  std::optional<Endpoint> listenerV4_, listenerV6_;
  bool useV6_ = true;
  bool installed_ = false;
};

}  // namespace

Result<std::unique_ptr<Capture>> Capture::open(const CaptureOptions& options) {
  auto table = NftTable::open();
  if (!table) return propagate(table.error());
  return std::make_unique<LinuxCapture>(options, std::move(*table));
}

Result<int> cleanUp() {
  auto table = NftTable::open();
  if (!table) return propagate(table.error());
  // An owned table needs no cleaning: the kernel has it. If it can be claimed it was a leftover, or was not there.
  const bool leftover = table->run("list table inet wayleave\n").has_value();
  if (auto claimed = table->claim(); !claimed)
    return withContext(claimed.error(), "a live proxy keeps its rules");
  if (auto gone = table->remove(); !gone) return propagate(gone.error());
  auto routes = platform::removeRouting();
  if (!routes) return routes;
  return *routes + (leftover ? 1 : 0);
}

}  // namespace wayleave::capture
