#include "keychain/reference_codec.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/osstatus.h"
#include "keychain/der.h"

namespace wayleave::keychain {
namespace {

constexpr std::string_view kTokenPrefix = "tkpr";
constexpr size_t kRowReferenceBytes = 12;
constexpr size_t kUuidReferenceBytes = 20;
constexpr size_t kPairHeaderBytes = 8;
constexpr size_t kSubserviceBytes = 32;

std::unexpected<Error> bad(size_t offset, std::string_view why, OSStatus status = errSecItemNotFound) {
  return fail(Reason::BadInput, fmt::format("{} at offset {}", why, offset), {}, status);
}

// Text for people: anything that is not printable ASCII is shown as hex instead.
std::string shown(ByteView bytes) {
  const bool printable = std::ranges::all_of(bytes, [](uint8_t b) { return b >= 0x20 && b < 0x7f; });
  return printable && !bytes.empty() ? std::string(asText(bytes)) : toHex(bytes);
}

std::string pairName(uint32_t name) {
  Bytes four;
  appendU32(four, name);
  const std::string out = shown(four);
  return out.size() == 4 ? out : "0x" + out;
}

bool isValidUtf8(ByteView bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const uint8_t lead = bytes[i];
    const size_t more = lead < 0x80                   ? 0
                        : lead >= 0xc2 && lead < 0xe0 ? 1
                        : (lead & 0xf0) == 0xe0       ? 2
                        : lead >= 0xf0 && lead < 0xf5 ? 3
                                                      : 4;
    if (more == 4 || bytes.size() - i <= more) return false;
    uint32_t code = more == 0 ? lead : lead & (0x3fu >> more);
    for (size_t k = 1; k <= more; ++k) {
      if ((bytes[i + k] & 0xc0) != 0x80) return false;
      code = code << 6 | (bytes[i + k] & 0x3fu);
    }
    if ((more == 2 && (code < 0x800 || (code >= 0xd800 && code < 0xe000))) ||
        (more == 3 && (code < 0x10000 || code > 0x10ffff)))
      return false;
    i += more + 1;
  }
  return true;
}

// --- File references ---

class FileReferenceParser {
 public:
  FileReferenceParser(ByteView bytes, DecodeOptions options) : bytes_(bytes), options_(options) {}

  Result<Decoded> parse() {
    reference_.order.clear();
    size_t at = 0;
    while (at < bytes_.size()) {
      const size_t left = bytes_.size() - at;
      const bool whole = left >= kPairHeaderBytes && readU32(bytes_.subspan(at + 4, 4)) <= left - kPairHeaderBytes;
      if (!whole) {
        const std::string why = left < kPairHeaderBytes
                                    ? fmt::format("{} bytes are too short for a pair", left)
                                    : fmt::format("pair {} claims {} bytes of the {} that are left",
                                                  pairName(readU32(bytes_.subspan(at, 4))),
                                                  readU32(bytes_.subspan(at + 4, 4)), left - kPairHeaderBytes);
        // Nothing was recognised: not a reference with a damaged tail, but no reference.
        if (!seen(Pair::Ssui) || !options_.lenient) return bad(at, why);
        if (Status s = tolerate(at, why + "; Apple's parser stops here without an error"); !s)
          return propagate(s.error());
        field(at, left, "trailing bytes", toHex(bytes_.subspan(at)));
        break;
      }
      const uint32_t name = readU32(bytes_.subspan(at, 4));
      const ByteView value = bytes_.subspan(at + kPairHeaderBytes, readU32(bytes_.subspan(at + 4, 4)));
      if (Status s = pair(name, value, at); !s) return propagate(s.error());
      at += kPairHeaderBytes + value.size();
    }
    for (const Pair required : {Pair::Ssui, Pair::Dbnm, Pair::Item})
      if (!seen(required))
        return bad(bytes_.size(), fmt::format("no {} pair before the end", pairName(std::to_underlying(required))));
    return Decoded{std::move(reference_), std::move(warnings_), std::move(fields_)};
  }

 private:
  bool seen(Pair pair) const { return std::ranges::find(reference_.order, pair) != reference_.order.end(); }

  Status tolerate(size_t offset, std::string text) {
    if (!options_.lenient) return bad(offset, text);
    warnings_.push_back({offset, std::move(text)});
    return {};
  }

  void field(size_t offset, size_t length, std::string name, std::string value = {}) {
    if (options_.fields && length > 0) fields_.push_back({offset, length, std::move(name), std::move(value)});
  }

  Status pair(uint32_t rawName, ByteView value, size_t at) {
    const Pair name{rawName};
    const size_t valueAt = at + kPairHeaderBytes;
    const bool known =
        name == Pair::Ssui || name == Pair::Dbnm || name == Pair::Dblc || name == Pair::Item || name == Pair::Idnt;
    if (!known || seen(name)) {
      const std::string why =
          known ? fmt::format("second {} pair", pairName(rawName)) : fmt::format("unknown pair {}", pairName(rawName));
      if (Status s = tolerate(at, why); !s) return s;
      field(at, kPairHeaderBytes, why);
      field(valueAt, value.size(), "ignored", toHex(value));
      return {};
    }
    reference_.order.push_back(name);
    if (options_.fields)
      field(at, kPairHeaderBytes, pairName(rawName) + " header", fmt::format("{} bytes", value.size()));
    switch (name) {
      case Pair::Ssui: return subservice(value, valueAt);
      case Pair::Dbnm: return path(value, valueAt);
      case Pair::Dblc:
        reference_.networkLocation = toBytes(value);
        field(valueAt, value.size(), "network location", toHex(value));
        return {};
      case Pair::Item: return item(value, valueAt);
      case Pair::Idnt: return marker(value, valueAt);
    }
    return {};
  }

  Status subservice(ByteView value, size_t at) {
    if (value.size() < kSubserviceBytes) return bad(at, fmt::format("ssui value of {} bytes, not 32", value.size()));
    if (value.size() > kSubserviceBytes)
      if (Status s = tolerate(at + kSubserviceBytes, fmt::format("ssui value of {} bytes, not 32", value.size())); !s)
        return s;
    SubserviceUid& uid = reference_.subservice;
    std::ranges::copy(value.first(16), uid.guid.begin());
    uid.major = readU32(value.subspan(16, 4));
    uid.minor = readU32(value.subspan(20, 4));
    uid.subserviceId = readU32(value.subspan(24, 4));
    uid.type = readU32(value.subspan(28, 4));
    if (!options_.fields) return {};
    field(at, 16, "plug-in GUID", formatGuid(uid.guid));
    field(at + 16, 4, "version, major", fmt::format("{}", uid.major));
    field(at + 20, 4, "version, minor", fmt::format("{}", uid.minor));
    field(at + 24, 4, "subservice id", fmt::format("{}", uid.subserviceId));
    field(at + 28, 4, "subservice type", fmt::format("{}{}", uid.type, uid.type == 6 ? " = CSP | DL" : ""));
    field(at + 32, value.size() - 32, "ignored", toHex(value.subspan(32)));
    return {};
  }

  Status path(ByteView value, size_t at) {
    const auto nul = std::ranges::find(value, uint8_t{0});
    const size_t length = static_cast<size_t>(nul - value.begin());
    if (nul == value.end()) {
      if (Status s = tolerate(at + length, "keychain path without its NUL"); !s) return s;
    } else if (length + 1 != value.size()) {
      if (Status s = tolerate(at + length + 1, "bytes after the NUL of the keychain path"); !s) return s;
    }
    if (length == 0) return bad(at, "empty keychain path");
    reference_.keychainPath = asText(value.first(length));
    if (options_.fields) field(at, value.size(), "keychain path", shown(value.first(length)));
    return {};
  }

  Status marker(ByteView value, size_t at) {
    reference_.identityMarker = true;
    const bool usual = value.size() == 4 && readU32(value) == 0xffffffff;
    field(at, value.size(), "identity marker", usual ? "made from an identity" : toHex(value));
    if (!usual) return tolerate(at, "idnt value is not ffffffff");
    return {};
  }

  Status item(ByteView value, size_t at) {
    if (value.size() < 4) return bad(at, "primary key is too short", errSecNoSuchAttr);
    const std::optional<RecordType> type = recordTypeFrom(readU32(value));
    if (!type) return bad(at, fmt::format("unknown record type 0x{:08x}", readU32(value)));
    reference_.item.recordType = *type;
    if (options_.fields) field(at, 4, "record type", fmt::format("0x{:08x} = {}", readU32(value), text(*type)));
    const std::span<const AttributeName> names = primaryKeyAttributes(*type);
    reference_.item.attributes.reserve(names.size());
    size_t used = 4;
    for (const AttributeName& name : names) {
      const size_t left = value.size() - used;
      if (left < 4)
        return bad(at + used, fmt::format("primary key ends before attribute {}", name.name), errSecNoSuchAttr);
      const size_t length = readU32(value.subspan(used, 4));
      if (length > left - 4)
        return bad(at + used,
                   fmt::format("attribute {} claims {} bytes of the {} that are left", name.name, length, left - 4),
                   errSecNoSuchAttr);
      const ByteView attribute = value.subspan(used + 4, length);
      if (name.format == AttributeFormat::Uint32 && length != 4)
        if (Status s = tolerate(at + used, fmt::format("attribute {} has {} bytes, not 4", name.name, length)); !s)
          return s;
      reference_.item.attributes.push_back(toBytes(attribute));
      if (options_.fields) attributeFields(name, attribute, at + used);
      used += 4 + length;
    }
    if (used == value.size()) return {};
    field(at + used, value.size() - used, "ignored", toHex(value.subspan(used)));
    return tolerate(at + used, fmt::format("{} bytes after the last attribute", value.size() - used));
  }

  void attributeFields(const AttributeName& name, ByteView value, size_t at) {
    field(at, 4, fmt::format("{} length", name.name), fmt::format("{}", value.size()));
    std::string meaning;
    switch (name.format) {
      case AttributeFormat::Uint32:
        if (value.size() == 4) {
          const uint32_t big = readU32(value);
          const uint32_t little = __builtin_bswap32(big);
          const bool isBig = name.name == "CertType" && big != 0 && big < little;
          meaning = fmt::format("{} ({}-endian)", isBig ? big : little, isBig ? "big" : "little");
        } else {
          meaning = toHex(value);
        }
        break;
      case AttributeFormat::String: meaning = shown(value); break;
      case AttributeFormat::Blob: meaning = name.name == "Issuer" ? describeName(value) : shown(value); break;
      case AttributeFormat::Date: meaning = toHex(value); break;
    }
    if (meaning.empty()) meaning = toHex(value);
    if (name.name == "SerialNumber") meaning = toHex(value);
    field(at + 4, value.size(), std::string(name.name), std::move(meaning));
  }

  ByteView bytes_;
  DecodeOptions options_;
  FileReference reference_;
  std::vector<Warning> warnings_;
  std::vector<Field> fields_;
};

// --- Data protection references ---

Result<Decoded> decodeToken(ByteView bytes, DecodeOptions options) {
  // Apple's decoder must consume every byte, and takes an array of exactly three, so there is nothing to be lenient
  // about but the length encoding.
  const auto failed = [](Error error) {
    error.osStatus = errSecItemNotFound;
    return withContext(std::move(error), "token reference");
  };
  DerReader outer(bytes.subspan(4), 4, !options.lenient);
  const Result<DerElement> sequence = outer.next(der::kSequence, "SEQUENCE");
  if (!sequence) return failed(sequence.error());
  if (!outer.atEnd()) return bad(outer.offset(), "token reference: bytes after the DER SEQUENCE");
  DerReader inner = outer.inside(*sequence);
  const Result<DerElement> itemClass = inner.next(der::kUtf8String, "UTF8String class");
  if (!itemClass) return failed(itemClass.error());
  const Result<DerElement> tokenId = inner.next(der::kUtf8String, "UTF8String token ID");
  if (!tokenId) return failed(tokenId.error());
  const Result<DerElement> objectId = inner.next(der::kOctetString, "OCTET STRING object ID");
  if (!objectId) return failed(objectId.error());
  if (!inner.atEnd()) return bad(inner.offset(), "token reference: more than three elements");
  const std::optional<ItemClass> known = itemClassFrom(asText(itemClass->value));
  if (!known) return bad(itemClass->valueAt, fmt::format("token reference: unknown class {}", shown(itemClass->value)));
  if (!isValidUtf8(tokenId->value)) return bad(tokenId->valueAt, "token reference: the token ID is not UTF-8");

  Decoded out{TokenReference{*known, std::string(asText(tokenId->value)), toBytes(objectId->value)}, {}, {}};
  if (options.fields) {
    out.fields = {{0, 4, "token reference", "tkpr"},
                  {4, sequence->valueAt - 4, "DER SEQUENCE", fmt::format("{} bytes", sequence->value.size())}};
    const auto element = [&](const DerElement& e, std::string_view name, std::string value) {
      out.fields.push_back(
          {e.offset, e.valueAt - e.offset, fmt::format("{} header", name), fmt::format("{} bytes", e.value.size())});
      if (!e.value.empty()) out.fields.push_back({e.valueAt, e.value.size(), std::string(name), std::move(value)});
    };
    element(*itemClass, "class", std::string(asText(itemClass->value)));
    element(*tokenId, "token ID", shown(tokenId->value));
    element(*objectId, "object ID", toHex(objectId->value));
  }
  return out;
}

Result<Decoded> decodeRow(ItemClass itemClass, ByteView bytes, DecodeOptions options) {
  uint64_t row = 0;
  for (const uint8_t b : bytes.subspan(4)) row = row << 8 | b;
  Decoded out{RowReference{itemClass, static_cast<int64_t>(row)}, {}, {}};
  if (options.fields)
    out.fields = {{0, 4, "class", std::string(fourcc(itemClass))},
                  {4, 8, "SQLite row id", fmt::format("{}", static_cast<int64_t>(row))}};
  return out;
}

Result<Decoded> decodeUuid(ItemClass itemClass, ByteView bytes, DecodeOptions options) {
  UuidReference reference{itemClass, {}};
  std::ranges::copy(bytes.subspan(4), reference.uuid.begin());
  Decoded out{reference, {}, {}};
  if (options.fields)
    out.fields = {{0, 4, "class", std::string(fourcc(itemClass))},
                  {4, 16, "UUID of the row", formatUuid(reference.uuid)}};
  return out;
}

// --- Encoding ---

Result<Bytes> encodeFile(const FileReference& reference) {
  const auto refuse = [](std::string why) { return fail(Reason::BadInput, "encode reference: " + std::move(why)); };
  const std::string& path = reference.keychainPath;
  if (path.empty() || path.find('\0') != std::string::npos) return refuse("keychain path is empty or holds a NUL");
  const std::span<const AttributeName> names = primaryKeyAttributes(reference.item.recordType);
  if (names.size() != reference.item.attributes.size())
    return refuse(fmt::format("{} attributes, not {}", reference.item.attributes.size(), names.size()));

  Bytes item;
  appendU32(item, std::to_underlying(reference.item.recordType));
  for (size_t i = 0; i < names.size(); ++i) {
    const Bytes& value = reference.item.attributes[i];
    if (names[i].format == AttributeFormat::Uint32 && value.size() != 4)
      return refuse(fmt::format("attribute {} has {} bytes, not 4", names[i].name, value.size()));
    appendU32(item, static_cast<uint32_t>(value.size()));
    append(item, value);
  }

  Bytes out;
  std::vector<Pair> written;
  for (const Pair pair : reference.order) {
    if (std::ranges::find(written, pair) != written.end()) return refuse("a pair stands twice in the order");
    written.push_back(pair);
    Bytes value;
    switch (pair) {
      case Pair::Ssui:
        append(value, reference.subservice.guid);
        for (const uint32_t number : {reference.subservice.major, reference.subservice.minor,
                                      reference.subservice.subserviceId, reference.subservice.type})
          appendU32(value, number);
        break;
      case Pair::Dbnm:
        append(value, asBytes(path));
        value.push_back(0);
        break;
      case Pair::Dblc:
        if (!reference.networkLocation) return refuse("dblc in the order, but no network location");
        value = *reference.networkLocation;
        break;
      case Pair::Item: value = std::move(item); break;
      case Pair::Idnt:
        if (!reference.identityMarker) return refuse("idnt in the order, but no identity marker");
        appendU32(value, 0xffffffff);
        break;
    }
    appendU32(out, std::to_underlying(pair));
    appendU32(out, static_cast<uint32_t>(value.size()));
    append(out, value);
  }
  const size_t expected = 3u + (reference.networkLocation ? 1u : 0u) + (reference.identityMarker ? 1u : 0u);
  if (written.size() != expected) return refuse(fmt::format("{} pairs in the order, not {}", written.size(), expected));
  if (out.size() > kMaxReferenceBytes)
    return refuse(fmt::format("{} bytes are more than a reference may have", out.size()));
  return out;
}

}  // namespace

Result<Decoded> decodeReference(ByteView bytes, DecodeOptions options) {
  if (bytes.size() > kMaxReferenceBytes) return bad(kMaxReferenceBytes, "reference is longer than this codec reads");
  if (bytes.size() < 4) return bad(bytes.size(), "too short for any reference: it ends");
  if (bytes.size() > 4 && asText(bytes.first(4)) == kTokenPrefix) return decodeToken(bytes, options);
  if (const std::optional<ItemClass> itemClass = itemClassFrom(asText(bytes.first(4)))) {
    if (bytes.size() == kRowReferenceBytes) return decodeRow(*itemClass, bytes, options);
    if (bytes.size() == kUuidReferenceBytes) return decodeUuid(*itemClass, bytes, options);
    // `idnt` is also the name of a pair, so it may open a file reference in an unusual order.
    if (*itemClass != ItemClass::Identity)
      return bad(std::min(bytes.size(), kUuidReferenceBytes),
                 fmt::format("a {} reference has 12 or 20 bytes, not {}: cut off or too long", fourcc(*itemClass),
                             bytes.size()));
  }
  return FileReferenceParser(bytes, options).parse();
}

Result<Bytes> encodeReference(const Reference& reference) {
  if (const auto* file = std::get_if<FileReference>(&reference)) return encodeFile(*file);
  if (const auto* row = std::get_if<RowReference>(&reference)) {
    Bytes out = toBytes(fourcc(row->itemClass));
    appendU32(out, static_cast<uint32_t>(static_cast<uint64_t>(row->rowId) >> 32));
    appendU32(out, static_cast<uint32_t>(row->rowId));
    return out;
  }
  if (const auto* uuid = std::get_if<UuidReference>(&reference))
    return mintDataProtectionReference(uuid->itemClass, uuid->uuid);

  const auto& token = std::get<TokenReference>(reference);
  if (!isValidUtf8(asBytes(token.tokenId)))
    return fail(Reason::BadInput, "encode reference: the token ID is not UTF-8");
  Bytes inner;
  appendDer(inner, der::kUtf8String, asBytes(fourcc(token.itemClass)));
  appendDer(inner, der::kUtf8String, asBytes(token.tokenId));
  appendDer(inner, der::kOctetString, token.objectId);
  Bytes out = toBytes(kTokenPrefix);
  appendDer(out, der::kSequence, inner);
  if (out.size() > kMaxReferenceBytes)
    return fail(Reason::BadInput, "encode reference: token or object ID is too long");
  return out;
}

}  // namespace wayleave::keychain
