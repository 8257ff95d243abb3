#include "proxy/control/controller.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "base/log.h"
#include "localapi/json_reader.h"
#include "tunnel/opener.h"

namespace wayleave::proxy::control {
namespace {

using localapi::ProxyConfiguration;
using namespace std::chrono_literals;

// A daemon that starts beside us is there within a second; one that is broken must not be asked a thousand times.
constexpr std::chrono::milliseconds kFirstPause{200};
constexpr std::chrono::milliseconds kLongestPause{15'000};

class BackOff {
 public:
  // Returns false when stopped.
  bool pause(std::stop_token stop) {
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any wake;
    wake.wait_for(lock, stop, next_, [] { return false; });
    next_ = std::min(next_ * 2, kLongestPause);
    return !stop.stop_requested();
  }
  void reset() { next_ = kFirstPause; }

 private:
  std::chrono::milliseconds next_ = kFirstPause;
};

Result<rules::NetworkRule> ruleFrom(const localapi::RuleEntry& entry) {
  rules::NetworkRule rule;
  rule.protocol = entry.protocol == "tcp" ? rules::Protocol::Tcp : entry.protocol == "udp" ? rules::Protocol::Udp : rules::Protocol::Any;
  if (!entry.network.empty()) {
    auto address = rules::parseAddress(entry.network);
    if (!address) return propagate(address.error());
    rule.network = *address;
  }
  rule.prefix = entry.prefix;
  rule.host = entry.host;
  rule.port = entry.port;
  return rule;
}

Result<rules::RuleSet> ruleSetFrom(const ProxyConfiguration& configuration) {
  std::vector<rules::NetworkRule> lists[2];
  const std::vector<localapi::RuleEntry>* sources[2] = {&configuration.includedRules, &configuration.excludedRules};
  for (size_t i = 0; i < 2; ++i)
    for (const localapi::RuleEntry& entry : *sources[i]) {
      auto rule = ruleFrom(entry);
      if (!rule) return propagate(rule.error());
      lists[i].push_back(std::move(*rule));
    }
  return rules::RuleSet::make(std::move(lists[0]), std::move(lists[1]));
}

// Same gateway, same trust, same identity: its tunnels may stay.
bool sameGateway(ProxyConfiguration a, const ProxyConfiguration& b) {
  a.name = b.name;
  a.profileIdentifier = b.profileIdentifier;
  a.enabled = b.enabled;
  a.includedRules = b.includedRules;
  a.excludedRules = b.excludedRules;
  a.failurePolicy = b.failurePolicy;
  a.connectTarget = b.connectTarget;
  a.order = b.order;
  return a == b;
}

std::vector<capture::Endpoint> gatewayEndpoints(const ProxyConfiguration& configuration) {
  std::vector<std::string> texts = configuration.gatewayAddresses;
  if (texts.empty()) texts.push_back(configuration.gatewayHost);
  std::vector<capture::Endpoint> endpoints;
  for (const std::string& text : texts)
    if (auto address = rules::parseAddress(text)) endpoints.push_back({*address, configuration.gatewayPort});
  return endpoints;
}

tunnel::Protocol protocolOf(localapi::GatewayProtocol protocol) {
  switch (protocol) {
    case localapi::GatewayProtocol::Automatic: return tunnel::Protocol::Auto;
    case localapi::GatewayProtocol::Http1: return tunnel::Protocol::Http1;
    case localapi::GatewayProtocol::Http2: return tunnel::Protocol::Http2;
  }
  return tunnel::Protocol::Auto;
}

// One set of batch buffers per worker, whatever the number of gateways. Asked on the workers' loops, rarely.
std::shared_ptr<tunnel::WorkerBuffers> buffersOf(const boost::asio::io_context& loop) {
  static std::mutex mutex;
  static std::map<const boost::asio::io_context*, std::weak_ptr<tunnel::WorkerBuffers>> all;
  const std::lock_guard lock(mutex);
  auto buffers = all[&loop].lock();
  if (!buffers) all[&loop] = buffers = std::make_shared<tunnel::WorkerBuffers>();
  return buffers;
}

}  // namespace

Controller::Controller(ControllerOptions options, Proxy& proxy, capture::Capture* capture,
                       localapi::IdentityAgent& agent, tls::HandshakePool& handshakes)
    : options_(std::move(options)), proxy_(proxy), capture_(capture), agent_(agent), handshakes_(handshakes) {}

Controller::~Controller() { stop(); }

void Controller::start() {
  threads_.emplace_back([this](std::stop_token stop) { followConfigurations(std::move(stop)); });
  threads_.emplace_back([this](std::stop_token stop) { followIdentities(std::move(stop)); });
  threads_.emplace_back([this](std::stop_token stop) { retryUntilAllIsWell(std::move(stop)); });
  threads_.emplace_back([this](std::stop_token stop) { capture::watchNetwork(std::move(stop), [this] { proxy_.warmTunnels(); }); });
}

void Controller::stop() {
  for (std::jthread& thread : threads_) thread.request_stop();
  threads_.clear();  // joins
}

// --- Configurations ---

void Controller::followConfigurations(std::stop_token stop) {
  const localapi::Client client(options_.managementSocket, 10s);
  BackOff pause;
  bool complained = false;
  do {
    // The watch answers with the current sequence at once, so nothing that happens after it is open can be missed.
    const Status ended = client.follow(
        "/v1/watch",
        [&](std::string_view line) {
          auto event = localapi::parseJson(line);
          if (!event || event->value("event", "") != "configuration-changed") return true;
          if (auto fetched = fetch(); !fetched) log::failure("configurations could not be fetched", fetched.error());
          return true;
        },
        stop, [&] {
          complained = false;
          pause.reset();
          if (auto fetched = fetch(); !fetched) log::failure("configurations could not be fetched", fetched.error());
        });
    {
      const std::lock_guard lock(state_);
      managementReachable_ = false;
    }
    if (!ended && !stop.stop_requested() && !std::exchange(complained, true))
      log::failure("managementd does not answer; what is known stays in force", ended.error());
  } while (pause.pause(stop));
}

Status Controller::fetch() {
  const localapi::Client client(options_.managementSocket, 10s);
  auto body = client.callJson("GET", "/v1/configurations");
  if (!body) return propagate(body.error());
  auto answer = localapi::parseJson(*body);
  if (!answer) return propagate(answer.error());
  if (!answer->is_object() || !answer->contains("configurations") || !(*answer)["configurations"].is_array())
    return fail(Reason::BadInput, "managementd's answer has no configurations");
  std::vector<ProxyConfiguration> configurations;
  for (const auto& each : (*answer)["configurations"]) {
    auto configuration = localapi::proxyConfigurationFromJson(localapi::dump(each));
    if (!configuration) return propagate(configuration.error());
    configurations.push_back(std::move(*configuration));
  }
  {
    const std::lock_guard lock(state_);
    managementReachable_ = true;
  }
  adopt(std::move(configurations));
  return {};
}

void Controller::adopt(std::vector<ProxyConfiguration> configurations) {
  const std::lock_guard orders(orders_);
  std::erase_if(configurations, [](const ProxyConfiguration& c) { return !c.enabled; });
  std::stable_sort(configurations.begin(), configurations.end(),
                   [](const auto& a, const auto& b) { return a.order < b.order; });
  std::vector<Active> before;
  {
    const std::lock_guard lock(state_);
    before = active_;
  }
  std::vector<Active> next;
  for (ProxyConfiguration& configuration : configurations) {
    auto ruleSet = ruleSetFrom(configuration);
    if (!ruleSet) {
      log::failure("a configuration has rules that cannot be used", ruleSet.error(), {{"configuration", configuration.id}});
      continue;
    }
    Active active{.configuration = std::move(configuration), .rules = std::move(*ruleSet)};
    const auto old = std::find_if(before.begin(), before.end(), [&](const Active& each) {
      return each.configuration.id == active.configuration.id && sameGateway(each.configuration, active.configuration);
    });
    if (old != before.end()) {
      active.identity = old->identity;
      active.generation = old->generation;
    } else {
      active.identity = std::make_shared<GatewayIdentity>(active.configuration, agent_);
      active.generation = ++lastGeneration_;
    }
    next.push_back(std::move(active));
  }
  {
    const std::lock_guard lock(state_);
    active_ = next;
  }
  log::info("configurations in force", {{"count", std::to_string(next.size())}});
  // First the broker (it may take a moment), then the workers, then the kernel: flows find everything ready. Rules that go
  // are taken away first.
  if (next.empty()) applyCapture();
  for (const Active& active : next)
    if (active.identity->needsRetry()) applyChange(active.configuration.id, *active.identity, active.identity->refresh());
  applyPolicy();
  applyCapture();
  wakeRetry();
}

void Controller::wakeRetry() {
  const std::lock_guard lock(retryMutex_);
  retryNow_ = true;
  retryWake_.notify_all();
}

PolicyEntry Controller::entryFor(const Active& active) const {
  const ProxyConfiguration& configuration = active.configuration;
  PolicyEntry entry;
  entry.id = configuration.id;
  entry.generation = active.generation;
  entry.rules = active.rules;
  entry.failurePolicy = configuration.failurePolicy;
  entry.connectTarget = configuration.connectTarget;
  entry.gateways = gatewayEndpoints(configuration);
  // Nothing of ours is captured: workers may make openers while the controller stops.
  entry.makeOpener = [identity = active.identity, configuration, handshakes = &handshakes_,
                      mark = options_.markSockets](boost::asio::io_context& loop) {
    tunnel::OpenerOptions options;
    options.host = configuration.gatewayHost;
    options.port = configuration.gatewayPort;
    options.addresses = configuration.gatewayAddresses;
    options.protocol = protocolOf(configuration.protocol);
    options.context = [identity] { return identity->context(); };
    options.pool = handshakes;
    options.buffers = buffersOf(loop);
    if (mark) options.socketOptions = capture::markOwn;
    return tunnel::makeOpener(loop, std::move(options));
  };
  return entry;
}

void Controller::applyPolicy() {
  auto policy = std::make_shared<Policy>();
  {
    const std::lock_guard lock(state_);
    for (const Active& active : active_) policy->entries.push_back(entryFor(active));
  }
  proxy_.apply(std::move(policy));
  proxy_.warmTunnels();
}

std::vector<uint32_t> Controller::exemptUsers() const {
  std::vector<uint32_t> users = options_.exemptUsers;
  // Name lookups of ours over TCP, and the enrolments of managementd, must not wait for the tunnel that they make
  // possible. Whoever owns its socket is managementd's user. Root stays captured: that would be half the machine.
  if (::geteuid() != 0) users.push_back(::geteuid());
  struct stat info {};
  if (::stat(options_.managementSocket.c_str(), &info) == 0 && info.st_uid != 0) users.push_back(info.st_uid);
  std::sort(users.begin(), users.end());
  users.erase(std::unique(users.begin(), users.end()), users.end());
  return users;
}

void Controller::applyCapture() {
  if (capture_ == nullptr) return;
  capture::CapturePlan plan;
  {
    const std::lock_guard lock(state_);
    for (const Active& active : active_) {
      plan.ruleSets.push_back(active.rules);
      for (const capture::Endpoint& gateway : gatewayEndpoints(active.configuration)) plan.untouched.push_back(gateway);
    }
  }
  plan.exemptUsers = exemptUsers();
  const Status applied = capture_->apply(plan);
  const std::lock_guard lock(state_);
  const std::string error = applied ? std::string() : describe(applied.error());
  if (error != captureError_ && !applied) log::failure("flows are not captured", applied.error());
  if (captureInstalled_ != capture_->installed())
    log::info(capture_->installed() ? "capture rules are loaded" : "capture rules are removed");
  captureError_ = error;
  captureInstalled_ = capture_->installed();
}

// --- Identities ---

void Controller::followIdentities(std::stop_token stop) {
  localapi::watchIdentities(
      options_.identitySocket, std::move(stop), [this](const localapi::IdentityEvent& event) { onIdentityEvent(event); },
      [this] { refreshAll(false); });
}

void Controller::onIdentityEvent(const localapi::IdentityEvent& event) {
  const std::lock_guard orders(orders_);
  std::vector<Active> now;
  {
    const std::lock_guard lock(state_);
    now = active_;
  }
  const bool gone = event.kind == "identity-removed" || event.kind == "identity-lost";
  for (const Active& active : now) {
    if (!active.identity->isMeant(event)) continue;
    if (gone && active.identity->view().id == event.identity) {
      const Error why{event.kind == "identity-lost" ? Reason::IdentityLost : Reason::IdentityUnavailable,
                      event.kind == "identity-lost" ? "the identity's key can never be used again" : "the identity was removed",
                      {}};
      active.identity->lose(why);
      log::failure("tunnels are closed", why, {{"configuration", active.configuration.id}});
      proxy_.closeTunnels(active.configuration.id, why);
      continue;
    }
    applyChange(active.configuration.id, *active.identity, active.identity->refresh());
  }
}

void Controller::refreshAll(bool onlyUnready) {
  const std::lock_guard orders(orders_);
  std::vector<Active> now;
  {
    const std::lock_guard lock(state_);
    now = active_;
  }
  bool unready = false;
  for (const Active& active : now) {
    if (onlyUnready && !active.identity->needsRetry()) continue;
    applyChange(active.configuration.id, *active.identity, active.identity->refresh());
    unready = unready || active.identity->needsRetry();
  }
  if (unready && !onlyUnready) wakeRetry();
}

void Controller::applyChange(const std::string& id, GatewayIdentity& identity, GatewayIdentity::Change change) {
  switch (change) {
    case GatewayIdentity::Change::None: return;
    case GatewayIdentity::Change::Ready:
      log::info("identity is ready", {{"configuration", id}, {"subject", identity.view().subject}});
      return proxy_.warmTunnels();
    case GatewayIdentity::Change::Renewed:
      log::info("identity was renewed; old tunnels drain", {{"configuration", id}, {"subject", identity.view().subject}});
      return proxy_.drainTunnels(id);
    case GatewayIdentity::Change::Lost: {
      const auto context = identity.context();
      if (context) return;
      log::failure("identity is gone; its tunnels are closed", context.error(), {{"configuration", id}});
      return proxy_.closeTunnels(id, context.error());
    }
  }
}

// --- Retry ---

void Controller::retryUntilAllIsWell(std::stop_token stop) {
  auto length = kFirstPause;
  while (!stop.stop_requested()) {
    bool well = true;
    {
      const std::lock_guard lock(state_);
      for (const Active& active : active_) well = well && !active.identity->needsRetry();
      well = well && captureError_.empty();
    }
    {
      std::unique_lock lock(retryMutex_);
      if (well)
        retryWake_.wait(lock, stop, [this] { return retryNow_; });
      else
        retryWake_.wait_for(lock, stop, length, [this] { return retryNow_; });
      length = std::exchange(retryNow_, false) ? kFirstPause : std::min(length * 2, kLongestPause);
    }
    if (stop.stop_requested()) return;
    if (!well) {
      refreshAll(true);
      const std::lock_guard orders(orders_);
      applyCapture();
    }
  }
}

// --- Status ---

std::string Controller::statusJson(const std::string& head) const {
  const std::lock_guard lock(state_);
  nlohmann::ordered_json configurations = nlohmann::ordered_json::array();
  for (const Active& active : active_) {
    const ProxyConfiguration& c = active.configuration;
    const auto identity = active.identity->view();
    nlohmann::ordered_json item{{"id", c.id},
                                {"name", c.name},
                                {"profileIdentifier", c.profileIdentifier},
                                {"gateway", fmt::format("{}:{}", c.gatewayHost, c.gatewayPort)},
                                {"protocol", text(c.protocol)},
                                {"failurePolicy", text(c.failurePolicy)},
                                {"includedRules", c.includedRules.size()},
                                {"excludedRules", c.excludedRules.size()}};
    item["identity"] = {{"state", identity.ready ? "ready" : "unavailable"}, {"id", identity.id}, {"subject", identity.subject},
                        {"notAfter", identity.notAfter}, {"keyKind", identity.keyKind}};
    if (!identity.error.empty()) item["identity"]["error"] = identity.error;
    configurations.push_back(std::move(item));
  }
  nlohmann::ordered_json tail{
      {"management", managementReachable_ ? "reachable" : "unreachable"},
      {"capture", {{"mode", capture_ == nullptr ? "none" : "nftables"}, {"installed", captureInstalled_}, {"error", captureError_}}},
      {"configurations", configurations}};
  const std::string body = tail.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return "{" + head + "," + body.substr(1);
}

size_t Controller::configurations() const {
  const std::lock_guard lock(state_);
  return active_.size();
}

bool Controller::captureInstalled() const {
  const std::lock_guard lock(state_);
  return captureInstalled_;
}

}  // namespace wayleave::proxy::control
