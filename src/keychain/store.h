#pragma once

// The identities this machine holds, in SQLite (WAL), one file, mode 0600, owned by identityd. Private material is
// stored only as sealed blobs (keys/sealer.h); the store never sees a key in the clear. All calls are synchronous,
// short and thread-safe (one mutex): call them off the event loop.

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

std::string_view text(KeychainKind kind);    // "file", "data-protection"
std::string_view text(IdentityState state);  // "staged", "active", "lost"

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
  std::string keychainPath;        // file keychains: the path in the reference
  std::array<uint8_t, 16> uuid{};  // data protection keychains: the row's UUID
  Bytes reference;                 // as minted for the first certificate; never changes
  std::string source;              // pkcs12, scep, acme
  std::string label, accessGroup;
  std::string profileIdentifier, payloadIdentifier, payloadUuid;
  std::vector<Bytes> chain;          // DER, leaf first
  std::vector<Bytes> previousChain;  // kept until the new certificate has served a handshake
  bool attested = false;
  IdentityState state = IdentityState::Staged;
  std::string stateDetail;
};

class Store {
 public:
  // Opens or creates. A second process may open the same file: writers wait for each other up to 5 s, then Busy.
  // Errors: Io; BadInput (a file that is not ours, damaged, or of a schema newer than this build): it is left
  // untouched.
  static Result<std::unique_ptr<Store>> open(const std::string& path);
  virtual ~Store() = default;

  // Idempotent while pending. Errors: BadInput (empty), Conflict (an id that was committed before).
  virtual Status beginInstallation(std::string_view installation) = 0;
  virtual Result<std::vector<std::string>> pendingInstallations() = 0;

  // Under a pending installation. Errors: Conflict (no such installation is pending), Duplicate (the id, or a second
  // key for the same installation and payload), BadInput (empty fields).
  virtual Status addKey(const KeyRecord& key) = 0;
  virtual Result<KeyRecord> key(std::string_view id) = 0;  // staged ones too. Errors: NotFound
  // Whether any software key is stored, staged or not: then a missing machine key must not be made anew
  // (keys::StoreAge).
  virtual Result<bool> holdsSealedKeys() = 0;
  virtual Result<std::optional<KeyRecord>> keyFor(std::string_view installation, std::string_view payloadUuid) = 0;
  // Staged under a pending installation, whatever `state` says; in the place of one staged there before with the same key.
  // Errors: Conflict (no such installation is pending),
  // NotFound (its key), KeyMismatch (the leaf is for another key), Duplicate (the id), BadInput (no chain or one beyond
  // 16 certificates of 64 KiB, a `reference` that does not name this leaf or row).
  virtual Status addIdentity(const IdentityRecord& identity) = 0;

  // One transaction: staged → active; every identity of `replacedProfiles` that is not staged goes, keys with it
  // (unless a remaining identity uses the key); keys of this installation that got no identity go too. Returns (added
  // ids, removed ids). Idempotent: a second commit returns two empty lists. Errors: Conflict (unknown id).
  struct CommitResult {
    std::vector<std::string> added, removed;
  };
  virtual Result<CommitResult> commit(std::string_view installation,
                                      const std::vector<std::string>& replacedProfiles) = 0;
  // Forgets the installation and what is staged under it. Idempotent. Errors: Conflict (already committed).
  virtual Status abort(std::string_view installation) = 0;
  // Removed ids; empty when the profile has none. What is staged belongs to its installation and stays.
  virtual Result<std::vector<std::string>> removeProfile(std::string_view profileIdentifier) = 0;

  virtual Result<std::vector<IdentityRecord>> identities() = 0;      // active and lost, not staged; oldest first
  virtual Result<IdentityRecord> identity(std::string_view id) = 0;  // staged ones too. Errors: NotFound
  // Either reference form, by the item it names: byte-equal or not (a renewed certificate keeps its old serial as an
  // alias; the `idnt` marker and class `idnt` name the same identity). A lost identity resolves, and says so in
  // `state`; a staged one does not. Two profiles may bring one certificate: the newest active row answers. Errors:
  // NotFound (errSecItemNotFound), BadInput (osStatus of the codec, else errSecParam).
  virtual Result<IdentityRecord> resolve(ByteView reference) = 0;
  // A new certificate for the same key of an active identity; the same chain again changes nothing. A second renewal
  // before the first has served keeps the chain that did serve as previous.
  // Errors: NotFound, Conflict (not active), KeyMismatch, BadInput (as addIdentity).
  virtual Status renewCertificate(std::string_view id, const std::vector<Bytes>& chain) = 0;
  // The new certificate has served: forget the previous. Idempotent. Errors: NotFound.
  virtual Status confirmCertificate(std::string_view id) = 0;
  // Between active and lost. Errors: NotFound, Conflict (from or to staged: that is commit's).
  virtual Status setState(std::string_view id, IdentityState state, std::string_view detail) = 0;

  // Small named blobs (the SRK's Name, AK blobs and chain). Setting replaces. Errors: BadInput (over 1 MiB).
  virtual Status setValue(std::string_view name, ByteView value) = 0;
  virtual Result<std::optional<Bytes>> value(std::string_view name) = 0;
};

}  // namespace wayleave::keychain
