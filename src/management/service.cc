#include "management/service.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "base/log.h"
#include "localapi/json_reader.h"
#include "localapi/peer.h"
#include "management/declarations/synthesis.h"
#include "management/installer_plan.h"
#include "management/profile_expiry.h"
#include "management/service_json.h"

namespace wayleave::management {
namespace {

using localapi::errorResponse;
using localapi::EventStream;
using localapi::Request;
using localapi::Responder;
using localapi::Response;
using nlohmann::json;
using Answer = std::shared_ptr<Responder>;

// Installations are rare and may be slow; whoever is ninth in line is better told.
constexpr size_t kMostQueuedChanges = 8;
// Reads take well under a millisecond each.
constexpr size_t kMostQueuedReads = 256;
constexpr std::string_view kProfiles = "/v1/profiles/";

Response jsonResponse(const json& body) { return {200, "application/json", localapi::dump(body) + "\n"}; }

// One thread and its bounded queue. `idle` runs between tasks while it asks to be called again.
class TaskThread {
 public:
  using Task = std::function<void(std::stop_token)>;

  explicit TaskThread(size_t most) : most_(most) {}
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;
  ~TaskThread() { stop(); }

  // `idle` returns when it wants to run again; nullopt: not before something else has run.
  void start(std::function<std::optional<std::chrono::milliseconds>(std::stop_token)> idle = {}) {
    thread_ = std::jthread([this, idle = std::move(idle)](std::stop_token stop) { run(std::move(stop), idle); });
  }
  bool post(Task task) {
    const std::lock_guard lock(mutex_);
    if (stopped_ || queue_.size() >= most_) return false;
    queue_.push_back(std::move(task));
    ready_.notify_one();
    return true;
  }
  bool busy() const {
    const std::lock_guard lock(mutex_);
    return running_ || !queue_.empty();
  }
  // Tasks that have not begun are dropped: their responders answer by themselves.
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
    const std::lock_guard lock(mutex_);
    queue_.clear();
  }

 private:
  void run(std::stop_token stop, const std::function<std::optional<std::chrono::milliseconds>(std::stop_token)>& idle) {
    while (!stop.stop_requested()) {
      const auto pause = idle ? idle(stop) : std::nullopt;
      std::unique_lock lock(mutex_);
      const auto some = [this] { return !queue_.empty(); };
      if (pause)
        ready_.wait_for(lock, stop, *pause, some);
      else
        ready_.wait(lock, stop, some);
      if (stop.stop_requested() || queue_.empty()) continue;
      const Task task = std::move(queue_.front());
      queue_.pop_front();
      running_ = true;
      lock.unlock();
      try {
        task(stop);
      } catch (const std::exception& thrown) {  // the responder, dropped, answers 500
        log::error("request failed", {{"what", thrown.what()}});
      }
      lock.lock();
      running_ = false;
    }
  }

  const size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable_any ready_;
  std::deque<Task> queue_;
  bool running_ = false;
  bool stopped_ = false;
  std::jthread thread_;
};

}  // namespace

class Service::Work {
 public:
  Work(ManagementStore& store, localapi::IdentityAgent& agent, Enroller* enroller, const Clock& clock,
       ServiceOptions options)
      : store_(store),
        agent_(agent),
        clock_(clock),
        options_(options),
        installer_({store, agent, clock, enroller, options.commitPatience},
                   [this](const std::string& identifier, std::string_view sentence) {
                     tell("install-progress", identifier, sentence);
                   },
                   [this](uint64_t, std::string_view event, const std::string& identifier) {
                     tell(event, identifier);
                     tell("configuration-changed", {});
                   }),
        expiry_({store, clock, ProfileExpiry::uptime, ProfileExpiry::boot(), options.removalSettle}) {}

  void start() {
    reads_.start();
    renewals_.start();
    enrolments_.start();
    changes_.start([this](const std::stop_token& stop) -> std::optional<std::chrono::milliseconds> {
      const std::optional<std::chrono::milliseconds> pause = removeExpired(stop);
      if (finished_ && reconciled_ && !retry_) return pause;
      if (!finished_ || retry_) finished_ = installer_.recover(stop);
      retry_ = !finished_;
      // Also while something is unfinished: an enrolment may wait for days, and is no reason for the rest to.
      reconciled_ = declarations_ == nullptr || declarations_->reconcile(stop);
      return finished_ && reconciled_ ? pause : std::min(options_.recoverEvery, pause.value_or(options_.recoverEvery));
    });
  }
  void stop() {
    changes_.stop();
    enrolments_.stop();
    renewals_.stop();
    reads_.stop();
    const std::lock_guard lock(watchersMutex_);
    watchers_.clear();
  }

  void handle(Request request, Answer answer);
  Result<Profile> enrolmentProfile(const std::string& identifier);
  Status reinstall(const std::string& identifier);
  Status onChangeThread(std::function<Status(std::stop_token)> work);
  Result<InstallOutcome> install(Bytes profile, Installer::Permit permit);
  Status remove(const std::string& identifier);
  void useDeclarations(DeclarationParts parts);
  Status withDeclarations(std::function<Status(DeclarationEngine&, std::stop_token)> work);
  bool busy() const { return changes_.busy(); }
  std::function<std::map<std::string, Error>()> renew;
  EnrolmentHooks enrolment;
  void tell(std::string_view event, const std::string& identifier, std::string_view message = {});

 private:
  void read(Answer answer, std::function<Result<json>()> question);
  void change(const Request& request, Answer answer, std::function<Result<json>(std::stop_token)> work);
  void watch(const Request& request, const Answer& answer);
  bool refused(const Request& request, const Answer& answer);
  Result<InstallOutcome> installNow(ByteView profile, std::stop_token stop, const Installer::Permit& permit);
  Status removeNow(const std::string& identifier, std::stop_token stop);
  std::optional<std::chrono::milliseconds> removeExpired(const std::stop_token& stop);
  void renewAll(const Answer& answer);
  void enroll(const Request& request, const Answer& answer);
  void unenroll(const Request& request, const Answer& answer);
  bool withoutEnrolment(const Request& request, const Answer& answer);
  Result<json> status();
  Result<json> list();

  ManagementStore& store_;
  localapi::IdentityAgent& agent_;
  const Clock& clock_;
  const ServiceOptions options_;
  Installer installer_;
  ProfileExpiry expiry_;  // on the change thread
  std::unique_ptr<DeclarationEngine> declarations_;  // on the change thread, but for state()
  bool reconciled_ = false;                          // like finished_
  std::mutex watchersMutex_;
  std::vector<std::shared_ptr<EventStream>> watchers_;
  bool finished_ = false;  // nothing is left to recover; on the installer's thread only, like retry_
  bool retry_ = false;
  std::atomic<bool> leaving_{false};  // the enrolment, because its profile's time has come
  TaskThread reads_{kMostQueuedReads};
  TaskThread changes_{kMostQueuedChanges};
  TaskThread renewals_{1};
  TaskThread enrolments_{2};
};

void Service::Work::handle(Request request, Answer answer) {
  const std::string& path = request.path;
  const bool get = request.method == "GET";
  const bool named = path.starts_with(kProfiles) && path.size() > kProfiles.size();
  const std::string identifier = named ? path.substr(kProfiles.size()) : std::string{};

  if (get && path == "/v1/status") return read(answer, [this] { return status(); });
  if (get && path == "/v1/profiles") return read(answer, [this] { return list(); });
  if (get && named)
    return read(answer, [this, identifier]() -> Result<json> {
      const Result<ProfileRecord> profile = store_.profile(identifier);
      if (!profile) return propagate(profile.error());
      return profileJson(*profile);
    });
  if (get && path == "/v1/configurations")
    return read(answer, [this]() -> Result<json> {
      const Result<ConfigurationSet> set = store_.configurations();
      if (!set) return propagate(set.error());
      return configurationsJson(*set);
    });
  if (get && path == "/v1/declarations")
    return read(answer, [this]() -> Result<json> {
      return json{{"declarations", declarations_ != nullptr ? declarations_->state() : json::array()}};
    });
  if (get && path == "/v1/watch") return watch(request, answer);
  if (request.method == "POST" && path == "/v1/profiles") {
    auto body = std::make_shared<std::string>(std::move(request.body));
    return change(request, answer, [this, body](std::stop_token stop) -> Result<json> {
      const Result<InstallOutcome> outcome = installNow(asBytes(*body), std::move(stop), enrolment.mayInstall);
      if (!outcome) return propagate(outcome.error());
      return outcomeJson(*outcome);
    });
  }
  if (request.method == "DELETE" && named)
    return change(request, answer, [this, identifier](std::stop_token stop) -> Result<json> {
      if (enrolment.mayRemove)
        if (Status may = enrolment.mayRemove(identifier); !may) return propagate(may.error());
      if (Status removed = removeNow(identifier, std::move(stop)); !removed) return propagate(removed.error());
      return json{{"identifier", identifier}, {"removed", true}};
    });

  if (request.method == "POST" && path == "/v1/renew") {
    if (!refused(request, answer)) renewAll(answer);
    return;
  }
  if (path == "/v1/enrolment" && get)
    return read(answer, [this]() -> Result<json> { return enrolment.state ? enrolment.state() : json{{"state", "none"}}; });
  if (path == "/v1/enrolment" && request.method == "POST") return enroll(request, answer);
  if (path == "/v1/enrolment" && request.method == "DELETE") return unenroll(request, answer);
  if (path == "/v1/wake" && request.method == "POST") {
    if (refused(request, answer) || withoutEnrolment(request, answer)) return;
    enrolment.wake();
    return answer->respond(jsonResponse({{"woken", true}}));
  }
  const bool known = named || path == "/v1/enrolment" || path == "/v1/wake" || path == "/v1/renew" || path == "/v1/declarations" || path == "/v1/status" || path == "/v1/profiles" || path == "/v1/configurations" ||
                     path == "/v1/watch";
  Response response = errorResponse(
      {known ? Reason::Unsupported : Reason::NotFound, fmt::format("there is no call {} {}", request.method, path),
       "docs/management-api.openapi.yaml lists the calls", 0});
  if (known) response.status = 405;
  answer->respond(std::move(response));
}

void Service::Work::read(Answer answer, std::function<Result<json>()> question) {
  const bool queued = reads_.post([answer, question = std::move(question)](const std::stop_token&) {
    const Result<json> body = question();
    answer->respond(body ? jsonResponse(*body) : errorResponse(body.error()));
  });
  if (!queued) answer->respond(errorResponse({Reason::Busy, "wayleave-managementd has too much to do", "try again", 0}));
}

bool Service::Work::refused(const Request& request, const Answer& answer) {
  if (isAdministrator(*request.peer, options_.administrators)) return false;
  log::warn("change refused", {{"uid", std::to_string(request.peer->uid)}, {"call", request.method + " " + request.path}});
  answer->respond(errorResponse({Reason::NotEntitled, fmt::format("uid {} may not change profiles", request.peer->uid),
                                 "become root, or join the group of administrators (wayleave-admin)", 0}));
  return true;
}

void Service::Work::change(const Request& request, Answer answer, std::function<Result<json>(std::stop_token)> work) {
  if (refused(request, answer)) return;
  const bool queued = changes_.post([this, answer, work = std::move(work)](std::stop_token stop) {
    const Result<json> body = work(std::move(stop));
    if (!body && body.error().reason == Reason::Pending) retry_ = true;
    answer->respond(body ? jsonResponse(*body) : errorResponse(body.error()));
  });
  if (!queued)
    answer->respond(errorResponse({Reason::Busy, "too many profile changes are waiting", "try again in a minute", 0}));
}

void Service::Work::renewAll(const Answer& answer) {
  if (!renew)
    return answer->respond(errorResponse({Reason::Unsupported, "this daemon was started without enrolment", {}, 0}));
  const bool queued = renewals_.post([this, answer](const std::stop_token&) {
    json failed = json::array();
    for (const auto& [identity, error] : renew())
      failed.push_back({{"identity", identity}, {"reason", text(error.reason)}, {"message", error.message}, {"hint", error.hint}});
    answer->respond(jsonResponse({{"failed", failed}}));
  });
  if (!queued) answer->respond(errorResponse({Reason::Busy, "a renewal is under way already", "wait for it to end", 0}));
}

Result<Profile> Service::Work::enrolmentProfile(const std::string& identifier) {
  const Result<ProfileRecord> record = store_.profile(identifier);
  if (!record) return propagate(record.error());
  Result<EnrolmentRecord> kept = readEnrolment(record->enrolment, clock_.wallNow());
  if (!kept) return withContext(kept.error(), identifier);
  return std::move(kept->profile);
}

bool Service::Work::withoutEnrolment(const Request&, const Answer& answer) {
  if (enrolment.enroll) return false;
  answer->respond(errorResponse({Reason::Unsupported, "this daemon was started without enrolment", {}, 0}));
  return true;
}

void Service::Work::enroll(const Request& request, const Answer& answer) {
  if (refused(request, answer) || withoutEnrolment(request, answer)) return;
  const bool queued = enrolments_.post([this, answer, body = request.body](const std::stop_token&) {
    const Result<json> done =
        enrolment.enroll(toBytes(body), [this](std::string_view sentence) { tell("install-progress", {}, sentence); });
    answer->respond(done ? jsonResponse(*done) : errorResponse(done.error()));
    tell("enrolment-changed", {});
  });
  if (!queued) answer->respond(errorResponse({Reason::Busy, "an enrolment is under way already", "wait for it to end", 0}));
}

void Service::Work::unenroll(const Request& request, const Answer& answer) {
  if (refused(request, answer) || withoutEnrolment(request, answer)) return;
  const bool queued = enrolments_.post([this, answer](const std::stop_token&) {
    const Status done = enrolment.unenroll([this](std::string_view sentence) { tell("install-progress", {}, sentence); });
    answer->respond(done ? jsonResponse({{"unenrolled", true}}) : errorResponse(done.error()));
    tell("enrolment-changed", {});
  });
  if (!queued) answer->respond(errorResponse({Reason::Busy, "an enrolment is under way already", "wait for it to end", 0}));
}

Status Service::Work::onChangeThread(std::function<Status(std::stop_token)> work) {
  // Shared: the task may be dropped unrun when the service stops, which breaks the promise.
  auto promise = std::make_shared<std::promise<Status>>();
  std::future<Status> done = promise->get_future();
  const bool queued = changes_.post([this, work = std::move(work), promise](std::stop_token stop) {
    Status outcome = work(std::move(stop));
    if (!outcome && outcome.error().reason == Reason::Pending) retry_ = true;
    promise->set_value(std::move(outcome));
  });
  if (!queued) return fail(Reason::Busy, "too many profile changes are waiting");
  promise.reset();
  try {
    return done.get();
  } catch (const std::future_error&) {
    return fail(Reason::Cancelled, "wayleave-managementd is stopping");
  }
}

Result<InstallOutcome> Service::Work::install(Bytes profile, Installer::Permit permit) {
  // Shared: after a stop this frame may be gone before the task is.
  auto outcome = std::make_shared<std::optional<InstallOutcome>>();
  const Status done = onChangeThread([this, outcome, profile = std::move(profile), permit = std::move(permit)](std::stop_token stop) -> Status {
    Result<InstallOutcome> installed = installNow(profile, std::move(stop), permit);
    if (!installed) return propagate(installed.error());
    *outcome = std::move(*installed);
    return {};
  });
  if (!done) return propagate(done.error());
  return std::move(**outcome);
}

Status Service::Work::remove(const std::string& identifier) {
  return onChangeThread([this, identifier](std::stop_token stop) { return removeNow(identifier, std::move(stop)); });
}

Result<InstallOutcome> Service::Work::installNow(ByteView profile, std::stop_token stop, const Installer::Permit& permit) {
  std::vector<Bytes> declarations;
  std::string source;
  Result<InstallOutcome> outcome = installer_.install(profile, stop, [&](const Profile& checked) -> Status {
    if (checked.identifier.starts_with(kDeclaredPrefix))
      return fail(Reason::BadInput, fmt::format("PayloadIdentifier: profiles of declarations are called {}…", kDeclaredPrefix), "choose another identifier");
    source = checked.identifier;
    for (const Payload& payload : checked.payloads)
      if (const auto* brought = payload.as<DeclarationsPayload>())
        declarations.insert(declarations.end(), brought->declarations.begin(), brought->declarations.end());
    return permit ? permit(checked) : Status{};
  });
  if (!outcome || declarations_ == nullptr) return outcome;
  if (!declarations.empty()) declarations_->offer(source, declarations);
  reconciled_ = declarations_->reconcile(std::move(stop));
  return outcome;
}

Status Service::Work::removeNow(const std::string& identifier, std::stop_token stop) {
  if (identifier.starts_with(kDeclaredPrefix))
    return fail(Reason::NotEntitled, identifier + " is there because a declaration says so", "it goes with the declaration: `wayleave declarations` shows whose it is");
  const Status removed = installer_.remove(identifier, stop);
  if (declarations_ != nullptr) reconciled_ = declarations_->reconcile(std::move(stop));
  return removed;
}

// Profiles whose time has come. What cannot be removed now is tried again at the next look.
std::optional<std::chrono::milliseconds> Service::Work::removeExpired(const std::stop_token& stop) {
  ProfileExpiry::Look look = expiry_.look();
  for (const std::string& identifier : look.due) {
    if (stop.stop_requested()) break;
    if (enrolment.state && enrolment.unenroll && enrolment.state().value("profile", json()) == identifier) {
      // The enrolment goes with its profile, and tells its server. Not from this thread, which it waits for.
      if (leaving_.exchange(true)) continue;
      log::info("the time of the enrolment profile has come", {{"identifier", identifier}});
      const bool queued = enrolments_.post([this](const std::stop_token&) {
        if (const Status done = enrolment.unenroll([](std::string_view) {}); !done) log::failure("the enrolment has not ended", done.error());
        leaving_ = false;
        tell("enrolment-changed", {});
      });
      if (!queued) leaving_ = false;
      continue;
    }
    log::info("the time of a profile has come", {{"identifier", identifier}});
    Status removed = installer_.remove(identifier, stop);
    if (declarations_ != nullptr) reconciled_ = declarations_->reconcile(stop);
    if (removed) continue;
    if (removed.error().reason == Reason::Pending) retry_ = true;
    log::failure("a profile is not removed yet", removed.error(), {{"identifier", identifier}});
  }
  return look.again;
}

void Service::Work::useDeclarations(DeclarationParts parts) {
  declarations_ = std::make_unique<DeclarationEngine>(DeclarationEngine::Parts{.store = store_,
                                                                              .declarations = parts.store,
                                                                              .installer = installer_,
                                                                              .agent = agent_,
                                                                              .clock = clock_,
                                                                              .fetch = std::move(parts.fetch),
                                                                              .deviceItems = std::move(parts.deviceItems),
                                                                              .changed = [this] { tell("declarations-changed", {}); }});
}

Status Service::Work::withDeclarations(std::function<Status(DeclarationEngine&, std::stop_token)> work) {
  if (declarations_ == nullptr) return fail(Reason::Unsupported, "this daemon was started without declarations");
  return onChangeThread([this, work = std::move(work)](std::stop_token stop) {
    reconciled_ = false;  // whatever it left for later
    return work(*declarations_, std::move(stop));
  });
}

Status Service::Work::reinstall(const std::string& identifier) {
  // Shared: the task may be dropped unrun when the service stops, which breaks the promise.
  auto promise = std::make_shared<std::promise<Status>>();
  std::future<Status> done = promise->get_future();
  const bool queued = changes_.post([this, identifier, promise](std::stop_token stop) {
    const Result<InstallOutcome> outcome = installer_.reinstall(identifier, std::move(stop));
    if (!outcome && outcome.error().reason == Reason::Pending) retry_ = true;
    promise->set_value(outcome ? Status{} : Status(propagate(outcome.error())));
  });
  if (!queued) return fail(Reason::Busy, "too many profile changes are waiting");
  promise.reset();
  try {
    return done.get();
  } catch (const std::future_error&) {
    return fail(Reason::Cancelled, "wayleave-managementd is stopping");
  }
}

void Service::Work::watch(const Request& request, const Answer& answer) {
  std::optional<uint64_t> since;
  if (const auto found = request.query.find("since"); found != request.query.end()) {
    uint64_t value = 0;
    const char* end = found->second.data() + found->second.size();
    const auto [stop, code] = std::from_chars(found->second.data(), end, value);
    if (code != std::errc{} || stop != end || found->second.empty())
      return answer->respond(errorResponse({Reason::BadInput, "since is not a number", {}, 0}));
    since = value;
  }
  const bool queued = reads_.post([this, answer, since](const std::stop_token&) {
    // Listening before looking: a change in between is told twice rather than never.
    const std::shared_ptr<EventStream> stream = answer->openStream();
    {
      const std::lock_guard lock(watchersMutex_);
      std::erase_if(watchers_, [](const std::shared_ptr<EventStream>& watcher) { return !watcher->isOpen(); });
      watchers_.push_back(stream);
    }
    const Result<uint64_t> sequence = store_.sequence();
    if (since && sequence && *since != *sequence)
      stream->send(localapi::dump(eventJson(*sequence, "configuration-changed", {})));
  });
  if (!queued) answer->respond(errorResponse({Reason::Busy, "wayleave-managementd has too much to do", "try again", 0}));
}

void Service::Work::tell(std::string_view event, const std::string& identifier, std::string_view message) {
  const Result<uint64_t> sequence = store_.sequence();
  const std::string line = localapi::dump(eventJson(sequence.value_or(0), event, identifier, message));
  const std::lock_guard lock(watchersMutex_);
  std::erase_if(watchers_, [&](const std::shared_ptr<EventStream>& watcher) { return !watcher->send(line); });
}

Result<json> Service::Work::list() {
  const Result<std::vector<ProfileRecord>> installed = store_.profiles();
  if (!installed) return propagate(installed.error());
  const Result<std::vector<ProfileRecord>> unfinished = store_.unfinished();
  if (!unfinished) return propagate(unfinished.error());
  return profileListJson(*installed, *unfinished);
}

Result<json> Service::Work::status() {
  Result<json> out = list();
  if (!out) return out;
  const Result<ConfigurationSet> set = store_.configurations();
  if (!set) return propagate(set.error());
  (*out)["version"] = WAYLEAVE_VERSION;
  (*out)["enrolment"] = enrolment.state ? enrolment.state() : json{{"state", "none"}};
  (*out)["sequence"] = set->sequence;
  if (declarations_ != nullptr) (*out)["declarations"] = declarations_->state();
  (*out)["configurations"] = json::array();
  for (const localapi::ProxyConfiguration& configuration : set->configurations)
    (*out)["configurations"].push_back(
        {{"name", configuration.name},
         {"enabled", configuration.enabled},
         {"gateway", fmt::format("{}:{}", configuration.gatewayHost, configuration.gatewayPort)},
         {"profileIdentifier", configuration.profileIdentifier}});
  return out;
}

Service::Service(ManagementStore& store, localapi::IdentityAgent& agent, Enroller* enroller, const Clock& clock,
                 ServiceOptions options)
    : work_(std::make_unique<Work>(store, agent, enroller, clock, options)) {}
Service::~Service() { stop(); }
void Service::start() { work_->start(); }
void Service::stop() { work_->stop(); }
void Service::handle(Request request, Answer answer) { work_->handle(std::move(request), std::move(answer)); }
Result<Profile> Service::enrolmentProfile(const std::string& identifier) { return work_->enrolmentProfile(identifier); }
Status Service::reinstall(const std::string& identifier) { return work_->reinstall(identifier); }
void Service::onEnrolment(EnrolmentHooks hooks) { work_->enrolment = std::move(hooks); }
Result<InstallOutcome> Service::install(Bytes profile, Installer::Permit permit) {
  return work_->install(std::move(profile), std::move(permit));
}
Status Service::remove(const std::string& identifier) { return work_->remove(identifier); }
Status Service::onChangeThread(std::function<Status(std::stop_token)> work) { return work_->onChangeThread(std::move(work)); }
bool Service::busy() const { return work_->busy(); }
void Service::useDeclarations(DeclarationParts parts) { work_->useDeclarations(std::move(parts)); }
Status Service::synchroniseDeclarations(DeclarationServer& server, ByteView tokens) {
  return work_->withDeclarations([&server, kept = toBytes(tokens)](DeclarationEngine& engine, std::stop_token stop) {
    return engine.synchronise(server, kept, std::move(stop));
  });
}
Status Service::reportDeclarations(DeclarationServer& server) {
  return work_->withDeclarations(
      [&server](DeclarationEngine& engine, const std::stop_token&) { return engine.report(server, ReportKind::Incremental); });
}
Status Service::withdrawDeclarations() {
  return work_->withDeclarations([](DeclarationEngine& engine, std::stop_token stop) { return engine.withdraw(std::move(stop)); });
}
void Service::onRenew(std::function<std::map<std::string, Error>()> renew) { work_->renew = std::move(renew); }

}  // namespace wayleave::management
