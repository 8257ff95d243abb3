#pragma once

// managementd's local API (docs/management-api.openapi.yaml). Reading is free; changes need an administrator by the
// kernel's word: root, the daemon's own user (who owns the database anyway), or a member of the administrators' group.
//
// Two threads besides the server's: one answers what reads the database, one owns the installer, so that a CA that takes
// minutes keeps nobody else waiting. The installer's queue is bounded; beyond it callers are told Busy.

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/clock.h"
#include "localapi/identity_client.h"
#include "localapi/server.h"
#include "management/declarations/engine.h"
#include "management/enroller.h"
#include "management/installer.h"
#include "management/management_store.h"

namespace wayleave::management {

struct ServiceOptions {
  std::optional<gid_t> administrators;  // the group whose members may change things
  std::chrono::milliseconds commitPatience = std::chrono::seconds{10};
  // How often unfinished installations are tried again while identityd is away.
  std::chrono::milliseconds recoverEvery = std::chrono::seconds{3};
  // Of profiles that go by themselves (profile_expiry.h).
  std::chrono::milliseconds removalSettle = std::chrono::seconds{10};
};

// What the calls around the enrolment with an MDM server ask of it (enrolment/mdm/). `enroll` and `unenroll` run on a
// thread of their own and may wait for the change thread; `state` and `mayChange` are asked from several and are quick.
struct EnrolmentHooks {
  using Progress = std::function<void(std::string_view sentence)>;
  std::function<Result<nlohmann::json>(Bytes profile, const Progress& progress)> enroll;
  std::function<Status(const Progress& progress)> unenroll;
  std::function<void()> wake;  // contact the server now
  std::function<nlohmann::json()> state;
  // Whether a profile may be installed (its checked form) or removed (its identifier) at this machine.
  std::function<Status(const Profile& profile)> mayInstall;
  std::function<Status(const std::string& identifier)> mayRemove;
};

class Service {
 public:
  // All outlive the service; `enroller` may be null.
  Service(ManagementStore& store, localapi::IdentityAgent& agent, Enroller* enroller, const Clock& clock,
          ServiceOptions options);
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;
  // Destroy the server first: its handler calls in here.
  ~Service();

  // Begins with what an earlier run left unfinished, before the first request.
  void start();
  // An installation under way is interrupted at its next step and taken up at the next start.
  void stop();

  void handle(localapi::Request request, std::shared_ptr<localapi::Responder> responder);

  // For whoever renews identities in the background (enrolment/renewal_service.h). From any thread but the service's own;
  // `reinstall` waits for its turn and for the enrolment. Errors: those of Installer::reinstall; Busy; Cancelled.
  Result<Profile> enrolmentProfile(const std::string& identifier);
  Status reinstall(const std::string& identifier);
  // What POST /v1/renew does: renews every identity now, due or not, and returns what failed by identity id. Set before
  // start(); it runs on a thread of its own.
  void onRenew(std::function<std::map<std::string, Error>()> renew);

  // --- declarations. Set before start(); without it, declarations in profiles are kept and not acted on.
  struct DeclarationParts {
    DeclarationStore& store;  // outlives the service
    AssetFetcher fetch;
    std::function<std::map<std::string, nlohmann::json>()> deviceItems;
  };
  void useDeclarations(DeclarationParts parts);
  // Each waits for the change thread, like those below. Errors: those of DeclarationEngine; Unsupported without it.
  Status synchroniseDeclarations(DeclarationServer& server, ByteView tokens);
  Status reportDeclarations(DeclarationServer& server);
  Status withdrawDeclarations();

  // --- for the enrolment with an MDM server. Set before start().
  void onEnrolment(EnrolmentHooks hooks);
  // Each waits for its turn on the change thread and for its end; not to be called on it. Errors: those of Installer; Busy;
  // Cancelled.
  Result<InstallOutcome> install(Bytes profile, Installer::Permit permit);
  Status remove(const std::string& identifier);
  Status onChangeThread(std::function<Status(std::stop_token)> work);
  // Something is being changed, or waits to be.
  bool busy() const;

 private:
  class Work;
  std::unique_ptr<Work> work_;
};

}  // namespace wayleave::management
