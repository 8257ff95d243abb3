#pragma once

// Every private key of this machine, by the record that holds it: software keys sealed at rest, TPM keys as TSS2 PEM.
// Keys are opened when they are first needed, so that one that cannot be used (no TPM, a lost machine key) is its own
// error and nobody else's. Nothing here creates a key because another could not be read.

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "keychain/store.h"
#include "keys/private_key.h"
#include "keys/sealer.h"
#include "keys/tpm/tpm_device.h"
#include "localapi/identity_client.h"

namespace wayleave::broker {

// What a new key's record needs.
struct MadeKey {
  keys::KeyKind kind = keys::KeyKind::Software;
  Bytes spki;
  Bytes blob;
};

// The seam to keys: the daemon has MachineKeys, tests wrap or replace it. Thread-safe. Every call may take as long as a
// TPM takes: never on the server's thread.
class KeyRing {
 public:
  virtual ~KeyRing() = default;

  // Errors: those of unsealing; IdentityUnavailable (no machine key, no TPM here).
  virtual Result<std::shared_ptr<keys::PrivateKey>> open(const keychain::KeyRecord& record) = 0;
  virtual void forget(std::string_view keyId) = 0;

  // `keyId` will be the record's id: sealed blobs are bound to it. A hardware-bound key is made in the TPM or not at
  // all. Errors: Unsupported (type, size, no TPM configured), and those of the TPM.
  virtual Result<MadeKey> create(std::string_view keyId, keys::KeyType type, int bits, bool hardwareBound) = 0;
  virtual Result<MadeKey> import(std::string_view keyId, const Secret& pkcs8) = 0;

  // Attestation. Errors of all: Unsupported (not a TPM key, no TPM), IdentityLost, Conflict (no chain yet), the TPM's.
  virtual Result<localapi::KeyAttestation> attest(const keychain::KeyRecord& record, ByteView qualifyingData) = 0;
  virtual Result<localapi::AkEnrolment> beginAkEnrolment() = 0;
  virtual Result<Bytes> activateCredential(ByteView credential, ByteView secret) = 0;
  virtual Status storeAkChain(const std::vector<Bytes>& chain) = 0;

  // Is this the TPM the stored keys were made in? Ok also when none is configured or no key was ever made.
  // Errors: IdentityLost, and those of the TPM.
  virtual Status checkStorageRoot() = 0;
  struct TpmState {
    bool configured = false;
    std::string state;   // "none", "ready", "lockout", or the Reason of the failure
    std::string detail;  // manufacturer and firmware, or what stood in the way
  };
  // Fast: what was found out last, not by asking the TPM now.
  virtual TpmState tpmState() = 0;
  // Slow: asks the TPM everything, and times one signature. Errors: Unsupported (no TPM configured).
  virtual Result<keys::tpm::TpmDescription> describeTpm() = 0;
};

class MachineKeys final : public KeyRing {
 public:
  // `sealer` may be an error: software keys are then unavailable, and say why. `tpm` may be null. `store` outlives
  // this.
  MachineKeys(keychain::Store& store, Result<keys::Sealer> sealer, std::shared_ptr<keys::tpm::TpmDevice> tpm,
              const Clock& clock)
      : store_(store), sealer_(std::move(sealer)), tpm_(std::move(tpm)), clock_(clock) {}

  Result<std::shared_ptr<keys::PrivateKey>> open(const keychain::KeyRecord& record) override;
  void forget(std::string_view keyId) override;
  Result<MadeKey> create(std::string_view keyId, keys::KeyType type, int bits, bool hardwareBound) override;
  Result<MadeKey> import(std::string_view keyId, const Secret& pkcs8) override;
  Result<localapi::KeyAttestation> attest(const keychain::KeyRecord& record, ByteView qualifyingData) override;
  Result<localapi::AkEnrolment> beginAkEnrolment() override;
  Result<Bytes> activateCredential(ByteView credential, ByteView secret) override;
  Status storeAkChain(const std::vector<Bytes>& chain) override;
  Status checkStorageRoot() override;
  TpmState tpmState() override;
  Result<keys::tpm::TpmDescription> describeTpm() override;

 private:
  Result<keys::tpm::TpmDevice*> device() const;
  Result<keys::tpm::AttestationKey> storedAk();
  Result<std::vector<Bytes>> storedAkChain();
  // Records the storage root's Name with the first key made under it.
  Status recordStorageRoot();
  void note(const Status& outcome);

  keychain::Store& store_;
  const Result<keys::Sealer> sealer_;
  const std::shared_ptr<keys::tpm::TpmDevice> tpm_;
  const Clock& clock_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<keys::PrivateKey>, std::less<>> open_;
  TpmState state_;
};

}  // namespace wayleave::broker
