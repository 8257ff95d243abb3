#include "keychain/store_schema.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace wayleave::keychain {
namespace {

constexpr int kApplicationId = 0x574c6964;  // "WLid", at offset 68 of the file: file(1) and we tell it by that

// `installation` is set exactly while a row is staged. An installation's row outlives its commit (a second commit must
// find it and do nothing) but not its abort. `sequence` orders lists by age. `file_names` keeps the names of
// certificates long renewed: a reference stays valid for the life of the identity.
constexpr const char* kSchema = R"sql(
CREATE TABLE installations (
  id        TEXT PRIMARY KEY NOT NULL,
  committed INTEGER NOT NULL DEFAULT 0 CHECK (committed IN (0, 1))
) STRICT;

CREATE TABLE keys (
  id           TEXT PRIMARY KEY NOT NULL,
  installation TEXT REFERENCES installations (id),
  payload_uuid TEXT NOT NULL,
  kind         TEXT NOT NULL CHECK (kind IN ('software', 'tpm')),
  spki         BLOB NOT NULL,
  blob         BLOB NOT NULL,
  UNIQUE (installation, payload_uuid)
) STRICT;

CREATE TABLE identities (
  sequence           INTEGER PRIMARY KEY AUTOINCREMENT,
  id                 TEXT NOT NULL UNIQUE,
  key_id             TEXT NOT NULL REFERENCES keys (id),
  installation       TEXT REFERENCES installations (id),
  keychain           TEXT NOT NULL CHECK (keychain IN ('file', 'data-protection')),
  keychain_path      TEXT NOT NULL,
  uuid               BLOB NOT NULL CHECK (length(uuid) = 16),
  reference          BLOB NOT NULL,
  source             TEXT NOT NULL,
  label              TEXT NOT NULL,
  access_group       TEXT NOT NULL,
  profile_identifier TEXT NOT NULL,
  payload_identifier TEXT NOT NULL,
  payload_uuid       TEXT NOT NULL,
  attested           INTEGER NOT NULL CHECK (attested IN (0, 1)),
  state              TEXT NOT NULL CHECK (state IN ('staged', 'active', 'lost')),
  state_detail       TEXT NOT NULL,
  CHECK ((state = 'staged') = (installation IS NOT NULL))
) STRICT;
CREATE INDEX identities_by_key ON identities (key_id);
CREATE INDEX identities_by_installation ON identities (installation);
CREATE INDEX identities_by_profile ON identities (profile_identifier);
CREATE INDEX identities_by_uuid ON identities (uuid);

CREATE TABLE certificates (
  identity TEXT NOT NULL REFERENCES identities (id) ON DELETE CASCADE,
  age      TEXT NOT NULL CHECK (age IN ('current', 'previous')),
  position INTEGER NOT NULL,
  der      BLOB NOT NULL,
  PRIMARY KEY (identity, age, position)
) STRICT;

CREATE TABLE file_names (
  identity      TEXT NOT NULL REFERENCES identities (id) ON DELETE CASCADE,
  keychain_path TEXT NOT NULL,
  issuer        BLOB NOT NULL,
  serial        BLOB NOT NULL,
  PRIMARY KEY (keychain_path, issuer, serial, identity)
) STRICT;
CREATE INDEX file_names_by_identity ON file_names (identity);

CREATE TABLE named_values (
  name  TEXT PRIMARY KEY NOT NULL,
  value BLOB NOT NULL
) STRICT;
)sql";

// FULL: in WAL mode NORMAL may lose the last commits to a power failure, and a commit is half of a two-phase decision.
// secure_delete: sealed blobs of removed identities are overwritten rather than left in free pages.
constexpr const char* kSettings =
    "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA cell_size_check = ON;";

// SQLite would create the file with the process's umask.
Status ensureFile(const std::string& path) {
  const Fd fd = Fd::adopt(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (!fd) return std::unexpected(errnoError(errno, fmt::format("open store {}", path)));
  struct stat info{};
  if (::fstat(fd.borrow(), &info) != 0) return std::unexpected(errnoError(errno, path));
  if (!S_ISREG(info.st_mode)) return fail(Reason::BadInput, fmt::format("store {} is not a file", path));
  return {};
}

enum class FileKind : uint8_t { Empty, Ours };

Result<FileKind> recognise(Database& database) {
  const Result<int64_t> application = database.number("PRAGMA application_id");
  if (!application) return std::unexpected(application.error());
  const Result<int64_t> version = database.number("PRAGMA user_version");
  if (!version) return std::unexpected(version.error());
  const Result<int64_t> objects = database.number("SELECT count(*) FROM sqlite_schema");
  if (!objects) return std::unexpected(objects.error());
  if (*application == 0 && *version == 0 && *objects == 0) return FileKind::Empty;
  if (*application != kApplicationId) {
    return fail(Reason::BadInput, "a database, but not an identity store of wayleave",
                "name another file; this one was left as it is");
  }
  if (*version > kSchemaVersion) {
    return fail(Reason::BadInput,
                fmt::format("identity store of schema {}, this build knows up to {}", *version, kSchemaVersion),
                "a newer wayleave wrote it: install that version again; the file was left as it is");
  }
  if (*version != kSchemaVersion) return fail(Reason::BadInput, fmt::format("identity store of schema {}", *version));
  return FileKind::Ours;
}

Status createSchema(Database& database) {
  Result<Transaction> transaction = Transaction::begin(database, Transaction::Kind::Write);
  if (!transaction) return std::unexpected(transaction.error());
  // Looked at again under the write lock: a second process may have been first.
  const Result<FileKind> kind = recognise(database);
  if (!kind) return std::unexpected(kind.error());
  if (*kind == FileKind::Ours) return {};
  if (const Status made = database.script(kSchema); !made) return made;
  const std::string marks =
      fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {};", kApplicationId, kSchemaVersion);
  if (const Status marked = database.script(marks.c_str()); !marked) return marked;
  return transaction->commit();
}

// Reads every page: a store has a few dozen rows, so this is a millisecond, and damage is found at the start instead of
// in the middle of a commit.
Status checkIntegrity(Database& database) {
  Statement check = database.query("PRAGMA quick_check(1)");
  const Result<bool> row = check.step();
  if (!row) return std::unexpected(row.error());
  if (*row && check.text(0) != "ok") {
    return fail(Reason::BadInput, fmt::format("identity store is damaged: {}", check.text(0)),
                "restore it from a backup, or move it away and install the profiles again");
  }
  Statement orphans = database.query("PRAGMA foreign_key_check");
  const Result<bool> orphan = orphans.step();
  if (!orphan) return std::unexpected(orphan.error());
  if (*orphan) {
    return fail(Reason::BadInput,
                fmt::format("identity store is damaged: a row of {} has lost its parent", orphans.text(0)),
                "restore it from a backup, or move it away and install the profiles again");
  }
  return {};
}

Status useWriteAheadLog(Database& database) {
  Statement wal = database.query("PRAGMA journal_mode = WAL");
  const Result<bool> row = wal.step();
  if (!row) return std::unexpected(row.error());
  if (wal.text(0) != "wal") {
    return fail(Reason::Io, fmt::format("write-ahead logging is not possible here (mode is {})", wal.text(0)),
                "put the store on a local file system");
  }
  return {};
}

Status prepareFile(Database& database, const std::string& path) {
  const Result<FileKind> kind = recognise(database);
  if (!kind) return std::unexpected(kind.error());
  // Only now that the file is known to be ours is it touched. The WAL files take over the mode they find.
  if (::chmod(path.c_str(), 0600) != 0) return std::unexpected(errnoError(errno, "chmod 0600"));
  if (const Status logged = useWriteAheadLog(database); !logged) return logged;
  if (const Status set = database.script(kSettings); !set) return set;
  if (*kind == FileKind::Empty) {
    if (const Status made = createSchema(database); !made) return made;
  }
  return checkIntegrity(database);
}

}  // namespace

Result<Database> openStoreFile(const std::string& path) {
  if (const Status ready = ensureFile(path); !ready) return std::unexpected(ready.error());
  Result<Database> database = Database::open(path);
  if (!database) return database;
  if (const Status ready = prepareFile(*database, path); !ready) return withContext(ready.error(), path);
  return database;
}

}  // namespace wayleave::keychain
