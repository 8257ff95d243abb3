#include "keychain/keychain_database.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstring>

#include "base/osstatus.h"
#include "base/owned.h"

namespace wayleave::keychain {
namespace {

using StatementPtr = Handle<sqlite3_stmt, sqlite3_finalize>;

// Steps of SQLite's virtual machine in one call: a full scan of 100,000 rows needs a few million.
constexpr int kProgressEvery = 1'000'000;
constexpr int kMaxProgress = 500;
constexpr size_t kMaxRows = 10'000;  // of one answer

struct ClassTable {
  ItemClass itemClass;
  const char* name;
};
constexpr std::array kTables = {ClassTable{ItemClass::Certificate, "cert"}, ClassTable{ItemClass::Key, "keys"},
                                ClassTable{ItemClass::GenericPassword, "genp"},
                                ClassTable{ItemClass::InternetPassword, "inet"}};

std::string tableName(ItemClass itemClass) { return std::string(fourcc(itemClass)); }

Error sqliteError(sqlite3* handle) {
  const int code = sqlite3_errcode(handle);
  const bool bad = code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_INTERRUPT ||
                   code == SQLITE_ERROR || code == SQLITE_CANTOPEN || code == SQLITE_AUTH || code == SQLITE_TOOBIG;
  return Error{
      bad ? Reason::BadInput : Reason::Internal, fmt::format("keychain database: {}", sqlite3_errmsg(handle)), {}, 0};
}

// Only reading of ordinary tables: a hostile file may bring views and triggers.
int authorise(void*, int action, const char*, const char*, const char*, const char* inside) {
  const bool allowed =
      (action == SQLITE_SELECT || action == SQLITE_READ || action == SQLITE_FUNCTION) && inside == nullptr;
  return allowed ? SQLITE_OK : SQLITE_DENY;
}

struct Budget {
  int left = kMaxProgress;
};
int spend(void* budget) { return --static_cast<Budget*>(budget)->left < 0 ? 1 : 0; }

// A handler for one statement: the budget lives in its frame.
class Bounded {
 public:
  explicit Bounded(sqlite3* handle) : handle_(handle) {
    sqlite3_progress_handler(handle_, kProgressEvery, spend, &budget_);
  }
  ~Bounded() { sqlite3_progress_handler(handle_, 0, nullptr, nullptr); }
  Bounded(const Bounded&) = delete;
  Bounded& operator=(const Bounded&) = delete;

 private:
  sqlite3* handle_;
  Budget budget_;
};

Result<StatementPtr> prepare(sqlite3* handle, const std::string& sql) {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v2(handle, sql.c_str(), static_cast<int>(sql.size()), &raw, nullptr) != SQLITE_OK)
    return std::unexpected(sqliteError(handle));
  return StatementPtr(raw);
}

Bytes blobOf(sqlite3_stmt* statement, int column) {
  const void* data = sqlite3_column_blob(statement, column);
  const int size = sqlite3_column_bytes(statement, column);
  if (data == nullptr || size <= 0) return {};
  const auto* bytes = static_cast<const uint8_t*>(data);
  return {bytes, bytes + size};
}
std::string textOf(sqlite3_stmt* statement, int column) {
  const unsigned char* text = sqlite3_column_text(statement, column);
  const int size = sqlite3_column_bytes(statement, column);
  return text == nullptr ? std::string() : std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(size));
}

}  // namespace

void KeychainDatabase::Close::operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }

bool KeychainDatabase::looksLike(ByteView bytes) {
  constexpr std::string_view kMagic("SQLite format 3\0", 16);
  return bytes.size() >= kMagic.size() && asText(bytes.first(kMagic.size())) == kMagic;
}

Result<KeychainDatabase> KeychainDatabase::open(ByteView bytes) {
  constexpr size_t kHeaderBytes = 100;
  if (bytes.size() > kMaxBytes) return fail(Reason::BadInput, "keychain database: larger than what is read");
  if (!looksLike(bytes) || bytes.size() < kHeaderBytes)
    return fail(Reason::BadInput, "keychain database: no SQLite header at offset 0");
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(":memory:", &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  KeychainDatabase out{std::unique_ptr<sqlite3, Close>(raw)};
  if (code != SQLITE_OK) return fail(Reason::Internal, "keychain database: SQLite does not start");
  out.image_ = toBytes(bytes);
  // A database in WAL mode (read and write version 2) cannot be opened from memory; its main file reads the same as one
  // in rollback mode.
  for (const size_t at : {size_t{18}, size_t{19}})
    if (out.image_[at] == 2) out.image_[at] = 1;
  const auto size = static_cast<sqlite3_int64>(out.image_.size());
  if (sqlite3_deserialize(raw, "main", out.image_.data(), size, size, SQLITE_DESERIALIZE_READONLY) != SQLITE_OK)
    return std::unexpected(sqliteError(raw));
  sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(raw, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_limit(raw, SQLITE_LIMIT_LENGTH, 16 * 1024 * 1024);
  if (Status s = out.readSchema(); !s) return propagate(s.error());
  sqlite3_set_authorizer(raw, authorise, nullptr);
  return out;
}

Status KeychainDatabase::readSchema() {
  const Bounded bounded(handle_.get());
  for (const ClassTable& one : kTables) {
    Result<StatementPtr> statement =
        prepare(handle_.get(), fmt::format("SELECT i.name FROM sqlite_master m, pragma_table_info(m.name) i "
                                           "WHERE m.type = 'table' AND m.name = '{}'",
                                           one.name));
    if (!statement) return propagate(statement.error());
    Table table{one.itemClass, {}};
    int code = 0;
    while ((code = sqlite3_step(statement->get())) == SQLITE_ROW) table.columns.push_back(textOf(statement->get(), 0));
    if (code != SQLITE_DONE) return std::unexpected(sqliteError(handle_.get()));
    if (!table.columns.empty()) tables_.push_back(std::move(table));
  }
  if (table(ItemClass::Certificate) == nullptr || table(ItemClass::Key) == nullptr)
    return fail(Reason::BadInput, "keychain database: no tables `cert` and `keys`");
  // Without the table the schema is older than versions: that is no error.
  if (Result<StatementPtr> statement = prepare(handle_.get(), "SELECT version, minor FROM tversion LIMIT 1");
      statement && sqlite3_step(statement->get()) == SQLITE_ROW)
    version_ = Version{sqlite3_column_int64(statement->get(), 0), sqlite3_column_int64(statement->get(), 1)};
  return {};
}

const KeychainDatabase::Table* KeychainDatabase::table(ItemClass itemClass) const {
  const auto found = std::ranges::find(tables_, itemClass, &Table::itemClass);
  return found == tables_.end() ? nullptr : &*found;
}

Result<std::vector<std::pair<ItemClass, int64_t>>> KeychainDatabase::counts() const {
  const Bounded bounded(handle_.get());
  std::vector<std::pair<ItemClass, int64_t>> out;
  for (const Table& one : tables_) {
    Result<StatementPtr> statement = prepare(handle_.get(), "SELECT count(*) FROM " + tableName(one.itemClass));
    if (!statement) return propagate(statement.error());
    if (sqlite3_step(statement->get()) != SQLITE_ROW) return std::unexpected(sqliteError(handle_.get()));
    out.emplace_back(one.itemClass, sqlite3_column_int64(statement->get(), 0));
  }
  return out;
}

Result<std::vector<DatabaseRow>> KeychainDatabase::select(ItemClass itemClass,
                                                          const std::vector<Condition>& conditions) const {
  const Table* found = table(itemClass);
  if (found == nullptr) return std::vector<DatabaseRow>{};
  const auto has = [&](std::string_view column) {
    return std::ranges::find(found->columns, column) != found->columns.end();
  };
  const auto orNull = [&](std::string_view column) { return has(column) ? std::string(column) : std::string("NULL"); };
  const bool certificate = itemClass == ItemClass::Certificate;
  std::string sql = fmt::format("SELECT rowid, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, length({}) FROM {}",
                                orNull("persistref"), orNull("agrp"), orNull("tkid"), orNull("pdmn"), orNull("musr"),
                                orNull("sync"), orNull("tomb"), orNull("priv"), orNull(certificate ? "pkhh" : "klbl"),
                                orNull("issr"), orNull("slnr"), orNull("data"), fourcc(itemClass));
  for (size_t i = 0; i < conditions.size(); ++i) {
    if (conditions[i].column != "rowid" && !has(conditions[i].column)) return std::vector<DatabaseRow>{};
    sql += fmt::format(" {} {} = ?{}", i == 0 ? "WHERE" : "AND", conditions[i].column, i + 1);
  }
  sql += fmt::format(" ORDER BY rowid LIMIT {}", kMaxRows);

  const Bounded bounded(handle_.get());
  Result<StatementPtr> statement = prepare(handle_.get(), sql);
  if (!statement) return propagate(statement.error());
  for (size_t i = 0; i < conditions.size(); ++i) {
    const int at = static_cast<int>(i) + 1;
    const Condition& condition = conditions[i];
    const int code = condition.blob ? sqlite3_bind_blob64(statement->get(), at, condition.blob->data(),
                                                          condition.blob->size(), SQLITE_STATIC)
                                    : sqlite3_bind_int64(statement->get(), at, condition.number);
    if (code != SQLITE_OK) return std::unexpected(sqliteError(handle_.get()));
  }
  std::vector<DatabaseRow> rows;
  for (;;) {
    const int code = sqlite3_step(statement->get());
    if (code == SQLITE_DONE) return rows;
    if (code != SQLITE_ROW) return std::unexpected(sqliteError(handle_.get()));
    sqlite3_stmt* s = statement->get();
    DatabaseRow row;
    row.table = itemClass;
    row.rowId = sqlite3_column_int64(s, 0);
    if (const Bytes uuid = blobOf(s, 1); uuid.size() == 16) {
      row.uuid.emplace();
      std::ranges::copy(uuid, row.uuid->begin());
    }
    row.accessGroup = textOf(s, 2);
    row.tokenId = textOf(s, 3);
    row.protection = textOf(s, 4);
    const Bytes view = blobOf(s, 5);
    row.view = view.empty()                            ? KeychainView::User
               : std::ranges::equal(view, kSystemView) ? KeychainView::System
                                                       : KeychainView::Other;
    row.synchronizable = sqlite3_column_int64(s, 6) != 0;
    row.tombstone = sqlite3_column_int64(s, 7) != 0;
    row.privateKey = sqlite3_column_int64(s, 8) == 1;
    row.publicKeyHash = blobOf(s, 9);
    row.issuerDigest = blobOf(s, 10);
    row.serialDigest = blobOf(s, 11);
    row.dataBytes = static_cast<size_t>(std::max<int64_t>(0, sqlite3_column_int64(s, 12)));
    rows.push_back(std::move(row));
  }
}

Result<LocatedItem> KeychainDatabase::locate(const Reference& reference) const {
  ItemClass itemClass = ItemClass::Certificate;
  Condition condition{"rowid", {}, 0};
  if (const auto* uuid = std::get_if<UuidReference>(&reference)) {
    itemClass = uuid->itemClass;
    condition = {"persistref", Bytes(uuid->uuid.begin(), uuid->uuid.end()), 0};
  } else if (const auto* row = std::get_if<RowReference>(&reference)) {
    itemClass = row->itemClass;
    condition.number = row->rowId;
  } else if (std::holds_alternative<TokenReference>(reference)) {
    return fail(Reason::Unsupported,
                "a token reference cannot be located in a copy: the object ID stands in the encrypted value");
  } else {
    return fail(Reason::Unsupported, "a file-keychain reference is never in this database");
  }
  LocatedItem out;
  out.asIdentity = itemClass == ItemClass::Identity;
  // There are no identity rows: an `idnt` reference carries the certificate's row id or UUID.
  const ItemClass inTable = out.asIdentity ? ItemClass::Certificate : itemClass;
  Result<std::vector<DatabaseRow>> rows = select(inTable, {condition});
  if (!rows) return propagate(rows.error());
  if (rows->empty())
    return fail(Reason::NotFound, fmt::format("the database has no such row in table {}", fourcc(inTable)), {},
                errSecItemNotFound);
  out.row = std::move(rows->front());
  if (inTable == ItemClass::Certificate && !out.row.publicKeyHash.empty()) {
    Result<std::vector<DatabaseRow>> keys =
        select(ItemClass::Key, {{"klbl", out.row.publicKeyHash, 0}, {"priv", {}, 1}});
    if (!keys) return propagate(keys.error());
    for (DatabaseRow& key : *keys)
      if (key.view == out.row.view && !key.tombstone) out.keys.push_back(std::move(key));
  }
  return out;
}

Result<std::vector<DatabaseRow>> KeychainDatabase::certificatesNamed(ByteView normalisedIssuer, ByteView serial) const {
  return select(ItemClass::Certificate, {{"issr", sha1(normalisedIssuer), 0}, {"slnr", sha1(serial), 0}});
}

KeychainDatabaseWriter& KeychainDatabaseWriter::add(const DatabaseRow& row) {
  rows_.push_back(row);
  return *this;
}

Result<Bytes> KeychainDatabaseWriter::write() const {
  constexpr const char* kSchema = R"(
CREATE TABLE cert(rowid INTEGER PRIMARY KEY AUTOINCREMENT,cdat REAL,mdat REAL,ctyp INTEGER,cenc INTEGER,labl BLOB,alis BLOB,
  subj BLOB,issr BLOB,slnr BLOB,skid BLOB,pkhh BLOB,data BLOB,agrp TEXT,pdmn TEXT,sync INTEGER,tomb INTEGER,sha1 BLOB,
  vwht TEXT,tkid TEXT,musr BLOB,UUID TEXT,sysb INTEGER,pcss INTEGER,pcsk BLOB,pcsi BLOB,persistref BLOB UNIQUE,clip INTEGER,
  ggrp TEXT);
CREATE TABLE keys(rowid INTEGER PRIMARY KEY AUTOINCREMENT,cdat REAL,mdat REAL,kcls INTEGER,labl BLOB,alis BLOB,perm INTEGER,
  priv INTEGER,modi INTEGER,klbl BLOB,atag BLOB,crtr INTEGER,type INTEGER,bsiz INTEGER,esiz INTEGER,sdat REAL,edat REAL,
  sens INTEGER,asen INTEGER,extr INTEGER,next INTEGER,encr INTEGER,decr INTEGER,drve INTEGER,sign INTEGER,vrfy INTEGER,
  snrc INTEGER,vyrc INTEGER,wrap INTEGER,unwp INTEGER,data BLOB,agrp TEXT,pdmn TEXT,sync INTEGER,tomb INTEGER,sha1 BLOB,
  vwht TEXT,tkid TEXT,musr BLOB,UUID TEXT,sysb INTEGER,pcss INTEGER,pcsk BLOB,pcsi BLOB,persistref BLOB UNIQUE,clip INTEGER,
  ggrp TEXT);
CREATE TABLE genp(rowid INTEGER PRIMARY KEY AUTOINCREMENT,acct BLOB,svce BLOB,data BLOB,agrp TEXT,pdmn TEXT,sync INTEGER,
  tomb INTEGER,sha1 BLOB,vwht TEXT,tkid TEXT,musr BLOB,persistref BLOB UNIQUE,clip INTEGER,ggrp TEXT);
CREATE TABLE inet(rowid INTEGER PRIMARY KEY AUTOINCREMENT,acct BLOB,sdmn BLOB,srvr BLOB,ptcl INTEGER,atyp BLOB,port INTEGER,
  path BLOB,data BLOB,agrp TEXT,pdmn TEXT,sync INTEGER,tomb INTEGER,sha1 BLOB,vwht TEXT,tkid TEXT,musr BLOB,
  persistref BLOB UNIQUE,clip INTEGER,ggrp TEXT);
CREATE TABLE metadatakeys(keyclass INTEGER,actualKeyclass INTEGER,data BLOB);
CREATE TABLE tversion(version INTEGER,minor INTEGER);
INSERT INTO tversion VALUES(12,11);)";
  sqlite3* raw = nullptr;
  const int opened = sqlite3_open_v2(":memory:", &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  const Handle<sqlite3, sqlite3_close_v2> handle(raw);
  if (opened != SQLITE_OK || sqlite3_exec(raw, kSchema, nullptr, nullptr, nullptr) != SQLITE_OK)
    return std::unexpected(sqliteError(raw));
  for (const DatabaseRow& row : rows_) {
    const bool certificate = row.table == ItemClass::Certificate;
    const bool key = row.table == ItemClass::Key;
    std::string extra, marks;
    if (certificate) extra = ",pkhh,issr,slnr", marks = ",?11,?12,?13";
    if (key) extra = ",klbl,priv", marks = ",?11,?14";
    Result<StatementPtr> statement =
        prepare(raw, fmt::format("INSERT INTO {}(rowid,persistref,agrp,tkid,pdmn,musr,sync,tomb,data,sha1{}) "
                                 "VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10{})",
                                 fourcc(row.table), extra, marks));
    if (!statement) return propagate(statement.error());
    sqlite3_stmt* s = statement->get();
    const Bytes data(row.dataBytes, 0xaa);
    const auto blob = [&](int at, ByteView bytes) {
      sqlite3_bind_blob64(s, at, bytes.empty() ? "" : static_cast<const void*>(bytes.data()), bytes.size(),
                          SQLITE_TRANSIENT);
    };
    const auto text = [&](int at, const std::string& value) {
      sqlite3_bind_text(s, at, value.c_str(), static_cast<int>(value.size()), SQLITE_TRANSIENT);
    };
    if (row.rowId != 0) sqlite3_bind_int64(s, 1, row.rowId);
    if (row.uuid) blob(2, *row.uuid);
    text(3, row.accessGroup);
    text(4, row.tokenId);
    text(5, row.protection);
    blob(6, row.view == KeychainView::System ? ByteView(kSystemView) : ByteView{});
    sqlite3_bind_int(s, 7, row.synchronizable ? 1 : 0);
    sqlite3_bind_int(s, 8, row.tombstone ? 1 : 0);
    blob(9, data);
    blob(10, sha1(data));
    if (certificate || key) blob(11, row.publicKeyHash);
    if (certificate) blob(12, row.issuerDigest), blob(13, row.serialDigest);
    if (key) sqlite3_bind_int(s, 14, row.privateKey ? 1 : 0);
    if (sqlite3_step(s) != SQLITE_DONE) {
      Error error = sqliteError(raw);
      if (sqlite3_errcode(raw) == SQLITE_CONSTRAINT) error.reason = Reason::Duplicate;
      return std::unexpected(std::move(error));
    }
  }
  sqlite3_int64 size = 0;
  unsigned char* image = sqlite3_serialize(raw, "main", &size, 0);
  if (image == nullptr) return fail(Reason::Internal, "keychain database: cannot serialise");
  Bytes out(image, image + size);
  sqlite3_free(image);
  return out;
}

}  // namespace wayleave::keychain
