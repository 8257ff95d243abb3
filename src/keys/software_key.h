#pragma once

// A private key whose bytes are in this process's memory: identities from PKCS#12 and SCEP, and ACME keys that need not
// be bound to hardware. At rest such a key exists only sealed (keys/sealer.h).

#include <memory>

#include "base/bytes.h"
#include "base/result.h"
#include "keys/openssl.h"
#include "keys/private_key.h"

namespace wayleave::keys {

class SoftwareKey final : public PrivateKey {
 public:
  // `rsaBits` counts for KeyType::Rsa alone; 4096 bits may take seconds: never on an event loop.
  // Errors: Unsupported (modulus size), Internal (OpenSSL).
  static Result<std::unique_ptr<SoftwareKey>> generate(KeyType type, int rsaBits = 0);

  // One unencrypted PrivateKeyInfo (RFC 5208), nothing behind it. The key proves itself by one signature before it is
  // returned, so a file whose private half does not fit its public half never becomes an identity.
  // Errors: BadInput, Unsupported (as PublicKey::fromSpki), KeyMismatch (the two halves do not belong together).
  static Result<std::unique_ptr<SoftwareKey>> fromPkcs8(const Secret& pkcs8);

  // The key in the clear, for the sealer and for nothing else. Errors: Internal.
  Result<Secret> toPkcs8() const;

  const PublicKey& publicKey() const override { return publicKey_; }
  KeyKind kind() const override { return KeyKind::Software; }
  std::vector<SignatureScheme> supportedSchemes() const override { return schemesFor(publicKey_.type); }
  // A signature takes 0.1 to 10 ms and cannot be interrupted: the deadline is looked at before it starts.
  Result<Bytes> signDigest(SignatureScheme scheme, ByteView digest, Steady deadline) override;
  Result<OpenedEnvelope> openEnvelope(ByteView der, Steady deadline) override;

 private:
  SoftwareKey(EvpPkeyPtr key, PublicKey publicKey) : key_(std::move(key)), publicKey_(std::move(publicKey)) {}
  static Result<std::unique_ptr<SoftwareKey>> adopt(EvpPkeyPtr key);
  Status proveItself();

  EvpPkeyPtr key_;  // only read after construction: OpenSSL locks what it caches inside
  PublicKey publicKey_;
};

// True when `signature` over `digest` verifies under `key`. Errors: BadInput (key), Unsupported (scheme for this key).
Result<bool> verifyDigest(const PublicKey& key, SignatureScheme scheme, ByteView digest, ByteView signature);

}  // namespace wayleave::keys
