#pragma once

// Sealing: what private material looks like at rest. AES-256-GCM under the machine key, 32 random bytes in a file that
// only identityd's user can read.
//
//   blob := "WLS" version:u8(1) keyId[8] nonce[12] ciphertext tag[16]
//
// The header and the record's id are authenticated with the text, so a blob that is changed, cut or moved to another
// row does not open. `keyId` names the machine key without telling it: a restored backup beside a foreign machine key
// gets "sealed with another machine key" instead of "damaged".
//
// The machine key itself stands on OpenSSL's secure heap, when the program has made one: locked, so never swapped out.
//
// It protects copies of the store (backups, disk images without the key file), not against whoever can read both files;
// a key that must not be readable at all belongs into the TPM.
// Nonces are random: at 2^32 blobs under one key a repetition has a chance of 2^-32 (NIST SP 800-38D 8.3); a device
// seals a few per year.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keys {

// Whether the store beside the key may hold sealed data. Only the caller knows, and a machine key is made for a new
// store alone: making one because the old one is missing would turn a lost file into lost identities.
enum class StoreAge : uint8_t { New, Existing };

class Sealer {
 public:
  // Reads the machine key, or makes it when the file does not exist and the store is new. An existing file is never
  // written. Errors: IdentityUnavailable (an existing store without its key), KeyPermission (not a regular file of ours
  // with no access for others), BadInput (not 32 bytes), Io.
  static Result<Sealer> open(const std::string& machineKeyPath, StoreAge age);
  // A sealer over a given key of 32 bytes. Errors: BadInput.
  static Result<Sealer> withKey(Secret machineKey);

  Sealer(Sealer&&) noexcept = default;
  Sealer& operator=(Sealer&&) noexcept = default;

  // Thread-safe. `recordId` names the row the blob will live in. Errors: Internal.
  Result<Bytes> seal(const Secret& clear, std::string_view recordId) const;
  // Thread-safe. Errors: BadInput (not a blob, damaged, or another record's), Unsupported (a newer version),
  // IdentityUnavailable (sealed with another machine key).
  Result<Secret> unseal(ByteView blob, std::string_view recordId) const;

 private:
  struct FreeKey {
    void operator()(uint8_t* key) const;
  };

  explicit Sealer(const Secret& key);

  std::unique_ptr<uint8_t, FreeKey> key_;  // 32 bytes
  Bytes keyId_;
};

}  // namespace wayleave::keys
