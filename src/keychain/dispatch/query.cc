#include "keychain/dispatch/query.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "keychain/reference_text.h"

namespace wayleave::keychain::dispatch {
namespace {

using enum KeyCategory;
using VT = ValueType;

constexpr std::array kKeys = {
    KeyInfo{"kSecClass", "class", Class, VT::Text},
    // Attributes.
    KeyInfo{"kSecAttrAccessGroup", "agrp", Attribute, VT::Text},
    KeyInfo{"kSecAttrAccessControl", "accc", Attribute, VT::Any},
    KeyInfo{"kSecAttrAccess", "acls", Attribute, VT::Any},
    KeyInfo{"kSecAttrAccessible", "pdmn", Attribute, VT::Text},
    KeyInfo{"kSecAttrTokenID", "tkid", Attribute, VT::Text},
    KeyInfo{"kSecAttrSharingGroup", "ggrp", Attribute, VT::Text},
    KeyInfo{"kSecAttrSynchronizable", "sync", Attribute, VT::Any},
    KeyInfo{"kSecAttrLabel", "labl", Attribute, VT::Text},
    KeyInfo{"kSecAttrAccount", "acct", Attribute, VT::Text},
    KeyInfo{"kSecAttrService", "svce", Attribute, VT::Text},
    KeyInfo{"kSecAttrServer", "srvr", Attribute, VT::Text},
    KeyInfo{"kSecAttrIssuer", "issr", Attribute, VT::Data},
    KeyInfo{"kSecAttrSerialNumber", "slnr", Attribute, VT::Data},
    KeyInfo{"kSecAttrSubject", "subj", Attribute, VT::Data},
    KeyInfo{"kSecAttrSubjectKeyID", "skid", Attribute, VT::Data},
    KeyInfo{"kSecAttrPublicKeyHash", "pkhh", Attribute, VT::Data},
    KeyInfo{"kSecAttrApplicationLabel", "klbl", Attribute, VT::Any},
    KeyInfo{"kSecAttrApplicationTag", "atag", Attribute, VT::Any},
    KeyInfo{"kSecAttrKeyClass", "kcls", Attribute, VT::Any},
    KeyInfo{"kSecAttrKeyType", "type", Attribute, VT::Any},
    KeyInfo{"kSecAttrKeySizeInBits", "bsiz", Attribute, VT::Any},
    KeyInfo{"kSecAttrModificationDate", "mdat", Attribute, VT::Any},
    KeyInfo{"kSecAttrAppClipItem", "clip", Attribute, VT::Any},
    KeyInfo{"kSecAttrPRF", "", Attribute, VT::Any},
    KeyInfo{"kSecAttrSalt", "", Attribute, VT::Any},
    KeyInfo{"kSecAttrRounds", "", Attribute, VT::Any},
    // Values.
    KeyInfo{"kSecValuePersistentRef", "v_PersistentRef", KeyCategory::Payload, VT::Data},
    KeyInfo{"kSecValueRef", "v_Ref", KeyCategory::Payload, VT::Item},
    KeyInfo{"kSecValueData", "v_Data", KeyCategory::Payload, VT::Data},
    // Match.
    KeyInfo{"kSecMatchItemList", "m_ItemList", Match, VT::List},
    KeyInfo{"kSecMatchSearchList", "m_SearchList", Match, VT::Any},
    KeyInfo{"kSecMatchIssuers", "", Match, VT::Any},
    KeyInfo{"kSecMatchPolicy", "", Match, VT::Any},
    KeyInfo{"kSecMatchLimit", "", Match, VT::Any},
    KeyInfo{"kSecMatchSubjectContains", "", Match, VT::Text},
    KeyInfo{"kSecMatchSubjectStartsWith", "", Match, VT::Text},
    KeyInfo{"kSecMatchSubjectEndsWith", "", Match, VT::Text},
    KeyInfo{"kSecMatchSubjectWholeString", "", Match, VT::Text},
    KeyInfo{"kSecMatchCaseInsensitive", "", Match, VT::Boolean},
    KeyInfo{"kSecMatchDiacriticInsensitive", "", Match, VT::Boolean},
    KeyInfo{"kSecMatchWidthInsensitive", "", Match, VT::Boolean},
    KeyInfo{"kSecMatchTrustedOnly", "", Match, VT::Boolean},
    KeyInfo{"kSecMatchValidOnDate", "", Match, VT::Any},
    KeyInfo{"kSecMatchEmailAddressIfPresent", "", Match, VT::Text},
    KeyInfo{"kSecMatchHostOrSubdomainOfHost", "", Match, VT::Text},
    // Return.
    KeyInfo{"kSecReturnRef", "", Return, VT::Boolean},
    KeyInfo{"kSecReturnData", "", Return, VT::Boolean},
    KeyInfo{"kSecReturnAttributes", "", Return, VT::Boolean},
    KeyInfo{"kSecReturnPersistentRef", "", Return, VT::Boolean},
    // Use.
    KeyInfo{"kSecUseItemList", "u_ItemList", Use, VT::Any},
    KeyInfo{"kSecUseKeychain", "u_Keychain", Use, VT::Any},
    KeyInfo{"kSecUseDataProtectionKeychain", "nleg", Use, VT::Any},
    KeyInfo{"kSecAttrNoLegacy", "", Use, VT::Any},
    KeyInfo{"kSecUseSystemKeychainAlways", "u_SystemKeychainAlways", Use, VT::Any},
    KeyInfo{"kSecUseSystemKeychain", "", Use, VT::Any},
    KeyInfo{"kSecUseAuthenticationContext", "", Use, VT::Any},
    KeyInfo{"kSecUseAuthenticationUI", "", Use, VT::Any},
};

constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kShort = {{
    {"ref", "kSecValuePersistentRef"},
    {"reference", "kSecValuePersistentRef"},
    {"class", "kSecClass"},
    {"group", "kSecAttrAccessGroup"},
    {"flag", "kSecUseDataProtectionKeychain"},
    {"search-list", "kSecMatchSearchList"},
}};

constexpr std::array<std::pair<std::string_view, std::string_view>, 17> kClassNames = {{
    {"kSecClassGenericPassword", "genp"},
    {"kSecClassInternetPassword", "inet"},
    {"kSecClassAppleSharePassword", "apls"},
    {"kSecClassCertificate", "cert"},
    {"kSecClassKey", "keys"},
    {"kSecClassIdentity", "idnt"},
    {"identity", "idnt"},
    {"certificate", "cert"},
    {"key", "keys"},
    {"password", "genp"},
    {"internet-password", "inet"},
    {"genp", "genp"},
    {"inet", "inet"},
    {"apls", "apls"},
    {"cert", "cert"},
    {"keys", "keys"},
    {"idnt", "idnt"},
}};

constexpr std::array<std::pair<std::string_view, ObjectKind>, 8> kObjects = {{
    {"cdsa-key", ObjectKind::CdsaKey},
    {"key", ObjectKind::OtherKey},
    {"file-certificate", ObjectKind::FileCertificate},
    {"certificate", ObjectKind::OtherCertificate},
    {"item", ObjectKind::LegacyItem},
    {"dp-item", ObjectKind::DataProtectionItem},
    {"identity", ObjectKind::Identity},
    {"other", ObjectKind::Other},
}};

template <typename T, size_t N>
std::optional<T> lookUp(const std::array<std::pair<std::string_view, T>, N>& table, std::string_view name) {
  const auto found = std::ranges::find(table, name, &std::pair<std::string_view, T>::first);
  if (found == table.end()) return std::nullopt;
  return found->second;
}

std::optional<int64_t> wholeNumber(std::string_view text) {
  int64_t out = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return out;
}

Value plainValue(std::string_view text) {
  if (text == "true" || text == "YES") return true;
  if (text == "false" || text == "NO") return false;
  if (const auto number = wholeNumber(text)) return *number;
  return std::string(text);
}

Result<Bytes> referenceValue(std::string_view text, ByteView theReference) {
  if (text == "@") {
    if (theReference.empty()) return fail(Reason::BadInput, "`@` stands for the reference, and none was given");
    return toBytes(theReference);
  }
  return referenceFromText(text);
}

Result<Value> valueFor(const KeyInfo& key, std::string_view text, ByteView theReference) {
  if (key.constant == "kSecClass") return Value(std::string(lookUp(kClassNames, text).value_or(text)));
  if (key.constant == "kSecAttrSynchronizable" && text == "any") return Value(std::string("syna"));
  switch (key.type) {
    case ValueType::Data: {
      if (key.category != KeyCategory::Payload) return Value(std::string(text));
      Result<Bytes> bytes = referenceValue(text, theReference);
      if (!bytes) return propagate(bytes.error());
      return Value(std::move(*bytes));
    }
    case ValueType::List: {
      std::vector<Bytes> list;
      for (size_t at = 0; at <= text.size();) {
        const size_t comma = std::min(text.find(',', at), text.size());
        Result<Bytes> bytes = referenceValue(text.substr(at, comma - at), theReference);
        if (!bytes) return propagate(bytes.error());
        list.push_back(std::move(*bytes));
        at = comma + 1;
      }
      return Value(std::move(list));
    }
    case ValueType::Item: {
      const std::optional<ObjectKind> kind = lookUp(kObjects, text);
      if (!kind)
        return fail(Reason::BadInput, fmt::format("`{}` is no kind of object", text),
                    "one of cdsa-key, key, file-certificate, certificate, item, dp-item, identity, other");
      Object object{*kind, {}};
      if (*kind == ObjectKind::DataProtectionItem) object.dataProtectionReference = toBytes(theReference);
      return Value(std::move(object));
    }
    case ValueType::Text: return Value(std::string(text));
    case ValueType::Any:
    case ValueType::Boolean: return plainValue(text);
  }
  return Value(std::string(text));
}

}  // namespace

const KeyInfo* findKey(std::string_view name) {
  if (const auto longName = lookUp(kShort, name)) name = *longName;
  const auto found = std::ranges::find_if(kKeys, [&](const KeyInfo& key) {
    return key.constant == name || (!key.string.empty() && key.string == name) || key.constant.substr(4) == name;
  });
  return found == kKeys.end() ? nullptr : &*found;
}

const Value* Query::find(std::string_view key) const {
  const auto found = values.find(key);
  return found == values.end() ? nullptr : &found->second;
}

std::optional<std::string> Query::text(std::string_view key) const {
  const Value* value = find(key);
  const auto* held = value != nullptr ? std::get_if<std::string>(value) : nullptr;
  return held != nullptr ? std::optional(*held) : std::nullopt;
}

const Bytes* Query::reference() const {
  const Value* value = find("kSecValuePersistentRef");
  return value != nullptr ? std::get_if<Bytes>(value) : nullptr;
}

Query Query::with(std::string key, Value value) const {
  Query out = *this;
  out.values.insert_or_assign(std::move(key), std::move(value));
  return out;
}

Query Query::without(std::initializer_list<std::string_view> keys) const {
  Query out = *this;
  for (const std::string_view key : keys)
    if (const auto found = out.values.find(key); found != out.values.end()) out.values.erase(found);
  return out;
}

bool isTruthy(const Value& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag;
  if (const auto* number = std::get_if<int64_t>(&value)) return *number != 0;
  const auto* text = std::get_if<std::string>(&value);
  if (text == nullptr) return false;
  const std::optional<int64_t> number = wholeNumber(*text);
  return number && *number != 0 && fmt::format("{}", *number) == *text;
}

Result<Query> parseQuery(const std::vector<std::string>& terms, ByteView theReference) {
  Query query;
  for (const std::string& term : terms) {
    if (term == "null") {
      query.missing = true;
      continue;
    }
    if (term == "no-result") {
      query.hasResultPointer = false;
      continue;
    }
    const size_t equals = term.find('=');
    if (equals == std::string::npos || equals == 0)
      return fail(Reason::BadInput, fmt::format("query term `{}` is not key=value", term));
    const std::string_view name = std::string_view(term).substr(0, equals);
    const std::string_view text = std::string_view(term).substr(equals + 1);
    const KeyInfo* key = findKey(name);
    if (key == nullptr) {
      query.values.insert_or_assign(std::string(name), plainValue(text));
      continue;
    }
    Result<Value> value = valueFor(*key, text, theReference);
    if (!value) return withContext(value.error(), fmt::format("query term `{}`", name));
    query.values.insert_or_assign(std::string(key->constant), std::move(*value));
  }
  return query;
}

}  // namespace wayleave::keychain::dispatch
