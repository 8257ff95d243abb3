#pragma once

// One interface over every private key, wherever it lives. The bytes of a key never cross it.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "keys/envelope.h"

namespace wayleave::keys {

enum class KeyType : uint8_t { EcP256, EcP384, EcP521, Rsa };
enum class KeyKind : uint8_t { Software, Tpm };

// Names as in RFC 8446 section 4.2.3; RSA PKCS#1 serves TLS 1.2, CSRs and CMS only.
enum class SignatureScheme : uint8_t {
  EcdsaSecp256r1Sha256,
  EcdsaSecp384r1Sha384,
  EcdsaSecp521r1Sha512,
  EcdsaSha256,  // any curve with SHA-256: TLS 1.2 allows P-384 with SHA-256
  RsaPssRsaeSha256,
  RsaPssRsaeSha384,
  RsaPssRsaeSha512,
  RsaPkcs1Sha256,
  RsaPkcs1Sha384,
  RsaPkcs1Sha512,
};

std::string_view text(KeyType type);            // "EC P-384", "RSA"
std::string_view text(KeyKind kind);            // "software", "tpm"
std::string_view text(SignatureScheme scheme);  // "ecdsa_secp384r1_sha384"; EcdsaSha256 is "ecdsa_sha256"
Result<SignatureScheme> parseScheme(std::string_view name);

// Digest length in bytes of the scheme's hash: 32, 48 or 64.
size_t digestLength(SignatureScheme scheme);
// "SHA256", "SHA384", "SHA512": OpenSSL's names.
const char* digestName(SignatureScheme scheme);
bool isPss(SignatureScheme scheme);
// The schemes a key of this type can serve at all, strongest fit first; a device may support fewer.
std::vector<SignatureScheme> schemesFor(KeyType type);

// RSA moduli we accept, in bits. Below 2048, TLS stacks at today's default security level refuse the certificate; above
// 8192 a signature takes longer than a handshake may, and a hostile file could make one take minutes.
inline constexpr int kMinRsaBits = 2048;
inline constexpr int kMaxRsaBits = 8192;

// The subjectPublicKeyInfo with what it says, decoded once.
struct PublicKey {
  Bytes spki;  // DER
  KeyType type = KeyType::EcP256;
  int bits = 0;
  // SHA-1 over the contents of the SPKI BIT STRING: the public-key hash by which keychains pair certificate and key.
  Bytes keychainHash() const;

  // The whole of `der` must be one SPKI. Errors: BadInput; Unsupported (an algorithm outside KeyType, explicit curve
  // parameters, an RSA modulus outside kMinRsaBits..kMaxRsaBits).
  static Result<PublicKey> fromSpki(ByteView der);
};

// A private key that can sign. Thread-safe. `sign` may take long (a TPM: 600 ms and more): never call it on an event
// loop.
class PrivateKey {
 public:
  virtual ~PrivateKey() = default;
  virtual const PublicKey& publicKey() const = 0;
  virtual KeyKind kind() const = 0;
  virtual std::vector<SignatureScheme> supportedSchemes() const = 0;

  // Signs a ready digest of digestLength(scheme) bytes. ECDSA signatures come as DER, RSA as raw bytes of modulus size.
  // Gives up at `deadline`: queued work is dropped, work already in the device is abandoned, not awaited.
  // Errors: Unsupported (scheme), BadInput (digest length), DeadlineExceeded, Busy (queue full), IdentityLost,
  // KeyLockout, KeyPermission, IdentityUnavailable.
  virtual Result<Bytes> signDigest(SignatureScheme scheme, ByteView digest, Steady deadline) = 0;

  // Opens a message encrypted to this key (keys/envelope.h). Only RSA keys in software do; no key in a TPM of ours decrypts.
  // Errors: those of openEnvelope; Unsupported; DeadlineExceeded.
  virtual Result<OpenedEnvelope> openEnvelope(ByteView der, Steady deadline);

  // Hashes `message` in software, then signDigest.
  Result<Bytes> sign(SignatureScheme scheme, ByteView message, Steady deadline);
};

}  // namespace wayleave::keys
