#pragma once

// A TPM key as a PrivateKey.

#include <memory>
#include <string>

#include "keys/private_key.h"
#include "keys/tpm/tpm_device.h"

namespace wayleave::keys::tpm {

// Making one from its blob touches no TPM: a daemon starts, lists and shows its identities whatever the TPM does.
class TpmKey final : public PrivateKey {
 public:
  // `pem` as from encodeTss2Pem. Errors: BadInput, Unsupported (a restricted or decrypting key, a curve outside
  // KeyType).
  static Result<std::unique_ptr<TpmKey>> fromPem(std::shared_ptr<TpmDevice> device, std::string_view pem);
  static Result<std::unique_ptr<TpmKey>> fromBlob(std::shared_ptr<TpmDevice> device, KeyBlob blob);
  // Creates a new key. Errors: those of TpmDevice::createKey.
  static Result<std::unique_ptr<TpmKey>> create(std::shared_ptr<TpmDevice> device, KeyType type, int bits,
                                                Steady deadline);

  const PublicKey& publicKey() const override { return publicKey_; }
  KeyKind kind() const override { return KeyKind::Tpm; }
  std::vector<SignatureScheme> supportedSchemes() const override;
  // A TPM that is absent or unreachable is IdentityUnavailable here: the identity exists, it cannot be used now.
  // RSA-PSS signatures are checked before they are given out: TPMs before revision 1.59 salt them longer than TLS
  // allows, which is Unsupported.
  Result<Bytes> signDigest(SignatureScheme scheme, ByteView digest, Steady deadline) override;

  const KeyBlob& blob() const { return blob_; }
  Result<std::string> pem() const { return encodeTss2Pem(blob_); }
  // Errors: those of TpmDevice::certify.
  Result<Certification> certify(const AttestationKey& attestationKey, ByteView qualifyingData, Steady deadline);

 private:
  TpmKey(std::shared_ptr<TpmDevice> device, KeyBlob blob, PublicKey publicKey)
      : device_(std::move(device)), blob_(std::move(blob)), publicKey_(std::move(publicKey)) {}

  const std::shared_ptr<TpmDevice> device_;
  const KeyBlob blob_;
  const PublicKey publicKey_;
};

}  // namespace wayleave::keys::tpm
