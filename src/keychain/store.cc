#include "keychain/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/osstatus.h"
#include "keychain/sqlite.h"
#include "keychain/store_names.h"
#include "keychain/store_schema.h"

namespace wayleave::keychain {
namespace {

// A chain is a leaf and a few issuers; certificates beyond this size exist only to hurt.
constexpr size_t kMaxChainLength = 16;
constexpr size_t kMaxCertificateBytes = 64 * 1024;

constexpr std::string_view kKeyColumns = "id, installation, payload_uuid, kind, spki, blob";
constexpr std::string_view kIdentityColumns =
    "id, key_id, installation, keychain, keychain_path, uuid, reference, source, label, access_group, "
    "profile_identifier, payload_identifier, payload_uuid, attested, state, state_detail";

keys::KeyKind keyKindOf(std::string_view name) {
  return name == text(keys::KeyKind::Tpm) ? keys::KeyKind::Tpm : keys::KeyKind::Software;  // the schema allows no third
}
KeychainKind keychainKindOf(std::string_view name) {
  return name == text(KeychainKind::File) ? KeychainKind::File : KeychainKind::DataProtection;
}
IdentityState stateOf(std::string_view name) {
  if (name == text(IdentityState::Active)) return IdentityState::Active;
  return name == text(IdentityState::Lost) ? IdentityState::Lost : IdentityState::Staged;
}

KeyRecord keyFrom(const Statement& row) {
  return KeyRecord{row.text(0), row.text(1), row.text(2), keyKindOf(row.text(3)), row.blob(4), row.blob(5)};
}

IdentityRecord identityFrom(const Statement& row) {
  IdentityRecord out;
  out.id = row.text(0);
  out.keyId = row.text(1);
  out.installation = row.text(2);
  out.keychain = keychainKindOf(row.text(3));
  out.keychainPath = row.text(4);
  const Bytes uuid = row.blob(5);
  std::copy_n(uuid.begin(), std::min(uuid.size(), out.uuid.size()), out.uuid.begin());
  out.reference = row.blob(6);
  out.source = row.text(7);
  out.label = row.text(8);
  out.accessGroup = row.text(9);
  out.profileIdentifier = row.text(10);
  out.payloadIdentifier = row.text(11);
  out.payloadUuid = row.text(12);
  out.attested = row.integer(13) != 0;
  out.state = stateOf(row.text(14));
  out.stateDetail = row.text(15);
  return out;
}

Status checkChain(const std::vector<Bytes>& chain) {
  if (chain.empty() || chain.size() > kMaxChainLength)
    return fail(Reason::BadInput, fmt::format("a chain of {} certificates", chain.size()));
  for (const Bytes& certificate : chain) {
    if (certificate.size() > kMaxCertificateBytes)
      return fail(Reason::BadInput, fmt::format("a certificate of {} bytes", certificate.size()));
    // A blob that is no certificate would only be noticed in the middle of a handshake.
    if (const Result<CertificateName> name = certificateName(certificate); !name) return std::unexpected(name.error());
  }
  return {};
}

// The reference a record carries must lead back to the record; a mistake in minting would otherwise show up much later,
// as errSecItemNotFound in somebody's agent.
Status checkReference(const IdentityRecord& identity, const CertificateName& leaf) {
  const auto named = nameIn(identity.reference);
  if (!named) return withContext(named.error(), "the identity's own reference");
  bool leadsBack = false;
  if (const auto* file = std::get_if<FileName>(&*named)) {
    leadsBack = identity.keychain == KeychainKind::File && file->keychainPath == identity.keychainPath &&
                file->issuer == leaf.normalisedIssuer && file->serial == leaf.serial;
  } else {
    leadsBack = identity.keychain == KeychainKind::DataProtection && std::get<RowUuid>(*named) == identity.uuid;
  }
  if (leadsBack) return {};
  return fail(Reason::BadInput, "the identity's own reference names another item", {}, errSecParam);
}

std::unexpected<Error> noIdentity(std::string_view id) {
  return fail(Reason::NotFound, fmt::format("no identity {}", id), "wayleave identity list shows what is there",
              errSecItemNotFound);
}

class SqliteStore final : public Store {
 public:
  explicit SqliteStore(Database database) : database_(std::move(database)) {}

  Status beginInstallation(std::string_view installation) override {
    if (installation.empty()) return fail(Reason::BadInput, "an installation without an id");
    const std::lock_guard lock(mutex_);
    if (const Status added = database_.run("INSERT OR IGNORE INTO installations (id) VALUES (?)", installation); !added)
      return added;
    return requirePending(installation);
  }

  Result<std::vector<std::string>> pendingInstallations() override {
    const std::lock_guard lock(mutex_);
    return texts(database_.query("SELECT id FROM installations WHERE committed = 0 ORDER BY rowid"));
  }

  Status addKey(const KeyRecord& key) override {
    if (key.id.empty() || key.payloadUuid.empty() || key.spki.empty() || key.blob.empty())
      return fail(Reason::BadInput, "a key record with empty fields");
    return inTransaction([&]() -> Status {
      if (const Status pending = requirePending(key.installation); !pending) return pending;
      const Status added = database_.run(fmt::format("INSERT INTO keys ({}) VALUES (?, ?, ?, ?, ?, ?)", kKeyColumns),
                                         key.id, key.installation, key.payloadUuid, text(key.kind), key.spki, key.blob);
      return duplicateAs(added, fmt::format("key {} for payload {}", key.id, key.payloadUuid));
    });
  }

  Result<KeyRecord> key(std::string_view id) override {
    const std::lock_guard lock(mutex_);
    return findKey(id);
  }

  Result<bool> holdsSealedKeys() override {
    const std::lock_guard lock(mutex_);
    return database_.query("SELECT 1 FROM keys WHERE kind = ? LIMIT 1", text(keys::KeyKind::Software)).step();
  }

  Result<std::optional<KeyRecord>> keyFor(std::string_view installation, std::string_view payloadUuid) override {
    const std::lock_guard lock(mutex_);
    Statement row =
        database_.query(fmt::format("SELECT {} FROM keys WHERE installation = ? AND payload_uuid = ?", kKeyColumns),
                        installation, payloadUuid);
    const Result<bool> found = row.step();
    if (!found) return std::unexpected(found.error());
    if (!*found) return std::nullopt;
    return keyFrom(row);
  }

  Status addIdentity(const IdentityRecord& identity) override {
    if (identity.id.empty()) return fail(Reason::BadInput, "an identity without an id");
    if (const Status good = checkChain(identity.chain); !good) return good;
    const Result<CertificateName> leaf = certificateName(identity.chain.front());
    if (!leaf) return std::unexpected(leaf.error());
    if (const Status good = checkReference(identity, *leaf); !good) return good;
    return inTransaction([&]() -> Status {
      if (const Status pending = requirePending(identity.installation); !pending) return pending;
      const Result<KeyRecord> key = findKey(identity.keyId);
      if (!key) return std::unexpected(key.error());
      if (const Status paired = checkCertificateHasKey(identity.chain.front(), key->spki); !paired) return paired;
      // A key is for one identity of an installation. Whoever got no answer binds again: the one nobody heard of goes.
      if (const Status unheard = database_.run(
              "DELETE FROM identities WHERE installation = ? AND key_id = ? AND state = 'staged' AND id != ?",
              identity.installation, identity.keyId, identity.id);
          !unheard)
        return unheard;
      const Status added = database_.run(
          fmt::format("INSERT INTO identities ({}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                      kIdentityColumns),
          identity.id, identity.keyId, identity.installation, text(identity.keychain), identity.keychainPath,
          ByteView(identity.uuid), identity.reference, identity.source, identity.label, identity.accessGroup,
          identity.profileIdentifier, identity.payloadIdentifier, identity.payloadUuid, identity.attested,
          text(IdentityState::Staged), identity.stateDetail);
      if (!added) return duplicateAs(added, fmt::format("identity {}", identity.id));
      if (const Status stored = storeChain(identity.id, "current", identity.chain); !stored) return stored;
      return addFileName(identity, *leaf);
    });
  }

  Result<CommitResult> commit(std::string_view installation,
                              const std::vector<std::string>& replacedProfiles) override {
    CommitResult result;
    const Status done = inTransaction([&]() -> Status {
      const Result<std::optional<bool>> committed = isCommitted(installation);
      if (!committed) return std::unexpected(committed.error());
      if (!*committed) return unknownInstallation(installation);
      if (**committed) return {};

      for (const std::string& profile : replacedProfiles) {
        Result<std::vector<std::string>> removed = removeIdentitiesOf(profile);
        if (!removed) return std::unexpected(removed.error());
        std::ranges::move(*removed, std::back_inserter(result.removed));
      }
      Result<std::vector<std::string>> added =
          texts(database_.query("UPDATE identities SET state = 'active', installation = NULL WHERE installation = ? "
                                "RETURNING id",
                                installation));
      if (!added) return std::unexpected(added.error());
      result.added = *std::move(added);
      if (const Status freed =
              database_.run("UPDATE keys SET installation = NULL WHERE installation = ?", installation);
          !freed)
        return freed;
      if (const Status swept = removeUnusedKeys(); !swept) return swept;
      return database_.run("UPDATE installations SET committed = 1 WHERE id = ?", installation);
    });
    if (!done) return std::unexpected(done.error());
    return result;
  }

  Status abort(std::string_view installation) override {
    return inTransaction([&]() -> Status {
      const Result<std::optional<bool>> committed = isCommitted(installation);
      if (!committed) return std::unexpected(committed.error());
      if (!*committed) return {};
      if (**committed) {
        return fail(Reason::Conflict, fmt::format("installation {} is committed and cannot be aborted", installation),
                    "remove the profile instead");
      }
      if (const Status gone = database_.run("DELETE FROM identities WHERE installation = ?", installation); !gone)
        return gone;
      if (const Status gone = database_.run("DELETE FROM keys WHERE installation = ?", installation); !gone)
        return gone;
      return database_.run("DELETE FROM installations WHERE id = ?", installation);
    });
  }

  Result<std::vector<std::string>> removeProfile(std::string_view profileIdentifier) override {
    Result<std::vector<std::string>> removed;
    const Status done = inTransaction([&]() -> Status {
      removed = removeIdentitiesOf(profileIdentifier);
      if (!removed) return std::unexpected(removed.error());
      return removeUnusedKeys();
    });
    if (!done) return std::unexpected(done.error());
    return removed;
  }

  Result<std::vector<IdentityRecord>> identities() override {
    std::vector<IdentityRecord> out;
    const Status read = inTransaction(Transaction::Kind::Read, [&]() -> Status {
      Statement rows = database_.query(
          fmt::format("SELECT {} FROM identities WHERE state != 'staged' ORDER BY sequence", kIdentityColumns));
      for (;;) {
        const Result<bool> row = rows.step();
        if (!row) return std::unexpected(row.error());
        if (!*row) return {};
        Result<IdentityRecord> identity = withChains(identityFrom(rows));
        if (!identity) return std::unexpected(identity.error());
        out.push_back(*std::move(identity));
      }
    });
    if (!read) return std::unexpected(read.error());
    return out;
  }

  Result<IdentityRecord> identity(std::string_view id) override {
    Result<IdentityRecord> out;
    const Status read = inTransaction(Transaction::Kind::Read, [&]() -> Status {
      out = findIdentity(id);
      return {};
    });
    if (!read) return std::unexpected(read.error());
    return out;
  }

  Result<IdentityRecord> resolve(ByteView reference) override {
    const auto name = nameIn(reference);
    if (!name) return std::unexpected(name.error());
    Result<IdentityRecord> out;
    const Status read = inTransaction(Transaction::Kind::Read, [&]() -> Status {
      Statement row = std::holds_alternative<FileName>(*name) ? queryByFileName(std::get<FileName>(*name))
                                                              : queryByUuid(std::get<RowUuid>(*name));
      const Result<bool> found = row.step();
      if (!found) return std::unexpected(found.error());
      if (!*found) {
        return fail(Reason::NotFound, "no identity has the item this reference names",
                    "wayleave identity list shows the references this machine has", errSecItemNotFound);
      }
      out = findIdentity(row.text(0));
      return {};
    });
    if (!read) return std::unexpected(read.error());
    return out;
  }

  Status renewCertificate(std::string_view id, const std::vector<Bytes>& chain) override {
    if (const Status good = checkChain(chain); !good) return good;
    const Result<CertificateName> leaf = certificateName(chain.front());
    if (!leaf) return std::unexpected(leaf.error());
    return inTransaction([&]() -> Status {
      const Result<IdentityRecord> identity = findIdentity(id);
      if (!identity) return std::unexpected(identity.error());
      if (identity->state != IdentityState::Active) {
        return fail(Reason::Conflict,
                    fmt::format("identity {} is {} and cannot be renewed", id, text(identity->state)));
      }
      const Result<KeyRecord> key = findKey(identity->keyId);
      if (!key) return std::unexpected(key.error());
      if (const Status paired = checkCertificateHasKey(chain.front(), key->spki); !paired) return paired;
      if (identity->chain == chain) return {};
      // Only a chain that has served becomes the previous one.
      const std::string_view out =
          identity->previousChain.empty()
              ? "UPDATE certificates SET age = 'previous' WHERE identity = ? AND age = 'current'"
              : "DELETE FROM certificates WHERE identity = ? AND age = 'current'";
      if (const Status moved = database_.run(out, id); !moved) return moved;
      if (const Status stored = storeChain(id, "current", chain); !stored) return stored;
      return addFileName(*identity, *leaf);
    });
  }

  Status confirmCertificate(std::string_view id) override {
    return inTransaction([&]() -> Status {
      if (const Result<IdentityRecord> identity = findIdentity(id); !identity) return std::unexpected(identity.error());
      return database_.run("DELETE FROM certificates WHERE identity = ? AND age = 'previous'", id);
    });
  }

  Status setState(std::string_view id, IdentityState state, std::string_view detail) override {
    return inTransaction([&]() -> Status {
      const Result<IdentityRecord> identity = findIdentity(id);
      if (!identity) return std::unexpected(identity.error());
      if (identity->state == IdentityState::Staged || state == IdentityState::Staged) {
        return fail(Reason::Conflict,
                    fmt::format("identity {} is {} and cannot become {}", id, text(identity->state), text(state)));
      }
      return database_.run("UPDATE identities SET state = ?, state_detail = ? WHERE id = ?", text(state), detail, id);
    });
  }

  Status setValue(std::string_view name, ByteView value) override {
    const std::lock_guard lock(mutex_);
    return database_.run(
        "INSERT INTO named_values (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        name, value);
  }

  Result<std::optional<Bytes>> value(std::string_view name) override {
    const std::lock_guard lock(mutex_);
    Statement row = database_.query("SELECT value FROM named_values WHERE name = ?", name);
    const Result<bool> found = row.step();
    if (!found) return std::unexpected(found.error());
    if (!*found) return std::nullopt;
    return row.blob(0);
  }

 private:
  // Everything below runs with the mutex held.

  template <typename Body>
  Status inTransaction(Transaction::Kind kind, Body body) {
    const std::lock_guard lock(mutex_);
    Result<Transaction> transaction = Transaction::begin(database_, kind);
    if (!transaction) return std::unexpected(transaction.error());
    if (const Status done = body(); !done) return done;
    return transaction->commit();
  }
  template <typename Body>
  Status inTransaction(Body body) {
    return inTransaction(Transaction::Kind::Write, std::move(body));
  }

  static Result<std::vector<std::string>> texts(Statement rows) {
    std::vector<std::string> out;
    for (;;) {
      const Result<bool> row = rows.step();
      if (!row) return std::unexpected(row.error());
      if (!*row) return out;
      out.push_back(rows.text(0));
    }
  }

  static Status duplicateAs(Status status, std::string what) {
    if (status || status.error().reason != Reason::Duplicate) return status;
    return fail(Reason::Duplicate, what + " is already there", {}, errSecDuplicateItem);
  }

  static std::unexpected<Error> unknownInstallation(std::string_view installation) {
    return fail(Reason::Conflict, fmt::format("no installation {} was begun", installation),
                "begin it first; an aborted one is forgotten");
  }

  // nullopt: no such installation.
  Result<std::optional<bool>> isCommitted(std::string_view installation) {
    Statement row = database_.query("SELECT committed FROM installations WHERE id = ?", installation);
    const Result<bool> found = row.step();
    if (!found) return std::unexpected(found.error());
    if (!*found) return std::nullopt;
    return row.integer(0) != 0;
  }

  Status requirePending(std::string_view installation) {
    const Result<std::optional<bool>> committed = isCommitted(installation);
    if (!committed) return std::unexpected(committed.error());
    if (!*committed) return unknownInstallation(installation);
    if (**committed) return fail(Reason::Conflict, fmt::format("installation {} is already committed", installation));
    return {};
  }

  Result<KeyRecord> findKey(std::string_view id) {
    Statement row = database_.query(fmt::format("SELECT {} FROM keys WHERE id = ?", kKeyColumns), id);
    const Result<bool> found = row.step();
    if (!found) return std::unexpected(found.error());
    if (!*found) return fail(Reason::NotFound, fmt::format("no key {}", id), {}, errSecItemNotFound);
    return keyFrom(row);
  }

  Result<IdentityRecord> findIdentity(std::string_view id) {
    Statement row = database_.query(fmt::format("SELECT {} FROM identities WHERE id = ?", kIdentityColumns), id);
    const Result<bool> found = row.step();
    if (!found) return std::unexpected(found.error());
    if (!*found) return noIdentity(id);
    return withChains(identityFrom(row));
  }

  Result<IdentityRecord> withChains(IdentityRecord identity) {
    Statement rows =
        database_.query("SELECT age, der FROM certificates WHERE identity = ? ORDER BY position", identity.id);
    for (;;) {
      const Result<bool> row = rows.step();
      if (!row) return std::unexpected(row.error());
      if (!*row) return identity;
      (rows.text(0) == "current" ? identity.chain : identity.previousChain).push_back(rows.blob(1));
    }
  }

  Status storeChain(std::string_view id, std::string_view age, const std::vector<Bytes>& chain) {
    for (size_t position = 0; position < chain.size(); ++position) {
      const Status stored = database_.run("INSERT INTO certificates (identity, age, position, der) VALUES (?, ?, ?, ?)",
                                          id, age, position, chain[position]);
      if (!stored) return stored;
    }
    return {};
  }

  // A data protection row is found by its UUID, which renewal does not change.
  Status addFileName(const IdentityRecord& identity, const CertificateName& leaf) {
    if (identity.keychain != KeychainKind::File) return {};
    return database_.run(
        "INSERT OR IGNORE INTO file_names (identity, keychain_path, issuer, serial) VALUES (?, ?, ?, ?)", identity.id,
        identity.keychainPath, leaf.normalisedIssuer, leaf.serial);
  }

  Statement queryByFileName(const FileName& name) {
    return database_.query(
        "SELECT identities.id FROM file_names JOIN identities ON identities.id = file_names.identity "
        "WHERE file_names.keychain_path = ? AND issuer = ? AND serial = ? AND state != 'staged' "
        "ORDER BY state = 'active' DESC, sequence DESC LIMIT 1",
        name.keychainPath, name.issuer, name.serial);
  }

  Statement queryByUuid(const RowUuid& uuid) {
    return database_.query(
        "SELECT id FROM identities WHERE uuid = ? AND keychain = 'data-protection' AND state != 'staged' "
        "ORDER BY state = 'active' DESC, sequence DESC LIMIT 1",
        ByteView(uuid));
  }

  Result<std::vector<std::string>> removeIdentitiesOf(std::string_view profile) {
    return texts(database_.query(
        "DELETE FROM identities WHERE profile_identifier = ? AND state != 'staged' RETURNING id", profile));
  }

  // Keys under a pending installation wait for their certificate and stay.
  Status removeUnusedKeys() {
    return database_.run("DELETE FROM keys WHERE installation IS NULL AND id NOT IN (SELECT key_id FROM identities)");
  }

  std::mutex mutex_;
  Database database_;
};

}  // namespace

std::string_view text(KeychainKind kind) {
  switch (kind) {
    case KeychainKind::File: return "file";
    case KeychainKind::DataProtection: return "data-protection";
  }
  return "?";
}

std::string_view text(IdentityState state) {
  switch (state) {
    case IdentityState::Staged: return "staged";
    case IdentityState::Active: return "active";
    case IdentityState::Lost: return "lost";
  }
  return "?";
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path) {
  Result<Database> database = openStoreFile(path);
  if (!database) return std::unexpected(database.error());
  return std::make_unique<SqliteStore>(*std::move(database));
}

}  // namespace wayleave::keychain
