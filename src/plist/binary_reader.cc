// The binary form `bplist00` (CFBinaryPList.c of CoreFoundation describes it):
//
//   "bplist00" · objects · table of offsets, one per object · trailer of 32 bytes
//   trailer: 6 unused bytes · offset size · reference size · object count · root object · offset of the table
//
// An object starts with a marker byte: kind in the upper half, length or exponent in the lower (15 = an integer object
// with the length follows). Containers hold references, so objects can be shared, and a hostile file can make them
// cyclic or let a few bytes expand to gigabytes. Hence: every number is checked against what is left before it is used,
// objects on the path from the root may not recur, and each *use* of an object counts against the limits.
// Sections must fill the file exactly, as Apple's reader demands. Not accepted: null, fill bytes, sets, URLs, UUIDs
// (markers that property lists never contain), NUL characters in strings (XML cannot carry them either).

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <optional>

#include "plist/plist.h"
#include "plist/scalars.h"
#include "plist/unicode.h"

namespace wayleave::plist {
namespace {

constexpr size_t kHeaderSize = 8;
constexpr size_t kTrailerSize = 32;

uint64_t bigEndian(ByteView bytes) {  // at most 8
  uint64_t value = 0;
  for (const uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

class Reader {
 public:
  Reader(ByteView file, const Limits& limits) : file_(file), limits_(limits) {}

  Result<Value> read() {
    if (Status trailer = readTrailer(); !trailer) return propagate(trailer.error());
    onPath_.assign(objectCount_, false);
    return object(root_, 0);
  }

 private:
  Status readTrailer() {
    if (file_.size() < kHeaderSize + kTrailerSize)
      return fail(Reason::BadInput,
                  fmt::format("binary property list of {} bytes: shorter than header and trailer", file_.size()));
    if (asText(file_.first(kHeaderSize)) != "bplist00")
      return fail(Reason::Unsupported, "binary property list of a version other than 00");
    const ByteView trailer = file_.last(kTrailerSize);
    offsetSize_ = trailer[6];
    referenceSize_ = trailer[7];
    objectCount_ = bigEndian(trailer.subspan(8, 8));
    root_ = bigEndian(trailer.subspan(16, 8));
    objectsEnd_ = bigEndian(trailer.subspan(24, 8));
    const auto bad = [](const std::string& why) { return fail(Reason::BadInput, "trailer: " + why); };
    if (offsetSize_ < 1 || offsetSize_ > 8) return bad(fmt::format("offset size {}", offsetSize_));
    if (referenceSize_ < 1 || referenceSize_ > 8) return bad(fmt::format("reference size {}", referenceSize_));
    if (objectCount_ < 1 || objectCount_ > file_.size())
      return bad(fmt::format("{} objects in a file of {} bytes", objectCount_, file_.size()));
    if (root_ >= objectCount_) return bad(fmt::format("root is object {} of {}", root_, objectCount_));
    const size_t tableEnd = file_.size() - kTrailerSize;
    if (objectsEnd_ < kHeaderSize || objectsEnd_ > tableEnd)
      return bad(fmt::format("offset table at {} is outside the file", objectsEnd_));
    // No overflow: objectCount_ is at most the file's size, offsetSize_ at most 8.
    if (objectCount_ * offsetSize_ != tableEnd - objectsEnd_)
      return bad(fmt::format("{} offsets of {} bytes do not fill the {} bytes before the trailer", objectCount_,
                             offsetSize_, tableEnd - objectsEnd_));
    return {};
  }

  std::unexpected<Error> bad(uint64_t number, const std::string& why) const {
    return fail(Reason::BadInput, fmt::format("object {}: {}", number, why));
  }

  // The bytes [at, at + count) of the object area, or nullopt.
  std::optional<ByteView> slice(uint64_t at, uint64_t count) const {
    if (at < kHeaderSize || at > objectsEnd_ || count > objectsEnd_ - at) return std::nullopt;
    return file_.subspan(at, count);
  }

  uint64_t offsetOf(uint64_t number) const {
    return bigEndian(file_.subspan(objectsEnd_ + number * offsetSize_, offsetSize_));
  }

  // An object's marker, and where its content starts once a long length has been read.
  struct Head {
    uint8_t kind = 0;
    uint64_t count = 0;
    uint64_t content = 0;
  };

  Result<Head> head(uint64_t number) const {
    const uint64_t offset = offsetOf(number);
    const auto marker = slice(offset, 1);
    if (!marker) return bad(number, fmt::format("offset {} is outside the objects", offset));
    Head head{static_cast<uint8_t>((*marker)[0] >> 4), (*marker)[0] & 0x0fu, offset + 1};
    const bool hasLength = head.kind >= 4 && head.kind != 8;
    if (!hasLength || head.count != 15) return head;
    const auto sizeMarker = slice(head.content, 1);
    if (!sizeMarker || (*sizeMarker)[0] >> 4 != 1 || ((*sizeMarker)[0] & 0x0f) > 3)
      return bad(number, "its length is not an integer");
    const uint64_t width = uint64_t{1} << ((*sizeMarker)[0] & 0x0f);
    const auto length = slice(head.content + 1, width);
    if (!length) return bad(number, "its length runs past the end");
    head.count = bigEndian(*length);
    head.content += 1 + width;
    return head;
  }

  Status charge(uint64_t number, uint64_t bytes) {
    if (++items_ > limits_.items) return bad(number, fmt::format("more than {} values", limits_.items));
    bytes_ += bytes;
    if (bytes_ > limits_.bytes) return bad(number, fmt::format("expands to more than {} bytes", limits_.bytes));
    return {};
  }

  Result<Value> object(uint64_t number, int depth) {
    const Result<Head> head = this->head(number);
    if (!head) return propagate(head.error());
    switch (head->kind) {
      case 0x0:
        if (Status ok = charge(number, 0); !ok) return propagate(ok.error());
        if (head->count == 8) return Value(false);
        if (head->count == 9) return Value(true);
        return bad(number, "null is not a property-list value");
      case 0x1: return integer(number, *head);
      case 0x2: return real(number, *head);
      case 0x3: return date(number, *head);
      case 0x4: {
        const auto content = slice(head->content, head->count);
        if (!content) return bad(number, fmt::format("data of {} bytes runs past the end", head->count));
        if (Status ok = charge(number, head->count); !ok) return propagate(ok.error());
        return Value(toBytes(*content));
      }
      case 0x5:
      case 0x6: {
        Result<std::string> text = string(number, *head);
        if (!text) return propagate(text.error());
        return Value(std::move(*text));
      }
      case 0x8: return uid(number, *head);
      case 0xa:
      case 0xd: return container(number, *head, depth);
      default: return bad(number, fmt::format("marker kind {:#x} is not a property-list value", head->kind));
    }
  }

  Result<Value> integer(uint64_t number, const Head& head) {
    if (Status ok = charge(number, 0); !ok) return propagate(ok.error());
    if (head.count > 4) return bad(number, "integer wider than 16 bytes");
    const uint64_t width = uint64_t{1} << head.count;
    const auto content = slice(head.content, width);
    if (!content) return bad(number, "integer runs past the end");
    if (width < 8) return Value(bigEndian(*content));  // one, two and four bytes are never negative
    const uint64_t low = bigEndian(content->last(8));
    if (width == 8) return Value(static_cast<int64_t>(low));
    const uint64_t high = bigEndian(content->first(8));
    if (high == 0) return Value(low);
    if (high == UINT64_MAX && low >> 63 == 1) return Value(static_cast<int64_t>(low));
    return bad(number, "integer beyond 64 bits");
  }

  Result<Value> real(uint64_t number, const Head& head) {
    if (Status ok = charge(number, 0); !ok) return propagate(ok.error());
    if (head.count != 2 && head.count != 3) return bad(number, "real of neither 4 nor 8 bytes");
    const auto content = slice(head.content, uint64_t{1} << head.count);
    if (!content) return bad(number, "real runs past the end");
    const uint64_t bits = bigEndian(*content);
    if (head.count == 2) return Value(double{std::bit_cast<float>(static_cast<uint32_t>(bits))});
    return Value(std::bit_cast<double>(bits));
  }

  Result<Value> date(uint64_t number, const Head& head) {
    if (Status ok = charge(number, 0); !ok) return propagate(ok.error());
    const auto content = slice(head.content, 8);
    if (head.count != 3 || !content) return bad(number, "date of other than 8 bytes");
    const Date date{std::bit_cast<double>(bigEndian(*content))};
    if (!isWritableDate(date)) return bad(number, "date outside the years 1 to 9999");  // catches NaN, too
    return Value(date);
  }

  Result<Value> uid(uint64_t number, const Head& head) {
    if (Status ok = charge(number, 0); !ok) return propagate(ok.error());
    const auto content = slice(head.content, head.count + 1);
    if (!content || head.count + 1 > 8 || bigEndian(*content) > UINT32_MAX) return bad(number, "uid beyond 32 bits");
    return Value(Uid{static_cast<uint32_t>(bigEndian(*content))});
  }

  Result<std::string> string(uint64_t number, const Head& head) {
    const uint64_t unit = head.kind == 0x5 ? 1 : 2;
    if (head.count > file_.size()) return bad(number, fmt::format("string of {} characters", head.count));
    const auto content = slice(head.content, head.count * unit);
    if (!content) return bad(number, fmt::format("string of {} characters runs past the end", head.count));
    if (Status ok = charge(number, content->size()); !ok) return propagate(ok.error());
    if (unit == 1) {
      if (!isAscii(asText(*content))) return bad(number, "non-ASCII byte in an ASCII string");
      if (asText(*content).find('\0') != std::string_view::npos) return bad(number, "NUL character in a string");
      return std::string(asText(*content));
    }
    std::string out;
    out.reserve(content->size());
    for (size_t i = 0; i < content->size(); i += 2) {
      char32_t unit16 = bigEndian(content->subspan(i, 2)) & 0xffff;
      if (unit16 == 0) return bad(number, "NUL character in a string");
      if (unit16 >= 0xdc00 && unit16 <= 0xdfff) return bad(number, "unpaired surrogate in a string");
      if (unit16 >= 0xd800 && unit16 <= 0xdbff) {
        i += 2;
        if (i >= content->size()) return bad(number, "unpaired surrogate in a string");
        const char32_t second = bigEndian(content->subspan(i, 2)) & 0xffff;
        if (second < 0xdc00 || second > 0xdfff) return bad(number, "unpaired surrogate in a string");
        unit16 = 0x10000 + ((unit16 - 0xd800) << 10) + (second - 0xdc00);
      }
      appendUtf8(out, unit16);
    }
    return out;
  }

  Result<Value> container(uint64_t number, const Head& head, int depth) {
    if (depth >= limits_.depth)
      return bad(number, fmt::format("more than {} containers inside each other", limits_.depth));
    if (onPath_[number]) return bad(number, "contains itself");
    if (Status ok = charge(number, 0); !ok) return propagate(ok.error());
    const uint64_t perItem = head.kind == 0xd ? 2 : 1;
    if (head.count > file_.size()) return bad(number, fmt::format("{} members", head.count));
    const auto references = slice(head.content, head.count * perItem * referenceSize_);
    if (!references) return bad(number, fmt::format("{} members run past the end", head.count));
    const auto reference = [&](uint64_t i) {
      return bigEndian(references->subspan(i * referenceSize_, referenceSize_));
    };
    for (uint64_t i = 0; i < head.count * perItem; ++i)
      if (reference(i) >= objectCount_)
        return bad(number, fmt::format("refers to object {} of {}", reference(i), objectCount_));

    onPath_[number] = true;
    Result<Value> value = head.kind == 0xa ? array(head, reference, depth) : dictionary(number, head, reference, depth);
    onPath_[number] = false;
    return value;
  }

  Result<Value> array(const Head& head, const auto& reference, int depth) {
    Array items;
    for (uint64_t i = 0; i < head.count; ++i) {
      Result<Value> item = object(reference(i), depth + 1);
      if (!item) return item;
      items.push_back(std::move(*item));
    }
    return Value(std::move(items));
  }

  Result<Value> dictionary(uint64_t number, const Head& head, const auto& reference, int depth) {
    Dictionary members;
    for (uint64_t i = 0; i < head.count; ++i) {
      const Result<Head> keyHead = this->head(reference(i));
      if (!keyHead) return propagate(keyHead.error());
      if (keyHead->kind != 0x5 && keyHead->kind != 0x6) return bad(number, "a key is not a string");
      Result<std::string> key = string(reference(i), *keyHead);
      if (!key) return propagate(key.error());
      Result<Value> value = object(reference(head.count + i), depth + 1);
      if (!value) return value;
      if (!members.add(std::move(*key), std::move(*value))) return bad(number, "a key occurs twice");
    }
    return Value(std::move(members));
  }

  const ByteView file_;
  const Limits& limits_;
  uint64_t offsetSize_ = 0;
  uint64_t referenceSize_ = 0;
  uint64_t objectCount_ = 0;
  uint64_t root_ = 0;
  uint64_t objectsEnd_ = 0;  // where the offset table begins
  std::vector<bool> onPath_;
  size_t items_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace

Result<Document> parseBinary(ByteView bytes, const ReadOptions& options) {
  if (bytes.size() > options.limits.bytes)
    return fail(Reason::BadInput, fmt::format("{} bytes exceed the limit of {}", bytes.size(), options.limits.bytes));
  Result<Value> root = Reader(bytes, options.limits).read();
  if (!root) return propagate(root.error());
  return Document{std::move(*root), Format::Binary, {}, {}};
}

}  // namespace wayleave::plist
