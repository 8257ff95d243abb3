#include "management/management_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <tuple>

#include "management/management_store_sqlite.h"

namespace wayleave::management {
namespace {

using localapi::ProxyConfiguration;

// "WLMG": tells our database from any other SQLite file.
constexpr int64_t kApplicationId = 0x574C4D47;
constexpr int64_t kSchema = 3;

// synchronous=FULL: after `committing` is written identityd is told to commit, so that record must survive a power cut.
// secure_delete: a profile's challenge passwords do not linger in free pages.
constexpr const char* kPragmas =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON;"
    "PRAGMA trusted_schema=OFF; PRAGMA busy_timeout=5000;";

constexpr const char* kTables = R"(
CREATE TABLE installations(
  ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  identifier TEXT NOT NULL,
  uuid TEXT NOT NULL,
  display_name TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('preparing','committing','installed','removing')),
  enrolment BLOB NOT NULL,
  summary TEXT NOT NULL,
  changed_at TEXT NOT NULL,
  declarations BLOB NOT NULL DEFAULT x'',
  removal TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX one_installed ON installations(identifier) WHERE state IN ('installed','removing');
CREATE UNIQUE INDEX one_pending ON installations(identifier) WHERE state IN ('preparing','committing');
CREATE TABLE identities(
  installation TEXT NOT NULL REFERENCES installations(id) ON DELETE CASCADE,
  payload_uuid TEXT NOT NULL,
  identity TEXT NOT NULL,
  reference BLOB NOT NULL,
  PRIMARY KEY(installation, payload_uuid));
CREATE TABLE configurations(
  installation TEXT NOT NULL REFERENCES installations(id) ON DELETE CASCADE,
  id TEXT NOT NULL,
  document TEXT NOT NULL,
  PRIMARY KEY(installation, id));
CREATE TABLE sequence(value INTEGER NOT NULL);
INSERT INTO sequence VALUES(1);
)";

InstallState stateNamed(std::string_view name) {
  for (const InstallState state :
       {InstallState::Preparing, InstallState::Committing, InstallState::Installed, InstallState::Removing})
    if (text(state) == name) return state;
  return InstallState::Preparing;  // the CHECK constraint admits no other word
}

class SqliteStore final : public ManagementStore {
 public:
  SqliteStore(Database database, const Clock& clock) : database_(std::move(database)), clock_(clock) {}

  Status begin(const ProfileRecord& profile) override;
  Status noteIdentity(std::string_view installation, const InstalledIdentity& identity) override;
  Status decide(std::string_view installation, std::string_view summary,
                const std::vector<ProxyConfiguration>& configurations) override;
  Result<uint64_t> finish(std::string_view installation) override;
  Status forget(std::string_view installation) override;
  Status noteRemoval(std::string_view installation, std::string_view removal) override;
  Result<uint64_t> beginRemoval(std::string_view identifier) override;
  Status finishRemoval(std::string_view identifier) override;
  Result<std::vector<ProfileRecord>> profiles() override;
  Result<ProfileRecord> profile(std::string_view identifier) override;
  Result<std::vector<ProfileRecord>> unfinished() override;
  Result<ConfigurationSet> configurations() override;
  Result<uint64_t> sequence() override;

 private:
  Statement prepare(std::string_view sql) { return Statement(database_.get(), sql); }
  std::string now() const { return rfc3339(clock_.wallNow()); }
  Status move(std::string_view installation, InstallState from, InstallState to);
  Result<uint64_t> bump();
  Result<std::vector<ProfileRecord>> select(Statement statement);
  Status fill(ProfileRecord& record);

  std::mutex mutex_;
  Database database_;
  const Clock& clock_;
};

Status SqliteStore::begin(const ProfileRecord& profile) {
  const std::lock_guard lock(mutex_);
  Statement removing = prepare("SELECT 1 FROM installations WHERE identifier=? AND state='removing'");
  Result<bool> busy = removing.bind(profile.identifier).step();
  if (!busy) return propagate(busy.error());
  if (*busy)
    return fail(Reason::Conflict, "the removal of " + profile.identifier + " has not finished",
                "wait until wayleave-identityd runs, then try again");
  Status added = prepare(
                     "INSERT INTO installations(id,identifier,uuid,display_name,state,enrolment,summary,changed_at,declarations,removal)"
                     " VALUES(?,?,?,?,'preparing',?,?,?,?,?)")
                     .bind(profile.installation)
                     .bind(profile.identifier)
                     .bind(profile.uuid)
                     .bind(profile.displayName)
                     .bind(ByteView(profile.enrolment))
                     .bind(profile.summary)
                     .bind(now())
                     .bind(ByteView(profile.declarations))
                     .bind(profile.removal)
                     .run();
  if (!added && added.error().reason == Reason::Duplicate)
    return fail(Reason::Conflict, "another installation of " + profile.identifier + " is under way",
                "wait for it to end, then try again");
  return added;
}

Status SqliteStore::noteIdentity(std::string_view installation, const InstalledIdentity& identity) {
  const std::lock_guard lock(mutex_);
  Status noted = prepare("INSERT OR REPLACE INTO identities(installation,payload_uuid,identity,reference) VALUES(?,?,?,?)")
                     .bind(installation)
                     .bind(identity.payloadUuid)
                     .bind(identity.identity)
                     .bind(ByteView(identity.reference))
                     .run();
  if (!noted && sqlite3_extended_errcode(database_.get()) == SQLITE_CONSTRAINT_FOREIGNKEY)
    return fail(Reason::Conflict, "installation " + std::string(installation) + " is not under way");
  return noted;
}

Status SqliteStore::move(std::string_view installation, InstallState from, InstallState to) {
  if (Status moved = prepare("UPDATE installations SET state=?, changed_at=? WHERE id=? AND state=?")
                         .bind(text(to))
                         .bind(now())
                         .bind(installation)
                         .bind(text(from))
                         .run();
      !moved)
    return moved;
  if (sqlite3_changes(database_.get()) != 1)
    return fail(Reason::Conflict, "installation " + std::string(installation) + " is not " + std::string(text(from)));
  return {};
}

Status SqliteStore::decide(std::string_view installation, std::string_view summary,
                           const std::vector<ProxyConfiguration>& configurations) {
  const std::lock_guard lock(mutex_);
  Transaction transaction(database_.get());
  if (!transaction.begun()) return transaction.begun();
  if (Status moved = move(installation, InstallState::Preparing, InstallState::Committing); !moved) return moved;
  if (Status set = prepare("UPDATE installations SET summary=? WHERE id=?").bind(summary).bind(installation).run(); !set)
    return set;
  for (const ProxyConfiguration& configuration : configurations)
    if (Status added = prepare("INSERT INTO configurations(installation,id,document) VALUES(?,?,?)")
                           .bind(installation)
                           .bind(configuration.id)
                           .bind(toJson(configuration))
                           .run();
        !added)
      return added;
  return transaction.commit();
}

Result<uint64_t> SqliteStore::bump() {
  if (Status bumped = prepare("UPDATE sequence SET value=value+1").run(); !bumped) return propagate(bumped.error());
  Statement read = prepare("SELECT value FROM sequence");
  if (Result<bool> row = read.step(); !row) return propagate(row.error());
  return static_cast<uint64_t>(read.number(0));
}

Result<uint64_t> SqliteStore::finish(std::string_view installation) {
  const std::lock_guard lock(mutex_);
  Transaction transaction(database_.get());
  if (!transaction.begun()) return propagate(transaction.begun().error());
  // The old rows first: there is one installed profile per identifier.
  if (Status gone = prepare("DELETE FROM installations WHERE state='installed' AND id<>?1 AND identifier="
                            "(SELECT identifier FROM installations WHERE id=?1)")
                        .bind(installation)
                        .run();
      !gone)
    return propagate(gone.error());
  if (Status moved = move(installation, InstallState::Committing, InstallState::Installed); !moved)
    return propagate(moved.error());
  Result<uint64_t> sequence = bump();
  if (!sequence) return sequence;
  if (Status done = transaction.commit(); !done) return propagate(done.error());
  return sequence;
}

Status SqliteStore::forget(std::string_view installation) {
  const std::lock_guard lock(mutex_);
  return prepare("DELETE FROM installations WHERE id=? AND state IN ('preparing','committing')").bind(installation).run();
}

Status SqliteStore::noteRemoval(std::string_view installation, std::string_view removal) {
  const std::lock_guard lock(mutex_);
  return prepare("UPDATE installations SET removal=? WHERE id=?").bind(removal).bind(installation).run();
}

Result<uint64_t> SqliteStore::beginRemoval(std::string_view identifier) {
  const std::lock_guard lock(mutex_);
  Transaction transaction(database_.get());
  if (!transaction.begun()) return propagate(transaction.begun().error());
  if (Status moved =
          prepare("UPDATE installations SET state='removing', changed_at=? WHERE identifier=? AND state='installed'")
              .bind(now())
              .bind(identifier)
              .run();
      !moved)
    return propagate(moved.error());
  if (sqlite3_changes(database_.get()) != 1)
    return fail(Reason::NotFound, "no profile with the identifier " + std::string(identifier) + " is installed",
                "`wayleave profile list` shows what is");
  Result<uint64_t> sequence = bump();
  if (!sequence) return sequence;
  if (Status done = transaction.commit(); !done) return propagate(done.error());
  return sequence;
}

Status SqliteStore::finishRemoval(std::string_view identifier) {
  const std::lock_guard lock(mutex_);
  return prepare("DELETE FROM installations WHERE identifier=? AND state='removing'").bind(identifier).run();
}

Result<std::vector<ProfileRecord>> SqliteStore::select(Statement statement) {
  std::vector<ProfileRecord> out;
  for (;;) {
    Result<bool> row = statement.step();
    if (!row) return propagate(row.error());
    if (!*row) break;
    ProfileRecord record;
    record.installation = statement.text(0);
    record.identifier = statement.text(1);
    record.uuid = statement.text(2);
    record.displayName = statement.text(3);
    record.state = stateNamed(statement.text(4));
    record.enrolment = statement.blob(5);
    record.summary = statement.text(6);
    record.changedAt = statement.text(7);
    record.declarations = statement.blob(8);
    record.removal = statement.text(9);
    out.push_back(std::move(record));
  }
  for (ProfileRecord& record : out)
    if (Status filled = fill(record); !filled) return propagate(filled.error());
  return out;
}

Status SqliteStore::fill(ProfileRecord& record) {
  Statement identities =
      prepare("SELECT payload_uuid,identity,reference FROM identities WHERE installation=? ORDER BY rowid");
  identities.bind(record.installation);
  for (;;) {
    Result<bool> row = identities.step();
    if (!row) return propagate(row.error());
    if (!*row) break;
    record.identities.push_back({identities.text(0), identities.text(1), identities.blob(2)});
  }
  Statement configurations = prepare("SELECT document FROM configurations WHERE installation=? ORDER BY rowid");
  configurations.bind(record.installation);
  for (;;) {
    Result<bool> row = configurations.step();
    if (!row) return propagate(row.error());
    if (!*row) return {};
    Result<ProxyConfiguration> configuration = localapi::proxyConfigurationFromJson(configurations.text(0));
    if (!configuration) return withContext(configuration.error(), "stored configuration of " + record.identifier);
    record.configurations.push_back(std::move(*configuration));
  }
}

constexpr const char* kSelectInstalled =
    "SELECT id,identifier,uuid,display_name,state,enrolment,summary,changed_at,declarations,removal FROM installations"
    " WHERE state='installed' ORDER BY identifier";

Result<std::vector<ProfileRecord>> SqliteStore::profiles() {
  const std::lock_guard lock(mutex_);
  return select(prepare(kSelectInstalled));
}

Result<ProfileRecord> SqliteStore::profile(std::string_view identifier) {
  const std::lock_guard lock(mutex_);
  Statement one = prepare(
      "SELECT id,identifier,uuid,display_name,state,enrolment,summary,changed_at,declarations,removal FROM installations"
      " WHERE state='installed' AND identifier=?");
  one.bind(identifier);
  Result<std::vector<ProfileRecord>> found = select(std::move(one));
  if (!found) return propagate(found.error());
  if (found->empty())
    return fail(Reason::NotFound, "no profile with the identifier " + std::string(identifier) + " is installed",
                "`wayleave profile list` shows what is");
  return std::move(found->front());
}

Result<std::vector<ProfileRecord>> SqliteStore::unfinished() {
  const std::lock_guard lock(mutex_);
  return select(prepare("SELECT id,identifier,uuid,display_name,state,enrolment,summary,changed_at,declarations,removal FROM installations"
                        " WHERE state<>'installed' ORDER BY ordinal"));
}

Result<ConfigurationSet> SqliteStore::configurations() {
  const std::lock_guard lock(mutex_);
  Transaction transaction(database_.get());  // the number and what it stands for, from one moment
  if (!transaction.begun()) return propagate(transaction.begun().error());
  Result<std::vector<ProfileRecord>> installed = select(prepare(kSelectInstalled));
  if (!installed) return propagate(installed.error());
  ConfigurationSet out;
  for (ProfileRecord& record : *installed)
    for (ProxyConfiguration& configuration : record.configurations)
      out.configurations.push_back(std::move(configuration));
  std::ranges::sort(out.configurations, {}, [](const ProxyConfiguration& configuration) {
    return std::tie(configuration.order, configuration.name, configuration.id);
  });
  Statement read = prepare("SELECT value FROM sequence");
  if (Result<bool> row = read.step(); !row) return propagate(row.error());
  out.sequence = static_cast<uint64_t>(read.number(0));
  return out;
}

Result<uint64_t> SqliteStore::sequence() {
  const std::lock_guard lock(mutex_);
  Statement read = prepare("SELECT value FROM sequence");
  if (Result<bool> row = read.step(); !row) return propagate(row.error());
  return static_cast<uint64_t>(read.number(0));
}

// SQLite would create it with the umask's mode, and gives -wal and -shm the mode of the database. Our descriptor is closed before
// SQLite opens the file: closing one later would drop the process' POSIX locks on it, and the next program that looks into
// the database would take itself for the only one, fold the log in and delete it under us.
Status ensureFile(const std::string& path) {
  const Fd file = Fd::adopt(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return std::unexpected(errnoError(errno, "open " + path));
  if (fchmod(file.borrow(), 0600) != 0) return std::unexpected(errnoError(errno, "set the mode of " + path));
  return {};
}

Result<int64_t> pragma(sqlite3* database, const char* sql) {
  Statement statement(database, sql);
  if (Result<bool> row = statement.step(); !row) return propagate(row.error());
  return statement.number(0);
}

Status prepareSchema(sqlite3* database, const std::string& path) {
  Transaction transaction(database);
  if (!transaction.begun()) return transaction.begun();
  Result<int64_t> application = pragma(database, "PRAGMA application_id");
  Result<int64_t> schema = pragma(database, "PRAGMA user_version");
  Result<int64_t> tables = pragma(database, "SELECT count(*) FROM sqlite_master");
  if (!application) return propagate(application.error());
  if (!schema) return propagate(schema.error());
  if (!tables) return propagate(tables.error());
  if (*application == kApplicationId && *schema == kSchema) return {};
  if (*application == kApplicationId && *schema >= 1 && *schema < kSchema) {
    std::string steps;
    if (*schema < 2) steps += "ALTER TABLE installations ADD COLUMN declarations BLOB NOT NULL DEFAULT x'';";
    if (*schema < 3) steps += "ALTER TABLE installations ADD COLUMN removal TEXT NOT NULL DEFAULT '';";
    steps += "PRAGMA user_version=" + std::to_string(kSchema) + ";";
    if (Status moved = execute(database, steps.c_str()); !moved) return moved;
    return transaction.commit();
  }
  if (*application == kApplicationId && *schema > kSchema)
    return fail(Reason::BadInput, path + " was written by a newer Wayleave (schema " + std::to_string(*schema) + ")",
                "install that version again, or remove the file and install the profiles anew");
  if (*application != 0 || *tables != 0)
    return fail(Reason::BadInput, path + " is a database, but not Wayleave's", "choose another state directory");
  if (Status made = execute(database, kTables); !made) return made;
  const std::string marks = "PRAGMA application_id=" + std::to_string(kApplicationId) +
                            "; PRAGMA user_version=" + std::to_string(kSchema);
  if (Status marked = execute(database, marks.c_str()); !marked) return marked;
  return transaction.commit();
}

}  // namespace

std::string_view text(InstallState state) {
  switch (state) {
    case InstallState::Preparing: return "preparing";
    case InstallState::Committing: return "committing";
    case InstallState::Installed: return "installed";
    case InstallState::Removing: return "removing";
  }
  return "?";
}

Result<std::unique_ptr<ManagementStore>> ManagementStore::open(const std::string& path, const Clock& clock) {
  if (Status ready = ensureFile(path); !ready) return propagate(ready.error());
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, nullptr);
  Database database(raw);
  if (code != SQLITE_OK) return std::unexpected(databaseError(raw, "open " + path));
  sqlite3_extended_result_codes(raw, 1);
  if (Status set = execute(raw, kPragmas); !set) return withContext(set.error(), path);
  if (Status ready = prepareSchema(raw, path); !ready) return propagate(ready.error());
  return std::make_unique<SqliteStore>(std::move(database), clock);
}

}  // namespace wayleave::management
