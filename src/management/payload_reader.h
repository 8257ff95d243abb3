#pragma once

// How the importer calls the readers of single payload types. Internal to management/.

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "management/payload.h"
#include "management/profile_keys.h"

namespace wayleave::management {

// Finds the payload that a reference such as PayloadCertificateUUID means.
class Resolver {
 public:
  enum class Kind : uint8_t { Identity, Certificate };

  explicit Resolver(const std::vector<PayloadHeader>& headers) : headers_(headers) {}

  // The named payload's own spelling of its PayloadUUID, or "" after reporting at `keyPath` why not: empty, dangling,
  // or a payload of another kind. A match that differs in letter case resolves with a warning.
  std::string resolve(const std::string& reference, Kind kind, const std::string& keyPath, Report& report) const;
  // Reports a reference that is empty or names nothing, whatever the kind.
  void require(const std::string& reference, const std::string& keyPath, Report& report) const;

 private:
  const std::vector<PayloadHeader>& headers_;
};

// Apple's own names in VendorConfig. They mean nothing to us; other vendors' providers are configured by them.
inline constexpr std::array<std::string_view, 4> kOthersVendorKeys{"Realm", "Role", "Group", "LoginGroupOrDomain"};

struct ReadContext {
  const PayloadHeader& header;
  const Resolver& resolver;
  Report& report;
  Wall now;
};

// Each reads one payload dictionary and calls keys.finish() itself. What they return is complete only if no error was
// reported.
CertificatePayload readCertificatePayload(Keys& keys, const ReadContext& context);
Pkcs12Payload readPkcs12Payload(Keys& keys, const ReadContext& context);
// In a declaration's document (com.apple.credential.acme) P-192 and the two keys about access are not allowed.
AcmePayload readAcmePayload(Keys& keys, const ReadContext& context, AcmeForm form = AcmeForm::ProfilePayload);
ScepPayload readScepPayload(Keys& keys, const ReadContext& context);
// The dictionary inside it, which as a declaration's document (com.apple.credential.scep) stands alone and lacks the two
// keys about access.
void readScepContent(Keys& keys, ScepPayload& payload, bool ofProfile);
VpnPayload readVpnPayload(Keys& keys, const ReadContext& context);
DeclarationsPayload readDeclarationsPayload(Keys& keys, const ReadContext& context);
MdmPayload readMdmPayload(Keys& keys, const ReadContext& context);

// VendorConfig of our own provider; fills payload.proxy and payload.trustAnchorPayloadUuids.
// Unknown keys are warnings, or with `unknown` errors whose paths go there.
void readVendorConfig(const plist::Dictionary& dictionary, const std::string& path, const ReadContext& context,
                      VpnPayload& payload, std::vector<std::string>* unknown = nullptr);
std::vector<OnDemandRule> readOnDemandRules(Keys& keys);

// Shared by acme and scep.
Subject readSubject(Keys& keys, Need need);
SubjectAltNames readSubjectAltNames(Keys& keys);
bool isDottedOid(std::string_view text);

}  // namespace wayleave::management
