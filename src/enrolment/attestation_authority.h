#pragma once

// Getting the attestation key certified by an attestation CA: POST {base}/attest and {base}/secret, the protocol of Smallstep's
// clients and attezt. The key proves that it lives in the TPM of the endorsement key by activating a credential.

#include <string>

#include "base/result.h"
#include "enrolment/http.h"
#include "localapi/identity_client.h"

namespace wayleave::enrolment {

// Does nothing when a chain is stored and good for longer than the last 40 % of its life. Errors: Unavailable, Untrusted,
// AttestationRefused (the CA's words in the message), ServerError (not the protocol), and those of the agent.
Status enrolAttestationKey(localapi::IdentityAgent& agent, Http& http, const std::string& baseUrl);

}  // namespace wayleave::enrolment
