#include "enrolment/mdm/client.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace wayleave::enrolment::mdm {
namespace {

using management::InstallState;
using management::ProfileRecord;
using nlohmann::json;
using Progress = management::EnrolmentHooks::Progress;

constexpr std::chrono::milliseconds kLongestRetry = std::chrono::hours{1};
// A command that found this machine busy: the server offers it again when we come back.
constexpr std::chrono::milliseconds kAfterNotNow = std::chrono::seconds{20};
// How long a thread without an enrolment sleeps; it is woken when there is one.
constexpr std::chrono::milliseconds kNothingToDo = std::chrono::hours{24};
// Commands of one conversation. A server with more has lost its way; it goes on at the next poll.
constexpr int kMostCommands = 200;
// The same command after this many answers: the server does not take our answers.
constexpr int kMostRepetitions = 3;

// A fifth earlier or later.
std::chrono::milliseconds jittered(std::chrono::milliseconds time) {
  const int64_t fifth = time.count() / 5;
  if (fifth == 0) return time;
  return std::chrono::milliseconds{time.count() - fifth + static_cast<int64_t>(readU32(randomBytes(4))) % (2 * fifth + 1)};
}

Error refusal(std::string_view what, const Delivery& delivery) {
  return {Reason::ServerError, fmt::format("{}: the server answered {}", what, delivery.status), "the server's log says why", 0};
}

}  // namespace

// The state as the commands see it. Called on the change thread too, while a conversation waits for it.
class Client::Owner final : public Ownership {
 public:
  Owner(Client& client, std::string profile) : client_(client), profile_(std::move(profile)) {}
  bool manages(const std::string& identifier) const override {
    const auto state = client_.snapshot();
    return state && state->managed.contains(identifier);
  }
  const std::string& enrolmentProfile() const override { return profile_; }
  Status claim(const std::string& identifier) override {
    return client_.change([&](State& state) { state.managed.insert(identifier); });
  }
  Status disclaim(const std::string& identifier) override {
    return client_.change([&](State& state) { state.managed.erase(identifier); });
  }
  Status mayReplaceEnrolment(const management::Profile& profile) override {
    Result<State> next = stateFor(profile);
    if (!next) return propagate(next.error());
    const auto now = client_.snapshot();
    if (!now || next->topic != now->topic || next->serverUrl != now->serverUrl || next->checkInUrl != now->checkInUrl)
      return fail(Reason::Conflict, "a new version of the enrolment profile must name the same server and topic");
    const std::string& identity = next->identityPayloads.front();
    Status noted = client_.change([&](State& state) {
      if (std::ranges::find(state.identityPayloads, identity) == state.identityPayloads.end()) state.identityPayloads.push_back(identity);
    });
    if (noted) client_.replacement_ = std::move(*next);
    return noted;
  }

 private:
  Client& client_;
  const std::string profile_;
};

// Declarative management over check-in messages. On the change thread, while the conversation waits for it.
class Client::Declarations final : public management::DeclarationServer {
 public:
  explicit Declarations(Client& client) : client_(client) {}
  Result<Bytes> fetch(std::string_view endpoint) override { return exchange(endpoint, {}); }
  Status report(ByteView statusReport) override {
    const Result<Bytes> answer = exchange("status", statusReport);
    return answer ? Status{} : Status(propagate(answer.error()));
  }
  std::optional<std::string> unenrol;

 private:
  Result<Bytes> exchange(std::string_view endpoint, ByteView data) {
    Result<Delivery> delivery = client_.send(Endpoint::CheckIn, declarativeManagementMessage(client_.parts_.device, endpoint, data));
    if (!delivery) return propagate(delivery.error());
    if (delivery->unenrol) unenrol = delivery->unenrol;
    if (delivery->status == 404) return fail(Reason::NotFound, fmt::format("the server has no {}", endpoint));
    if (delivery->status != 200) return propagate(refusal(endpoint, *delivery));
    return std::move(delivery->body);
  }
  Client& client_;
};

Client::Client(Parts parts, ClientOptions options, std::optional<State> state)
    : parts_(std::move(parts)),
      options_(options),
      file_(parts_.statePath),
      state_(std::move(state)),
      transport_({.agent = parts_.agent,
                  .identity = [this] { return identityReference(); },
                  .allowPlainHttp = options.allowPlainHttp,
                  .stop = stop_.get_token()}) {}

Result<std::unique_ptr<Client>> Client::open(Parts parts, ClientOptions options) {
  Result<std::optional<State>> state = StateFile(parts.statePath).load();
  if (!state) return propagate(state.error());
  return std::unique_ptr<Client>(new Client(std::move(parts), options, std::move(*state)));
}

Client::~Client() {
  requestStop();
  if (thread_.joinable()) thread_.join();
}

void Client::requestStop() {
  stop_.request_stop();
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

void Client::start() {
  thread_ = std::jthread([this] {
    while (!stop_.stop_requested()) {
      std::chrono::milliseconds pause = kLongestRetry;
      try {
        pause = step();
      } catch (const std::exception& thrown) {
        log::error("the conversation with the MDM server broke", {{"what", thrown.what()}});
      }
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, pause, [this] { return woken_ || stop_.stop_requested(); });
    }
  });
}

void Client::wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

std::optional<State> Client::snapshot() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

Status Client::change(const std::function<void(State&)>& edit) {
  const std::lock_guard lock(mutex_);
  if (!state_) return fail(Reason::NotFound, "this machine is not enrolled");
  State next = *state_;
  edit(next);
  if (Status saved = file_.save(next); !saved) return saved;
  state_ = std::move(next);
  return {};
}

Status Client::forget() {
  const std::lock_guard lock(mutex_);
  if (Status removed = file_.remove(); !removed) return removed;
  state_.reset();
  lastError_.reset();
  tokens_.clear();
  return {};
}

Result<Bytes> Client::identityReference() {
  const auto state = snapshot();
  const auto profiles = parts_.machine.profiles();
  if (!profiles) return propagate(profiles.error());
  if (state)
    for (const ProfileRecord& profile : *profiles) {
      if (profile.identifier != state->profile) continue;
      for (const management::InstalledIdentity& identity : profile.identities)
        if (std::ranges::find(state->identityPayloads, identity.payloadUuid) != state->identityPayloads.end()) return identity.reference;
    }
  return fail(Reason::NotFound, "the enrolment profile's identity is not installed");
}

Result<Delivery> Client::send(Endpoint endpoint, std::string_view body) {
  const auto state = snapshot();
  if (!state) return fail(Reason::NotFound, "this machine is not enrolled");
  // Servers behind one URL tell both kinds apart by this.
  const std::string_view type = endpoint == Endpoint::CheckIn ? "application/x-apple-aspen-mdm-checkin" : "application/x-apple-aspen-mdm; charset=UTF-8";
  Result<Delivery> delivery = transport_.send(*state, endpoint, type, asBytes(body));
  if (delivery && !delivery->unenrol) noteContact();
  return delivery;
}

void Client::noteContact() {
  // In memory at once, in the file with whatever is written next: it is for people, not for decisions.
  const std::lock_guard lock(mutex_);
  if (state_) state_->lastContact = rfc3339(parts_.clock.wallNow());
}

std::chrono::milliseconds Client::step() {
  const std::lock_guard one(conversation_);
  {
    const std::lock_guard lock(mutex_);
    if (!state_) {
      woken_ = false;
      return kNothingToDo;
    }
    if (const Steady now = parts_.clock.now(); !woken_ && now < due_)
      return std::chrono::ceil<std::chrono::milliseconds>(due_ - now);
    woken_ = false;
  }
  notNow_ = false;
  const Status done = advance();
  const std::lock_guard lock(mutex_);
  if (!state_) {
    failures_ = 0;
    return kNothingToDo;
  }
  std::chrono::milliseconds pause = options_.pollEvery;
  if (done) {
    failures_ = 0;
    lastError_.reset();
    if (notNow_) pause = std::min(pause, kAfterNotNow);
  } else {
    pause = options_.firstRetry * (int64_t{1} << std::min(failures_++, 12));
    pause = std::min(pause, kLongestRetry);
    lastError_ = done.error();
    if (done.error().reason != Reason::Cancelled) log::failure("MDM", done.error(), {{"stage", std::string(text(state_->stage))}});
  }
  pause = jittered(pause);
  due_ = parts_.clock.now() + pause;
  return pause;
}

// From wherever the state is as far as it goes now.
Status Client::advance() {
  for (;;) {
    if (stop_.stop_requested()) return fail(Reason::Cancelled, "wayleave-managementd is stopping");
    const auto state = snapshot();
    if (!state) return {};
    switch (state->stage) {
      case Stage::Installing:
        if (Status done = afterInstallation(); !done) return done;
        break;
      case Stage::Authenticating:
        if (Status done = authenticate(false); !done) return done;
        break;
      case Stage::Announcing:
        if (Status done = announce(false); !done) return done;
        break;
      case Stage::Enrolled: {
        Status done = converse();
        if (done) done = declare();
        if (!done) return done;
        const auto after = snapshot();
        if (after && after->stage == Stage::Leaving) break;  // goes on at once
        return {};
      }
      case Stage::Leaving: return leave({});
    }
  }
}

// After a restart: what has the Installer made of the profile?
Status Client::afterInstallation() {
  const auto state = snapshot();
  const auto unfinished = parts_.machine.unfinished();
  if (!unfinished) return propagate(unfinished.error());
  if (std::ranges::find(*unfinished, state->profile, &ProfileRecord::identifier) != unfinished->end())
    return fail(Reason::Pending, "the enrolment profile is being installed");
  const auto profiles = parts_.machine.profiles();
  if (!profiles) return propagate(profiles.error());
  if (std::ranges::find(*profiles, state->profile, &ProfileRecord::identifier) == profiles->end()) {
    log::warn("an interrupted enrolment was taken back", {{"profile", state->profile}});
    return forget();
  }
  return change([](State& next) { next.stage = Stage::Authenticating; });
}

Status Client::checkIn(const std::string& message, std::string_view what) {
  const Result<Delivery> delivery = send(Endpoint::CheckIn, message);
  if (!delivery) return withContext(delivery.error(), what);
  if (delivery->unenrol) {
    if (Status leaving = beginLeaving(*delivery->unenrol, false); !leaving) return leaving;
    return fail(Reason::ServerError, fmt::format("{}: the server refused this device: {}", what, *delivery->unenrol));
  }
  if (delivery->status != 200) return propagate(refusal(what, *delivery));
  return {};
}

Status Client::checkInPatiently(const std::string& message, std::string_view what) {
  for (int attempt = 1;; ++attempt) {
    Status done = checkIn(message, what);
    if (done || attempt >= options_.enrolTries || stop_.stop_requested()) return done;
    if (const auto state = snapshot(); !state || state->stage == Stage::Leaving) return done;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, options_.enrolPause, [this] { return stop_.stop_requested(); });
  }
}

Status Client::authenticate(bool patiently) {
  const std::string message = authenticateMessage(parts_.device, snapshot()->topic);
  Status done = patiently ? checkInPatiently(message, "Authenticate") : checkIn(message, "Authenticate");
  if (!done) return done;
  return change([](State& state) {
    state.stage = Stage::Announcing;
    state.token = randomBytes(32);
    state.pushMagic = randomUuid();
  });
}

Status Client::announce(bool patiently) {
  const auto state = snapshot();
  const std::string message = tokenUpdateMessage(parts_.device, state->topic, state->token, state->pushMagic);
  Status done = patiently ? checkInPatiently(message, "TokenUpdate") : checkIn(message, "TokenUpdate");
  if (!done) return done;
  log::info("enrolled", {{"server", state->serverUrl}, {"udid", parts_.device.udid}});
  return change([this](State& next) {
    next.stage = Stage::Enrolled;
    if (next.enrolledAt.empty()) next.enrolledAt = rfc3339(parts_.clock.wallNow());
  });
}

// What the server installed and is neither there nor on its way went by itself (RemovalDate): it belongs to nobody any more.
void Client::disownWhatIsGone() {
  const auto state = snapshot();
  if (!state || state->managed.empty() || parts_.machine.busy()) return;
  // In this order: what is finished in between is in both.
  const auto unfinished = parts_.machine.unfinished(), installed = parts_.machine.profiles();
  if (!installed || !unfinished) return;
  std::set<std::string> gone = state->managed;
  for (const auto* records : {&*installed, &*unfinished})
    for (const ProfileRecord& record : *records) gone.erase(record.identifier);
  if (gone.empty()) return;
  const Status noted = change([&](State& now) {
    for (const std::string& identifier : gone) now.managed.erase(identifier);
  });
  if (!noted) log::failure("cannot note that profiles are gone", noted.error());
}

Status Client::converse() {
  disownWhatIsGone();
  const State begun = *snapshot();
  std::string body = begun.unsent.empty() ? answerMessage(parts_.device, {}, {.status = "Idle"}) : begun.unsent;
  std::map<std::string, int> answered;
  Owner owner(*this, begun.profile);
  for (int count = 0; count < kMostCommands; ++count) {
    if (stop_.stop_requested()) return fail(Reason::Cancelled, "wayleave-managementd is stopping");
    const Result<Delivery> delivery = send(Endpoint::Commands, body);
    if (!delivery) return propagate(delivery.error());
    if (delivery->unenrol) return beginLeaving(*delivery->unenrol, false);
    if (delivery->status != 200) return propagate(refusal("commands", *delivery));
    if (!snapshot()->unsent.empty())
      if (Status sent = change([](State& state) { state.unsent.clear(); }); !sent) return sent;

    const Result<std::optional<Command>> command = parseCommand(delivery->body);
    if (!command) return propagate(command.error());
    if (!*command) return {};
    if (++answered[(*command)->uuid] > kMostRepetitions) {
      if (notNow_) return {};  // it insists; it is offered again when we come back
      return fail(Reason::ServerError, fmt::format("the server gives command {} again and again", (*command)->uuid));
    }

    Aftermath aftermath;
    const Answer answer = carryOut({parts_.device, begun.accessRights, parts_.machine, parts_.agent, owner}, **command, aftermath);
    log::info("MDM command", {{"type", (*command)->requestType}, {"command", (*command)->uuid}, {"answer", answer.status}});
    notNow_ = notNow_ || answer.status == "NotNow";
    body = answerMessage(parts_.device, (*command)->uuid, answer);
    if (aftermath.synchronise) tokens_ = aftermath.tokens;
    if (aftermath.leave) {
      (void)send(Endpoint::Commands, body);  // whether it hears it or not
      return beginLeaving("the server removed the enrolment profile", begun.checkOutWhenRemoved);
    }
    const bool changes = (*command)->requestType == "InstallProfile" || (*command)->requestType == "RemoveProfile";
    const Status noted = change([&](State& state) {
      if (changes && answer.status != "NotNow") state.unsent = body;
      if (aftermath.synchronise) state.declarative = state.synchronise = true;
      if (aftermath.renewedEnrolment && replacement_) {
        state.identityPayloads = replacement_->identityPayloads;
        state.signMessage = replacement_->signMessage;
        state.checkOutWhenRemoved = replacement_->checkOutWhenRemoved;
        state.accessRights = replacement_->accessRights;
        state.anchors = replacement_->anchors;
        state.serverPins = replacement_->serverPins;
        state.checkInPins = replacement_->checkInPins;
      }
    });
    if (!noted) return noted;
  }
  return fail(Reason::ServerError, fmt::format("the server gave more than {} commands in one conversation", kMostCommands));
}

Status Client::declare() {
  const auto state = snapshot();
  if (!state || state->stage != Stage::Enrolled || !state->declarative) return {};
  Declarations server(*this);
  const Status done = state->synchronise ? parts_.machine.synchronise(server, tokens_) : parts_.machine.report(server);
  if (server.unenrol) return beginLeaving(*server.unenrol, false);
  if (!done) return withContext(done.error(), "declarations");
  tokens_.clear();
  if (!state->synchronise) return {};
  return change([](State& next) { next.synchronise = false; });
}

Status Client::beginLeaving(const std::string& because, bool tellServer) {
  log::info("the enrolment ends", {{"because", because}});
  return change([&](State& state) {
    state.stage = Stage::Leaving;
    state.leavingBecause = because;
    state.checkOut = tellServer;
    state.unsent.clear();
  });
}

Status Client::leave(const Progress& progress) {
  const auto say = [&](std::string_view sentence) {
    if (progress) progress(sentence);
  };
  State state = *snapshot();
  if (state.checkOut) {
    say("telling the server");
    // One attempt, as Apple's devices make: a server that is gone must not hold the machine.
    if (const auto told = send(Endpoint::CheckIn, checkOutMessage(parts_.device, state.topic)); !told)
      log::failure("the server was not told", told.error());
    if (Status noted = change([](State& next) { next.checkOut = false; }); !noted) return noted;
  }
  // What is still being installed would come after we have left.
  const auto unfinished = parts_.machine.unfinished();
  if (!unfinished) return propagate(unfinished.error());
  for (const ProfileRecord& record : *unfinished)
    if (record.state != InstallState::Removing && (record.identifier == state.profile || state.managed.contains(record.identifier)))
      return fail(Reason::Busy, record.identifier + " is still being installed", "it is removed when that has ended");
  if (state.declarative) {
    say("withdrawing what the server declared");
    const Status gone = parts_.machine.withdrawDeclarations();
    if (!gone && gone.error().reason != Reason::Pending && gone.error().reason != Reason::Unsupported)
      return withContext(gone.error(), "withdraw the declarations");
  }
  std::vector<std::string> profiles(state.managed.begin(), state.managed.end());
  profiles.push_back(state.profile);  // last: its identity goes with it
  for (const std::string& identifier : profiles) {
    say("removing " + identifier);
    const Status removed = parts_.machine.remove(identifier);
    // Pending: decided; identityd is told when it is back, without us.
    if (!removed && removed.error().reason != Reason::NotFound && removed.error().reason != Reason::Pending)
      return withContext(removed.error(), "remove " + identifier);
  }
  log::info("no longer enrolled", {{"server", state.serverUrl}, {"because", state.leavingBecause}});
  return forget();
}

Result<json> Client::enroll(Bytes profile, const Progress& progress) {
  const std::lock_guard one(conversation_);
  if (const auto state = snapshot())
    return fail(Reason::Conflict, fmt::format("this machine is enrolled already, with {}", state->serverUrl), "run: wayleave unenroll");
  const auto installed = parts_.machine.profiles();
  if (!installed) return propagate(installed.error());
  const auto permit = [&](const management::Profile& checked) -> Status {
    Result<State> state = stateFor(checked);
    if (!state) return propagate(state.error());
    if (std::ranges::find(*installed, checked.identifier, &ProfileRecord::identifier) != installed->end())
      return fail(Reason::Conflict, checked.identifier + " is installed already", "remove it first");
    const std::lock_guard lock(mutex_);
    if (Status saved = file_.save(*state); !saved) return saved;
    state_ = std::move(*state);
    return {};
  };
  progress("installing the enrolment profile");
  const auto outcome = parts_.machine.install(std::move(profile), permit);
  if (!outcome) {
    const bool goesOn = outcome.error().reason == Reason::Pending || outcome.error().reason == Reason::Cancelled;
    if (!goesOn && snapshot())
      if (Status forgotten = forget(); !forgotten) log::failure("cannot take back an enrolment", forgotten.error());
    return propagate(outcome.error());
  }
  Status done = change([](State& state) { state.stage = Stage::Authenticating; });
  if (done) {
    progress("introducing this machine to the server");
    done = authenticate(true);
  }
  if (done) {
    progress("waiting for the server to accept it");
    done = announce(true);
  }
  if (!done && !stop_.stop_requested()) {
    const Error why = done.error();
    if (const auto state = snapshot(); state && state->stage != Stage::Leaving)
      if (Status leaving = beginLeaving(why.message, state->stage == Stage::Announcing && state->checkOutWhenRemoved); !leaving)
        log::failure("cannot take back an enrolment", leaving.error());
    if (Status left = leave(progress); !left) log::failure("taking back an enrolment goes on later", left.error());
    wake();
    return propagate(why);
  }
  if (!done) return propagate(done.error());
  wake();
  return state();
}

Status Client::unenroll(const Progress& progress) {
  const std::lock_guard one(conversation_);
  const auto state = snapshot();
  if (!state) return fail(Reason::NotFound, "this machine is not enrolled");
  if (state->stage != Stage::Leaving) {
    const bool known = state->stage == Stage::Announcing || state->stage == Stage::Enrolled;
    if (Status leaving = beginLeaving("asked at the machine", known && state->checkOutWhenRemoved); !leaving) return leaving;
  }
  Status left = leave(progress);
  if (!left) wake();
  return left;
}

json Client::state() const {
  const std::lock_guard lock(mutex_);
  if (!state_) return {{"state", "none"}, {"udid", parts_.device.udid}};
  json out{{"state", text(state_->stage)},
           {"server", state_->serverUrl},
           {"profile", state_->profile},
           {"topic", state_->topic},
           {"udid", parts_.device.udid},
           {"enrolledAt", state_->enrolledAt},
           {"lastContact", state_->lastContact},
           {"managedProfiles", state_->managed},
           {"declarative", state_->declarative}};
  if (state_->stage == Stage::Leaving) out["leavingBecause"] = state_->leavingBecause;
  const auto until = std::max(due_ - parts_.clock.now(), Steady::duration{});
  out["nextPoll"] = rfc3339(parts_.clock.wallNow() + std::chrono::duration_cast<Wall::duration>(until));
  if (lastError_)
    out["lastError"] = {{"reason", text(lastError_->reason)}, {"message", lastError_->message}, {"hint", lastError_->hint}};
  return out;
}

Status Client::mayInstall(const management::Profile& profile) const {
  for (const management::Payload& payload : profile.payloads)
    if (payload.as<management::MdmPayload>() != nullptr)
      return fail(Reason::Unsupported, "the profile enrols this machine with an MDM server", "run: wayleave enroll FILE");
  return mayRemove(profile.identifier);
}

Status Client::mayRemove(const std::string& identifier) const {
  const auto state = snapshot();
  if (!state) return {};
  if (identifier == state->profile) return fail(Reason::Conflict, identifier + " is the enrolment profile", "run: wayleave unenroll");
  if (state->managed.contains(identifier))
    return fail(Reason::Conflict, identifier + " belongs to the MDM server " + state->serverUrl, "change it there, or run: wayleave unenroll");
  return {};
}

management::EnrolmentHooks Client::hooks() {
  return {.enroll = [this](Bytes profile, const Progress& progress) { return enroll(std::move(profile), progress); },
          .unenroll = [this](const Progress& progress) { return unenroll(progress); },
          .wake = [this] { wake(); },
          .state = [this] { return state(); },
          .mayInstall = [this](const management::Profile& profile) { return mayInstall(profile); },
          .mayRemove = [this](const std::string& identifier) { return mayRemove(identifier); }};
}

Result<std::unique_ptr<Http>> Client::httpWithIdentity(const std::vector<std::string>& anchors, size_t mostBytes) {
  const auto state = snapshot();
  if (!state) return fail(Reason::NotFound, "this machine is not enrolled, so it has no identity to show to an asset's server");
  return transport_.httpWithIdentity(*state, anchors, mostBytes);
}

}  // namespace wayleave::enrolment::mdm
