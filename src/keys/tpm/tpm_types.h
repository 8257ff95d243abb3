#pragma once

// What the TPM tells and makes: plain values, no TSS headers.

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "keys/tpm/tss2_pem.h"

namespace wayleave::keys::tpm {

// The storage root key: the parent of everything we make. `name` identifies it: record it once keys exist; another Name
// later means those keys are lost (a cleared or another TPM).
struct StorageRoot {
  uint32_t handle = 0;  // kPersistentSrk, or kOwnerHierarchy when it is derived on demand from the fixed template
  Bytes name;
};
// Ok when nothing was recorded or it is the same. Errors: IdentityLost with the hint to enrol again. Pure.
Status compareStorageRoot(ByteView recordedName, const StorageRoot& now);

// The endorsement key: who this TPM is, also after a clear.
struct EndorsementKey {
  Bytes publicArea;                 // TPMT_PUBLIC
  Bytes spki;                       // DER
  std::string kind;                 // "RSA 2048", "EC P-256", "EC P-384"
  std::vector<Bytes> certificates;  // DER, those in NV whose key is `spki`; empty on boards without one
  // Lower-case hex SHA-256 of spki: what an allow-list of devices names.
  std::string publicKeyHash() const;
};

struct TpmFacts {
  uint32_t manufacturerId = 0;
  std::string manufacturer;     // "IBM", "INTC", "STM"; the id's four characters, trimmed
  std::string model;            // the joined vendor strings; some parts leave it empty
  std::string firmwareVersion;  // "major.minor", as attestation CAs want it
  bool p256 = false, p384 = false, rsa2048 = false;
  uint32_t transientSlots = 0;  // free when we asked
  bool inLockout = false;
  bool ownerAuthSet = false;  // somebody took ownership with a password
  uint32_t failedTries = 0, maxTries = 0;
  std::chrono::seconds lockoutInterval{0}, lockoutRecovery{0};
  // Handles of EK certificates found in NV, for the doctor: 0x1c00002 …
  std::vector<uint32_t> ekCertificateIndices;
};

// The attestation key with what its creation left behind; the four last members go to the attestation CA (POST
// /attest).
struct AttestationKey {
  KeyBlob key;
  Bytes createData;         // TPMS_CREATION_DATA
  Bytes createAttestation;  // TPMS_ATTEST of type creation, signed by the key itself
  Bytes createSignature;    // TPMT_SIGNATURE

  // One opaque value for the store. Not secret: the private half is encrypted by the TPM.
  Bytes encode() const;
  // Errors: BadInput, Unsupported.
  static Result<AttestationKey> decode(ByteView bytes);
};

// One key certified by the attestation key: the TPM's part of a `tpm` attestation statement.
inline constexpr int kCoseEs256 = -7, kCoseRs256 = -257;
struct Certification {
  Bytes certifyInfo;   // TPMS_ATTEST
  Bytes signature;     // TPMT_SIGNATURE
  Bytes publicArea;    // TPMT_PUBLIC of the certified key
  int algorithm = kCoseEs256;  // COSE number of the attestation key's signature
};

// Readable at any time from any thread.
struct TpmMetrics {
  // Upper bounds of the buckets in milliseconds; the last bucket is everything slower.
  static constexpr std::array<int, 8> kBucketsMs{1, 5, 20, 80, 200, 600, 2000, 10'000};
  size_t queueDepth = 0, queueLimit = 0;
  uint64_t requests = 0;  // accepted into the queue
  uint64_t refusedFull = 0;
  uint64_t expired = 0;                     // dropped unrun: their deadline had passed when their turn came
  uint64_t abandoned = 0;                   // callers that left at their deadline, queued or at work
  uint64_t failures = 0;                    // requests that ended in an error
  uint64_t reopened = 0;                    // connections opened after the first
  uint64_t commands = 0;                    // TPM commands
  std::chrono::nanoseconds commandTime{0};  // sum
  std::array<uint64_t, kBucketsMs.size() + 1> commandBuckets{};
};

// For `wayleave doctor`: everything that could be found out, and what stood in the way of the rest.
struct TpmDescription {
  std::string tcti;
  std::optional<TpmFacts> facts;
  std::optional<StorageRoot> storageRoot;
  std::optional<EndorsementKey> endorsementKey;
  std::optional<std::chrono::microseconds> signatureTime;  // one P-256 signature with a throw-away key
  std::vector<Error> problems;                             // in the order met
};

}  // namespace wayleave::keys::tpm
