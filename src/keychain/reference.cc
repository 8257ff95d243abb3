#include "keychain/reference.h"

#include <fmt/format.h>

#include <algorithm>

#include "keychain/der.h"
#include "keychain/reference_codec.h"

namespace wayleave::keychain {
namespace {

constexpr uint32_t kCertTypeX509 = 1;  // CSSM_CERT_X_509v1: every sample has it, also for v3 certificates

bool isSpace(uint8_t b) { return b == ' ' || (b >= '\t' && b <= '\r'); }

// clNameUtils.cpp normalizeString: trailing NULs and white space go, leading white space goes, a run becomes its first
// character, ASCII letters become upper case.
Bytes normalisedPrintable(ByteView value) {
  while (!value.empty() && (value.back() == 0 || isSpace(value.back()))) value = value.first(value.size() - 1);
  Bytes out;
  out.reserve(value.size());
  bool inRun = true;  // so that leading white space vanishes
  for (const uint8_t b : value) {
    const bool space = isSpace(b);
    if (!space || !inRun) out.push_back(b >= 'a' && b <= 'z' ? static_cast<uint8_t>(b - 'a' + 'A') : b);
    inRun = space;
  }
  return out;
}

Result<Bytes> normalisedAttribute(const DerReader& parent, const DerElement& attribute) {
  DerReader fields = parent.inside(attribute);
  const Result<DerElement> type = fields.next(der::kObjectIdentifier, "attribute type");
  if (!type) return propagate(type.error());
  const Result<DerElement> value = fields.next();
  if (!value) return propagate(value.error());
  if (!fields.atEnd())
    return fail(Reason::BadInput, fmt::format("bytes after an attribute value at offset {}", fields.offset()));
  Bytes out;
  appendDer(out, type->tag, type->value);
  if (value->tag == der::kPrintableString)
    appendDer(out, value->tag, normalisedPrintable(value->value));
  else
    appendDer(out, value->tag, value->value);
  return out;
}

}  // namespace

std::string_view fourcc(ItemClass itemClass) {
  switch (itemClass) {
    case ItemClass::GenericPassword: return "genp";
    case ItemClass::InternetPassword: return "inet";
    case ItemClass::AppleSharePassword: return "apls";
    case ItemClass::Certificate: return "cert";
    case ItemClass::Key: return "keys";
    case ItemClass::Identity: return "idnt";
  }
  return "????";
}

Result<Bytes> normalisedName(ByteView nameDer) {
  DerReader outer(nameDer);
  const Result<DerElement> name = outer.next(der::kSequence, "Name");
  if (!name) return withContext(name.error(), "issuer name");
  if (!outer.atEnd())
    return fail(Reason::BadInput, fmt::format("issuer name: bytes after the Name at offset {}", outer.offset()));
  Bytes rdns;
  DerReader rdnReader = outer.inside(*name);
  while (!rdnReader.atEnd()) {
    const Result<DerElement> rdn = rdnReader.next(der::kSet, "RelativeDistinguishedName");
    if (!rdn) return withContext(rdn.error(), "issuer name");
    Bytes attributes;
    DerReader attributeReader = rdnReader.inside(*rdn);
    while (!attributeReader.atEnd()) {
      const Result<DerElement> attribute = attributeReader.next(der::kSequence, "AttributeTypeAndValue");
      if (!attribute) return withContext(attribute.error(), "issuer name");
      const Result<Bytes> normalised = normalisedAttribute(attributeReader, *attribute);
      if (!normalised) return withContext(normalised.error(), "issuer name");
      appendDer(attributes, der::kSequence, *normalised);
    }
    appendDer(rdns, der::kSet, attributes);
  }
  Bytes out;
  appendDer(out, der::kSequence, rdns);
  return out;
}

Result<Bytes> mintFileReference(std::string_view keychainPath, ByteView issuer, ByteView serial, bool identityMarker) {
  if (serial.empty()) return fail(Reason::BadInput, "mint reference: empty serial number");
  Result<Bytes> name = normalisedName(issuer);
  if (!name) return withContext(name.error(), "mint reference");
  FileReference reference;
  reference.keychainPath = keychainPath;
  // Host order of every Mac that runs today.
  reference.item.attributes = {Bytes{kCertTypeX509, 0, 0, 0}, std::move(*name), toBytes(serial)};
  reference.identityMarker = identityMarker;
  if (identityMarker) reference.order.push_back(Pair::Idnt);
  Result<Bytes> bytes = encodeReference(reference);
  if (!bytes) return withContext(bytes.error(), "mint reference");
  return bytes;
}

Bytes mintDataProtectionReference(ItemClass itemClass, const std::array<uint8_t, 16>& uuid) {
  Bytes out = toBytes(fourcc(itemClass));
  append(out, uuid);
  return out;
}

Result<std::variant<FileItemKey, DataProtectionItemKey>> lookupKey(ByteView bytes) {
  Result<Decoded> decoded = decodeReference(bytes);
  if (!decoded) return propagate(decoded.error());
  if (const auto* uuid = std::get_if<UuidReference>(&decoded->reference))
    return DataProtectionItemKey{uuid->itemClass, uuid->uuid};
  auto* file = std::get_if<FileReference>(&decoded->reference);
  if (file == nullptr)
    return fail(Reason::Unsupported, std::holds_alternative<RowReference>(decoded->reference)
                                         ? "a row-id reference: it has a meaning only inside the database that made it"
                                         : "a token reference: the item lives on a CryptoTokenKit token");
  if (file->item.recordType != RecordType::Certificate)
    return fail(Reason::Unsupported,
                fmt::format("the reference names a {}, not a certificate", text(file->item.recordType)));
  if (file->subservice != SubserviceUid{} || file->networkLocation)
    return fail(Reason::Unsupported, "the reference names another data source than a keychain file");
  if (file->item.attributes[2].empty()) return fail(Reason::BadInput, "the reference holds an empty serial number");
  return FileItemKey{std::move(file->keychainPath), std::move(file->item.attributes[1]),
                     std::move(file->item.attributes[2]), file->identityMarker};
}

}  // namespace wayleave::keychain
