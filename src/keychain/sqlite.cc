#include "keychain/sqlite.h"

#include <fmt/format.h>

namespace wayleave::keychain {
namespace {

// Longer than any transaction of ours (each is a few rows and two syncs), shorter than a caller's patience.
constexpr int kBusyTimeoutMs = 5000;
// Largest text or blob, bytes. A certificate has a few kilobytes; what is larger is a mistake or an attack.
constexpr int kMaxValueBytes = 1024 * 1024;
// The store has about forty statements; a text that is made anew each time must not pile up.
constexpr size_t kMostKept = 64;

Reason reasonOf(int extended) {
  if (extended == SQLITE_CONSTRAINT_UNIQUE || extended == SQLITE_CONSTRAINT_PRIMARYKEY) return Reason::Duplicate;
  switch (extended & 0xff) {
    case SQLITE_CONSTRAINT: return Reason::Conflict;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return Reason::Busy;
    case SQLITE_TOOBIG:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return Reason::BadInput;
    case SQLITE_IOERR:
    case SQLITE_FULL:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH: return Reason::Io;
    default: return Reason::Internal;  // the codes are SQLite's open-ended integers, not an enum of ours
  }
}

Error sqliteError(sqlite3* database, int code) {
  const int extended = database != nullptr ? sqlite3_extended_errcode(database) : code;
  Error error{
      reasonOf(extended),
      fmt::format("store: {} ({})", database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code), extended)};
  const int primary = extended & 0xff;
  if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB)
    error.hint = "the file is damaged: restore it from a backup";
  if (error.reason == Reason::Busy) error.hint = "another process writes to the store: is a second identityd running?";
  if (primary == SQLITE_FULL) error.hint = "the disk is full";
  return error;
}

}  // namespace

Statement::~Statement() {
  if (!statement_ || kept_->size() >= kMostKept) return;
  // What reset returns is the error of the last step, which step() has reported.
  sqlite3_reset(statement_.get());
  sqlite3_clear_bindings(statement_.get());
  const char* text = sqlite3_sql(statement_.get());
  if (text != nullptr) kept_->try_emplace(text, std::move(statement_));
}

void Statement::check(int code) {
  if (code_ == SQLITE_OK) code_ = code;
}

void Statement::bind(int at, std::string_view value) {
  // A null pointer would bind NULL: the empty text is a value.
  const char* data = value.data() != nullptr ? value.data() : "";
  check(sqlite3_bind_text64(statement_.get(), at, data, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
}

void Statement::bind(int at, ByteView value) {
  if (value.empty())
    check(sqlite3_bind_zeroblob(statement_.get(), at, 0));
  else
    check(sqlite3_bind_blob64(statement_.get(), at, value.data(), value.size(), SQLITE_TRANSIENT));
}

void Statement::bind(int at, int64_t value) { check(sqlite3_bind_int64(statement_.get(), at, value)); }
void Statement::bind(int at, std::nullptr_t) { check(sqlite3_bind_null(statement_.get(), at)); }

Result<bool> Statement::step() {
  if (code_ != SQLITE_OK) return std::unexpected(sqliteError(database_, code_));
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  code_ = code;
  return std::unexpected(sqliteError(database_, code));
}

Status Statement::run() {
  const Result<bool> row = step();
  if (!row) return std::unexpected(row.error());
  return {};
}

std::string Statement::text(int column) const {
  const auto* data = sqlite3_column_text(statement_.get(), column);
  const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column));
  return data != nullptr ? std::string(asText({data, size})) : std::string();
}

Bytes Statement::blob(int column) const {
  const auto* data = static_cast<const uint8_t*>(sqlite3_column_blob(statement_.get(), column));
  const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column));
  return data != nullptr ? Bytes(data, data + size) : Bytes();
}

int64_t Statement::integer(int column) const { return sqlite3_column_int64(statement_.get(), column); }
bool Statement::isNull(int column) const { return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL; }

Result<Database> Database::open(const std::string& path) {
  sqlite3* raw = nullptr;
  // FULLMUTEX although the store has its own lock: the cost is nothing here, a forgotten lock would be a corrupt heap.
  const int code = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, nullptr);
  Database database(raw);
  if (code != SQLITE_OK) return withContext(sqliteError(raw, code), path);
  sqlite3_extended_result_codes(raw, 1);
  sqlite3_busy_timeout(raw, kBusyTimeoutMs);
  sqlite3_limit(raw, SQLITE_LIMIT_LENGTH, kMaxValueBytes);
  // A file that was tampered with must not run SQL of its own or rewrite its schema.
  sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(raw, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  return database;
}

Statement Database::prepare(std::string_view sql) {
  Statement statement(handle_.get(), *kept_);
  if (const auto found = kept_->find(sql); found != kept_->end()) {
    statement.statement_ = std::move(found->second);
    kept_->erase(found);  // one that is still being stepped is not given out twice
    return statement;
  }
  sqlite3_stmt* raw = nullptr;
  statement.check(sqlite3_prepare_v3(handle_.get(), sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                                     &raw, nullptr));
  statement.statement_.reset(raw);
  return statement;
}

Status Database::script(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return std::unexpected(sqliteError(handle_.get(), code));
  return {};
}

Result<int64_t> Database::number(std::string_view sql) {
  Statement statement = query(sql);
  const Result<bool> row = statement.step();
  if (!row) return std::unexpected(row.error());
  if (!*row) return fail(Reason::Internal, fmt::format("store: no answer to {}", sql));
  return statement.integer(0);
}

Result<Transaction> Transaction::begin(Database& database, Kind kind) {
  if (const Status begun = database.run(kind == Kind::Write ? "BEGIN IMMEDIATE" : "BEGIN"); !begun)
    return std::unexpected(begun.error());
  return Transaction(database);
}

Transaction::~Transaction() {
  // Some errors (a full disk) have rolled back already; then this one fails, and nothing is left to do.
  if (database_ != nullptr) static_cast<void>(database_->run("ROLLBACK"));
}

Status Transaction::commit() {
  if (const Status done = database_->run("COMMIT"); !done) return done;
  database_ = nullptr;
  return {};
}

}  // namespace wayleave::keychain
