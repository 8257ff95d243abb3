// The binary form; binary_reader.cc describes the layout. Strings are written once however often they occur, because
// dictionary keys repeat; other values are written as often as they occur.

#include <fmt/format.h>

#include <bit>
#include <unordered_map>

#include "plist/plist.h"
#include "plist/unicode.h"

namespace wayleave::plist {
namespace {

constexpr int kDeepest = 512;

void appendBig(Bytes& out, uint64_t value, size_t width) {
  for (size_t i = width; i-- > 0;) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

size_t widthFor(uint64_t largest) {
  if (largest <= 0xff) return 1;
  if (largest <= 0xffff) return 2;
  return largest <= 0xffffffff ? 4 : 8;
}

// Marker 0x1n and the number in 2^n bytes; never negative.
void appendInteger(Bytes& out, uint64_t value) {
  const size_t width = widthFor(value);
  out.push_back(static_cast<uint8_t>(0x10 | std::countr_zero(width)));
  appendBig(out, value, width);
}

void appendHead(Bytes& out, uint8_t kind, size_t count) {
  out.push_back(static_cast<uint8_t>(kind << 4 | (count < 15 ? count : 15)));
  if (count >= 15) appendInteger(out, count);
}

class Writer {
 public:
  Result<Bytes> write(const Value& root) {
    if (Result<uint32_t> top = add(root, 0); !top) return propagate(top.error());
    const size_t referenceSize = widthFor(nodes_.size() - 1);
    Bytes out = toBytes("bplist00");
    std::vector<uint64_t> offsets;
    for (const Node& node : nodes_) {
      offsets.push_back(out.size());
      if (node.value != nullptr && node.value->string() == nullptr)
        emit(out, node, referenceSize);
      else
        emitString(out, node.value != nullptr ? *node.value->string() : *node.key);
    }
    const uint64_t table = out.size();
    const size_t offsetSize = widthFor(table);
    for (const uint64_t offset : offsets) appendBig(out, offset, offsetSize);
    out.insert(out.end(), 6, 0);
    out.push_back(static_cast<uint8_t>(offsetSize));
    out.push_back(static_cast<uint8_t>(referenceSize));
    appendBig(out, nodes_.size(), 8);
    appendBig(out, 0, 8);  // the root is added first
    appendBig(out, table, 8);
    return out;
  }

 private:
  struct Node {
    const Value* value = nullptr;      // or
    const std::string* key = nullptr;  // a dictionary's key
    std::vector<uint32_t> references;  // keys, then values
  };

  Result<uint32_t> addString(const std::string& text, const Value* value) {
    if (const auto known = strings_.find(text); known != strings_.end()) return known->second;
    if (!isUtf8(text)) return fail(Reason::BadInput, "a string of the property list is not UTF-8");
    const auto number = static_cast<uint32_t>(nodes_.size());
    nodes_.push_back(Node{value, value == nullptr ? &text : nullptr, {}});
    strings_.emplace(text, number);
    return number;
  }

  Result<uint32_t> add(const Value& value, int depth) {
    if (depth > kDeepest) return fail(Reason::BadInput, "property list nested too deeply to write");
    if (const std::string* text = value.string()) return addString(*text, &value);
    const auto number = static_cast<uint32_t>(nodes_.size());
    nodes_.push_back(Node{&value, nullptr, {}});
    std::vector<uint32_t> references;
    if (const Dictionary* members = value.dictionary()) {
      for (const Entry& entry : members->entries()) {
        const Result<uint32_t> key = addString(entry.key, nullptr);
        if (!key) return key;
        references.push_back(*key);
      }
      for (const Entry& entry : members->entries()) {
        const Result<uint32_t> member = add(entry.value, depth + 1);
        if (!member) return member;
        references.push_back(*member);
      }
    } else if (const Array* items = value.array()) {
      for (const Value& item : *items) {
        const Result<uint32_t> member = add(item, depth + 1);
        if (!member) return member;
        references.push_back(*member);
      }
    }
    nodes_[number].references = std::move(references);
    return number;
  }

  static void emitString(Bytes& out, const std::string& text) {
    if (isAscii(text)) {
      appendHead(out, 0x5, text.size());
      append(out, asBytes(text));
      return;
    }
    std::vector<uint16_t> units;
    for (size_t offset = 0; offset < text.size();) {
      const char32_t c = *nextCodePoint(text, offset);  // valid: addString checked
      if (c >= 0x10000) {
        units.push_back(static_cast<uint16_t>(0xd800 + ((c - 0x10000) >> 10)));
        units.push_back(static_cast<uint16_t>(0xdc00 + ((c - 0x10000) & 0x3ff)));
      } else {
        units.push_back(static_cast<uint16_t>(c));
      }
    }
    appendHead(out, 0x6, units.size());
    for (const uint16_t unit : units) appendU16(out, unit);
  }

  static void emit(Bytes& out, const Node& node, size_t referenceSize) {
    const Value& value = *node.value;
    switch (value.type()) {
      case Type::Boolean: out.push_back(*value.boolean() ? 0x09 : 0x08); return;
      case Type::Integer:
        if (*value.integer() >= 0) return appendInteger(out, static_cast<uint64_t>(*value.integer()));
        out.push_back(0x13);
        return appendBig(out, static_cast<uint64_t>(*value.integer()), 8);
      case Type::Unsigned:  // eight bytes would read as negative
        out.push_back(0x14);
        appendBig(out, 0, 8);
        return appendBig(out, *value.unsignedInteger(), 8);
      case Type::Real: out.push_back(0x23); return appendBig(out, std::bit_cast<uint64_t>(*value.real()), 8);
      case Type::Date:
        out.push_back(0x33);
        return appendBig(out, std::bit_cast<uint64_t>(value.date()->secondsSince2001), 8);
      case Type::Data: appendHead(out, 0x4, value.data()->size()); return append(out, *value.data());
      case Type::Uid: {
        const size_t width = widthFor(value.uid()->value);
        out.push_back(static_cast<uint8_t>(0x80 | (width - 1)));
        return appendBig(out, value.uid()->value, width);
      }
      case Type::Array: appendHead(out, 0xa, node.references.size()); break;
      case Type::Dictionary: appendHead(out, 0xd, node.references.size() / 2); break;
      case Type::String: return;  // emitString
    }
    for (const uint32_t reference : node.references) appendBig(out, reference, referenceSize);
  }

  std::vector<Node> nodes_;
  std::unordered_map<std::string_view, uint32_t> strings_;  // views into the values, which outlive the writer
};

}  // namespace

Result<Bytes> toBinary(const Value& root) { return Writer().write(root); }

}  // namespace wayleave::plist
