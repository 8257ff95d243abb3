#pragma once

// The WebAuthn attestation object of device-attest-01 (WebAuthn level 2 section 6.5.4 and 8.3, as changed by
// draft-ietf-acme-device-attest-09): CBOR in CTAP2 canonical order, no authData.

#include "base/bytes.h"
#include "localapi/identity_client.h"

namespace wayleave::enrolment {

// {"fmt": "tpm", "attStmt": {alg, sig, ver, x5c, pubArea, certInfo}}. Servers that read canonically insist on this order.
Bytes tpmAttestationObject(const localapi::KeyAttestation& attestation);

}  // namespace wayleave::enrolment
