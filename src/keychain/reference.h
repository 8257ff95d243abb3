#pragma once

// Persistent references: the opaque bytes by which a configuration names a keychain item. Two families, both with
// Apple's layout (apple-oss-distributions/Security-61901):
//   - file keychain, "ssui": name-value pairs holding the keychain's path and the item's primary key
//     (OSX/libsecurity_keychain/lib/Item.cpp copyPersistentReference, OSX/libsecurityd/lib/dictionary.cpp);
//   - data protection keychain: class + row id (12 bytes), class + UUID (20 bytes), or "tkpr" + DER for a token
//     (OSX/sec/Security/SecItem.m _SecItemParsePersistentRef).
// Opaque to everyone else: only this file knows the layout. Input is hostile; everything is bounds-checked.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keychain {

// Four-character class of a data protection item.
enum class ItemClass : uint8_t { GenericPassword, InternetPassword, AppleSharePassword, Certificate, Key, Identity };
std::string_view fourcc(ItemClass itemClass);  // "genp", "inet", "apls", "cert", "keys", "idnt"

// Largest reference this codec looks at, bytes. Real ones are below 1 KiB; issuers can be long.
inline constexpr size_t kMaxReferenceBytes = 64 * 1024;

// --- Minting, for the identities that Wayleave itself installs ---

// The `ssui` reference of a certificate in a file keychain. `issuer`: complete DER of the issuer Name (normalised here as
// CL_normalizeX509NameNSS does); `serial`: INTEGER content octets, a leading 00 kept.
// `identityMarker` appends the 12-byte `idnt` pair. Errors: BadInput (issuer is not a DER Name, empty serial or path).
Result<Bytes> mintFileReference(std::string_view keychainPath, ByteView issuer, ByteView serial,
                                bool identityMarker = false);
// class + 16 bytes.
Bytes mintDataProtectionReference(ItemClass itemClass, const std::array<uint8_t, 16>& uuid);

// What the broker needs in order to find the row behind a reference of either form.
struct FileItemKey {
  std::string keychainPath;  // as written: a home directory may be abbreviated to `~`
  Bytes issuer;              // normalised Name
  Bytes serial;
  bool identityMarker = false;
};
struct DataProtectionItemKey {
  ItemClass itemClass = ItemClass::Certificate;
  std::array<uint8_t, 16> uuid{};
};
// Strict. Errors: BadInput with the offset; Unsupported for the forms we never mint (row id, token, other records).
Result<std::variant<FileItemKey, DataProtectionItemKey>> lookupKey(ByteView reference);

// The issuer Name as keychains store it: PrintableString values trimmed, inner white space collapsed, upper-cased;
// everything else untouched (OSX/libsecurity_apple_x509_cl/lib/clNameUtils.cpp). Errors: BadInput.
Result<Bytes> normalisedName(ByteView nameDer);

}  // namespace wayleave::keychain
