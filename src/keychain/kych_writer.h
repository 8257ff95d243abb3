#pragma once

// Writes file keychains for tests, benchmarks and interoperability checks: our tests must not depend on files that we
// may not ship. Limited to that: no free list, one generation, the unique indexes only, and no access control lists
// beyond a partition list. macOS was not asked whether it opens these files; independent readers do (tests/interop).

#include <string>
#include <vector>

#include "keychain/kych_crypto.h"
#include "keychain/reference_codec.h"

namespace wayleave::keychain {

class KychWriter {
 public:
  // Keys, salt and signature are random.
  KychWriter(uint32_t blobVersion, std::string_view password);

  // Attributes as Certificate::populateAttributes makes them: CertType 1, CertEncoding 3, normalised names, the
  // serial's content octets, SHA-1 of the public key bits. Errors: BadInput (not a certificate).
  Status addCertificate(ByteView der, std::string_view label);
  // The same from ready parts: a benchmark cannot sign 100,000 certificates.
  void addCertificateRecord(ByteView der, std::string_view label, ByteView issuer, ByteView serial,
                            ByteView publicKeyHash);

  struct KeyOptions {
    bool extractable = true;
    std::vector<std::string> partitions;  // written into the key's access control, hex-coded as Apple does
  };
  // Errors: BadInput (not PKCS#8 that OpenSSL reads).
  Status addPrivateKey(ByteView pkcs8, std::string_view label, const KeyOptions& options);
  // Encrypted under a key of its own, which stands in the symmetric key relation, as Apple does.
  Status addGenericPassword(std::string_view account, std::string_view service, std::string_view secret);

  // 48 bytes, the form of /var/db/SystemKey, that unlock the file.
  Bytes systemKey() const;
  Result<Bytes> write() const;

 private:
  struct Value {
    enum class Kind : uint8_t { None, Number, Blob } kind = Kind::None;
    uint32_t number = 0;
    Bytes blob;
    static Value none() { return {}; }
    static Value of(uint32_t number) { return {Kind::Number, number, {}}; }
    static Value of(ByteView bytes) { return {Kind::Blob, 0, toBytes(bytes)}; }
    static Value of(std::string_view text) { return of(asBytes(text)); }
  };
  struct Row {
    std::vector<Value> values;  // one per column of the relation
    Bytes data;
  };
  struct Column {
    uint32_t id;
    std::string_view name;
    uint32_t format;
  };
  struct Relation {
    uint32_t id;
    std::string_view name;
    std::vector<Column> columns;
    std::vector<uint32_t> uniqueIndex;
    std::vector<Row> rows;
  };
  static std::vector<Relation> emptyRelations();
  Relation& relation(uint32_t id);
  Row keyRow(uint32_t keyClass, std::string_view printName, ByteView label, uint32_t algorithm, uint32_t bits,
             bool extractable) const;
  Result<Bytes> keyBlob(uint32_t keyClass, uint32_t algorithm, uint32_t bits, bool extractable, ByteView publicAcl,
                        ByteView raw) const;
  Result<Bytes> databaseBlob() const;
  static Bytes table(const Relation& relation);
  static Bytes record(const Relation& relation, const Row& row, uint32_t number);
  static Bytes index(const Relation& relation, size_t sectionAt);

  uint32_t version_;
  Secret masterKey_, encryptionKey_, signingKey_;
  Bytes salt_, iv_, randomSignature_;
  std::vector<Relation> relations_;
};

}  // namespace wayleave::keychain
