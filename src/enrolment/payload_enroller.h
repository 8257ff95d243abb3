#pragma once

// Enrols for the identities of com.apple.security.acme and .scep payloads, and renews them. The only part of enrolment that
// knows payloads; the protocols are acme/ and scep/.

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "localapi/identity_client.h"
#include "management/enroller.h"

namespace wayleave::enrolment {

namespace acme {
struct SubjectKey;
}

class PayloadEnroller final : public management::Enroller {
 public:
  // Keeps account keys and journals under `folder` (0700, created when missing). `agent` outlives it.
  static Result<std::unique_ptr<PayloadEnroller>> make(localapi::IdentityAgent& agent, std::string folder);

  Result<localapi::IdentityInfo> enroll(const management::EnrolmentRequest& request, const management::EnrolmentProgress& progress,
                                        std::stop_token stop) override;
  void settled(std::string_view installation, bool committed) override;

  void forgetAllBut(const std::vector<const management::Payload*>& payloads) override;

  // Forgets what was kept for renewing identities that are gone. `present`: what the agent has now, listed by `list`, which
  // runs after this has looked at what is kept.
  void forgetIdentitiesBut(const std::function<Result<std::vector<localapi::IdentityInfo>>()>& list);

  // A new certificate for the same key of an active identity; the agent has it when this returns. Errors: as enroll; Pending
  // (a SCEP server that has not decided: call again later).
  Result<localapi::IdentityInfo> renew(const localapi::IdentityInfo& identity, const management::Payload& payload,
                                       const std::vector<std::string>& trustAnchors, std::stop_token stop);

 private:
  PayloadEnroller(localapi::IdentityAgent& agent, std::string folder) : agent_(agent), folder_(std::move(folder)) {}
  struct Certification;
  Result<std::vector<Bytes>> certify(const Certification& what, std::stop_token stop);
  Result<std::vector<Bytes>> certifyByScep(const management::ScepPayload& payload, const acme::SubjectKey& key,
                                           const management::EnrolmentRequest& request, const management::EnrolmentProgress& progress,
                                           std::stop_token stop);
  Result<localapi::IdentityInfo> renewByScep(const localapi::IdentityInfo& identity, const management::Payload& payload,
                                             const std::vector<std::string>& trustAnchors, std::stop_token stop);
  // The key with which this machine is known to a CA.
  std::string accountPath(const std::string& directoryUrl) const;
  std::string journalPath(std::string_view owner, std::string_view payloadUuid) const;
  // The first request of a key, encrypted for its CA; see scep/record.h.
  std::string requestPath(ByteView publicKey) const;

  localapi::IdentityAgent& agent_;
  std::string folder_;
  SystemClock clock_;
};

}  // namespace wayleave::enrolment
