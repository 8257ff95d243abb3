#include "keychain/kych_writer.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <algorithm>

#include "base/owned.h"
#include "keychain/kych_file.h"

namespace wayleave::keychain {
namespace {

using X509Ptr = Handle<X509, X509_free>;
using PkeyPtr = Handle<EVP_PKEY, EVP_PKEY_free>;

constexpr uint32_t kDate = 5;  // KychFormat::TimeDate: the only fixed-size value beside numbers
constexpr uint32_t kPrivateKeys = 0x10, kSymmetricKeys = 0x11, kGeneric = 0x80000000, kCertificates = 0x80001000,
                   kDatabase = 0x80008000;
constexpr uint32_t kRsa = 0x2a, kEcdsa = 0x49, kTripleDes = 0x11;  // CSSM_ALGID
constexpr std::string_view kCreator = "{87191ca2-0fc9-11d4-849a-000502b52122}";
constexpr Guid kCspGuid = {0x87, 0x19, 0x1c, 0xa2, 0x0f, 0xc9, 0x11, 0xd4,
                           0x84, 0x9a, 0x00, 0x05, 0x02, 0xb5, 0x21, 0x22};
constexpr size_t kRecordHeaderBytes = 24;
constexpr size_t kKeyColumns = 27;

void pad4(Bytes& out) {
  while (out.size() % 4 != 0) out.push_back(0);
}
void setU32(Bytes& out, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) out[at + i] = static_cast<uint8_t>(value >> (24 - 8 * i));
}
uint32_t size32(size_t size) { return static_cast<uint32_t>(size); }

// SHA-1 over the contents of the SPKI BIT STRING.
Bytes publicKeyHash(X509_PUBKEY* key) {
  const unsigned char* bits = nullptr;
  int length = 0;
  if (X509_PUBKEY_get0_param(nullptr, &bits, &length, nullptr, key) != 1) return {};
  return sha1({bits, static_cast<size_t>(length)});
}

Bytes nameDer(const X509_NAME* name) {
  const unsigned char* der = nullptr;
  size_t length = 0;
  if (X509_NAME_get0_der(name, &der, &length) != 1) return {};
  return normalisedName({der, length}).value_or(Bytes{});
}

Bytes serialOctets(const X509* certificate) {
  unsigned char* der = nullptr;
  const int length = i2d_ASN1_INTEGER(X509_get0_serialNumber(certificate), &der);
  Bytes out;
  if (length > 2) out.assign(der + 2, der + length);  // at most 20 octets: the header has two bytes
  OPENSSL_free(der);
  return out;
}

// An access control blob that holds nothing but a partition list, hex-coded as securityd writes it.
Bytes partitionAcl(const std::vector<std::string>& partitions) {
  if (partitions.empty()) return {};
  std::string xml =
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" "
      "\"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\"><dict><key>Partitions</key><array>";
  for (const std::string& partition : partitions) xml += "<string>" + partition + "</string>";
  xml += "</array></dict></plist>\n";
  const std::string hex = toHex(asBytes(xml));
  Bytes out;
  appendU32(out, size32(hex.size()));
  append(out, asBytes(hex));
  pad4(out);
  return out;
}

}  // namespace

KychWriter::KychWriter(uint32_t blobVersion, std::string_view password)
    : version_(blobVersion),
      encryptionKey_(randomBytes(kDesKeyBytes)),
      signingKey_(randomBytes(20)),
      salt_(randomBytes(20)),
      iv_(randomBytes(8)),
      randomSignature_(randomBytes(16)),
      relations_(emptyRelations()) {
  masterKey_ = masterKeyFromPassword(password, salt_).value_or(Secret(randomBytes(kDesKeyBytes)));
}

KychWriter::Relation& KychWriter::relation(uint32_t id) { return *std::ranges::find(relations_, id, &Relation::id); }

Status KychWriter::addCertificate(ByteView der, std::string_view label) {
  const unsigned char* at = der.data();
  const X509Ptr certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  ERR_clear_error();
  if (!certificate) return fail(Reason::BadInput, "keychain fixture: not a certificate");
  addCertificateRecord(der, label, nameDer(X509_get_issuer_name(certificate.get())), serialOctets(certificate.get()),
                       publicKeyHash(X509_get_X509_PUBKEY(certificate.get())));
  relation(kCertificates).rows.back().values[4] = Value::of(nameDer(X509_get_subject_name(certificate.get())));
  return {};
}

void KychWriter::addCertificateRecord(ByteView der, std::string_view label, ByteView issuer, ByteView serial,
                                      ByteView hash) {
  relation(kCertificates)
      .rows.push_back({{Value::of(1u), Value::of(3u), Value::of(label), Value::of(label), Value::of(issuer),
                        Value::of(issuer), Value::of(serial), Value::none(), Value::of(hash)},
                       toBytes(der)});
}

KychWriter::Row KychWriter::keyRow(uint32_t keyClass, std::string_view printName, ByteView label, uint32_t algorithm,
                                   uint32_t bits, bool extractable) const {
  std::string creator(kCreator);
  creator.push_back('\0');
  const Bytes noDate(8, 0);
  Row row{{Value::of(keyClass), Value::of(printName), Value::of(""), Value::of(1u), Value::of(0u), Value::of(0u),
           Value::of(label), Value::of(""), Value::of(creator), Value::of(algorithm), Value::of(bits), Value::of(bits),
           Value::of(noDate), Value::of(noDate), Value::of(1u), Value::of(1u), Value::of(extractable ? 1u : 0u),
           Value::of(extractable ? 0u : 1u)},
          {}};
  while (row.values.size() < kKeyColumns) row.values.push_back(Value::of(1u));  // usage: everything
  return row;
}

Result<Bytes> KychWriter::keyBlob(uint32_t keyClass, uint32_t algorithm, uint32_t bits, bool extractable,
                                  ByteView publicAcl, ByteView raw) const {
  const Bytes iv = randomBytes(8);
  const Result<Bytes> crypto = wrapKey(encryptionKey_.view(), iv, {}, raw);
  if (!crypto) return crypto;
  Bytes head;
  for (const uint32_t value :
       {kBlobMagic, version_, size32(136 + publicAcl.size()), size32(136 + publicAcl.size() + crypto->size())})
    appendU32(head, value);
  append(head, iv);
  appendU32(head, 2);  // HeaderVersion
  append(head, kCspGuid);
  const uint32_t attributes =
      0x01 | 0x08 | 0x10 | (extractable ? 0x20u : 0x40u);  // permanent, sensitive, always sensitive
  for (const uint32_t value : {0u, 0u, algorithm, keyClass, bits, attributes, 0x80000000u}) appendU32(head, value);
  head.resize(head.size() + 16);  // no dates
  for (const uint32_t value : {kTripleDes, 6u, 0u})
    appendU32(head, value);  // WrapAlgorithmId, CBC with padding, reserved
  for (const uint32_t value : {3u, 0u, kTripleDes, 6u})
    appendU32(head, value);  // wrapped blob: type, format, algorithm, mode
  Bytes tail = toBytes(publicAcl);
  append(tail, *crypto);
  Bytes out = head;
  append(out, blobMac(version_, signingKey_.view(), head, tail));
  append(out, tail);
  return out;
}

Status KychWriter::addPrivateKey(ByteView pkcs8, std::string_view label, const KeyOptions& options) {
  const unsigned char* at = pkcs8.data();
  const PkeyPtr key(d2i_AutoPrivateKey(nullptr, &at, static_cast<long>(pkcs8.size())));
  X509_PUBKEY* spki = nullptr;
  if (!key || X509_PUBKEY_set(&spki, key.get()) != 1) {
    ERR_clear_error();
    return fail(Reason::BadInput, "keychain fixture: not a private key");
  }
  const Bytes hash = publicKeyHash(spki);
  X509_PUBKEY_free(spki);
  const uint32_t algorithm = EVP_PKEY_is_a(key.get(), "RSA") == 1 ? kRsa : kEcdsa;
  const uint32_t bits = static_cast<uint32_t>(EVP_PKEY_get_bits(key.get()));
  Result<Bytes> blob = keyBlob(1, algorithm, bits, options.extractable, partitionAcl(options.partitions), pkcs8);
  if (!blob) return propagate(blob.error());
  Row row = keyRow(kPrivateKeys, label, hash, algorithm, bits, options.extractable);
  row.data = std::move(*blob);
  relation(kPrivateKeys).rows.push_back(std::move(row));
  return {};
}

Status KychWriter::addGenericPassword(std::string_view account, std::string_view service, std::string_view secret) {
  Bytes label = toBytes("ssgp");
  append(label, randomBytes(16));
  const Secret itemKey(randomBytes(kDesKeyBytes));
  Result<Bytes> blob = keyBlob(2, kTripleDes, 192, false, {}, itemKey.view());
  if (!blob) return propagate(blob.error());
  Row key = keyRow(kSymmetricKeys, asText(label), label, kTripleDes, 192, false);
  key.data = std::move(*blob);
  relation(kSymmetricKeys).rows.push_back(std::move(key));

  const Bytes iv = randomBytes(8);
  const Result<Bytes> encrypted = tripleDesEncrypt(itemKey.view(), iv, asBytes(secret));
  if (!encrypted) return propagate(encrypted.error());
  Bytes data = label;
  append(data, iv);
  append(data, *encrypted);
  const Bytes date = toBytes(std::string_view("20260101000000Z\0", 16));
  relation(kGeneric).rows.push_back(
      {{Value::of(date), Value::of(date), Value::of(""), Value::of(""), Value::none(), Value::none(), Value::none(),
        Value::of(service), Value::none(), Value::none(), Value::none(), Value::none(), Value::none(),
        Value::of(account), Value::of(service), Value::of("")},
       std::move(data)});
  return {};
}

Result<Bytes> KychWriter::databaseBlob() const {
  Secret plain(toBytes(encryptionKey_.view()));
  append(plain.mutableBytes(), signingKey_.view());
  const Result<Bytes> crypto = tripleDesEncrypt(masterKey_.view(), iv_, plain.view());
  if (!crypto) return crypto;
  Bytes head;
  for (const uint32_t value : {kBlobMagic, version_, uint32_t{92}, size32(92 + crypto->size())}) appendU32(head, value);
  append(head, randomSignature_);
  for (const uint32_t value : {1u, 300u, 0x01000000u})
    appendU32(head, value);  // sequence, idle timeout (s), lock on sleep
  append(head, salt_);
  append(head, iv_);
  Bytes out = head;
  append(out, blobMac(version_, signingKey_.view(), head, *crypto));
  append(out, *crypto);
  return out;
}

Bytes KychWriter::systemKey() const {
  Bytes out;
  appendU32(out, kBlobMagic);
  appendU32(out, 0x100);
  append(out, masterKey_.view());
  append(out, randomSignature_);
  return out;
}

Bytes KychWriter::record(const Relation& relation, const Row& row, uint32_t number) {
  Bytes out;
  for (const uint32_t value : {0u, number, 1u, 1u, size32(row.data.size()), 0u}) appendU32(out, value);
  out.resize(kRecordHeaderBytes + 4 * relation.columns.size());
  append(out, row.data);
  pad4(out);
  for (size_t i = 0; i < row.values.size(); ++i) {
    const Value& value = row.values[i];
    if (value.kind == Value::Kind::None) continue;
    setU32(out, kRecordHeaderBytes + 4 * i, size32(out.size()) | 1u);
    const uint32_t format = relation.columns[i].format;
    if (value.kind == Value::Kind::Number) {
      appendU32(out, value.number);
    } else {
      if (format != kDate) appendU32(out, size32(value.blob.size()));
      append(out, value.blob);
      pad4(out);
    }
  }
  setU32(out, 0, size32(out.size()));
  return out;
}

// The unique index: packed keys in ascending order, then the numbers of their records.
Bytes KychWriter::index(const Relation& relation, size_t sectionAt) {
  Bytes out;
  if (relation.uniqueIndex.empty()) {
    appendU32(out, 8);
    appendU32(out, 0);
    return out;
  }
  struct Entry {
    Bytes key;
    uint32_t number;
  };
  std::vector<Entry> entries;
  for (size_t i = 0; i < relation.rows.size(); ++i) {
    Entry entry{{}, size32(i)};
    for (const uint32_t id : relation.uniqueIndex) {
      const auto column = std::ranges::find(relation.columns, id, &Column::id);
      const Value& value = relation.rows[i].values[static_cast<size_t>(column - relation.columns.begin())];
      if (value.kind == Value::Kind::Number) {
        appendU32(entry.key, value.number);
      } else {
        appendU32(entry.key, size32(value.blob.size()));
        append(entry.key, value.blob);
        pad4(entry.key);
      }
    }
    entries.push_back(std::move(entry));
  }
  std::ranges::sort(entries, {}, &Entry::key);

  const size_t head = 12;                                         // size, count, one offset
  const size_t fixed = 16 + 4 * relation.uniqueIndex.size() + 4;  // up to the first keyOffset
  size_t keyAt = sectionAt + head + fixed + 8 * entries.size();
  const size_t keysAt = keyAt;
  Bytes body;
  appendU32(body, 0);
  appendU32(body, 0);  // index id
  appendU32(body, 1);  // unique
  appendU32(body, size32(relation.uniqueIndex.size()));
  for (const uint32_t id : relation.uniqueIndex) appendU32(body, id);
  appendU32(body, size32(entries.size()));
  for (const Entry& entry : entries) {
    appendU32(body, size32(keyAt));
    keyAt += 4 + entry.key.size();
  }
  for (const Entry& entry : entries) appendU32(body, entry.number);
  for (const Entry& entry : entries) {
    appendU32(body, size32(entry.key.size()));
    append(body, entry.key);
  }
  setU32(body, 0, size32(body.size() - (keyAt - keysAt)));
  appendU32(out, size32(head + body.size()));
  appendU32(out, 1);
  appendU32(out, size32(sectionAt + head));
  append(out, body);
  return out;
}

Bytes KychWriter::table(const Relation& relation) {
  Bytes out;
  const size_t count = relation.rows.size();
  const size_t recordsAt = 28 + 4 * count;
  for (const uint32_t value : {0u, relation.id, size32(count), size32(recordsAt), 0u, 0u, size32(count)})
    appendU32(out, value);
  out.resize(recordsAt);
  for (size_t i = 0; i < count; ++i) {
    setU32(out, 28 + 4 * i, size32(out.size()));
    append(out, record(relation, relation.rows[i], size32(i)));
  }
  setU32(out, 16, size32(out.size()));
  append(out, index(relation, out.size()));
  setU32(out, 0, size32(out.size()));
  return out;
}

Result<Bytes> KychWriter::write() const {
  std::vector<Relation> all = relations_;
  const auto meta = [&](uint32_t id) -> Relation& { return *std::ranges::find(all, id, &Relation::id); };
  for (const Relation& one : relations_) {
    meta(0).rows.push_back({{Value::of(one.id), Value::of(one.name)}, {}});
    for (const Column& column : one.columns)
      meta(2).rows.push_back(
          {{Value::of(one.id), Value::of(column.id), Value::of(column.name.empty() ? 2u : 0u),
            column.name.empty() ? Value::none() : Value::of(column.name), Value::none(), Value::of(column.format)},
           {}});
    for (const uint32_t id : one.uniqueIndex)
      meta(1).rows.push_back({{Value::of(one.id), Value::of(0u), Value::of(id), Value::of(0u), Value::of(0u)}, {}});
  }
  const Result<Bytes> blob = databaseBlob();
  if (!blob) return blob;
  meta(kDatabase).rows.push_back({{}, *blob});

  Bytes schema;
  appendU32(schema, 0);
  appendU32(schema, size32(all.size()));
  schema.resize(8 + 4 * all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    setU32(schema, 8 + 4 * i, size32(schema.size()));
    append(schema, table(all[i]));
  }
  setU32(schema, 0, size32(schema.size()));
  if (schema.size() > KychFile::kMaxBytes) return fail(Reason::BadInput, "keychain fixture: too large");

  Bytes out = toBytes("kych");
  for (const uint32_t value : {0x00010000u, 16u, 20u, 0u}) appendU32(out, value);
  append(out, schema);
  appendU32(out, 1);  // commit version
  return out;
}

}  // namespace wayleave::keychain
