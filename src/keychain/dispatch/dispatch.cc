#include "keychain/dispatch/dispatch.h"

#include <fmt/format.h>

#include <array>

#include "base/osstatus.h"
#include "keychain/dispatch/trace.h"

namespace wayleave::keychain::dispatch {
namespace {

struct ApiName {
  Api api;
  std::string_view name, shortName;
};
constexpr std::array kApis = {
    ApiName{Api::CopyMatching, "SecItemCopyMatching", "copy-matching"},
    ApiName{Api::Add, "SecItemAdd", "add"},
    ApiName{Api::Update, "SecItemUpdate", "update"},
    ApiName{Api::Delete, "SecItemDelete", "delete"},
    ApiName{Api::CopyFromPersistentReference, "SecKeychainItemCopyFromPersistentReference", "copy-from-reference"},
    ApiName{Api::CreatePersistentReference, "SecKeychainItemCreatePersistentReference", "create-reference"},
};

constexpr std::array kFileOnlyKeys = {"kSecMatchItemList",
                                      "kSecMatchSearchList",
                                      "kSecMatchSubjectStartsWith",
                                      "kSecMatchSubjectEndsWith",
                                      "kSecMatchSubjectWholeString",
                                      "kSecMatchDiacriticInsensitive",
                                      "kSecMatchWidthInsensitive",
                                      "kSecUseItemList",
                                      "kSecUseKeychain",
                                      "kSecAttrAccess",
                                      "kSecAttrPRF",
                                      "kSecAttrSalt",
                                      "kSecAttrRounds"};

struct Route {
  bool dataProtection = true, file = true;
  std::optional<Outcome> refused;
};

bool parsesAsDataProtection(const Value& value) {
  const auto* bytes = std::get_if<Bytes>(&value);
  if (bytes == nullptr) return false;
  const Result<Decoded> decoded = decodeReference(*bytes);
  return decoded && !std::holds_alternative<FileReference>(decoded->reference);
}

// SecItemCategorizeQuery: the rules in their order.
class Categoriser {
 public:
  Categoriser(Trace& trace, const Query& query, const Caller& caller) : trace_(trace), query_(query), caller_(caller) {}

  Route run() {
    flag();
    if (route_.refused) return route_;
    if (flag_) {
      const bool dataProtection = *flag_;
      trace_.step("2c", dataProtection ? "the flag is true: data protection only; later rules are not looked at"
                                       : "the flag is false: file only; later rules are not looked at");
      (dataProtection ? route_.file : route_.dataProtection) = false;
      return route_;
    }
    valueReference();
    contents();
    if (!route_.dataProtection && !route_.file)
      route_.refused = trace_.decide("10", errSecParam, "no side is left: refused in the client, nothing is asked");
    return route_;
  }

 private:
  void notFile(const char* rule, std::string why) {
    trace_.step(rule, std::move(why) + ": not the file side");
    route_.file = false;
  }
  void notDataProtection(const char* rule, std::string why) {
    trace_.step(rule, std::move(why) + ": not the data protection side");
    route_.dataProtection = false;
  }

  void flag() {
    if (caller_.platform == Platform::IosOnMac) {
      trace_.step("1", "Catalyst or iOS on Mac: the flag is true whatever the query says");
      flag_ = true;
    } else if (const Value* value = query_.find("kSecUseDataProtectionKeychain")) {
      flag_ = isTruthy(*value);
      trace_.step("2", fmt::format("kSecUseDataProtectionKeychain is {}", *flag_ ? "true" : "false"));
    } else if (const Value* legacy = query_.find("kSecAttrNoLegacy")) {
      flag_ = isTruthy(*legacy);
      trace_.step("2", fmt::format("kSecAttrNoLegacy is {}", *flag_ ? "true" : "false"));
    }
    force("2a", query_.has("kSecAttrSharingGroup"), "kSecAttrSharingGroup");
    const Value* always = query_.find("kSecUseSystemKeychainAlways");
    force("2b", always != nullptr && isTruthy(*always), "kSecUseSystemKeychainAlways");
  }

  void force(const char* rule, bool present, const char* name) {
    if (!present || route_.refused) return;
    if (flag_ && !*flag_) {
      route_.refused = trace_.decide(rule, errSecParam, fmt::format("{} contradicts the false flag", name));
      return;
    }
    trace_.step(rule, fmt::format("{} makes the flag true", name));
    flag_ = true;
  }

  void valueReference() {
    const Value* value = query_.find("kSecValueRef");
    const auto* object = value != nullptr ? std::get_if<Object>(value) : nullptr;
    if (object == nullptr) return;
    switch (object->kind) {
      case ObjectKind::CdsaKey: return notDataProtection("3", "kSecValueRef is a CDSA key");
      case ObjectKind::OtherKey: return notFile("3", "kSecValueRef is a key of the data protection world");
      case ObjectKind::FileCertificate:
        return notDataProtection("3", "kSecValueRef is a certificate backed by a file keychain");
      case ObjectKind::LegacyItem:
        return notDataProtection("3", "kSecValueRef is an item without a data protection reference");
      case ObjectKind::OtherCertificate:
      case ObjectKind::DataProtectionItem:
      case ObjectKind::Identity:
      case ObjectKind::Other: trace_.step("3", "kSecValueRef restricts nothing");
    }
  }

  void contents() {
    for (const char* key : {"kSecAttrTokenID", "kSecAttrAccessControl"})
      if (query_.has(key)) notFile("4", key);
    if (query_.text("kSecAttrAccessGroup") == kTokenGroup)
      notFile("5", "access group com.apple.token");
    else if (query_.has("kSecAttrAccessGroup"))
      trace_.step("5", "any other access group restricts nothing");
    if (const Value* sync = query_.find("kSecAttrSynchronizable"); sync != nullptr && isTruthy(*sync))
      notFile("6", "kSecAttrSynchronizable");
    if (const Value* reference = query_.find("kSecValuePersistentRef")) {
      if (parsesAsDataProtection(*reference))
        notFile("7", "the reference has a form of the data protection keychain");
      else
        notDataProtection("7", "the reference has no form of the data protection keychain");
    }
    for (const char* key : kFileOnlyKeys)
      if (query_.has(key)) notDataProtection("8", key);
    if (!query_.has("kSecClass") && !query_.has("kSecValuePersistentRef") && !query_.has("kSecValueRef"))
      notDataProtection("9", "neither class nor reference");
  }

  Trace& trace_;
  const Query& query_;
  const Caller& caller_;
  Route route_;
  std::optional<bool> flag_;
};

void hide(Prediction& prediction, Side side) {
  for (Asked& asked : prediction.asked)
    if (asked.side == side) asked.hidden = true;
}

// SecItemMergeResults.
Outcome merged(Trace& trace, const Outcome& dataProtection, const Outcome& file) {
  if (dataProtection.status == errSecMissingEntitlement) {
    hide(trace.prediction, Side::UserKeychain);
    trace.step("6.3", "-34018 of the data protection side is dropped: the file side's status counts");
    return file;
  }
  if (dataProtection.status != errSecSuccess) {
    hide(trace.prediction, Side::UserKeychain);
    trace.step("6.3", fmt::format("the data protection side's {} is invisible: the file side's status counts",
                                  dataProtection.status));
    return file;
  }
  if (file.status != errSecSuccess) {
    hide(trace.prediction, Side::FileKeychains);
    trace.step("6.3", fmt::format("the file side's {} is invisible: the data protection result counts", file.status));
    return dataProtection;
  }
  trace.step("6.3", "both found: arrays are joined, data protection first; of single results its one is returned");
  return dataProtection;
}

Outcome item(Trace& trace, Api api, const Query& query, const Caller& caller, const World& world) {
  if (query.missing) return trace.decide("0", errSecParam, "no query dictionary");
  if (caller.platform == Platform::Ios) {
    const bool macKeys = std::ranges::any_of(kFileOnlyKeys, [&](const char* key) { return query.has(key); });
    trace.step("iOS", "there is only the data protection keychain", macKeys ? Certainty::Unknown : Certainty::Code);
    return askDataProtection(trace, api, query, caller, world);
  }
  const Route route = Categoriser(trace, query, caller).run();
  if (route.refused) return *route.refused;
  if (api == Api::Add) {
    trace.step("6.3", route.file ? "SecItemAdd runs one side: file, because it is still allowed"
                                 : "SecItemAdd runs one side: data protection");
    return route.file ? askFiles(trace, api, query, caller, world)
                      : askDataProtection(trace, api, query, caller, world);
  }
  if (!route.file) return askDataProtection(trace, api, query, caller, world);
  if (!route.dataProtection) return askFiles(trace, api, query, caller, world);
  trace.step("6.3", "both sides: data protection first, then file");
  const Certainty before = trace.prediction.certainty;
  const Outcome dataProtection = askDataProtection(trace, api, query, caller, world);
  if (dataProtection.status != errSecSuccess)
    trace.prediction.certainty = before;  // whatever it was, it will not be seen
  const Outcome file = askFiles(trace, api, query, caller, world);
  return merged(trace, dataProtection, file);
}

Outcome createReference(Trace& trace, const Query& query, const Caller& caller, const World& world) {
  const Value* value = query.find("kSecValueRef");
  const auto* object = value != nullptr ? std::get_if<Object>(value) : nullptr;
  if (object == nullptr) return trace.decide("3.7", errSecParam, "no item", Certainty::Inferred);
  if (!object->dataProtectionReference.empty()) {
    const Query base =
        Query{}.with("kSecValuePersistentRef", object->dataProtectionReference).with("kSecReturnPersistentRef", true);
    for (const char* key : {"kSecUseDataProtectionKeychain", "kSecUseSystemKeychainAlways"}) {
      trace.step("3.7", fmt::format("a data protection reference is tried with {}", key));
      const Outcome outcome =
          trace.inner([&] { return askDataProtection(trace, Api::CopyMatching, base.with(key, true), caller, world); });
      if (outcome.status == errSecSuccess) return trace.decide("3.7", errSecSuccess, "20 bytes: class and UUID");
    }
  }
  switch (object->kind) {
    case ObjectKind::CdsaKey:
    case ObjectKind::FileCertificate:
    case ObjectKind::LegacyItem: return trace.decide("3.7", errSecSuccess, "an ssui reference of the item");
    case ObjectKind::OtherCertificate:
    case ObjectKind::Identity:
      if (std::ranges::any_of(world.fileItems, [](const ModelFileItem& i) {
            return i.reference.item.recordType == RecordType::Certificate;
          }))
        return trace.decide("3.7", errSecSuccess,
                            "an ssui reference: the certificate is found by issuer and serial; no `idnt` is written");
      break;
    case ObjectKind::OtherKey:
    case ObjectKind::DataProtectionItem:
    case ObjectKind::Other: break;
  }
  return trace.decide("3.7", errSecItemNotFound, "no keychain within reach holds the item", Certainty::Inferred);
}

}  // namespace

std::string_view text(Api api) {
  for (const ApiName& one : kApis)
    if (one.api == api) return one.name;
  return "?";
}

std::optional<Api> parseApi(std::string_view name) {
  for (const ApiName& one : kApis)
    if (one.name == name || one.shortName == name) return one.api;
  return std::nullopt;
}

std::string_view text(Side side) {
  switch (side) {
    case Side::UserKeychain: return "data protection keychain of the user (secd)";
    case Side::SystemKeychain: return "system data protection keychain (securityd_system)";
    case Side::FileKeychains: return "file keychains";
  }
  return "?";
}

Prediction predict(Api api, const Query& query, const Caller& caller, const World& world) {
  Trace trace;
  Outcome outcome;
  switch (api) {
    case Api::CopyMatching:
    case Api::Add:
    case Api::Update:
    case Api::Delete: outcome = item(trace, api, query, caller, world); break;
    case Api::CopyFromPersistentReference:
    case Api::CreatePersistentReference:
      if (caller.platform == Platform::Ios) {
        outcome =
            trace.decide("iOS", errSecUnimplemented,
                         "SecKeychain functions do not exist there: a program does not link", Certainty::Inferred);
      } else if (api == Api::CreatePersistentReference) {
        outcome = createReference(trace, query, caller, world);
      } else if (const Bytes* reference = query.reference()) {
        outcome = copyFromReference(trace, *reference, caller, world);
      } else {
        outcome = trace.decide("6.7", errSecParam, "no reference", Certainty::Inferred);
      }
      break;
  }
  trace.prediction.status = outcome.status;
  trace.prediction.decidedBy = outcome.rule;
  if (api == Api::CopyFromPersistentReference || api == Api::CreatePersistentReference)
    for (Asked& asked : trace.prediction.asked) asked.hidden = asked.status != errSecSuccess;
  return std::move(trace.prediction);
}

}  // namespace wayleave::keychain::dispatch
