#pragma once

// The seam between installing a profile and enrolling for its identities. management/ decides what is enrolled, when, and
// under which installation; enrolment/ (a layer above) knows ACME and SCEP and satisfies this interface.

#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "localapi/identity_client.h"
#include "management/payload.h"

namespace wayleave::management {

// One ACME or SCEP payload to be turned into a staged identity.
struct EnrolmentRequest {
  std::string installation;  // begun at identityd; keys and certificates go under it (KeyRequest, BindRequest)
  std::string profileIdentifier;
  std::string accessGroup;
  const Payload& payload;  // AcmePayload or ScepPayload; outlives the call
  // PEM of the profile's root certificates: the servers that it names are trusted through them, beside the system's store.
  std::vector<std::string> trustAnchors = {};
};

// One sentence for a person, at every step that may take a while: "waiting for the CA to validate the attestation".
using EnrolmentProgress = std::function<void(std::string_view)>;

class Enroller {
 public:
  virtual ~Enroller() = default;

  // Blocks until the identity is bound under the installation, or fails. Called on the installer's thread, for one payload
  // at a time. Called again with the same (installation, payloadUuid) after a crash: then it goes on where it was and
  // neither makes a second key nor places a second order. `stop`: the daemon is ending; return Cancelled soon and keep what
  // is needed to go on. Pending: somebody at the CA has to decide; it is called again later. Any other error gives up: the installation will be aborted, which removes its keys at identityd.
  virtual Result<localapi::IdentityInfo> enroll(const EnrolmentRequest& request, const EnrolmentProgress& progress,
                                                std::stop_token stop) = 0;
  // The installation is over, committed or aborted: what was kept for going on can go.
  virtual void settled(std::string_view installation, bool committed) = 0;
  // After a profile went: whatever is kept that serves none of `payloads`, the ACME and SCEP payloads of all profiles that are
  // installed or being installed, can go too. A removed profile leaves no account at a CA and no request behind.
  virtual void forgetAllBut(const std::vector<const Payload*>& /*payloads*/) {}
};

}  // namespace wayleave::management
