#pragma once

// Installs and removes profiles, whole or not at all, across managementd's database and identityd
// (docs/architecture.md, "Installing a profile"). Blocking and not thread-safe: one thread owns it (service.h).
//
// Order within a profile: PKCS#12 identities first (quick, and a wrong password ends it before a CA is bothered), then
// SCEP, then ACME, so that when a crash interrupts the long wait for a CA everything else is already staged and the
// enrolment can be taken up again.

#include <functional>
#include <set>
#include <stop_token>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "localapi/identity_client.h"
#include "management/enroller.h"
#include "management/management_store.h"
#include "management/profile.h"

namespace wayleave::management {

// What grants name: identities that a VPN payload uses, and all others.
inline constexpr std::string_view kVpnAccessGroup = "com.apple.managed.vpn.shared";
inline constexpr std::string_view kDefaultAccessGroup = "com.apple.identities";
// The identity with which this machine answers its MDM server. Only managementd may use it.
inline constexpr std::string_view kMdmAccessGroup = "com.apple.managed.mdm";

struct InstallOutcome {
  ProfileRecord profile;
  bool replaced = false;
  uint64_t sequence = 0;
};

class Installer {
 public:
  struct Parts {
    ManagementStore& store;
    localapi::IdentityAgent& agent;
    const Clock& clock;
    Enroller* enroller = nullptr;  // without one, profiles that need an enrolment are refused (Unsupported)
    // How long step 4 is tried again before the caller is told that it will be done later.
    std::chrono::milliseconds commitPatience = std::chrono::seconds{10};
  };
  // A sentence for people about the profile being installed.
  using Progress = std::function<void(const std::string& identifier, std::string_view sentence)>;
  // Runs whenever other programs see different configurations, with the new sequence number.
  using Changed = std::function<void(uint64_t sequence, std::string_view event, const std::string& identifier)>;

  // Whether a checked profile may be installed by whoever brings it; an error refuses it. Runs before anything changes.
  using Permit = std::function<Status(const Profile&)>;

  // `progress` and `changed` run on the calling thread.
  Installer(Parts parts, Progress progress, Changed changed);

  // Errors: BadInput and others with every finding of the importer in the message; Unsupported; WrongPassword,
  // KeyMismatch, IdentityExpired with the payload; what identityd and the CA answer; Pending when the decision is made but
  // identityd did not confirm (it will be finished by recover()); Cancelled when `stop` was requested.
  Result<InstallOutcome> install(ByteView file, std::stop_token stop, const Permit& permit = {});
  // Errors: NotFound; Pending as above.
  Status remove(const std::string& identifier, std::stop_token stop);

  // Enrols again for all identities of an installed profile: a new key each, under new references; the old ones go. For
  // a machine whose TPM was cleared. Errors: NotFound (no such profile, or one that enrols for nothing); Unsupported
  // (it also brought identities in files, which were not kept: install it again); those of install.
  Result<InstallOutcome> reinstall(const std::string& identifier, std::stop_token stop);

  // Finishes what a crash or an absent identityd left unfinished. At start, and again while it returns false.
  bool recover(std::stop_token stop);

 private:
  struct Job;

  Result<InstallOutcome> begin(Job& job, ProfileRecord record, std::stop_token stop);
  Result<InstallOutcome> prepareAndCommit(Job& job, std::stop_token stop);
  Status stageAll(Job& job, std::stop_token stop);
  Status stage(Job& job, const Payload& payload, std::stop_token stop);
  Result<localapi::IdentityInfo> importPkcs12(const Job& job, const Payload& payload);
  Status checkValidity(const localapi::IdentityInfo& identity);
  Result<uint64_t> commit(const std::string& installation, const std::string& identifier, bool replaces,
                          std::chrono::milliseconds patience, std::stop_token stop);
  void abort(const std::string& installation);
  void forgetUnused();
  bool recoverOne(const ProfileRecord& record, std::stop_token stop);
  bool resume(const ProfileRecord& record, std::stop_token stop);
  bool abortStrangers();

  Parts parts_;
  Progress progress_;
  Changed changed_;
  std::set<std::string> takenUp_;  // installations whose being taken up was logged: one may wait for days
  bool complained_ = false;  // that identityd cannot be compared with
};

}  // namespace wayleave::management
