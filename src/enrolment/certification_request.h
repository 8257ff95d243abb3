#pragma once

// PKCS #10 requests (RFC 2986) for a key that lives elsewhere: we build what is to be signed, someone else signs it.

#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "keys/private_key.h"

namespace wayleave::enrolment {

// One attribute of a relative distinguished name: a dotted OID or one of C, L, ST, O, OU, CN; and its value.
using NameAttribute = std::pair<std::string, std::string>;
// RDNs in order; several attributes in one make a multi-valued RDN.
using Subject = std::vector<std::vector<NameAttribute>>;

struct SubjectAlternativeNames {
  std::vector<std::string> rfc822Names, dnsNames, uris;
  std::vector<std::string> ntPrincipalNames;       // otherName 1.3.6.1.4.1.311.20.2.3
  std::vector<std::string> permanentIdentifiers;   // otherName 1.3.6.1.5.5.7.8.3 (RFC 4043), no assigner
};

struct RequestParameters {
  Subject subject;
  SubjectAlternativeNames alternativeNames;
  bool signing = false, encrypting = false;   // keyUsage digitalSignature, keyEncipherment; neither = no extension
  std::vector<std::string> extendedKeyUsage;  // dotted OIDs
  Secret challengePassword;                   // SCEP; empty = none
};

class CertificationRequest {
 public:
  // Errors: BadInput naming the attribute, OID or name that cannot be encoded.
  static Result<CertificationRequest> make(const RequestParameters& parameters, ByteView spki);

  // DER of the CertificationRequestInfo: what a signer signs.
  const Bytes& info() const { return info_; }
  // DER of the subject, for a certificate of the requester's own.
  const Bytes& subjectName() const { return subjectName_; }
  // The complete request. `signature`: DER ECDSA or raw RSA PKCS#1 over info(). Errors: Unsupported (RSA-PSS).
  Result<Bytes> complete(keys::SignatureScheme scheme, ByteView signature) const;

 private:
  CertificationRequest(Bytes info, Bytes subjectName) : info_(std::move(info)), subjectName_(std::move(subjectName)) {}
  Bytes info_, subjectName_;
};

// The scheme we sign requests with: the curve's own hash; PKCS#1 with SHA-256 for RSA.
keys::SignatureScheme requestScheme(keys::KeyType type);

}  // namespace wayleave::enrolment
