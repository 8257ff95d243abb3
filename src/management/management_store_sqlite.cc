#include "management/management_store_sqlite.h"

namespace wayleave::management {

Error databaseError(sqlite3* database, std::string_view what) {
  Error error{Reason::Io, "management database: " + std::string(what) + ": " + sqlite3_errmsg(database), {}, 0};
  const int code = sqlite3_errcode(database);
  if (code == SQLITE_FULL) error.hint = "free space on the disk that holds the state directory";
  if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) error.reason = Reason::BadInput;
  return error;
}

Status execute(sqlite3* database, const char* sql) {
  if (sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return {};
  return std::unexpected(databaseError(database, "execute"));
}

Statement::Statement(sqlite3* database, std::string_view sql) : database_(database) {
  sqlite3_stmt* raw = nullptr;
  bindError_ = sqlite3_prepare_v2(database, sql.data(), static_cast<int>(sql.size()), &raw, nullptr);
  statement_.reset(raw);
}

Statement& Statement::bind(std::string_view text) {
  if (bindError_ == SQLITE_OK)
    bindError_ = sqlite3_bind_text64(statement_.get(), next_++, text.data() == nullptr ? "" : text.data(), text.size(),
                                     SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

Statement& Statement::bind(ByteView blob) {
  if (bindError_ == SQLITE_OK)
    bindError_ = blob.empty() ? sqlite3_bind_zeroblob(statement_.get(), next_++, 0)
                              : sqlite3_bind_blob64(statement_.get(), next_++, blob.data(), blob.size(), SQLITE_TRANSIENT);
  return *this;
}

Statement& Statement::bind(int64_t number) {
  if (bindError_ == SQLITE_OK) bindError_ = sqlite3_bind_int64(statement_.get(), next_++, number);
  return *this;
}

Result<bool> Statement::step() {
  if (bindError_ != SQLITE_OK) return std::unexpected(databaseError(database_, "prepare"));
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  Error error = databaseError(database_, "step");
  const int extended = sqlite3_extended_errcode(database_);
  if (extended == SQLITE_CONSTRAINT_UNIQUE || extended == SQLITE_CONSTRAINT_PRIMARYKEY)
    error.reason = Reason::Duplicate;
  return std::unexpected(std::move(error));
}

Status Statement::run() {
  for (;;) {
    Result<bool> row = step();
    if (!row) return propagate(row.error());
    if (!*row) return {};
  }
}

std::string Statement::text(int column) {
  const unsigned char* data = sqlite3_column_text(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return data == nullptr ? std::string{} : std::string(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
}

Bytes Statement::blob(int column) {
  const void* data = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  if (data == nullptr) return {};
  const auto* first = static_cast<const uint8_t*>(data);
  return Bytes(first, first + size);
}

int64_t Statement::number(int column) { return sqlite3_column_int64(statement_.get(), column); }

Transaction::Transaction(sqlite3* database) : database_(database), begun_(execute(database, "BEGIN IMMEDIATE")) {
  open_ = begun_.has_value();
}

Transaction::~Transaction() {
  if (open_) (void)execute(database_, "ROLLBACK");
}

Status Transaction::commit() {
  Status done = execute(database_, "COMMIT");
  if (done) open_ = false;
  return done;
}

}  // namespace wayleave::management
