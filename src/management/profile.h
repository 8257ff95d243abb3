#pragma once

// Configuration profiles: from bytes to checked, typed payloads. docs/profile.md says what is accepted, warned about
// and refused. Nothing is installed here, no file or socket is touched (but for the system's CA certificates when the
// caller wants profile signers judged by them), and there is no state: safe from any thread.

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "management/cms.h"
#include "management/payload.h"
#include "management/profile_finding.h"
#include "plist/plist.h"

namespace wayleave::management {

struct ImportOptions {
  Wall now = std::chrono::system_clock::now();  // judges certificates and dates
  plist::Limits limits = {.bytes = 16 * 1024 * 1024, .depth = 64, .items = 200'000};
  TrustOptions signerTrust;  // for the signature around the profile
};

enum class Scope : uint8_t { System, User };

struct Profile {
  std::string identifier;  // decides whether an installed profile is replaced
  std::string uuid;
  std::string displayName;
  std::string description;
  std::string organization;
  Scope scope = Scope::System;
  bool removalDisallowed = false;
  std::optional<Wall> removalDate;
  std::optional<std::chrono::seconds> durationUntilRemoval;
  std::optional<Wall> expirationDate;
  int targetDeviceType = 0;                        // 0 any … 5 Mac, 6 Vision Pro
  std::map<std::string, std::string> consentText;  // language or "default" → text
  std::vector<Payload> payloads;                   // in the file's order
  plist::Dictionary topLevel;                      // as in the file, without PayloadContent

  const Payload* findPayload(std::string_view uuid) const;  // exact spelling
};

struct Signature {
  bool isSigned = false;
  std::vector<Signer> signers;  // the signatures fit; trust is told per signer
};

struct ImportResult {
  std::optional<Profile> profile;  // exactly when no finding is an error
  std::vector<Finding> findings;   // in the file's order, as far as there is one
  Signature signature;
};

// Never fails as a call: what is wrong is in the findings (see toError).
ImportResult importProfile(ByteView bytes, const ImportOptions& options = {});

// The configurations of our own provider, in the file's order; trust anchors filled in, identityReference left to the installer,
// which finds the identity by VpnPayload::identityPayloadUuid().
std::vector<localapi::ProxyConfiguration> proxyConfigurations(const Profile& profile);

}  // namespace wayleave::management
