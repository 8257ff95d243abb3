#pragma once

// Our own look at a `tpm` attestation statement before it is posted.
//
// A refused device-attest-01 challenge costs the whole order, so everything a server will check is checked here first:
// the AK certificate's profile (TCG credential profile for attestation keys; step-ca's reading of it), the
// certification (WebAuthn level 2 section 8.3 as changed by draft-ietf-acme-device-attest) and the freshness binding.
// What only the server knows, its trust roots, is not checked. Pure: bytes in, verdict out; no TPM.

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace wayleave::keys::tpm {

struct AttestationStatement {
  std::vector<Bytes> akChain;  // DER, AK certificate first, no root
  Bytes certifyInfo;           // TPMS_ATTEST
  Bytes signature;             // TPMT_SIGNATURE over certifyInfo
  Bytes publicArea;            // TPMT_PUBLIC of the attested key
  int algorithm = -7;          // COSE: -7 ES256, -257 RS256
};

struct AttestationExpectation {
  Bytes qualifyingData;             // for ACME SHA-256 of the key authorization
  std::string permanentIdentifier;  // the order's; empty: not compared
  Wall now{};
};

struct AttestationVerdict {
  Bytes attestedKey;                  // SPKI DER: the CSR must carry this key
  std::vector<std::string> warnings;  // accepted by servers of today, but wrong
};

// Errors: AttestationRefused; the message names the check and both sides.
Result<AttestationVerdict> validateAttestation(const AttestationStatement& statement,
                                               const AttestationExpectation& expected);

// What an attestation CA checks before it makes a credential: the attestation key's creation, signed by itself.
// `publicArea` of the AK, the rest as in AttestationKey. Errors: AttestationRefused.
Status validateAttestationKey(ByteView publicArea, ByteView createData, ByteView createAttestation,
                              ByteView createSignature);

// The AK certificate's profile alone; also used when an attestation CA hands one out. `leaf` is DER.
// Errors: AttestationRefused.
Result<std::vector<std::string>> checkAkCertificate(ByteView leaf, std::string_view permanentIdentifier, Wall now);

}  // namespace wayleave::keys::tpm
