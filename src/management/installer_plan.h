#pragma once

// What installing a profile comes to, apart from the payloads' secrets: the part that survives a crash. Internal to
// the installer.

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "localapi/proxy_configuration.h"
#include "management/management_store.h"
#include "management/profile.h"

namespace wayleave::management {

struct InstallPlan {
  std::string identifier;
  std::vector<std::string> identityPayloads;          // PayloadUUIDs, in the order in which they are staged
  std::map<std::string, std::string> accessGroups;    // of each of them
  std::vector<localapi::ProxyConfiguration> configurations;  // identityReference still empty
  std::map<std::string, std::string> identityOf;      // configuration id → PayloadUUID of its identity
};

InstallPlan planFor(const Profile& profile);

// The configurations with the references of what was staged. Errors: Internal (an identity is missing).
Result<std::vector<localapi::ProxyConfiguration>> withReferences(const InstallPlan& plan,
                                                                 const std::vector<InstalledIdentity>& identities);

// JSON for ProfileRecord::enrolment: the plan, and a profile that holds just the ACME and SCEP payloads and the certificates,
// for going on after a crash and for renewals. Empty when the profile has neither: everything else is quick enough to be
// done again by whoever asked for it. A SCEP challenge is not kept (enrolment/scep/record.h says what is in its place).
Bytes enrolmentFor(const Profile& profile, const InstallPlan& plan);

struct EnrolmentRecord {
  InstallPlan plan;
  Profile profile;
};
// Errors: NotFound (empty: nothing enrols), BadInput (written by another version).
Result<EnrolmentRecord> readEnrolment(ByteView bytes, Wall now);

// PEM of every certificate payload: through them the servers that the profile names are trusted.
std::vector<std::string> trustAnchorsOf(const Profile& profile);

// ProfileRecord::declarations. Errors: BadInput (a declaration that is not JSON).
Result<Bytes> declarationsFor(const Profile& profile);
// And back.
std::vector<Bytes> readDeclarations(ByteView kept);

// ProfileRecord::summary: what `wayleave profile show` tells about a profile.
std::string summaryFor(const ImportResult& imported);

}  // namespace wayleave::management
