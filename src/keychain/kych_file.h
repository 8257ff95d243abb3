#pragma once

// The container of a file keychain: AppleDatabase, magic "kych" (apple-oss-distributions/Security,
// OSX/libsecurity_filedb/lib/AppleDatabase.cpp, MetaRecord.cpp, MetaAttribute.cpp). All integers are big-endian.
//
//   file     'kych' version authOffset schemaOffset … schema … commitVersion (last 4 bytes)
//   schema   size tableCount tableOffset[tableCount]                    relative to the schema
//   table    size id recordCount recordsOffset indexesOffset freeListHead slotCount slot[slotCount]
//   record   size number createVersion version dataSize semanticInfo attrOffset[columns] data values
//
// The column layout comes from the file's own tables (0 relations, 1 indexes, 2 attributes), never from assumptions.
// parse() checks every table, slot, record and value once, so that the accessors after it cannot fail. Indexes are not
// read: scanning the slots of 100,000 records takes milliseconds.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keychain {

// CSSM_DB_ATTRIBUTE_FORMAT
enum class KychFormat : uint32_t {
  String = 0,
  Sint32 = 1,
  Uint32 = 2,
  BigNum = 3,
  Real = 4,
  TimeDate = 5,
  Blob = 6,
  MultiUint32 = 7
};

struct KychColumn {
  uint32_t id = 0;   // a four-character code for items and certificates, a small number for keys
  std::string name;  // as the file calls it; may be empty
  KychFormat format = KychFormat::Blob;
};
std::string columnLabel(const KychColumn& column);  // name, or the id as four characters or a number

struct KychRelation {
  uint32_t id = 0;
  std::string name;
  std::vector<KychColumn> columns;
  std::vector<uint32_t> uniqueIndex;  // attribute ids of the primary key, in order; empty when there is none
  uint32_t recordCount = 0;
  size_t tableAt = 0;              // in the file
  std::vector<uint32_t> recordAt;  // of each used slot, relative to the table
};

// One record; a view that lives as long as its file.
class KychRecord {
 public:
  KychRecord(const KychRelation& relation, ByteView bytes, size_t fileOffset)
      : relation_(&relation), bytes_(bytes), fileOffset_(fileOffset) {}

  uint32_t number() const { return readU32(bytes_.subspan(4, 4)); }
  size_t fileOffset() const { return fileOffset_; }
  ByteView data() const;
  // First value of the attribute: contents of a string or blob, 4 bytes of a number, 16 of a date. nullopt: no value,
  // or the relation has no such column.
  std::optional<ByteView> value(uint32_t attributeId) const;
  std::optional<ByteView> valueAt(size_t column) const;
  std::optional<uint32_t> number(uint32_t attributeId) const;
  const KychRelation& relation() const { return *relation_; }

 private:
  const KychRelation* relation_;
  ByteView bytes_;
  size_t fileOffset_;
};

class KychFile {
 public:
  // Largest keychain that is read, bytes. The largest seen in the field are a few MiB.
  static constexpr size_t kMaxBytes = 256 * 1024 * 1024;
  static bool looksLike(ByteView bytes);  // by its magic

  // Errors: BadInput with the offset in the file.
  static Result<KychFile> parse(Bytes bytes);

  const std::vector<KychRelation>& relations() const { return relations_; }
  const KychRelation* relation(uint32_t id) const;
  KychRecord record(const KychRelation& relation, size_t index) const;
  // Calls `visit` for each record until it returns false. No such relation: no call.
  void visit(uint32_t relationId, const std::function<bool(const KychRecord&)>& visit) const;

 private:
  Bytes bytes_;
  std::vector<KychRelation> relations_;
};

}  // namespace wayleave::keychain
