#pragma once

// Declarations: what a server (or a com.apple.declarations payload) says this device shall have, kept true.
// docs/declarations.md is the specification; this is its entry.
//
// Declarations come from sources: the MDM server, and each installed profile with a com.apple.declarations payload. The
// engine pulls what changed from the server, decides which declarations are active (evaluation.h), and makes each active
// configuration with its assets one installation through the Installer (synthesis.h). The installed profile's UUID tells
// which revision of configuration and assets is in force, so that a crash at any moment ends where it would have ended without,
// and a replaced asset renews the identity while the configuration stays as it was declared.
//
// Blocking and not thread-safe: it runs on the thread that owns the Installer (service.h). No secrets are kept: what an asset
// holds is downloaded again when it is needed again.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/result.h"
#include "localapi/identity_client.h"
#include "management/declarations/server.h"
#include "management/declarations/declaration_store.h"
#include "management/installer.h"
#include "management/management_store.h"

namespace wayleave::management {

enum class ReportKind : uint8_t { Full, Incremental };

class DeclarationEngine {
 public:
  struct Parts {
    ManagementStore& store;
    DeclarationStore& declarations;
    Installer& installer;
    localapi::IdentityAgent& agent;
    const Clock& clock;
    AssetFetcher fetch;  // empty: assets with a URL cannot be downloaded
    // Status items of the machine, name → value: "device.operating-system.family" → "Linux". Asked when needed.
    std::function<std::map<std::string, nlohmann::json>()> deviceItems;
    // Runs on the calling thread after state() changed.
    std::function<void()> changed;
  };

  explicit DeclarationEngine(Parts parts);
  DeclarationEngine(const DeclarationEngine&) = delete;
  DeclarationEngine& operator=(const DeclarationEngine&) = delete;
  ~DeclarationEngine();

  // Pulls what changed, applies it, and reports. `tokens`: the TokensResponse that came with a DeclarativeManagement command,
  // or empty to ask the server. Equal tokens end it early; what could not be applied before is tried again all the same.
  //
  // An error means that the pull or the report failed: then every declaration is as it was. What a declaration itself is
  // wrong about is no error here; it stands in the report and in state(). Cancelled when `stop` was requested.
  Status synchronise(DeclarationServer& server, ByteView tokens, std::stop_token stop);

  // A StatusReport for the server, as JSON. Incremental ones hold what changed since the last one that the server took;
  // nullopt when nothing did. `sent` is to be called when the server took it.
  struct StatusReport {
    std::string json;
    std::function<void()> sent;
  };
  std::optional<StatusReport> statusReport(ReportKind kind);
  // Both in one: sends a report, if there is something to say. A full one is due about every 24 hours, and once after
  // declarative management was turned on.
  Status report(DeclarationServer& server, ReportKind kind);

  // The enrolment ended: all that the server declared goes, its tokens too. Errors: Pending as of Installer::remove; then
  // reconcile() finishes it.
  Status withdraw(std::stop_token stop);

  // Makes the machine what the declarations say: at start, after a profile with declarations came or went, when a status item
  // that predicates look at changed, and again while it returns false (something that may succeed later did not).
  bool reconcile(std::stop_token stop);

  // The declarations that a profile is about to bring, whole: what they carry inline is used by the next reconcile() and then
  // forgotten. Without a call the profile's record still holds the rest of them.
  void offer(const std::string& profileIdentifier, const std::vector<Bytes>& declarations);

  // What GET /v1/declarations answers. Safe from any thread.
  nlohmann::json state() const;

 private:
  class Work;
  std::unique_ptr<Work> work_;
};

}  // namespace wayleave::management
