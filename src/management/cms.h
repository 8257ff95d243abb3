#pragma once

// Signed profiles: CMS SignedData (RFC 5652) around the property list, DER or BER with indefinite lengths.
//
// Three questions with three answers, never mixed: does the signature fit the content (if not, an error), who signed
// (certificates, leaf first), and is that certificate trusted now (reported, never fatal: the signers of real profiles
// are code-signing, web-server and private certificates, mostly expired).

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "management/cms_certificate.h"

namespace wayleave::management {

enum class Trust : uint8_t {
  NotEvaluated,  // no trust store was given
  Trusted,
  Expired,  // would be trusted but for a date in the chain
  Untrusted,
};
std::string_view text(Trust trust);  // "not-evaluated", "trusted", "expired", "untrusted"

struct Signer {
  std::vector<CertificateInfo> chain;  // leaf first, as far as the file carries it; never empty
  std::string digest;                  // "SHA256"
  std::string algorithm;               // "ecdsa-with-SHA256"
  std::optional<Wall> signingTime;     // signed by the signer, so it is only its word
  std::string weakness;                // "" or why the signature proves little: "SHA-1 digest"
  Trust trust = Trust::NotEvaluated;
  std::string trustProblem;  // OpenSSL's words when not trusted
};

struct TrustOptions {
  bool useSystemStore = false;          // the system's CA certificates
  std::vector<std::string> anchorsPem;  // in addition
};

struct SignedContent {
  Bytes content;
  std::vector<Signer> signers;  // at least one; all signatures fit
};

// A file that starts like a DER or BER sequence; no property list does.
bool looksLikeCms(ByteView bytes);

// Errors: BadInput (not CMS, trailing bytes, no content), Unsupported (encrypted), SignatureInvalid.
Result<SignedContent> verifyCms(ByteView bytes, const TrustOptions& trust, Wall now);

}  // namespace wayleave::management
