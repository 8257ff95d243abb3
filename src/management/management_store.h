#pragma once

// What managementd knows about profiles, in SQLite: the decision record of the two-phase installation (docs/architecture.md,
// "Installing a profile"). One file, mode 0600. All calls are synchronous, short and thread-safe (one mutex).
//
// It never holds private key material: the installer stores a profile with the contents and passwords of its PKCS#12
// payloads taken out, because this process has a network and keys are identityd's alone.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "localapi/proxy_configuration.h"

namespace wayleave::management {

// Preparing: identityd may hold staged identities, nothing is decided. Committing: decided; identityd may not know yet.
// Removing: decided; identityd may still hold the identities. Installed: both sides agree.
enum class InstallState : uint8_t { Preparing, Committing, Installed, Removing };
std::string_view text(InstallState state);  // "preparing", …

struct InstalledIdentity {
  std::string payloadUuid;
  std::string identity;  // identityd's id
  Bytes reference;
  bool operator==(const InstalledIdentity&) const = default;
};

struct ProfileRecord {
  std::string installation;  // UUID, one per attempt
  std::string identifier;    // PayloadIdentifier: one installed profile each
  std::string uuid, displayName;
  InstallState state = InstallState::Preparing;
  Bytes enrolment;        // what enrolling again needs (installer_plan.h), no key material; empty when nothing enrols
  std::string summary;    // JSON object for people: payloads, signer, findings
  Bytes declarations;     // of its com.apple.declarations payloads, without inline secrets: a JSON array of texts, or empty
  std::string changedAt;  // RFC 3339: when it reached its state
  std::string removal;    // when it goes by itself (profile_expiry.h); empty: never
  std::vector<InstalledIdentity> identities;
  std::vector<localapi::ProxyConfiguration> configurations;
};

struct ConfigurationSet {
  uint64_t sequence = 0;
  std::vector<localapi::ProxyConfiguration> configurations;  // of installed profiles, by `order`, then name, then id
};

class ManagementStore {
 public:
  // Opens or creates. Errors: Io, BadInput (a file that is not ours, or a schema newer than this build).
  static Result<std::unique_ptr<ManagementStore>> open(const std::string& path, const Clock& clock);
  virtual ~ManagementStore() = default;

  // Step 1. Errors: Conflict while another installation or removal of the same profile is under way, Duplicate (id).
  virtual Status begin(const ProfileRecord& profile) = 0;
  // Remembers what a payload became, so that a resumed installation does not do it twice. Errors: Conflict.
  virtual Status noteIdentity(std::string_view installation, const InstalledIdentity& identity) = 0;
  // Step 3, the decision: preparing → committing. Errors: Conflict (not preparing).
  virtual Status decide(std::string_view installation, std::string_view summary,
                        const std::vector<localapi::ProxyConfiguration>& configurations) = 0;
  // Step 5: committing → installed; an older installation of the same profile goes. Returns the new sequence number.
  virtual Result<uint64_t> finish(std::string_view installation) = 0;
  // Drops an installation that is not installed. Idempotent.
  virtual Status forget(std::string_view installation) = 0;

  // What profile_expiry.h has counted. Unknown installations are none of its business: no error.
  virtual Status noteRemoval(std::string_view installation, std::string_view removal) = 0;
  // installed → removing: from here its configurations are out. Returns the new sequence. Errors: NotFound.
  virtual Result<uint64_t> beginRemoval(std::string_view identifier) = 0;
  // removing → gone. Idempotent.
  virtual Status finishRemoval(std::string_view identifier) = 0;

  virtual Result<std::vector<ProfileRecord>> profiles() = 0;    // installed ones, by identifier
  virtual Result<ProfileRecord> profile(std::string_view identifier) = 0;  // installed. Errors: NotFound
  virtual Result<std::vector<ProfileRecord>> unfinished() = 0;  // every other state, oldest first
  virtual Result<ConfigurationSet> configurations() = 0;
  virtual Result<uint64_t> sequence() = 0;
};

}  // namespace wayleave::management
