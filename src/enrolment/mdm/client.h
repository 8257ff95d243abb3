#pragma once

// The enrolment of this machine with an MDM server: enrolling, the conversation that carries out the server's commands, and
// leaving. Linux has no push service, so the server is asked at intervals (with jitter, so that a fleet does not come as one)
// and whenever somebody calls wake().
//
// The state file (state.h) is the decision record. Each stage can be interrupted at any point and is taken up again from the
// file: an enrolment that was only being prepared converges with what the Installer makes of its profile; from
// Authenticating on it goes on until the server answers; Leaving goes on until nothing is left. What a server installed is
// written down before it is installed, so that leaving finds it all.
//
// While a server is away for days nothing changes at this machine: attempts become rarer, up to one an hour. Time is measured
// with the steady clock: a wall clock that jumps neither delays nor hurries anything.

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "enrolment/mdm/commands.h"
#include "enrolment/mdm/device.h"
#include "enrolment/mdm/machine.h"
#include "enrolment/mdm/state.h"
#include "enrolment/mdm/transport.h"
#include "management/service.h"

namespace wayleave::enrolment::mdm {

struct ClientOptions {
  std::chrono::milliseconds pollEvery = std::chrono::minutes{5};
  // A server that does not answer: first after this, then twice as long each time, at most an hour.
  std::chrono::milliseconds firstRetry = std::chrono::seconds{30};
  // Somebody waits for enroll(): so often is the server asked before the enrolment is taken back.
  int enrolTries = 3;
  std::chrono::milliseconds enrolPause = std::chrono::seconds{2};
  bool allowPlainHttp = false;  // tests
};

class Client {
 public:
  struct Parts {
    Machine& machine;
    localapi::IdentityAgent& agent;
    const Clock& clock;
    Device device;
    std::string statePath;
  };
  // Reads the state. Errors: those of StateFile::load.
  static Result<std::unique_ptr<Client>> open(Parts parts, ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Follows the enrolment on a thread of its own. Stopping interrupts what is under way.
  void start();
  void requestStop();

  // Installs the enrolment profile and enrols with its server; on failure everything is taken back. Returns state().
  // Errors: those of the Installer; Conflict (enrolled already); Unsupported (user enrolment, …); what the server answered;
  // Pending and Cancelled: it goes on by itself.
  Result<nlohmann::json> enroll(Bytes profile, const management::EnrolmentHooks::Progress& progress);
  // Everything that the server brought goes, then the enrolment profile. Errors: NotFound (not enrolled); others: it is
  // decided, and goes on by itself.
  Status unenroll(const management::EnrolmentHooks::Progress& progress);
  void wake();

  // Quick and safe from any thread, the change thread included.
  nlohmann::json state() const;
  Status mayInstall(const management::Profile& profile) const;
  Status mayRemove(const std::string& identifier) const;
  management::EnrolmentHooks hooks();

  // HTTPS with the enrolment's identity. Errors: NotFound (not enrolled), those of the identity.
  Result<std::unique_ptr<Http>> httpWithIdentity(const std::vector<std::string>& anchors, size_t mostBytes);

  // Does what is due and tells how long nothing will be. What the thread does again and again; for tests.
  std::chrono::milliseconds step();

 private:
  class Owner;
  class Declarations;
  Client(Parts parts, ClientOptions options, std::optional<State> state);

  std::optional<State> snapshot() const;
  Status change(const std::function<void(State&)>& edit);
  Status forget();
  Status advance();
  Status afterInstallation();
  Status checkIn(const std::string& message, std::string_view what);
  Status checkInPatiently(const std::string& message, std::string_view what);
  Status authenticate(bool patiently);
  Status announce(bool patiently);
  Status converse();
  void disownWhatIsGone();
  Status declare();
  Status beginLeaving(const std::string& because, bool tellServer);
  Status leave(const management::EnrolmentHooks::Progress& progress);
  Result<Delivery> send(Endpoint endpoint, std::string_view body);
  void noteContact();
  Result<Bytes> identityReference();

  Parts parts_;
  const ClientOptions options_;
  StateFile file_;
  std::stop_source stop_;
  std::mutex conversation_;  // one at a time: a step, an enrolment, a leave. Taken before mutex_.
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<State> state_;
  std::optional<State> replacement_;  // what a new version of the enrolment profile says, while it is being installed
  std::optional<Error> lastError_;
  bool woken_ = false;
  Steady due_{};
  int failures_ = 0;
  bool notNow_ = false;  // a command waits for this machine: come back soon
  Bytes tokens_;
  Transport transport_;
  std::jthread thread_;
};

// What a checked enrolment profile says. Errors: BadInput (none, or several com.apple.mdm payloads; an identity that serves
// for something else as well), Unsupported (user enrolment, pinning with revocation checks).
Result<State> stateFor(const management::Profile& profile);

}  // namespace wayleave::enrolment::mdm
