#include "keychain/keychain_database.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include "base/osstatus.h"
#include "base/owned.h"
#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain {
namespace {

constexpr std::array<uint8_t, 16> kUuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                           0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};

DatabaseRow certificateRow() {
  DatabaseRow row;
  row.rowId = 42;
  row.uuid = kUuid;
  row.accessGroup = "com.apple.identities";
  row.protection = "ck";
  row.publicKeyHash = Bytes(20, 0x5a);
  row.issuerDigest = sha1(asBytes("issuer"));
  row.serialDigest = sha1(asBytes("serial"));
  row.dataBytes = 100;
  return row;
}

DatabaseRow keyRow() {
  DatabaseRow row;
  row.table = ItemClass::Key;
  row.rowId = 7;
  row.uuid = {1};
  row.accessGroup = "com.apple.identities";
  row.tokenId = "com.apple.setoken";
  row.privateKey = true;
  row.publicKeyHash = Bytes(20, 0x5a);
  return row;
}

Bytes exec(const char* sql) {
  sqlite3* raw = nullptr;
  sqlite3_open(":memory:", &raw);
  const Handle<sqlite3, sqlite3_close_v2> handle(raw);
  EXPECT_EQ(sqlite3_exec(raw, sql, nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(raw);
  sqlite3_int64 size = 0;
  unsigned char* image = sqlite3_serialize(raw, "main", &size, 0);
  Bytes out(image, image + size);
  sqlite3_free(image);
  return out;
}

TEST(KeychainDatabase, LocatesTheRowOfEachFormAndPairsTheKey) {
  const Bytes bytes = KeychainDatabaseWriter().add(certificateRow()).add(keyRow()).write().value();
  const KeychainDatabase database = KeychainDatabase::open(bytes).value();
  EXPECT_EQ(database.version()->major, 12);
  for (const Reference& reference :
       {Reference(UuidReference{ItemClass::Certificate, kUuid}), Reference(UuidReference{ItemClass::Identity, kUuid}),
        Reference(RowReference{ItemClass::Certificate, 42})}) {
    const LocatedItem item = database.locate(reference).value();
    EXPECT_EQ(item.row, certificateRow());
    ASSERT_EQ(item.keys.size(), 1u);
    EXPECT_EQ(item.keys[0], keyRow());
  }
  EXPECT_TRUE(database.locate(UuidReference{ItemClass::Identity, kUuid}).value().asIdentity);
  EXPECT_EQ(database.locate(UuidReference{ItemClass::Key, {1}}).value().row.tokenId, "com.apple.setoken");
}

TEST(KeychainDatabase, KeepsTheViewsOfUserAndSystemApart) {
  DatabaseRow key = keyRow();
  key.view = KeychainView::System;
  const KeychainDatabase database =
      KeychainDatabase::open(KeychainDatabaseWriter().add(certificateRow()).add(key).write().value()).value();
  EXPECT_TRUE(database.locate(UuidReference{ItemClass::Certificate, kUuid}).value().keys.empty());
  EXPECT_EQ(database.locate(RowReference{ItemClass::Key, 7}).value().row.view, KeychainView::System);
}

TEST(KeychainDatabase, TellsNotFoundFromNotLocatable) {
  const KeychainDatabase database =
      KeychainDatabase::open(KeychainDatabaseWriter().add(certificateRow()).write().value()).value();
  EXPECT_EQ(database.locate(UuidReference{ItemClass::Certificate, {9}}).error().osStatus, errSecItemNotFound);
  EXPECT_EQ(database.locate(UuidReference{ItemClass::Key, kUuid}).error().reason, Reason::NotFound);
  EXPECT_EQ(database.locate(TokenReference{ItemClass::Certificate, "t", {}}).error().reason, Reason::Unsupported);
  EXPECT_EQ(database.locate(FileReference{}).error().reason, Reason::Unsupported);
}

TEST(KeychainDatabase, FindsACertificateByTheDigestsOfIssuerAndSerial) {
  const KeychainDatabase database =
      KeychainDatabase::open(KeychainDatabaseWriter().add(certificateRow()).write().value()).value();
  EXPECT_EQ(database.certificatesNamed(asBytes("issuer"), asBytes("serial")).value().size(), 1u);
  EXPECT_TRUE(database.certificatesNamed(asBytes("issuer"), asBytes("other")).value().empty());
}

TEST(KeychainDatabase, ReadsOlderSchemasWithoutTheNewerColumns) {
  const KeychainDatabase database =
      KeychainDatabase::open(
          exec("CREATE TABLE cert(rowid INTEGER PRIMARY KEY,pkhh BLOB,data BLOB,agrp TEXT);"
               "CREATE TABLE keys(rowid INTEGER PRIMARY KEY,priv INTEGER,klbl BLOB,data BLOB,agrp TEXT);"
               "INSERT INTO cert VALUES(3,x'aa',x'00','g');INSERT INTO keys VALUES(1,1,x'aa',x'00','g');"))
          .value();
  EXPECT_FALSE(database.version());
  EXPECT_EQ(database.locate(RowReference{ItemClass::Certificate, 3}).value().keys.size(), 1u);
  EXPECT_EQ(database.locate(UuidReference{ItemClass::Certificate, kUuid}).error().reason, Reason::NotFound);
  const auto counts = database.counts().value();
  EXPECT_EQ(counts.size(), 2u);
}

TEST(KeychainDatabase, OpensAWalModeImage) {
  Bytes bytes = KeychainDatabaseWriter().add(certificateRow()).write().value();
  bytes[18] = bytes[19] = 2;
  EXPECT_TRUE(KeychainDatabase::open(bytes).value().locate(RowReference{ItemClass::Certificate, 42}));
}

TEST(KeychainDatabase, RefusesOtherFilesAndDoesNotRunWhatAFileBrings) {
  EXPECT_EQ(KeychainDatabase::open(toBytes("kych")).error().reason, Reason::BadInput);
  EXPECT_EQ(KeychainDatabase::open(exec("CREATE TABLE other(a)")).error().message,
            "keychain database: no tables `cert` and `keys`");
  // `cert` as an endless view: not a table, so not a keychain.
  EXPECT_EQ(KeychainDatabase::open(exec("CREATE TABLE keys(klbl BLOB);CREATE VIEW cert AS WITH RECURSIVE n(pkhh) AS "
                                        "(SELECT 1 UNION ALL SELECT pkhh+1 FROM n) SELECT pkhh, 1 AS rowid FROM n"))
                .error()
                .reason,
            Reason::BadInput);
  Bytes bytes = KeychainDatabaseWriter().add(certificateRow()).write().value();
  for (size_t at = 100; at < bytes.size(); at += 37) bytes[at] ^= 0x55;
  const Result<KeychainDatabase> damaged = KeychainDatabase::open(bytes);
  if (damaged) {
    EXPECT_FALSE(damaged->locate(RowReference{ItemClass::Certificate, 42}));
  }
}

TEST(KeychainDatabaseWriter, RefusesTwoRowsWithOneUuid) {
  DatabaseRow second = certificateRow();
  second.rowId = 43;
  EXPECT_EQ(KeychainDatabaseWriter().add(certificateRow()).add(second).write().error().reason, Reason::Duplicate);
}

}  // namespace
}  // namespace wayleave::keychain
