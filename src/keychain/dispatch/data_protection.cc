// The data protection side of a call: the XPC client, then the server's checks in their order. First match wins.

#include <fmt/format.h>

#include <optional>

#include "base/osstatus.h"
#include "keychain/dispatch/trace.h"

namespace wayleave::keychain::dispatch {
namespace {

// Only the three forms of SecItem.m _SecItemParsePersistentRef.
std::optional<Reference> dataProtectionReference(ByteView bytes) {
  Result<Decoded> decoded = decodeReference(bytes);
  if (!decoded || std::holds_alternative<FileReference>(decoded->reference)) return std::nullopt;
  return std::move(decoded->reference);
}

ItemClass classOf(const Reference& reference) {
  if (const auto* row = std::get_if<RowReference>(&reference)) return row->itemClass;
  if (const auto* uuid = std::get_if<UuidReference>(&reference)) return uuid->itemClass;
  if (const auto* token = std::get_if<TokenReference>(&reference)) return token->itemClass;
  return ItemClass::Certificate;
}

// 6.2: what reaches the server.
Query translated(Api api, Query query) {
  if (const Value* value = query.find("kSecValueRef"))
    if (const auto* object = std::get_if<Object>(value);
        object != nullptr && !object->dataProtectionReference.empty()) {
      const Bytes reference = object->dataProtectionReference;
      query = query.without({"kSecValueRef"}).with("kSecValuePersistentRef", reference);
    }
  query = query.without({"kSecMatchSearchList", "kSecUseKeychain", "kSecAttrAccess", "kSecAttrModificationDate",
                         "kSecUseDataProtectionKeychain", "kSecAttrNoLegacy"});
  if (query.has("kSecValuePersistentRef")) query = query.without({"kSecAttrSynchronizable"});
  if (api != Api::Add) query = query.without({"kSecValueData"});
  if (api != Api::CopyMatching) {
    std::erase_if(query.values, [&](const auto& entry) {
      const KeyInfo* key = findKey(entry.first);
      return key != nullptr &&
             (key->category == KeyCategory::Match || (api != Api::Add && key->category == KeyCategory::Return));
    });
  }
  return query;
}

class Server {
 public:
  Server(Trace& trace, Api api, const Query& query, const Caller& caller, const World& world, bool system)
      : trace_(trace),
        api_(api),
        query_(query),
        caller_(caller),
        rows_(system ? world.systemRows : world.userRows),
        system_(system) {
    groups_ = caller.accessGroups;
    if (writes()) std::erase(groups_, kTokenGroup);  // read-only
  }

  Outcome run() {
    for (const auto check :
         {&Server::admission, &Server::groups, &Server::build, &Server::afterBuild, &Server::database})
      if (const std::optional<Outcome> outcome = (this->*check)()) return *outcome;
    return select();
  }

 private:
  using Maybe = std::optional<Outcome>;
  bool writes() const { return api_ == Api::Add || api_ == Api::Update || api_ == Api::Delete; }
  bool holds(std::string_view group) const { return std::ranges::find(groups_, group) != groups_.end(); }
  bool holdsAll() const { return holds("*"); }

  Maybe admission() {
    if (caller_.keychainDenied)
      return trace_.decide("S0", errSecNotAvailable, "the caller has com.apple.private.keychain.deny");
    if (query_.has("kSecAttrAppClipItem") ||
        (query_.has("kSecAttrSharingGroup") && query_.has("kSecAttrSynchronizable")))
      return trace_.decide("S1", errSecParam, "an app-clip attribute, or a sharing group together with synchronizable");
    return {};
  }

  Maybe groups() {
    if (groups_.empty())
      return trace_.decide("S2", errSecMissingEntitlement,
                           writes() && !caller_.accessGroups.empty()
                               ? "com.apple.token is read-only: nothing is left to write with"
                               : "the caller has no access group at all");
    if (holdsAll()) trace_.step("S4", "the caller holds `*`: no filter by group");
    // Update and Delete look at an explicit group before they build the query.
    if (api_ == Api::Update || api_ == Api::Delete) return explicitGroup();
    return {};
  }

  Maybe build() {
    const std::optional<std::string> wanted = query_.text("kSecClass");
    if (query_.has("kSecValuePersistentRef")) {
      const Bytes* bytes = query_.reference();
      reference_ = bytes != nullptr ? dataProtectionReference(*bytes) : std::nullopt;
      if (!reference_)
        return trace_.decide("S5", errSecParam, "the reference is none of the data protection keychain's forms");
    }
    for (const auto& [name, value] : query_.values)
      if (findKey(name) == nullptr) return trace_.decide("S5", errSecParam, fmt::format("unknown key `{}`", name));
    if (query_.has("kSecUseSystemKeychain") && caller_.platform == Platform::Mac)
      return trace_.decide("S5", errSecParam, "kSecUseSystemKeychain (without Always) is not for macOS");
    if (!wanted && !reference_ && !query_.has("kSecValueRef"))
      return trace_.decide("S5", errSecParam, "neither a class nor a usable reference");
    if (wanted) {
      class_ = itemClassFrom(*wanted);
      if (!class_) return trace_.decide("S5", errSecNoSuchClass, fmt::format("unknown class `{}`", *wanted));
    }
    if (reference_) {
      const ItemClass inReference = classOf(*reference_);
      if (class_ && *class_ != inReference)
        return trace_.decide(
            "S5", errSecNoSuchClass,
            fmt::format("the reference says `{}` and kSecClass says `{}`", fourcc(inReference), fourcc(*class_)));
      class_ = inReference;
    } else if (!query_.has("kSecAttrSynchronizable")) {
      trace_.step("S5a", "no reference and no kSecAttrSynchronizable: only rows that do not synchronise");
      onlyLocal_ = true;
    }
    if (!class_) class_ = ItemClass::Certificate;  // kSecValueRef alone: an identity is asked for as its certificate
    if (api_ != Api::Update && api_ != Api::Delete) return explicitGroup();
    return {};
  }

  Maybe explicitGroup() {
    const std::optional<std::string> group = query_.text("kSecAttrAccessGroup");
    if (!group || holdsAll()) return {};
    if (!holds(*group))
      return trace_.decide(
          "S6", errSecMissingEntitlement,
          fmt::format("the query names access group {}, which the caller does not hold; no database was opened",
                      *group));
    trace_.step("S6", fmt::format("the filter becomes just {}", *group));
    groups_ = {*group};
    return {};
  }

  Maybe afterBuild() {
    if (caller_.appClip && query_.has("kSecAttrAccessGroup"))
      return trace_.decide("S8", errSecRestrictedAPI, "an app clip with a foreign access group", Certainty::Inferred);
    if (system_ && !caller_.systemKeychainEntitlement)
      return trace_.decide("S9", errSecMissingEntitlement,
                           "the system keychain needs com.apple.private.system-keychain (Apple only)");
    if (query_.has("kSecUseItemList")) return trace_.decide("S10", errSecParam, "kSecUseItemList");
    const bool certificates = class_ == ItemClass::Certificate || class_ == ItemClass::Identity;
    if ((query_.has("kSecMatchIssuers") || query_.has("kSecMatchPolicy")) && !certificates)
      return trace_.decide("S10", errSecUnimplemented, "issuers or a policy for a class without certificates");
    if (query_.has("kSecMatchHostOrSubdomainOfHost") && class_ != ItemClass::InternetPassword)
      return trace_.decide("S10", errSecUnimplemented, "a host match for a class other than internet password");
    if (api_ == Api::CopyMatching && !query_.hasResultPointer && returnsSomething())
      return trace_.decide("S10", errSecParam, "something to return and no result pointer");
    if (query_.has("kSecAttrSharingGroup") && !caller_.sharingEntitlement)
      return trace_.decide("S10", errSecMissingEntitlement, "a sharing group without the private entitlement");
    return {};
  }

  bool returnsSomething() const {
    return std::ranges::any_of(query_.values, [](const auto& entry) {
      const KeyInfo* key = findKey(entry.first);
      return key != nullptr && key->category == KeyCategory::Return && isTruthy(entry.second);
    });
  }

  Maybe database() {
    const ServiceState state = system_ ? caller_.systemService : caller_.userService;
    if (state == ServiceState::DatabaseUnusable)
      return trace_.decide("S11", errSecNotAvailable,
                           "the database cannot be opened or used (a read without any other error: -25316)",
                           caller_.certainty);
    if (!reference_) return {};
    const bool token = std::holds_alternative<TokenReference>(*reference_);
    if (!token && !std::holds_alternative<UuidReference>(*reference_)) return {};
    for (const auto& [name, value] : query_.values) {
      const KeyInfo* key = findKey(name);
      if (key == nullptr || key->category != KeyCategory::Attribute) continue;
      if (token && name == "kSecAttrTokenID") continue;
      return trace_.decide("S12", errSecParam, fmt::format("a reference together with the attribute {}", name));
    }
    return {};
  }

  bool names(const ModelRow& row) const {
    if (!reference_) return true;
    if (const auto* uuid = std::get_if<UuidReference>(&*reference_)) return row.uuid == uuid->uuid;
    if (const auto* rowId = std::get_if<RowReference>(&*reference_)) return row.rowId == rowId->rowId;
    const auto* token = std::get_if<TokenReference>(&*reference_);
    return token != nullptr && row.tokenId == token->tokenId;
  }

  bool groupAllowed(const ModelRow& row) {
    if (holdsAll() || holds(row.accessGroup)) return true;
    // S3: on iOS whoever holds the reference may use the item. The code is compiled out on macOS.
    const bool shared = row.accessGroup == kRowGroup || row.accessGroup.ends_with("com.apple.networkextensionsharing");
    if (caller_.platform != Platform::Ios || !caller_.networkExtensionKeychain || !reference_ || !shared) return false;
    trace_.step("S3", "iOS: a network extension may use the row behind a reference it holds");
    return true;
  }

  Outcome select() {
    if (api_ == Api::Add)
      return trace_.decide("S15", errSecSuccess,
                           "added to the first of the caller's groups, unless one is named (-25299 if it is there)");
    const ItemClass table = class_ == ItemClass::Identity ? ItemClass::Certificate : *class_;
    bool otherGroup = false;
    for (const ModelRow& row : rows_) {
      if (row.itemClass != table || !names(row) || (onlyLocal_ && row.synchronizable)) continue;
      if (class_ == ItemClass::Identity && !row.hasPrivateKey) continue;
      if (!groupAllowed(row)) {
        otherGroup = true;
        continue;
      }
      return decrypt();
    }
    return trace_.decide("S13", errSecItemNotFound,
                         otherGroup ? "the row exists in a group that the caller lacks: it is simply not selected"
                                    : "no row in this database");
  }

  Outcome decrypt() {
    switch (system_ ? caller_.systemService : caller_.userService) {
      case ServiceState::ClassKeyMissing:
        return trace_.decide("S14", errSecNotAvailable, "a row is found, and the keystore has no key for its class",
                             caller_.certainty);
      case ServiceState::KeybagLocked:
        return trace_.decide("S14", errSecInteractionNotAllowed, "a row is found, and the keybag is locked",
                             caller_.certainty);
      case ServiceState::Unreachable:
      case ServiceState::DatabaseUnusable:
      case ServiceState::Well: break;
    }
    return trace_.decide("S15", errSecSuccess, "found");
  }

  Trace& trace_;
  Api api_;
  const Query& query_;
  const Caller& caller_;
  const std::vector<ModelRow>& rows_;
  bool system_;
  std::vector<std::string> groups_;
  std::optional<Reference> reference_;
  std::optional<ItemClass> class_;
  bool onlyLocal_ = false;
};

}  // namespace

Outcome askDataProtection(Trace& trace, Api api, const Query& query, const Caller& caller, const World& world) {
  const Query sent = translated(api, query);
  const Value* always = sent.find("kSecUseSystemKeychainAlways");
  const bool system = always != nullptr && isTruthy(*always);
  const Side side = system ? Side::SystemKeychain : Side::UserKeychain;
  const ServiceState state = system ? caller.systemService : caller.userService;
  Outcome outcome;
  if (state == ServiceState::Unreachable) {
    outcome = trace.decide("6.5", errSecNotAvailable,
                           fmt::format("the XPC connection to {} fails",
                                       system ? "com.apple.securityd.systemkeychain" : "com.apple.securityd.xpc"),
                           caller.certainty);
  } else {
    const Query cleaned = sent.without({"kSecUseSystemKeychainAlways"});
    outcome = Server(trace, api, cleaned, caller, world, system).run();
  }
  trace.asked(side, outcome.status);
  return outcome;
}

}  // namespace wayleave::keychain::dispatch
