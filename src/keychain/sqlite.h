#pragma once

// SQLite as values: statements that give themselves back, transactions that roll back unless committed, result codes as
// Errors. Not thread-safe: the store holds one mutex around it.
//
// Preparing a statement costs several times what running it does, and the store runs the same few dozen: a statement
// that has served is kept, reset and without its arguments, for the next query with the same text.
//
// Result codes become: UNIQUE and PRIMARY KEY → Duplicate; other constraints → Conflict; BUSY, LOCKED → Busy; CORRUPT,
// NOTADB, TOOBIG → BadInput; the operating system's refusals → Io; the rest → Internal.

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/bytes.h"
#include "base/owned.h"
#include "base/result.h"

namespace wayleave::keychain {

using StatementHandle = Handle<sqlite3_stmt, sqlite3_finalize>;
// By the statement's text; none is in use. At a fixed address, because a database moves while statements are out.
using KeptStatements = std::map<std::string, StatementHandle, std::less<>>;

// One statement with its arguments, stepped through its rows. An error of preparing or binding waits in it and comes
// back from the first step, so that a call site has one place to look. Columns are read only after step() returned
// true.
class Statement {
 public:
  Statement(Statement&&) = default;
  Statement& operator=(Statement&&) = delete;
  ~Statement();

  // True: a row is there. False: the end.
  Result<bool> step();
  // For statements that return no row.
  Status run();

  std::string text(int column) const;
  Bytes blob(int column) const;
  int64_t integer(int column) const;
  bool isNull(int column) const;

 private:
  friend class Database;
  Statement(sqlite3* database, KeptStatements& kept) : database_(database), kept_(&kept) {}
  void bind(int at, std::string_view value);
  void bind(int at, ByteView value);
  void bind(int at, int64_t value);
  void bind(int at, std::nullptr_t);
  void check(int code);

  sqlite3* database_;  // outlives the statement, as do the kept ones
  KeptStatements* kept_;
  StatementHandle statement_;
  int code_ = SQLITE_OK;
};

class Database {
 public:
  // Errors: Io, BadInput.
  static Result<Database> open(const std::string& path);

  // Arguments are bound in order: text, bytes, integers (bool too), nullptr.
  template <typename... Arguments>
  Statement query(std::string_view sql, const Arguments&... arguments) {
    Statement statement = prepare(sql);
    int at = 0;
    (bindOne(statement, ++at, arguments), ...);
    return statement;
  }
  template <typename... Arguments>
  Status run(std::string_view sql, const Arguments&... arguments) {
    return query(sql, arguments...).run();
  }
  // Several statements without arguments.
  Status script(const char* sql);
  // The single integer of a statement like "PRAGMA user_version".
  Result<int64_t> number(std::string_view sql);
  // Rows that the last INSERT, UPDATE or DELETE touched.
  int changes() const { return sqlite3_changes(handle_.get()); }

 private:
  explicit Database(sqlite3* handle) : handle_(handle) {}
  Statement prepare(std::string_view sql);
  template <typename T>
  static void bindOne(Statement& statement, int at, const T& value) {
    if constexpr (std::is_integral_v<T>)
      statement.bind(at, static_cast<int64_t>(value));
    else if constexpr (std::is_same_v<T, std::nullptr_t>)
      statement.bind(at, nullptr);
    else if constexpr (std::is_convertible_v<const T&, std::string_view>)
      statement.bind(at, std::string_view(value));
    else
      statement.bind(at, ByteView(value));
  }

  Handle<sqlite3, sqlite3_close_v2> handle_;
  std::unique_ptr<KeptStatements> kept_ = std::make_unique<KeptStatements>();  // finalised before the database is closed
};

// Rolls back unless commit() succeeded. `Write` takes the write lock at once, so that a second process waits here (busy
// timeout) instead of failing in the middle.
class Transaction {
 public:
  enum class Kind : uint8_t { Read, Write };
  static Result<Transaction> begin(Database& database, Kind kind);
  Transaction(Transaction&& other) noexcept : database_(std::exchange(other.database_, nullptr)) {}
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();
  Status commit();

 private:
  explicit Transaction(Database& database) : database_(&database) {}
  Database* database_;
};

}  // namespace wayleave::keychain
