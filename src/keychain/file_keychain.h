#pragma once

// What a file keychain holds, in terms of items: certificates, keys, and the identities that pair them. Certificates,
// their issuer, serial and public-key hash stand in the clear, so a reference is resolved without any secret; only the
// private keys themselves need the password, or /var/db/SystemKey for System.keychain.

#include <optional>
#include <string>
#include <vector>

#include "keychain/kych_crypto.h"
#include "keychain/kych_file.h"
#include "keychain/reference_codec.h"

namespace wayleave::keychain {

struct KeychainCertificate {
  uint32_t record = 0;
  std::string label;
  Bytes der;
  Bytes subject, issuer;  // normalised Names
  Bytes serial;           // INTEGER content octets
  Bytes publicKeyHash;    // SHA-1 of the public key bits
};

struct KeychainKey {
  RecordType type = RecordType::PrivateKey;
  uint32_t record = 0;
  std::string printName;
  Bytes label;  // equals the public-key hash of the certificate it belongs to
  uint32_t algorithm = 0, bits = 0;
  uint32_t blobVersion = 0;
  bool extractable = false, sensitive = false;
  // Partition list of the key's access control, as far as it stands in the clear or the keychain is unlocked. Enforced
  // by macOS only for blob version 0x200 and above.
  std::vector<std::string> partitions;
};

// What could be learned about the private half of an identity.
enum class PrivateKeyState : uint8_t {
  Absent,      // no key with the certificate's public-key hash
  Locked,      // present; the keychain was not unlocked
  Usable,      // decrypted, and it is the certificate's key
  Unusable,    // decrypted, and it is not
  Undecodable  // the blob is damaged or its MAC does not verify
};
std::string_view text(PrivateKeyState state);

struct KeychainItem {
  RecordType type = RecordType::Certificate;
  uint32_t record = 0;
  std::optional<KeychainCertificate> certificate;
  std::optional<KeychainKey> key;
  PrivateKeyState keyState = PrivateKeyState::Absent;
  std::string keyDetail;                   // why Undecodable
  std::vector<KeychainCertificate> chain;  // issuers found in the same keychain, nearest first
};

class FileKeychain {
 public:
  // Errors: BadInput with the offset.
  static Result<FileKeychain> open(Bytes bytes);

  // Errors: WrongPassword, KeyMismatch (SystemKey of another keychain), BadInput, NotFound (no database blob),
  // Unsupported (a blob version that this build does not know; certificates and references can still be read).
  Status unlockWithPassword(std::string_view password);
  Status unlockWithSystemKey(ByteView systemKeyFile);
  bool unlocked() const { return keys_.has_value(); }
  // 0 when the database blob is missing or not understood.
  uint32_t blobVersion() const { return database_ ? database_->version : 0; }

  const KychFile& file() const { return file_; }
  std::vector<KeychainCertificate> certificates() const;
  std::vector<KeychainKey> privateKeys() const;

  // The item that the reference names, by the primary key that the file itself declares; the path in the reference is
  // not looked at. Errors: NotFound, BadInput (the relation has another primary key than the reference carries).
  Result<KeychainItem> resolve(const FileReference& reference) const;
  // PKCS#8 of the private key with this label. Errors: NotFound, WrongPassword (not unlocked), those of unwrapKey.
  Result<Secret> privateKey(ByteView label) const;
  // PKCS#12 of certificate, key and chain, encrypted with `password`. Errors: NotEntitled (the key is marked not
  // extractable), those of privateKey, Internal.
  Result<Secret> exportPkcs12(const KeychainItem& item, std::string_view password) const;

 private:
  explicit FileKeychain(KychFile file) : file_(std::move(file)) {}
  Status adopt(Result<Secret> masterKey);
  std::optional<KychRecord> find(const PrimaryKey& key, const KychRelation& relation, bool bigEndian) const;
  void completeIdentity(KeychainItem& item) const;
  KeychainKey keyFrom(const KychRecord& record) const;

  KychFile file_;
  Result<DatabaseBlob> database_ = fail(Reason::NotFound, "the keychain has no database blob to unlock");
  std::optional<DatabaseKeys> keys_;
};

// The partitions in an access control blob: an entry's description is a hex-coded XML property list
// { Partitions: [ "apple:", "teamid:…" ] } (securityd/src/acl_partition.cpp). Empty when there is none.
std::vector<std::string> partitionsIn(ByteView acl);

}  // namespace wayleave::keychain
