#include "keychain/explain/keychain_explanation.h"

#include <fmt/format.h>
#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include "base/owned.h"

namespace wayleave::keychain::explain {
namespace {

using X509Ptr = Handle<X509, X509_free>;

std::string nameText(ByteView der) {
  std::string out = describeName(der);
  return out.empty() ? toHex(der) : out;
}

std::string notAfter(ByteView der) {
  const unsigned char* at = der.data();
  const X509Ptr certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  ERR_clear_error();
  struct tm when{};
  if (!certificate || ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &when) != 1) return "not readable";
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", when.tm_year + 1900, when.tm_mon + 1, when.tm_mday,
                     when.tm_hour, when.tm_min, when.tm_sec);
}

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : ", ") + printable(part);
  return out;
}

void describeKey(Section& to, const KeychainKey& key) {
  to.values.emplace_back("key", fmt::format("{} bits, algorithm 0x{:x}, {}", key.bits, key.algorithm,
                                            key.extractable ? "extractable" : "not extractable"));
  if (!key.partitions.empty())
    to.values.emplace_back(
        "partitions", joined(key.partitions) +
                          (key.blobVersion < kBlobVersionPartitions ? " (not enforced: version below 0x200)" : ""));
}

Section sectionFor(const KeychainItem& item) {
  Section out;
  out.title = std::string(text(item.type));
  out.values.emplace_back("record", fmt::format("{}", item.record));
  if (item.certificate) {
    const KeychainCertificate& c = *item.certificate;
    out.title = c.label.empty() ? "certificate" : printable(c.label);
    out.values.emplace_back("subject", nameText(c.subject));
    out.values.emplace_back("issuer", nameText(c.issuer));
    out.values.emplace_back("serial", toHex(c.serial));
    out.values.emplace_back("valid until", notAfter(c.der));
    out.values.emplace_back("SHA-256", toHex(sha256(c.der)));
    out.values.emplace_back("public key hash", toHex(c.publicKeyHash));
    out.values.emplace_back("private key",
                            std::string(text(item.keyState)) + (item.keyDetail.empty() ? "" : ": " + item.keyDetail));
  }
  if (item.key) describeKey(out, *item.key);
  for (const KeychainCertificate& issuer : item.chain) out.values.emplace_back("chain", nameText(issuer.subject));
  return out;
}

std::string_view text(KeychainView view) {
  switch (view) {
    case KeychainView::User: return "user";
    case KeychainView::System: return "system keychain";
    case KeychainView::Other: return "another view";
  }
  return "?";
}

Section sectionFor(const LocatedItem& item) {
  Section out;
  out.title =
      item.asIdentity ? "identity, located by its certificate" : fmt::format("row of table {}", fourcc(item.row.table));
  const auto describeRow = [&](const std::string& prefix, const DatabaseRow& row) {
    out.values.emplace_back(prefix + "row id", fmt::format("{}", row.rowId));
    if (row.uuid) out.values.emplace_back(prefix + "UUID", formatUuid(*row.uuid));
    out.values.emplace_back(prefix + "access group", printable(row.accessGroup));
    out.values.emplace_back(prefix + "view", std::string(text(row.view)));
    if (!row.tokenId.empty()) out.values.emplace_back(prefix + "token", printable(row.tokenId));
    if (!row.protection.empty()) out.values.emplace_back(prefix + "accessible", printable(row.protection));
    if (row.synchronizable) out.values.emplace_back(prefix + "synchronises", "yes");
    if (row.tombstone) out.values.emplace_back(prefix + "tombstone", "yes: the item was deleted");
    if (!row.publicKeyHash.empty()) out.values.emplace_back(prefix + "public key hash", toHex(row.publicKeyHash));
    out.values.emplace_back(prefix + "value",
                            fmt::format("{} bytes, encrypted; not readable off the device", row.dataBytes));
  };
  describeRow("", item.row);
  if (item.row.table == ItemClass::Certificate && item.keys.empty())
    out.values.emplace_back("private key", "none with this hash in the same view");
  for (const DatabaseRow& key : item.keys) describeRow("key: ", key);
  return out;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto b = static_cast<uint8_t>(text[i]);
    const size_t more = b < 0x80                ? 0
                        : b >= 0xc2 && b < 0xe0 ? 1
                        : (b & 0xf0) == 0xe0    ? 2
                        : b >= 0xf0 && b < 0xf5 ? 3
                                                : 4;
    bool good = more < 4 && i + more < text.size() && b >= 0x20 && b != 0x7f;
    for (size_t k = 1; good && k <= more; ++k) good = (static_cast<uint8_t>(text[i + k]) & 0xc0) == 0x80;
    if (b == 0xc2 && good && static_cast<uint8_t>(text[i + 1]) < 0xa0) good = false;  // C1 controls
    if (!good) {
      out += fmt::format("\\x{:02x}", b);
      continue;
    }
    out.append(text.substr(i, more + 1));
    i += more;
  }
  return out;
}

KeychainExplanation explainKeychain(const FileKeychain& keychain, const Reference* reference) {
  KeychainExplanation out;
  out.summary.title = "file keychain (kych)";
  out.summary.values.emplace_back(
      "blob version",
      fmt::format("0x{:x}{}", keychain.blobVersion(),
                  keychain.blobVersion() >= kBlobVersionPartitions ? ", partition lists enforced" : ""));
  out.summary.values.emplace_back("state", keychain.unlocked() ? "unlocked" : "locked: private keys are not opened");
  for (const KychRelation& relation : keychain.file().relations())
    if (relation.recordCount > 0)
      if (const auto type = recordTypeFrom(relation.id))
        out.summary.values.emplace_back(std::string(keychain::text(*type)) + "s",
                                        fmt::format("{}", relation.recordCount));

  if (reference != nullptr) {
    const auto* file = std::get_if<FileReference>(reference);
    if (file == nullptr) {
      out.unresolved = Error{Reason::Unsupported, "a data protection reference is never in a file keychain", {}, 0};
      return out;
    }
    Result<KeychainItem> item = keychain.resolve(*file);
    if (item)
      out.resolved = sectionFor(*item);
    else
      out.unresolved = item.error();
    return out;
  }
  for (const KeychainCertificate& certificate : keychain.certificates()) {
    if (out.items.size() >= kMaxListed) {
      ++out.unlisted;
      continue;
    }
    FileReference one;
    one.item.attributes = {{1, 0, 0, 0}, certificate.issuer, certificate.serial};
    if (const Result<KeychainItem> item = keychain.resolve(one)) out.items.push_back(sectionFor(*item));
  }
  return out;
}

Result<KeychainExplanation> explainKeychain(const KeychainDatabase& database, const Reference* reference) {
  KeychainExplanation out;
  out.summary.title = "data protection keychain (keychain-2.db)";
  if (database.version())
    out.summary.values.emplace_back("schema",
                                    fmt::format("{}.{}", database.version()->major, database.version()->minor));
  const auto counts = database.counts();
  if (!counts) return propagate(counts.error());
  for (const auto& [itemClass, count] : *counts)
    out.summary.values.emplace_back(fmt::format("rows in {}", fourcc(itemClass)), fmt::format("{}", count));
  if (reference == nullptr) return out;
  if (const auto* file = std::get_if<FileReference>(reference);
      file != nullptr && file->item.recordType == RecordType::Certificate) {
    // The same certificate may also be here: compare digests, and say that the rule is inferred.
    const auto rows = database.certificatesNamed(file->item.attributes[1], file->item.attributes[2]);
    if (!rows) return propagate(rows.error());
    if (!rows->empty()) {
      out.resolved = sectionFor(LocatedItem{rows->front(), {}, false});
      out.resolved->title = "certificate with the same issuer and serial (digest rule inferred)";
      return out;
    }
  }
  Result<LocatedItem> item = database.locate(*reference);
  if (item)
    out.resolved = sectionFor(*item);
  else if (item.error().reason == Reason::BadInput)
    return propagate(item.error());
  else
    out.unresolved = item.error();
  return out;
}

}  // namespace wayleave::keychain::explain
