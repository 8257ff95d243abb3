#include "keychain/file_keychain.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pkcs12.h>
#include <openssl/x509.h>

#include <algorithm>

#include "base/osstatus.h"
#include "base/owned.h"
#include "plist/plist.h"

namespace wayleave::keychain {
namespace {

using X509Ptr = Handle<X509, X509_free>;
using PkeyPtr = Handle<EVP_PKEY, EVP_PKEY_free>;
using P12Ptr = Handle<PKCS12, PKCS12_free>;
void freeX509Stack(STACK_OF(X509) * stack) { sk_X509_free(stack); }
using X509StackPtr = Handle<STACK_OF(X509), freeX509Stack>;

constexpr uint32_t kDatabaseRelation = 0x80008000;
constexpr size_t kMaxChain = 8;
constexpr size_t kMaxPartitions = 256;

constexpr uint32_t code(const char (&name)[5]) {
  return uint32_t{static_cast<uint8_t>(name[0])} << 24 | uint32_t{static_cast<uint8_t>(name[1])} << 16 |
         uint32_t{static_cast<uint8_t>(name[2])} << 8 | uint32_t{static_cast<uint8_t>(name[3])};
}

namespace column {
constexpr uint32_t kPrintName = code("labl"), kSubject = code("subj"), kIssuer = code("issu"), kSerial = code("snbr"),
                   kPublicKeyHash = code("hpky");
constexpr uint32_t kKeyPrintName = 1, kKeyLabel = 6, kKeyType = 9, kKeyBits = 10, kKeyExtractable = 16;
}  // namespace column

Bytes bytesOf(const KychRecord& record, uint32_t attribute) {
  return toBytes(record.value(attribute).value_or(ByteView{}));
}
std::string textOf(const KychRecord& record, uint32_t attribute) {
  std::string out(asText(record.value(attribute).value_or(ByteView{})));
  while (!out.empty() && out.back() == '\0') out.pop_back();
  return out;
}

KeychainCertificate certificateFrom(const KychRecord& record) {
  return {record.number(),
          textOf(record, column::kPrintName),
          toBytes(record.data()),
          bytesOf(record, column::kSubject),
          bytesOf(record, column::kIssuer),
          bytesOf(record, column::kSerial),
          bytesOf(record, column::kPublicKeyHash)};
}

X509Ptr parseCertificate(ByteView der) {
  const unsigned char* at = der.data();
  X509Ptr out(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  ERR_clear_error();
  return out;
}

PkeyPtr parsePrivateKey(ByteView pkcs8) {
  const unsigned char* at = pkcs8.data();
  PkeyPtr out(d2i_AutoPrivateKey(nullptr, &at, static_cast<long>(pkcs8.size())));
  ERR_clear_error();
  return out;
}

bool isHexDigit(uint8_t b) { return (b >= '0' && b <= '9') || (b >= 'a' && b <= 'f') || (b >= 'A' && b <= 'F'); }

}  // namespace

std::string_view text(PrivateKeyState state) {
  switch (state) {
    case PrivateKeyState::Absent: return "absent";
    case PrivateKeyState::Locked: return "present, keychain locked";
    case PrivateKeyState::Usable: return "present, decrypts, belongs to the certificate";
    case PrivateKeyState::Unusable: return "present, but not the certificate's key";
    case PrivateKeyState::Undecodable: return "present, but damaged";
  }
  return "?";
}

std::vector<std::string> partitionsIn(ByteView acl) {
  constexpr std::string_view kXmlInHex = "3c3f786d6c";  // "<?xml"
  std::vector<std::string> out;
  const std::string_view all = asText(acl);
  size_t at = all.find(kXmlInHex);
  while (at != std::string_view::npos) {
    size_t end = at;
    while (end < all.size() && isHexDigit(static_cast<uint8_t>(all[end]))) ++end;
    const Result<Bytes> xml = fromHex(all.substr(at, (end - at) & ~size_t{1}));
    at = all.find(kXmlInHex, end);
    if (!xml) continue;
    const Result<plist::Document> document = plist::parseXml(*xml);
    const plist::Dictionary* root = document ? document->root.dictionary() : nullptr;
    const plist::Value* list = root != nullptr ? root->find("Partitions") : nullptr;
    if (list == nullptr || list->array() == nullptr) continue;
    for (const plist::Value& partition : *list->array())
      if (partition.string() != nullptr && out.size() < kMaxPartitions) out.push_back(*partition.string());
  }
  return out;
}

Result<FileKeychain> FileKeychain::open(Bytes bytes) {
  Result<KychFile> file = KychFile::parse(std::move(bytes));
  if (!file) return propagate(file.error());
  FileKeychain out(std::move(*file));
  const KychRelation* relation = out.file_.relation(kDatabaseRelation);
  // A blob of a newer version must not hide the certificates, which stand in the clear.
  if (relation != nullptr && !relation->recordAt.empty())
    out.database_ = DatabaseBlob::parse(out.file_.record(*relation, 0).data());
  return out;
}

Status FileKeychain::unlockWithPassword(std::string_view password) {
  if (!database_) return propagate(database_.error());
  return adopt(masterKeyFromPassword(password, database_->salt));
}

Status FileKeychain::unlockWithSystemKey(ByteView systemKeyFile) {
  if (!database_) return propagate(database_.error());
  return adopt(masterKeyFromSystemKey(systemKeyFile, *database_));
}

Status FileKeychain::adopt(Result<Secret> masterKey) {
  if (!masterKey) return propagate(masterKey.error());
  Result<DatabaseKeys> keys = unlockDatabase(*database_, *masterKey);
  if (!keys) return propagate(keys.error());
  keys_ = std::move(*keys);
  return {};
}

std::vector<KeychainCertificate> FileKeychain::certificates() const {
  std::vector<KeychainCertificate> out;
  file_.visit(std::to_underlying(RecordType::Certificate), [&](const KychRecord& record) {
    out.push_back(certificateFrom(record));
    return true;
  });
  return out;
}

KeychainKey FileKeychain::keyFrom(const KychRecord& record) const {
  KeychainKey key;
  key.type = recordTypeFrom(record.relation().id).value_or(RecordType::PrivateKey);
  key.record = record.number();
  key.printName = textOf(record, column::kKeyPrintName);
  key.label = bytesOf(record, column::kKeyLabel);
  key.algorithm = record.number(column::kKeyType).value_or(0);
  key.bits = record.number(column::kKeyBits).value_or(0);
  key.extractable = record.number(column::kKeyExtractable).value_or(0) != 0;
  const Result<KeyBlob> blob = KeyBlob::parse(record.data());
  if (!blob) return key;
  key.blobVersion = blob->version;
  key.extractable = key.extractable && blob->extractable();
  key.sensitive = blob->sensitive();
  key.partitions = partitionsIn(blob->publicAcl());
  if (key.partitions.empty() && keys_)
    if (const Result<UnwrappedKey> plain = unwrapKey(*blob, *keys_)) key.partitions = partitionsIn(plain->privateAcl);
  return key;
}

std::vector<KeychainKey> FileKeychain::privateKeys() const {
  std::vector<KeychainKey> out;
  file_.visit(std::to_underlying(RecordType::PrivateKey), [&](const KychRecord& record) {
    out.push_back(keyFrom(record));
    return true;
  });
  return out;
}

std::optional<KychRecord> FileKeychain::find(const PrimaryKey& key, const KychRelation& relation,
                                             bool bigEndian) const {
  struct Wanted {
    size_t column;
    Bytes value;
  };
  std::vector<Wanted> wanted;
  for (size_t i = 0; i < relation.uniqueIndex.size(); ++i) {
    const auto found = std::ranges::find(relation.columns, relation.uniqueIndex[i], &KychColumn::id);
    if (found == relation.columns.end()) return std::nullopt;
    Bytes value = key.attributes[i];
    // References carry numbers in the byte order of their maker, the file in big-endian.
    if (found->format == KychFormat::Uint32 && !bigEndian) std::ranges::reverse(value);
    wanted.push_back({static_cast<size_t>(found - relation.columns.begin()), std::move(value)});
  }
  // The last attributes differ most between records (serial, path): compare backwards.
  std::ranges::reverse(wanted);
  for (size_t i = 0; i < relation.recordAt.size(); ++i) {
    const KychRecord record = file_.record(relation, i);
    const bool equal = std::ranges::all_of(wanted, [&](const Wanted& w) {
      return std::ranges::equal(record.valueAt(w.column).value_or(ByteView{}), w.value);
    });
    if (equal) return record;
  }
  return std::nullopt;
}

Result<KeychainItem> FileKeychain::resolve(const FileReference& reference) const {
  const RecordType type = reference.item.recordType;
  const KychRelation* relation = file_.relation(std::to_underlying(type));
  const auto notFound = [&] {
    return fail(Reason::NotFound, fmt::format("the keychain holds no such {}", text(type)), {}, errSecItemNotFound);
  };
  if (relation == nullptr) return notFound();
  if (relation->uniqueIndex.size() != reference.item.attributes.size())
    return fail(Reason::BadInput,
                fmt::format("the keychain's primary key for a {} has {} attributes, the reference {}", text(type),
                            relation->uniqueIndex.size(), reference.item.attributes.size()));
  const std::optional<KychRecord> record = find(reference.item, *relation, byteOrderOf(reference) == ByteOrder::Big);
  if (!record) return notFound();
  KeychainItem item;
  item.type = type;
  item.record = record->number();
  if (type == RecordType::PrivateKey || type == RecordType::PublicKey || type == RecordType::SymmetricKey)
    item.key = keyFrom(*record);
  if (type == RecordType::PrivateKey) {
    const Result<Secret> pkcs8 = privateKey(item.key->label);
    item.keyState = !unlocked() ? PrivateKeyState::Locked
                    : pkcs8     ? PrivateKeyState::Usable
                                : PrivateKeyState::Undecodable;
    if (unlocked() && !pkcs8) item.keyDetail = pkcs8.error().message;
  }
  if (type == RecordType::Certificate) {
    item.certificate = certificateFrom(*record);
    completeIdentity(item);
  }
  return item;
}

void FileKeychain::completeIdentity(KeychainItem& item) const {
  const KeychainCertificate* last = &*item.certificate;
  while (item.chain.size() < kMaxChain && last->issuer != last->subject) {
    std::optional<KeychainCertificate> issuer;
    file_.visit(std::to_underlying(RecordType::Certificate), [&](const KychRecord& record) {
      if (!std::ranges::equal(record.value(column::kSubject).value_or(ByteView{}), last->issuer)) return true;
      issuer = certificateFrom(record);
      return false;
    });
    if (!issuer) break;
    item.chain.push_back(std::move(*issuer));
    last = &item.chain.back();
  }

  const Bytes& hash = item.certificate->publicKeyHash;
  if (hash.empty()) return;
  file_.visit(std::to_underlying(RecordType::PrivateKey), [&](const KychRecord& record) {
    if (!std::ranges::equal(record.value(column::kKeyLabel).value_or(ByteView{}), hash)) return true;
    item.key = keyFrom(record);
    return false;
  });
  if (!item.key) return;
  if (!unlocked()) {
    item.keyState = PrivateKeyState::Locked;
    return;
  }
  const Result<Secret> pkcs8 = privateKey(hash);
  if (!pkcs8) {
    item.keyState = PrivateKeyState::Undecodable;
    item.keyDetail = pkcs8.error().message;
    return;
  }
  const PkeyPtr key = parsePrivateKey(pkcs8->view());
  const X509Ptr certificate = parseCertificate(item.certificate->der);
  if (!key || !certificate) {
    item.keyState = PrivateKeyState::Undecodable;
    item.keyDetail = key ? "the certificate is not DER" : "the decrypted key is not PKCS#8";
    return;
  }
  item.keyState =
      X509_check_private_key(certificate.get(), key.get()) == 1 ? PrivateKeyState::Usable : PrivateKeyState::Unusable;
  ERR_clear_error();
}

Result<Secret> FileKeychain::privateKey(ByteView label) const {
  Result<Secret> out = fail(Reason::NotFound, "the keychain holds no private key with this label");
  file_.visit(std::to_underlying(RecordType::PrivateKey), [&](const KychRecord& record) {
    if (!std::ranges::equal(record.value(column::kKeyLabel).value_or(ByteView{}), label)) return true;
    if (!keys_) {
      out = fail(Reason::WrongPassword, "the keychain is locked", "give its password with --password-file");
      return false;
    }
    const Result<KeyBlob> blob = KeyBlob::parse(record.data());
    if (!blob) {
      out = propagate(blob.error());
      return false;
    }
    Result<UnwrappedKey> plain = unwrapKey(*blob, *keys_);
    if (plain)
      out = std::move(plain->raw);
    else
      out = propagate(plain.error());
    return false;
  });
  return out;
}

Result<Secret> FileKeychain::exportPkcs12(const KeychainItem& item, std::string_view password) const {
  if (!item.certificate || !item.key)
    return fail(Reason::NotFound, "export: the reference names no identity in this keychain");
  if (!item.key->extractable) return fail(Reason::NotEntitled, "export: the private key is marked not extractable");
  const Result<Secret> pkcs8 = privateKey(item.key->label);
  if (!pkcs8) return withContext(pkcs8.error(), "export");
  const PkeyPtr key = parsePrivateKey(pkcs8->view());
  const X509Ptr leaf = parseCertificate(item.certificate->der);
  if (!key || !leaf) return fail(Reason::BadInput, "export: certificate or key cannot be read");
  const X509StackPtr chain(sk_X509_new_null());
  std::vector<X509Ptr> owned;
  for (const KeychainCertificate& issuer : item.chain) {
    X509Ptr one = parseCertificate(issuer.der);
    if (!one || !chain || sk_X509_push(chain.get(), one.get()) == 0)
      return fail(Reason::BadInput, "export: a chain certificate cannot be read");
    owned.push_back(std::move(one));
  }
  Secret zeroTerminated;
  zeroTerminated.mutableBytes().reserve(password.size() + 1);
  append(zeroTerminated.mutableBytes(), asBytes(password));
  zeroTerminated.mutableBytes().push_back(0);
  const P12Ptr p12(PKCS12_create(reinterpret_cast<const char*>(zeroTerminated.view().data()),
                                 item.certificate->label.c_str(), key.get(), leaf.get(), chain.get(), 0, 0, 0, 0, 0));
  ERR_clear_error();
  if (!p12) return fail(Reason::KeyMismatch, "export: OpenSSL refuses to join certificate and key");
  unsigned char* der = nullptr;
  const int length = i2d_PKCS12(p12.get(), &der);
  if (length <= 0) return fail(Reason::Internal, "export: cannot encode PKCS#12");
  Secret out(Bytes(der, der + length));
  OPENSSL_clear_free(der, static_cast<size_t>(length));
  return out;
}

}  // namespace wayleave::keychain
