#pragma once

// From a com.apple.security.scep payload to a certificate, and to the next one (RFC 8894):
//
//   key → GetCACaps, GetCACert, judged → request, encrypted for the CA → PKCSReq or RenewalReq → (PENDING → CertPoll)* → certificate
//
// Every private operation is identityd's. Each step is recorded first (record.h): a crash anywhere sends the same request
// in the same transaction again, or goes on polling.

#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "enrolment/certification_request.h"
#include "enrolment/scep/client.h"
#include "enrolment/scep/record.h"
#include "localapi/identity_client.h"

namespace wayleave::enrolment::scep {

struct Parameters {
  std::string url, caIdentifier;
  Bytes fingerprint;
  std::vector<std::string> trustAnchorsPem;
  RequestParameters request;  // its challenge may be missing after a crash: it is never stored
  int retries = 3;            // polls while the CA says PENDING; the first at once
  std::chrono::seconds retryDelay{10};
};

struct SubjectKey {
  std::string id;  // a key's or an identity's
  Bytes publicKey;
};

struct Tools {
  localapi::IdentityAgent& agent;
  Http& http;
  Pacer& pacer;
  const Clock& clock;
  Record& record;
};

using Step = std::function<void(std::string_view)>;

// How long one call waits for a CA that says PENDING; after that it returns Pending, and a later call goes on polling.
inline constexpr std::chrono::seconds kPatience{120};

// Leaf first, without the root. Errors: those of Client, judgeAuthority and readReply; failureOf; Pending (call again later);
// DeadlineExceeded (every poll was answered with PENDING); KeyMismatch, IdentityExpired (what the CA issued); identityd's.
Result<std::vector<Bytes>> obtainCertificate(const Tools& tools, const Parameters& parameters, const SubjectKey& key, const Step& step);

// A new certificate for the same key, asked for with the current one: RenewalReq where the server knows it, first without the
// challenge, then with the request `first` that the first enrolment made; at last PKCSReq. `first` may be empty.
Result<std::vector<Bytes>> renewCertificate(const Tools& tools, const Parameters& parameters, const SubjectKey& key, ByteView current,
                                            const Progress& first);

}  // namespace wayleave::enrolment::scep
