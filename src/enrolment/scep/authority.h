#pragma once

// Whom we talk to: what GetCACaps and GetCACert said (RFC 8894 sections 3.5.2 and 4.2), and whether it may be believed.

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "keys/openssl.h"

namespace wayleave::enrolment::scep {

struct Capabilities {
  bool aes = false, sha256 = false, post = false, renewal = false;
};
// One word a line, in any case; unknown ones are passed over. `SCEPStandard` stands for AES, SHA-256 and POST.
Capabilities parseCapabilities(std::string_view text);

// What vouches for the CA.
struct Trust {
  std::string url;
  Bytes fingerprint;                         // of one certificate that GetCACert sends; its length tells the digest
  std::vector<std::string> trustAnchorsPem;  // the profile's certificates
  bool hasChallenge = false;                 // a secret would go to whoever answers
};

struct Authority {
  std::vector<keys::X509Ptr> certificates;  // those that were vouched for: replies are signed by one of them
  size_t recipient = 0;                     // requests are encrypted to this one: an RA's if there is one
  Bytes issuerName;                         // DER; of the CA that issues
  std::vector<std::string> warnings;
  X509* encryptTo() const { return certificates[recipient].get(); }
  Bytes recipientDigest() const;            // SHA-256
};

// The certificates in a GetCACert answer: one in DER, or a degenerate SignedData. Errors: BadInput, with what came instead.
Result<std::vector<Bytes>> readCertificates(ByteView answer);

// A certificate is believed when it is the one of `fingerprint`, or issued under it by certificates of the answer. Without a
// fingerprint: when the profile's own certificates vouch for it, when it came over https, or from this very machine. Plain
// http from elsewhere is believed only if no challenge is at stake. Errors: Untrusted with what to add to the profile;
// Unsupported (no RSA certificate).
Result<Authority> judgeAuthority(const std::vector<Bytes>& certificates, const Trust& trust);

}  // namespace wayleave::enrolment::scep
