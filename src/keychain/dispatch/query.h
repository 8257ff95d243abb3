#pragma once

// A SecItem query dictionary, as far as routing and the checks before the database look at it. Keys are the public
// constant names (SecItemConstants.c); a query may also hold keys that Apple does not know.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keychain::dispatch {

// What stands behind kSecValueRef.
enum class ObjectKind : uint8_t {
  CdsaKey,             // SecKey of the file keychain's CSP
  OtherKey,            // any other SecKey
  FileCertificate,     // SecCertificate backed by a file keychain item
  OtherCertificate,    // SecCertificate from data, or from the data protection keychain
  LegacyItem,          // SecKeychainItem without a data protection reference
  DataProtectionItem,  // SecKeychainItem that carries one
  Identity,
  Other,
};
struct Object {
  ObjectKind kind = ObjectKind::Other;
  Bytes dataProtectionReference;  // of DataProtectionItem
  bool operator==(const Object&) const = default;
};

using Value = std::variant<bool, int64_t, std::string, Bytes, std::vector<Bytes>, Object>;

enum class KeyCategory : uint8_t { Class, Attribute, Match, Return, Use, Payload };
enum class ValueType : uint8_t { Any, Boolean, Text, Data, List, Item };

struct KeyInfo {
  std::string_view constant;  // "kSecAttrAccessGroup"
  std::string_view string;    // "agrp"; empty where the facts at hand do not give it
  KeyCategory category = KeyCategory::Attribute;
  ValueType type = ValueType::Any;
};
// By constant, by string, or by the constant without "kSec" ("AttrAccessGroup"); nullptr for an unknown key.
const KeyInfo* findKey(std::string_view name);

struct Query {
  bool missing = false;          // NULL instead of a dictionary
  bool hasResultPointer = true;  // SecItemCopyMatching's second argument
  std::map<std::string, Value, std::less<>> values;

  bool has(std::string_view key) const { return values.contains(key); }
  const Value* find(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  const Bytes* reference() const;  // kSecValuePersistentRef
  Query with(std::string key, Value value) const;
  Query without(std::initializer_list<std::string_view> keys) const;
};

// Boolean true; a non-zero number; a string that is the plain decimal form of a non-zero integer. All else is not.
bool isTruthy(const Value& value);

// "key=value" as a person types it: keys as findKey takes them, plus `ref`, `class`, `group` and `flag`
// (kSecUseDataProtectionKeychain); classes also as `identity`, `certificate`, `key`; references as text, or `@` for
// `theReference`; lists separated by commas; `kSecValueRef` one of cdsa-key, key, file-certificate, certificate, item,
// dp-item, identity. `null` alone is the missing dictionary, `no-result` a NULL result pointer. Unknown keys are kept:
// they have a meaning (-50 on the data protection side). Errors: BadInput naming the term.
Result<Query> parseQuery(const std::vector<std::string>& terms, ByteView theReference);

}  // namespace wayleave::keychain::dispatch
