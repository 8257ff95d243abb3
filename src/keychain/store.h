#pragma once

// The identities this machine holds, in SQLite (WAL), one file, mode 0600, owned by identityd. Private material is stored
// only as sealed blobs (keys/sealer.h); the store never sees a key in the clear. All calls are synchronous, short and
// thread-safe (one mutex): call them off the event loop.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "keys/private_key.h"

namespace wayleave::keychain {

enum class KeychainKind : uint8_t { File, DataProtection };
enum class IdentityState : uint8_t { Staged, Active, Lost };

struct KeyRecord {
  std::string id;
  std::string installation;  // empty once committed
  std::string payloadUuid;   // who asked: the same (installation, payloadUuid) always gets the same key
  keys::KeyKind kind = keys::KeyKind::Software;
  Bytes spki;
  Bytes blob;  // software: sealed PKCS#8; TPM: TSS2 PEM
};

struct IdentityRecord {
  std::string id;
  std::string keyId;
  std::string installation;  // empty once committed
  KeychainKind keychain = KeychainKind::File;
  std::string keychainPath;            // file keychains: the path in the reference
  std::array<uint8_t, 16> uuid{};      // data protection keychains: the row's UUID
  Bytes reference;                     // as minted for the first certificate; never changes
  std::string source;                  // pkcs12, scep, acme
  std::string label, accessGroup;
  std::string profileIdentifier, payloadIdentifier, payloadUuid;
  std::vector<Bytes> chain;            // DER, leaf first
  std::vector<Bytes> previousChain;    // kept until the new certificate has served a handshake
  bool attested = false;
  IdentityState state = IdentityState::Staged;
  std::string stateDetail;
};

class Store {
 public:
  // Opens or creates. Errors: Io, BadInput (a file that is not ours, or a schema newer than this build).
  static Result<std::unique_ptr<Store>> open(const std::string& path);
  virtual ~Store() = default;

  virtual Status beginInstallation(std::string_view installation) = 0;  // idempotent
  virtual Result<std::vector<std::string>> pendingInstallations() = 0;

  virtual Status addKey(const KeyRecord& key) = 0;
  virtual Result<KeyRecord> key(std::string_view id) = 0;
  virtual Result<std::optional<KeyRecord>> keyFor(std::string_view installation, std::string_view payloadUuid) = 0;
  virtual Status addIdentity(const IdentityRecord& identity) = 0;  // needs its key and a pending installation

  // One transaction: staged → active; every active identity of `replacedProfiles` goes, keys with it.
  // Returns (added ids, removed ids). Idempotent: a second commit returns two empty lists. Errors: Conflict (unknown id).
  struct CommitResult {
    std::vector<std::string> added, removed;
  };
  virtual Result<CommitResult> commit(std::string_view installation, const std::vector<std::string>& replacedProfiles) = 0;
  virtual Status abort(std::string_view installation) = 0;
  virtual Result<std::vector<std::string>> removeProfile(std::string_view profileIdentifier) = 0;  // removed ids

  virtual Result<std::vector<IdentityRecord>> identities() = 0;  // active and lost, not staged
  virtual Result<IdentityRecord> identity(std::string_view id) = 0;
  // Either reference form, by the item it names: byte-equal or not (a renewed certificate keeps its old serial as an
  // alias; the `idnt` marker and class `idnt` name the same identity). Errors: NotFound, BadInput.
  virtual Result<IdentityRecord> resolve(ByteView reference) = 0;
  virtual Status renewCertificate(std::string_view id, const std::vector<Bytes>& chain) = 0;
  virtual Status confirmCertificate(std::string_view id) = 0;  // the new one has served: forget the previous
  virtual Status setState(std::string_view id, IdentityState state, std::string_view detail) = 0;

  // Small named blobs (the SRK's Name, AK blobs and chain).
  virtual Status setValue(std::string_view name, ByteView value) = 0;
  virtual Result<std::optional<Bytes>> value(std::string_view name) = 0;
};

}  // namespace wayleave::keychain
