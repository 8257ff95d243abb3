#pragma once

// The mechanisms of the token, and what each asks of identityd.
//
// identityd signs three things (docs/architecture.md, "Signatures"): the CertificateVerify of a TLS 1.3 client, a message it
// hashes itself, a ready digest. A mechanism that hashes gives us the whole message: if that is a CertificateVerify, the harmless
// usage `tls-client` is enough. A raw mechanism gives a digest of we know not what: that needs the usage `digest`.

#include <optional>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "pkcs11/certificate.h"
#include "pkcs11/crypto.h"
#include "pkcs11/cryptoki.h"

namespace wayleave::pkcs11 {

enum class Padding : uint8_t { Ecdsa, RsaPkcs1, RsaPss };

// What a private key object can be asked, by whichever name identityd knows it.
struct SigningKey {
  Bytes reference;
  KeyFamily family = KeyFamily::Other;
  int bits = 0;
  std::vector<std::string> schemes;  // those its device has; empty: not told

  size_t signatureBytes() const;  // as PKCS #11 wants them: r ‖ s for ECDSA
  bool has(std::string_view scheme) const;
};

struct SigningPlan {
  Padding padding = Padding::Ecdsa;
  std::optional<HashKind> messageHash;  // the mechanism hashes
  std::optional<HashKind> digestHash;   // what a raw PSS mechanism's parameters name
};

std::span<const CK_MECHANISM_TYPE> mechanisms();
Answer<CK_MECHANISM_INFO> mechanismInfo(CK_MECHANISM_TYPE type);  // CKR_MECHANISM_INVALID
// Those of mechanisms() that work with this key.
std::vector<CK_MECHANISM_TYPE> mechanismsFor(const SigningKey& key);

// CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED (the
// device behind this key lacks the scheme).
Answer<SigningPlan> planSignature(const CK_MECHANISM& mechanism, const SigningKey& key);

// A digest to be signed under a scheme of identityd's.
struct DigestRequest {
  std::string_view scheme;
  Bytes digest;
};
// The digest as `scheme` wants it. ECDSA takes the digest as a number (FIPS 186-5, 6.4.1), so one of another length than the
// curve's own is cut or gets leading zeros and stays the same number. CKR_DATA_LEN_RANGE, CKR_DATA_INVALID.
Answer<DigestRequest> digestRequest(const SigningPlan& plan, const SigningKey& key, ByteView data);
// The scheme under which a whole message can be signed, or empty: P-256 with SHA-384 has none, for example.
std::string_view messageScheme(const SigningPlan& plan, const SigningKey& key);
// Does TLS 1.3 allow the scheme, and is this the CertificateVerify of a client (RFC 8446, 4.4.3)?
bool isClientCertificateVerify(std::string_view scheme, ByteView message);

// identityd's signature as PKCS #11 wants it. CKR_DEVICE_ERROR when it is not one.
Answer<Bytes> fromWire(const SigningKey& key, ByteView signature);

}  // namespace wayleave::pkcs11
