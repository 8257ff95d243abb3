#include "keychain/kych_file.h"

#include <fmt/format.h>

#include <algorithm>

namespace wayleave::keychain {
namespace {

constexpr uint32_t kVersion = 0x00010000;
constexpr size_t kTableHeaderBytes = 28;
constexpr size_t kRecordHeaderBytes = 24;
constexpr uint32_t kMaxValues = 1024;  // Apple's own limit
constexpr uint32_t kMaxTables = 256;   // real files have a dozen
constexpr size_t kMaxColumns = 256;    // the widest relation has 27
constexpr uint32_t kRelations = 0, kIndexes = 1, kAttributes = 2, kParsing = 3;

std::unexpected<Error> bad(size_t offset, std::string_view why) {
  return fail(Reason::BadInput, fmt::format("keychain file: {} at offset {}", why, offset));
}

// Relations that describe the others have fixed columns (MetaRecord.cpp).
KychRelation metaRelation(uint32_t id) {
  KychRelation relation;
  relation.id = id;
  using enum KychFormat;
  switch (id) {
    case kRelations:
      relation.name = "relations";
      relation.columns = {{0, "RelationID", Uint32}, {1, "RelationName", String}};
      break;
    case kIndexes:
      relation.name = "indexes";
      relation.columns = {{0, "RelationID", Uint32},
                          {1, "IndexID", Uint32},
                          {2, "AttributeID", Uint32},
                          {3, "IndexType", Uint32},
                          {4, "IndexedDataLocation", Uint32}};
      break;
    case kAttributes:
      relation.name = "attributes";
      relation.columns = {{0, "RelationID", Uint32},          {1, "AttributeID", Uint32},
                          {2, "AttributeNameFormat", Uint32}, {3, "AttributeName", String},
                          {4, "AttributeNameID", Blob},       {5, "AttributeFormat", Uint32}};
      break;
    case kParsing:
      relation.name = "parsing modules";
      relation.columns = {
          {0, "ModuleID", Uint32}, {1, "AddinVersion", String}, {2, "SSID", Uint32}, {3, "SubserviceType", Uint32}};
      break;
  }
  return relation;
}

struct Located {
  size_t at = 0, size = 0;  // of the contents, relative to the record
  size_t next = 0;          // where a following value starts
};

// A value of `format` at `at`; nullopt when it does not fit.
std::optional<Located> locateValue(ByteView record, size_t at, KychFormat format) {
  const auto fixed = [&](size_t size) -> std::optional<Located> {
    if (at > record.size() || record.size() - at < size) return std::nullopt;
    return Located{at, size, at + size};
  };
  switch (format) {
    case KychFormat::Sint32:
    case KychFormat::Uint32: return fixed(4);
    case KychFormat::Real: return fixed(8);
    case KychFormat::TimeDate: return fixed(16);
    case KychFormat::String:
    case KychFormat::BigNum:
    case KychFormat::Blob:
    case KychFormat::MultiUint32: {
      if (!fixed(4)) return std::nullopt;
      const uint64_t count = readU32(record.subspan(at, 4));
      const uint64_t size = format == KychFormat::MultiUint32 ? count * 4 : count;
      if (size > record.size() - at - 4) return std::nullopt;
      const size_t end = at + 4 + static_cast<size_t>(size);
      return Located{at + 4, static_cast<size_t>(size), end + (4 - end % 4) % 4};
    }
  }
  return std::nullopt;
}

size_t attributeOffset(ByteView record, size_t column) {
  return readU32(record.subspan(kRecordHeaderBytes + 4 * column, 4));
}

// The first value of an attribute in a record that was checked; nullopt: none.
std::optional<Located> firstValue(ByteView record, size_t column, KychFormat format) {
  const size_t offset = attributeOffset(record, column);
  if (offset == 0) return std::nullopt;
  if (offset % 2 == 1) return locateValue(record, offset & ~size_t{1}, format);
  if (offset > record.size() - 4 || readU32(record.subspan(offset, 4)) == 0) return std::nullopt;
  return locateValue(record, offset + 4, format);
}

Status checkRecord(ByteView record, const KychRelation& relation, size_t fileOffset) {
  const size_t columns = relation.columns.size();
  const size_t fixed = kRecordHeaderBytes + 4 * columns;
  if (record.size() < fixed)
    return bad(fileOffset, fmt::format("record of {} bytes is too short for {} columns", record.size(), columns));
  const size_t dataSize = readU32(record.subspan(16, 4));
  if (dataSize > record.size() - fixed)
    return bad(fileOffset + 16, fmt::format("record data of {} bytes does not fit", dataSize));
  for (size_t i = 0; i < columns; ++i) {
    const size_t offset = attributeOffset(record, i);
    if (offset == 0) continue;
    const auto wrong = [&](std::string_view why) {
      return bad(fileOffset + kRecordHeaderBytes + 4 * i,
                 fmt::format("attribute {}: {}", columnLabel(relation.columns[i]), why));
    };
    size_t at = offset & ~size_t{1};
    if (at < fixed || at > record.size() || record.size() - at < 4) return wrong("offset outside the record");
    uint32_t count = 1;
    if (offset % 2 == 0) {
      count = readU32(record.subspan(at, 4));
      if (count > kMaxValues) return wrong(fmt::format("{} values are more than {}", count, kMaxValues));
      at += 4;
    }
    for (uint32_t k = 0; k < count; ++k) {
      const std::optional<Located> value = locateValue(record, at, relation.columns[i].format);
      if (!value) return wrong("value does not fit into the record");
      at = value->next;
    }
  }
  return {};
}

struct Table {
  size_t at = 0;
  ByteView bytes;
  uint32_t id = 0;
};

class Parser {
 public:
  explicit Parser(ByteView file) : file_(file) {}

  Result<std::vector<KychRelation>> parse() {
    if (Status s = directory(); !s) return propagate(s.error());
    if (Status s = schema(); !s) return propagate(s.error());
    for (KychRelation& relation : relations_) {
      const Table* table = tableOf(relation.id);
      if (table == nullptr) continue;  // named in the schema, without a table: it holds nothing
      if (Status s = records(*table, relation); !s) return propagate(s.error());
    }
    return std::move(relations_);
  }

 private:
  Result<uint32_t> u32(size_t at, std::string_view what) const {
    if (at > file_.size() || file_.size() - at < 4) return bad(at, fmt::format("{} is beyond the end", what));
    return readU32(file_.subspan(at, 4));
  }

  const Table* tableOf(uint32_t id) const {
    const auto found = std::ranges::find(tables_, id, &Table::id);
    return found == tables_.end() ? nullptr : &*found;
  }

  Status directory() {
    if (!KychFile::looksLike(file_)) return bad(0, "no magic `kych`");
    const Result<uint32_t> version = u32(4, "version");
    if (!version) return propagate(version.error());
    if (*version != kVersion) return bad(4, fmt::format("unknown version 0x{:08x}", *version));
    const Result<uint32_t> schemaAt = u32(12, "schema offset");
    if (!schemaAt) return propagate(schemaAt.error());
    const Result<uint32_t> schemaSize = u32(*schemaAt, "schema size");
    if (!schemaSize) return propagate(schemaSize.error());
    const Result<uint32_t> count = u32(size_t{*schemaAt} + 4, "table count");
    if (!count) return propagate(count.error());
    if (*count > kMaxTables)
      return bad(size_t{*schemaAt} + 4, fmt::format("{} tables are more than {}", *count, kMaxTables));
    for (uint32_t i = 0; i < *count; ++i) {
      const size_t entry = size_t{*schemaAt} + 8 + 4 * size_t{i};
      const Result<uint32_t> offset = u32(entry, "table offset");
      if (!offset) return propagate(offset.error());
      const size_t at = size_t{*schemaAt} + *offset;
      const Result<uint32_t> size = u32(at, "table size");
      if (!size) return propagate(size.error());
      if (*size < kTableHeaderBytes || *size > file_.size() - at)
        return bad(at, fmt::format("table of {} bytes does not fit", *size));
      const ByteView bytes = file_.subspan(at, *size);
      const uint32_t id = readU32(bytes.subspan(4, 4));
      if (tableOf(id) != nullptr) return bad(at + 4, fmt::format("second table 0x{:08x}", id));
      tables_.push_back({at, bytes, id});
    }
    return {};
  }

  Status records(const Table& table, KychRelation& relation) const {
    relation.tableAt = table.at;
    relation.recordCount = readU32(table.bytes.subspan(8, 4));
    const size_t slots = readU32(table.bytes.subspan(24, 4));
    if (slots > (table.bytes.size() - kTableHeaderBytes) / 4)
      return bad(table.at + 24, fmt::format("{} slots do not fit", slots));
    relation.recordAt.reserve(std::min<size_t>(relation.recordCount, slots));
    for (size_t i = 0; i < slots; ++i) {
      const size_t slotAt = kTableHeaderBytes + 4 * i;
      const uint32_t offset = readU32(table.bytes.subspan(slotAt, 4));
      if (offset == 0 || offset % 2 == 1) continue;  // free
      const size_t fileOffset = table.at + offset;
      if (offset > table.bytes.size() || table.bytes.size() - offset < kRecordHeaderBytes)
        return bad(table.at + slotAt, "slot points outside its table");
      const uint32_t size = readU32(table.bytes.subspan(offset, 4));
      if (size > table.bytes.size() - offset)
        return bad(fileOffset, fmt::format("record of {} bytes does not fit", size));
      if (Status s = checkRecord(table.bytes.subspan(offset, size), relation, fileOffset); !s) return s;
      relation.recordAt.push_back(offset);
    }
    if (relation.recordAt.size() != relation.recordCount)
      return bad(table.at + 8, fmt::format("table 0x{:08x} says {} records and holds {}", relation.id,
                                           relation.recordCount, relation.recordAt.size()));
    return {};
  }

  // Reads a meta table and calls `row` with each of its records.
  Status meta(uint32_t id, const std::function<Status(const KychRecord&)>& row) const {
    const Table* table = tableOf(id);
    if (table == nullptr) return fail(Reason::BadInput, fmt::format("keychain file: no table {}", id));
    KychRelation relation = metaRelation(id);
    if (Status s = records(*table, relation); !s) return s;
    for (const uint32_t at : relation.recordAt) {
      const size_t size = readU32(table->bytes.subspan(at, 4));
      if (Status s = row(KychRecord(relation, table->bytes.subspan(at, size), table->at + at)); !s) return s;
    }
    return {};
  }

  KychRelation* relationOf(uint32_t id) {
    const auto found = std::ranges::find(relations_, id, &KychRelation::id);
    return found == relations_.end() ? nullptr : &*found;
  }

  Status schema() {
    Status status = meta(kRelations, [&](const KychRecord& row) -> Status {
      const std::optional<uint32_t> id = row.number(uint32_t{0});
      if (!id) return bad(row.fileOffset(), "relation without an id");
      if (relationOf(*id) != nullptr)
        return bad(row.fileOffset(), fmt::format("relation 0x{:08x} is declared twice", *id));
      if (relations_.size() >= kMaxTables) return bad(row.fileOffset(), "too many relations");
      KychRelation relation = *id <= kParsing ? metaRelation(*id) : KychRelation{};
      relation.id = *id;
      if (const auto name = row.value(1)) relation.name = asText(*name);
      relations_.push_back(std::move(relation));
      return {};
    });
    if (!status) return status;
    status = meta(kAttributes, [&](const KychRecord& row) -> Status { return column(row); });
    if (!status) return status;
    return meta(kIndexes, [&](const KychRecord& row) -> Status {
      const std::optional<uint32_t> relationId = row.number(uint32_t{0});
      KychRelation* relation = relationId ? relationOf(*relationId) : nullptr;
      if (relation == nullptr) return bad(row.fileOffset(), "index of an unknown relation");
      const std::optional<uint32_t> attribute = row.number(2);
      const bool unique = row.number(1) == 0u && row.number(3) == 0u;
      if (!unique || !attribute) return {};
      if (relation->uniqueIndex.size() >= kMaxColumns) return bad(row.fileOffset(), "too many indexed attributes");
      relation->uniqueIndex.push_back(*attribute);
      return {};
    });
  }

  Status column(const KychRecord& row) {
    const std::optional<uint32_t> relationId = row.number(uint32_t{0});
    const std::optional<uint32_t> attributeId = row.number(1);
    const std::optional<uint32_t> format = row.number(5);
    KychRelation* relation = relationId ? relationOf(*relationId) : nullptr;
    if (relation == nullptr || !attributeId || !format)
      return bad(row.fileOffset(), "attribute of an unknown relation, without id or format");
    if (relation->id <= kParsing) return {};  // fixed
    if (*format > std::to_underlying(KychFormat::MultiUint32))
      return bad(row.fileOffset(), fmt::format("unknown attribute format {}", *format));
    if (relation->columns.size() >= kMaxColumns) return bad(row.fileOffset(), "too many columns");
    KychColumn column{*attributeId, {}, KychFormat{*format}};
    if (const auto name = row.value(3)) column.name = asText(*name);
    relation->columns.push_back(std::move(column));
    return {};
  }

  ByteView file_;
  std::vector<Table> tables_;
  std::vector<KychRelation> relations_;
};

}  // namespace

std::string columnLabel(const KychColumn& column) {
  if (!column.name.empty()) return column.name;
  Bytes four;
  appendU32(four, column.id);
  const bool printable = std::ranges::all_of(four, [](uint8_t b) { return b >= 0x20 && b < 0x7f; });
  return printable ? std::string(asText(four)) : fmt::format("{}", column.id);
}

ByteView KychRecord::data() const {
  return bytes_.subspan(kRecordHeaderBytes + 4 * relation_->columns.size(), readU32(bytes_.subspan(16, 4)));
}

std::optional<ByteView> KychRecord::valueAt(size_t column) const {
  if (column >= relation_->columns.size()) return std::nullopt;
  const std::optional<Located> value = firstValue(bytes_, column, relation_->columns[column].format);
  if (!value) return std::nullopt;
  return bytes_.subspan(value->at, value->size);
}

std::optional<ByteView> KychRecord::value(uint32_t attributeId) const {
  const auto found = std::ranges::find(relation_->columns, attributeId, &KychColumn::id);
  return found == relation_->columns.end() ? std::nullopt
                                           : valueAt(static_cast<size_t>(found - relation_->columns.begin()));
}

std::optional<uint32_t> KychRecord::number(uint32_t attributeId) const {
  const std::optional<ByteView> bytes = value(attributeId);
  if (!bytes || bytes->size() != 4) return std::nullopt;
  return readU32(*bytes);
}

bool KychFile::looksLike(ByteView bytes) { return bytes.size() >= 4 && asText(bytes.first(4)) == "kych"; }

Result<KychFile> KychFile::parse(Bytes bytes) {
  if (bytes.size() > kMaxBytes) return bad(kMaxBytes, "more bytes than are read");
  KychFile file;
  file.bytes_ = std::move(bytes);
  Result<std::vector<KychRelation>> relations = Parser(file.bytes_).parse();
  if (!relations) return propagate(relations.error());
  file.relations_ = std::move(*relations);
  return file;
}

const KychRelation* KychFile::relation(uint32_t id) const {
  const auto found = std::ranges::find(relations_, id, &KychRelation::id);
  return found == relations_.end() ? nullptr : &*found;
}

KychRecord KychFile::record(const KychRelation& relation, size_t index) const {
  const size_t at = relation.tableAt + relation.recordAt.at(index);
  const ByteView all = bytes_;
  return KychRecord(relation, all.subspan(at, readU32(all.subspan(at, 4))), at);
}

void KychFile::visit(uint32_t relationId, const std::function<bool(const KychRecord&)>& visitor) const {
  const KychRelation* found = relation(relationId);
  if (found == nullptr) return;
  for (size_t i = 0; i < found->recordAt.size(); ++i)
    if (!visitor(record(*found, i))) return;
}

}  // namespace wayleave::keychain
