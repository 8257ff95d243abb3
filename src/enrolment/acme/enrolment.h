#pragma once

// From a com.apple.security.acme payload to a certificate (RFC 8555 with draft-ietf-acme-device-attest-09):
//
//   key → account → order → authorization → device-attest-01 (attestation over SHA-256 of the key authorization)
//       → finalize → certificate, checked: our key, a chain that verifies
//
// The key, its attestation and the request's signature come from identityd; this side has only the network. Each step is
// recorded in a journal first: a crash anywhere takes the same key and the same order up again.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "enrolment/acme/client.h"
#include "enrolment/certification_request.h"
#include "enrolment/journal.h"
#include "keys/private_key.h"
#include "localapi/identity_client.h"

namespace wayleave::enrolment::acme {

struct Parameters {
  std::string directoryUrl;
  Identifier identifier;           // permanent-identifier with the payload's ClientIdentifier
  RequestParameters request;       // Subject, SubjectAltName, usages as the payload says
  bool attest = false;
  std::string attestationUrl;      // base URL of the attestation CA; needed with `attest`
  std::optional<ExternalAccount> externalAccount;
};

// The key to certify, already made.
struct SubjectKey {
  std::string id;  // for IdentityAgent::attestKey and signCertificationRequest
  Bytes publicKey;
};

using Progress = std::function<void(std::string_view step)>;

// What identityd and the network are asked through, and the record of the last run.
struct Tools {
  localapi::IdentityAgent& agent;
  Http& http;
  Pacer& pacer;
  const Clock& clock;
  const AccountKey& account;
  Journal& journal;
  // Looks at an attestation before it is sent: a refused challenge costs the order. Tests with made-up keys replace it.
  std::function<Status(const localapi::KeyAttestation&, ByteView qualifyingData, const std::string& identifier)> checkAttestation;
};

// Everything that a server will check (keys/tpm/attestation_check.h), but for its trust roots. Errors: AttestationRefused.
Status checkBeforeSending(const localapi::KeyAttestation& attestation, ByteView qualifyingData, const std::string& identifier);

// Runs (or takes up again) one order. The journal keeps the order while it can still succeed, and forgets it when the server
// has ended it: the next call then places a new one. Errors: those of Client; AttestationRefused with the server's words, or
// ours when our own check of the attestation fails before it is sent; KeyMismatch (a certificate for another key);
// Untrusted (a chain that does not verify); Unsupported (no challenge we can answer).
Result<std::vector<Bytes>> obtainCertificate(const Tools& tools, const Parameters& parameters, const SubjectKey& key, const Progress& progress);

// The leaf is for `publicKey`, is valid now, and each certificate is signed by the next.
// Errors: KeyMismatch, IdentityExpired, Untrusted, BadInput.
Status checkIssuedChain(const std::vector<Bytes>& chain, ByteView publicKey, Wall now);

}  // namespace wayleave::enrolment::acme
