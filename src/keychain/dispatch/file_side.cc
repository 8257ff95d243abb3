// The file side of a call, and SecKeychainItemCopyFromPersistentReference, on which it leans.

#include <fmt/format.h>

#include "base/osstatus.h"
#include "keychain/dispatch/trace.h"

namespace wayleave::keychain::dispatch {
namespace {

bool canOpen(const Caller& caller, const std::string& path) {
  return std::ranges::any_of(caller.fileKeychains, [&](const std::string& prefix) { return path.starts_with(prefix); });
}

bool sameItem(const FileReference& a, const FileReference& b) {
  return a.item.recordType == b.item.recordType && a.keychainPath == b.keychainPath &&
         std::ranges::equal(a.item.attributes, b.item.attributes);
}

const ModelFileItem* findItem(const World& world, const FileReference& reference) {
  const auto found = std::ranges::find_if(
      world.fileItems, [&](const ModelFileItem& item) { return sameItem(item.reference, reference); });
  return found == world.fileItems.end() ? nullptr : &*found;
}

ItemClass classOf(RecordType type) {
  switch (type) {
    case RecordType::Certificate: return ItemClass::Certificate;
    case RecordType::GenericPassword: return ItemClass::GenericPassword;
    case RecordType::InternetPassword: return ItemClass::InternetPassword;
    case RecordType::AppleSharePassword: return ItemClass::AppleSharePassword;
    case RecordType::PublicKey:
    case RecordType::PrivateKey:
    case RecordType::SymmetricKey: return ItemClass::Key;
  }
  return ItemClass::Key;
}

bool wrongType(const Value& value, ValueType type) {
  switch (type) {
    case ValueType::Any: return false;
    case ValueType::Boolean: return !std::holds_alternative<bool>(value) && !std::holds_alternative<int64_t>(value);
    case ValueType::Text: return !std::holds_alternative<std::string>(value);
    case ValueType::Data: return !std::holds_alternative<Bytes>(value) && !std::holds_alternative<std::string>(value);
    case ValueType::List: return !std::holds_alternative<std::vector<Bytes>>(value);
    case ValueType::Item: return !std::holds_alternative<Object>(value);
  }
  return false;
}

std::optional<Outcome> parameters(Trace& trace, Api api, const Query& query) {
  if (api == Api::CopyMatching && !query.hasResultPointer)
    return trace.decide("F1", errSecParam, "the result pointer is NULL");
  for (const auto& [name, value] : query.values)
    if (const KeyInfo* key = findKey(name); key != nullptr && wrongType(value, key->type))
      return trace.decide("F2", errSecParam, fmt::format("the value of {} has the wrong type", name));
  const bool named = query.has("kSecValueRef") || query.has("kSecValuePersistentRef") || query.has("kSecUseItemList");
  if (!query.has("kSecClass") && !named)
    return trace.decide("F3", errSecParam,
                        "no kSecClass, and nothing that names an item (kSecMatchItemList does not count)");
  const std::optional<std::string> itemClass = query.text("kSecClass");
  if (query.has("kSecMatchIssuers") && itemClass != "idnt")
    return trace.decide("F4", errSecParam, "kSecMatchIssuers without class identity");
  const bool password = itemClass == "genp" || itemClass == "inet" || itemClass == "apls";
  const Value* data = query.find("kSecReturnData");
  if (password && data != nullptr && isTruthy(*data) && query.text("kSecMatchLimit").value_or("").ends_with("All"))
    return trace.decide("F5", errSecParam, "all passwords with their data at once");
  return std::nullopt;
}

Outcome byReference(Trace& trace, const Query& query, const Bytes& bytes, const Caller& caller, const World& world) {
  trace.step("F6", "the reference is the only candidate; it is resolved by SecKeychainItemCopyFromPersistentReference");
  const Outcome inner = trace.inner([&] { return copyFromReference(trace, bytes, caller, world); });
  if (inner.status != errSecSuccess)
    return trace.decide("F6", errSecItemNotFound, "it does not resolve; that error is swallowed");
  if (query.text("kSecClass") == "idnt") {
    const Result<Decoded> decoded = decodeReference(bytes);
    const auto* file = decoded ? std::get_if<FileReference>(&decoded->reference) : nullptr;
    const ModelFileItem* item = file != nullptr ? findItem(world, *file) : nullptr;
    if (item != nullptr && !item->hasPrivateKey)
      return trace.decide("F9", errSecItemNotFound, "F8: no private key for the certificate in the search list");
    trace.step("F8",
               "SecIdentityCreateWithCertificate pairs the private key: data protection keychains first, then the "
               "search list");
  }
  if (inner.rule != "6.7")
    trace.step("F6", "a data protection reference resolved in spite of the flag", Certainty::Inferred);
  return {errSecSuccess, "F6"};
}

Outcome bySearch(Trace& trace, const Query& query, const Caller& caller, const World& world) {
  if (query.has("kSecMatchItemList"))
    trace.step("F7",
               "entries of kSecMatchItemList are resolved and compared; one that does not resolve equals nothing");
  const std::optional<ItemClass> wanted = itemClassFrom(query.text("kSecClass").value_or(""));
  for (const ModelFileItem& item : world.fileItems) {
    if (!canOpen(caller, item.reference.keychainPath)) continue;
    const ItemClass has = classOf(item.reference.item.recordType);
    const bool identity = wanted == ItemClass::Identity;
    if (wanted && has != (identity ? ItemClass::Certificate : *wanted)) continue;
    if (identity && !item.hasPrivateKey) continue;
    if (const Value* value = query.find("kSecMatchItemList")) {
      const auto* list = std::get_if<std::vector<Bytes>>(value);
      const bool listed = list != nullptr && std::ranges::any_of(*list, [&](const Bytes& bytes) {
                            const Result<Decoded> decoded = decodeReference(bytes);
                            const auto* file = decoded ? std::get_if<FileReference>(&decoded->reference) : nullptr;
                            return file != nullptr && sameItem(*file, item.reference);
                          });
      if (!listed) continue;
    }
    return trace.decide("F8", errSecSuccess, fmt::format("found in {}", item.reference.keychainPath));
  }
  return trace.decide("F9", errSecItemNotFound, "no match in the keychains of the search list");
}

}  // namespace

Outcome askFiles(Trace& trace, Api api, const Query& original, const Caller& caller, const World& world) {
  // 6.2: the file side never sees an access group.
  const Query query = original.without({"kSecAttrSynchronizable", "kSecAttrAccessible", "kSecAttrAccessControl",
                                        "kSecAttrAccessGroup", "kSecUseDataProtectionKeychain", "kSecAttrNoLegacy"});
  const Outcome outcome = [&]() -> Outcome {
    if (api == Api::Add)
      return trace.decide("6.3", errSecSuccess, "added to the default file keychain, if the caller may write it",
                          Certainty::Inferred);
    if (const auto refused = parameters(trace, api, query)) return *refused;
    if (api != Api::CopyMatching)
      trace.step("6.3", "update and delete find their item as CopyMatching does", Certainty::Inferred);
    if (const Bytes* bytes = query.reference()) return byReference(trace, query, *bytes, caller, world);
    return bySearch(trace, query, caller, world);
  }();
  trace.asked(Side::FileKeychains, outcome.status);
  return outcome;
}

Outcome copyFromReference(Trace& trace, ByteView reference, const Caller& caller, const World& world) {
  const Query base = Query{}.with("kSecValuePersistentRef", toBytes(reference)).with("kSecReturnRef", true);
  const auto attempt = [&](const char* key) {
    return trace.inner(
        [&] { return askDataProtection(trace, Api::CopyMatching, base.with(key, true), caller, world); });
  };
  trace.step("6.7", "1. SecItemCopyMatching with kSecUseDataProtectionKeychain");
  const Outcome user = attempt("kSecUseDataProtectionKeychain");
  if (user.status == errSecSuccess) return user;
  trace.step("6.7",
             fmt::format("its error {} is discarded; 2. the same with kSecUseSystemKeychainAlways", user.status));
  const Outcome system = attempt("kSecUseSystemKeychainAlways");
  if (system.status == errSecSuccess) return system;
  trace.step("6.7",
             fmt::format("its error {} is discarded; 3. the bytes are read as an ssui dictionary", system.status));
  const Result<Decoded> decoded = decodeReference(reference, {.lenient = true});
  if (!decoded)
    return trace.decide("6.7", decoded.error().osStatus != 0 ? decoded.error().osStatus : errSecItemNotFound,
                        decoded.error().message);
  const auto* file = std::get_if<FileReference>(&decoded->reference);
  if (file == nullptr) return trace.decide("6.7", errSecItemNotFound, "a data protection reference has no `ssui` pair");
  if (!canOpen(caller, file->keychainPath))
    return trace.decide("6.7", errSecItemNotFound,
                        fmt::format("{} is not within this context's reach", file->keychainPath), Certainty::Inferred);
  const ModelFileItem* item = findItem(world, *file);
  if (item == nullptr)
    return trace.decide("6.7", errSecItemNotFound, fmt::format("{} has no such item", file->keychainPath));
  if (file->identityMarker && !item->hasPrivateKey)
    return trace.decide("6.7", errSecItemNotFound, "`idnt` asks for an identity, and no private key is found");
  return trace.decide("6.7", errSecSuccess, fmt::format("found in {}", file->keychainPath));
}

}  // namespace wayleave::keychain::dispatch
