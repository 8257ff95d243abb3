#pragma once

// The TPM as the rest of identityd sees it: one object, any thread, every call with a deadline.
//
// A TPM does one thing at a time and is slow (real parts: 5 to 600 ms per signature). So there is one owner thread with
// a bounded queue. A caller waits for its own answer until its own deadline and then leaves: what is still queued is
// dropped unrun, what is already in the TPM is abandoned (the owner thread finishes it; the answer goes nowhere). A
// command that outlives TpmOptions::commandTimeout, or a connection that breaks, makes the owner thread close and
// reopen the TPM; after a break (not after a timeout) the request is run once more.
//
// Nothing is opened before the first request, and nothing fails for good: a machine whose TPM is absent, busy or locked
// out gets an error per call, with a hint, and the next call tries again. No call ever creates a key because another
// call failed.
//
// Lifecycle: construct it after any fork and before other threads read the environment (it sets TSS2_LOG, to keep the
// TSS off stderr). Destroying it interrupts the command under way and refuses what is queued with Cancelled.

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "keys/private_key.h"
#include "keys/tpm/tpm_types.h"

namespace wayleave::keys::tpm {

enum class EkChoice : uint8_t { Automatic, Rsa, EcP256, EcP384 };

struct TpmOptions {
  // device:/dev/tpmrm0 · device:/dev/tpm0 · swtpm:path=/run/x.sock · any string Tss2_TctiLdr takes
  std::string tcti = "device:/dev/tpmrm0";
  // Handshakes waiting for a signature. At 200 ms each, 64 already mean 13 s: later ones are better told at once.
  size_t queueLimit = 64;
  // See TransportOptions: creating an RSA key may take a minute.
  std::chrono::milliseconds commandTimeout{120'000};
  // Makes the derived storage root key persistent at 0x81000001 when none is there. Saves 100 to 300 ms after each
  // start on real parts, and takes one of a few NV places.
  bool persistStorageRoot = false;
  // The kind of a new attestation key: P-256, or RSA-2048 for verifiers that read nothing else (step-ca up to 0.30.2).
  bool rsaAttestationKey = false;
  // Automatic: the key that has a certificate in NV, RSA before P-384 before P-256.
  EkChoice endorsementKey = EkChoice::Automatic;
  // For benchmarks and the lab: makes a software TPM as slow as a real one. Spent on the owner thread.
  std::chrono::milliseconds addedSignTime{0};
};

// Errors of every call, besides those named: Busy (queue full, slots taken, another opener), DeadlineExceeded,
// Cancelled (we are stopping), Unavailable (no TPM, connection lost), KeyPermission, KeyLockout, IdentityUnavailable
// (the TPM refuses), Unsupported.
class TpmDevice {
 public:
  explicit TpmDevice(TpmOptions options);
  TpmDevice(const TpmDevice&) = delete;
  ~TpmDevice();

  Result<TpmFacts> facts(Steady deadline);
  // The key under which new keys are made: persistent 0x81000001, else derived from the fixed template. Pass it to
  // compareStorageRoot with the Name recorded when the first key was stored.
  Result<StorageRoot> storageRoot(Steady deadline);
  Result<EndorsementKey> endorsementKey(Steady deadline);

  // A new key under the storage root. EcP256, EcP384, Rsa with 2048 bits.
  // Errors: Unsupported (size, or a curve this TPM lacks: says so).
  Result<KeyBlob> createKey(KeyType type, int bits, Steady deadline);
  Result<AttestationKey> createAttestationKey(Steady deadline);
  // The signature as PrivateKey::signDigest gives it. Errors: IdentityLost (made by another TPM, or before a clear).
  Result<Bytes> sign(const KeyBlob& key, SignatureScheme scheme, ByteView digest, Steady deadline);
  // Errors: IdentityLost, BadInput (qualifying data longer than 64 bytes).
  Result<Certification> certify(const KeyBlob& key, const AttestationKey& attestationKey, ByteView qualifyingData,
                                Steady deadline);
  // Proves to an attestation CA that its credential reached this TPM. `credential` is a TPM2B_ID_OBJECT, `secret` a
  // TPM2B_ENCRYPTED_SECRET, both with their size. Errors: KeyMismatch (made for another endorsement or attestation
  // key), IdentityLost (the attestation key itself is lost), BadInput.
  Result<Bytes> activateCredential(const AttestationKey& attestationKey, ByteView credential, ByteView secret,
                                   Steady deadline);

  // Never fails as a whole. Creates one key that is thrown away, to time its signature.
  TpmDescription describe(Steady deadline);
  TpmMetrics metrics() const;
  // Closes the connection, for another program that needs an unshared TPM; the next request opens it again.
  Status disconnect(Steady deadline);
  const TpmOptions& options() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayleave::keys::tpm
