#pragma once

// A copy of a data protection keychain, keychain-2.db (apple-oss-distributions/Security,
// keychain/securityd/SecItemSchema.c, schema 12.11; selection as in SecItemDb.c s3dl_create_select_sql). What an item
// *is* stays encrypted under keys that never leave the device; where it is does not: a reference's row is located by
// row id or `persistref`, and certificate and key are paired by `pkhh` = `klbl`. Columns come from the file: older
// schemas lack some.
//
// The bytes are opened in memory, read-only, without running anything the file brings (triggers and views are refused)
// and with a bound on SQLite's work. Rows that still stand in a `-wal` file beside the database are not seen.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "keychain/reference_codec.h"

struct sqlite3;

namespace wayleave::keychain {

// Whose view of the keychain a row belongs to (`musr`).
enum class KeychainView : uint8_t { User, System, Other };

struct DatabaseRow {
  ItemClass table = ItemClass::Certificate;  // never Identity: there are no identity rows
  int64_t rowId = 0;
  std::optional<std::array<uint8_t, 16>> uuid;   // `persistref`; rows of old databases may lack one
  std::string accessGroup, tokenId, protection;  // agrp, tkid, pdmn
  KeychainView view = KeychainView::User;
  bool synchronizable = false, tombstone = false, privateKey = false;
  Bytes publicKeyHash;               // `pkhh` of a certificate, `klbl` of a key
  Bytes issuerDigest, serialDigest;  // SHA-1 as stored; certificates only
  size_t dataBytes = 0;              // of the encrypted value
  bool operator==(const DatabaseRow&) const = default;
};

struct LocatedItem {
  DatabaseRow row;
  std::vector<DatabaseRow> keys;  // of a certificate: private keys with its hash, same view
  bool asIdentity = false;        // the reference's class was `idnt`
};

class KeychainDatabase {
 public:
  static constexpr size_t kMaxBytes = 256 * 1024 * 1024;
  static bool looksLike(ByteView bytes);  // any SQLite 3 file

  // Errors: BadInput (not SQLite, damaged, or without the tables of a keychain).
  static Result<KeychainDatabase> open(ByteView bytes);

  struct Version {
    int64_t major = 0, minor = 0;
  };
  std::optional<Version> version() const { return version_; }
  // Rows per table, tombstones included.
  Result<std::vector<std::pair<ItemClass, int64_t>>> counts() const;

  // Errors: NotFound; Unsupported for tokens (the object ID stands in the encrypted value) and file references;
  // BadInput.
  Result<LocatedItem> locate(const Reference& reference) const;
  // Certificates whose stored digests are those of this normalised issuer and serial: the digest rule is inferred.
  Result<std::vector<DatabaseRow>> certificatesNamed(ByteView normalisedIssuer, ByteView serial) const;

 private:
  struct Close {
    void operator()(sqlite3* handle) const;
  };
  explicit KeychainDatabase(std::unique_ptr<sqlite3, Close> handle) : handle_(std::move(handle)) {}
  struct Table {
    ItemClass itemClass;
    std::vector<std::string> columns;
  };
  const Table* table(ItemClass itemClass) const;
  struct Condition {
    std::string_view column;
    std::optional<Bytes> blob;
    int64_t number = 0;
  };
  Result<std::vector<DatabaseRow>> select(ItemClass itemClass, const std::vector<Condition>& conditions) const;
  Status readSchema();

  Bytes image_;  // SQLite reads from it; declared before the handle, so that it outlives it
  std::unique_ptr<sqlite3, Close> handle_;
  std::vector<Table> tables_;
  std::optional<Version> version_;
};

// Writes small keychain databases for tests and interoperability checks, with the columns of schema 12.11.
class KeychainDatabaseWriter {
 public:
  KeychainDatabaseWriter& add(const DatabaseRow& row);
  // Errors: Internal (SQLite), Duplicate (two rows with one row id or UUID).
  Result<Bytes> write() const;

 private:
  std::vector<DatabaseRow> rows_;
};

// F623AE5C-CC81-4CAC-8AD4-F0013F313511: `musr` of the system keychain's rows.
inline constexpr std::array<uint8_t, 16> kSystemView = {0xf6, 0x23, 0xae, 0x5c, 0xcc, 0x81, 0x4c, 0xac,
                                                        0x8a, 0xd4, 0xf0, 0x01, 0x3f, 0x31, 0x35, 0x11};

}  // namespace wayleave::keychain
