#pragma once

// The little of SQLite that the management store needs, with Results instead of codes.

#include <sqlite3.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/owned.h"
#include "base/result.h"

namespace wayleave::management {

using Database = Handle<sqlite3, sqlite3_close_v2>;

// What the connection says about its last failure. Reason::Io.
Error databaseError(sqlite3* database, std::string_view what);
Status execute(sqlite3* database, const char* sql);

// One prepared statement, bound left to right, stepped, and finalised with the object.
class Statement {
 public:
  Statement(sqlite3* database, std::string_view sql);

  Statement& bind(std::string_view text);
  Statement& bind(ByteView blob);
  Statement& bind(int64_t number);

  // Runs to the end. Errors: Io; Duplicate for a broken UNIQUE or PRIMARY KEY constraint.
  Status run();
  // True with a row to read, false at the end.
  Result<bool> step();

  std::string text(int column);
  Bytes blob(int column);
  int64_t number(int column);

 private:
  sqlite3* database_;
  Handle<sqlite3_stmt, sqlite3_finalize> statement_;
  int next_ = 1;
  int bindError_ = SQLITE_OK;
};

// BEGIN IMMEDIATE now; ROLLBACK in the destructor unless commit() succeeded.
class Transaction {
 public:
  explicit Transaction(sqlite3* database);
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();
  const Status& begun() const { return begun_; }
  Status commit();

 private:
  sqlite3* database_;
  Status begun_;
  bool open_ = false;
};

}  // namespace wayleave::management
