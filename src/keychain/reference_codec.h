#pragma once

// Every form of persistent reference, decoded to values and encoded back to the same bytes. reference.h holds the few
// calls that the rest of the product needs; this header is for those who explain references.
//
//   file keychain    pair*, pair = name:u32 length:u32 value; ssui, dbnm, [dblc], item, [idnt] in any order
//   row, 12 bytes    class (4 ASCII), SQLite row id (int64, big-endian)
//   UUID, 20 bytes   class (4 ASCII), column `persistref` of the row
//   token            "tkpr", DER SEQUENCE { UTF8String class, UTF8String token ID, OCTET STRING object ID }
//
// Strict by default: trailing bytes, short pairs, over-long lengths, duplicate and unknown names are errors that name
// the offset. Apple's parser is lenient in places (dictionary.cpp MakeFromData stops quietly at the first pair that
// does not fit; the first pair of a name wins; bytes after the last attribute are ignored); `lenient` follows it and
// reports each liberty as a warning at its offset. A lenient decode with warnings does not encode back to the same
// bytes.

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "keychain/reference.h"

namespace wayleave::keychain {

// Relations of a file keychain (CSSM_DL_DB_RECORD_*).
enum class RecordType : uint32_t {
  PublicKey = 0x0f,
  PrivateKey = 0x10,
  SymmetricKey = 0x11,
  GenericPassword = 0x80000000,
  InternetPassword = 0x80000001,
  AppleSharePassword = 0x80000002,
  Certificate = 0x80001000,
};
std::string_view text(RecordType type);  // "certificate", "generic password"
std::optional<RecordType> recordTypeFrom(uint32_t value);

enum class AttributeFormat : uint8_t { Blob, String, Uint32, Date };
struct AttributeName {
  std::string_view shortName;  // "issu", "acct"; for keys, whose attributes have numbers, "6"
  std::string_view name;       // "Issuer"
  AttributeFormat format = AttributeFormat::Blob;
};
// The attributes of the relation's unique index, in the order in which references carry them (KeySchema.m4, Schema.m4).
// AppleShare passwords are known from code only, the others also from files.
std::span<const AttributeName> primaryKeyAttributes(RecordType type);

using Guid = std::array<uint8_t, 16>;
// 87191ca3-0fc9-11d4-849a-000502b52122, the CSP/DL plug-in of file keychains: a constant, not an id of the item.
inline constexpr Guid kAppleFileDlGuid = {0x87, 0x19, 0x1c, 0xa3, 0x0f, 0xc9, 0x11, 0xd4,
                                          0x84, 0x9a, 0x00, 0x05, 0x02, 0xb5, 0x21, 0x22};
std::string formatGuid(const Guid& guid);  // lower case with hyphens
// What is known about a plug-in GUID; empty when nothing is.
std::string_view guidMeaning(const Guid& guid);

struct SubserviceUid {
  Guid guid = kAppleFileDlGuid;
  uint32_t major = 0, minor = 0, subserviceId = 0;
  uint32_t type = 6;  // CSP (2) | DL (4)
  bool operator==(const SubserviceUid&) const = default;
};

struct PrimaryKey {
  RecordType recordType = RecordType::Certificate;
  std::vector<Bytes> attributes;  // as many as primaryKeyAttributes(recordType) names
  bool operator==(const PrimaryKey&) const = default;
};

enum class Pair : uint32_t {
  Ssui = 0x73737569,
  Dbnm = 0x64626e6d,
  Dblc = 0x64626c63,
  Item = 0x6974656d,
  Idnt = 0x69646e74
};

struct FileReference {
  SubserviceUid subservice;
  std::string keychainPath;              // without the NUL; the home directory is written as `~`
  std::optional<Bytes> networkLocation;  // dblc: never present for file keychains
  PrimaryKey item;
  bool identityMarker = false;                                     // idnt: made from a SecIdentityRef
  std::vector<Pair> order = {Pair::Ssui, Pair::Dbnm, Pair::Item};  // as they stand in the bytes
  bool operator==(const FileReference&) const = default;
};

// UINT32 attributes stand in the byte order of the machine that wrote the reference: little-endian on Intel and ARM,
// big on PowerPC. CertType, a small number, tells.
enum class ByteOrder : uint8_t { Little, Big, Unknown };
ByteOrder byteOrderOf(const FileReference& reference);
// Value of a UINT32 attribute in that order (little-endian when unknown); nullopt for a value that is not 4 bytes.
std::optional<uint32_t> uint32Attribute(const FileReference& reference, size_t index);

struct RowReference {
  ItemClass itemClass = ItemClass::Certificate;
  int64_t rowId = 0;
  bool operator==(const RowReference&) const = default;
};
struct UuidReference {
  ItemClass itemClass = ItemClass::Certificate;
  std::array<uint8_t, 16> uuid{};
  bool operator==(const UuidReference&) const = default;
};
struct TokenReference {
  ItemClass itemClass = ItemClass::Certificate;
  std::string tokenId;
  Bytes objectId;
  bool operator==(const TokenReference&) const = default;
};

using Reference = std::variant<FileReference, RowReference, UuidReference, TokenReference>;

struct Warning {
  size_t offset = 0;
  std::string text;
  bool operator==(const Warning&) const = default;
};

// One stretch of the bytes with its meaning, for an annotated dump. Fields cover the bytes in ascending order without
// overlap; a pair's header and its value are separate fields.
struct Field {
  size_t offset = 0, length = 0;
  std::string name;   // "ssui header", "GUID", "serial"
  std::string value;  // for people; empty for headers
};

struct Decoded {
  Reference reference;
  std::vector<Warning> warnings;  // lenient only
  std::vector<Field> fields;      // only when asked for
};
struct DecodeOptions {
  bool lenient = false;
  bool fields = false;
};

// Errors: BadInput with the offset; osStatus is what Apple's SecKeychainItemCopyFromPersistentReference would make of
// the bytes (-25300, or -25303 for a primary key that is too short).
Result<Decoded> decodeReference(ByteView bytes, DecodeOptions options = {});

// The inverse. Errors: BadInput (a value that no reference can hold: a NUL in the path, a wrong attribute count, …).
Result<Bytes> encodeReference(const Reference& reference);

std::optional<ItemClass> itemClassFrom(std::string_view fourcc);
std::string formatUuid(const std::array<uint8_t, 16>& uuid);  // upper case with hyphens
// A DER Name for people: "CN=Delegate Test CA, OU=ABCDE12345, O=Acme"; empty when it is none.
std::string describeName(ByteView nameDer);

}  // namespace wayleave::keychain
