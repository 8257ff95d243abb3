#include "keychain/explain/status_explanation.h"

#include <algorithm>
#include <charconv>

#include "base/osstatus.h"
#include "keychain/dispatch/not_available.h"

namespace wayleave::keychain::explain {
namespace {

// base/SecBasePriv.h: one number, so a caller cannot tell them apart.
constexpr std::string_view kParamAliases[] = {
    "errSecItemInvalidKey",       "errSecItemInvalidKeyType",    "errSecItemInvalidValue",
    "errSecItemClassMissing",     "errSecItemMatchUnsupported",  "errSecUseItemListUnsupported",
    "errSecReturnMissingPointer", "errSecMatchLimitUnsupported", "errSecReturnDataUnsupported",
    "errSecValueRefUnsupported",  "errSecItemIllegalQuery",
};
constexpr std::string_view kUnimplementedAlias = "errSecUnsupportedOperation";

void add(std::vector<Statement>& to, std::string text, Certainty certainty = Certainty::Code, std::string source = {}) {
  to.push_back({std::move(text), certainty, std::move(source)});
}

void describe(StatusExplanation& out) {
  auto& by = out.producers;
  auto& apart = out.apart;
  switch (out.status) {
    case errSecSuccess:
      add(by, "Every call that worked; of a query to both sides also when one of them failed (6.3).");
      break;
    case errSecParam:
      add(by,
          "The client, before any keychain is asked: no dictionary (0); a flag that contradicts a sharing group or "
          "kSecUseSystemKeychainAlways (2a, 2b); no side left (10), for example a data protection reference with "
          "kSecMatchSearchList (7 and 8).");
      add(by,
          "The file side: no result pointer (F1), a value of the wrong type (F2), no class (F3), kSecMatchIssuers "
          "without class identity "
          "(F4), all passwords with their data (F5).");
      add(by,
          "The data protection server: an unusable reference, an unknown key, no class (S5); kSecUseItemList or no "
          "result pointer (S10); a "
          "reference together with an attribute, even an allowed access group (S12).");
      add(apart,
          "All internal names are this one number. Take keys away one by one; `wayleave explain REFERENCE --query …` "
          "names the rule.");
      break;
    case errSecNotAvailable:
      add(by, "The data protection path: five causes end here.", Certainty::Code, "docs/references.md, section 8");
      for (const dispatch::CauseInfo& cause : dispatch::causesOfNotAvailable()) {
        add(by, std::string(1, cause.letter) + ". " + std::string(cause.what), Certainty::Code,
            std::string(cause.source));
        add(apart, std::string(1, cause.letter) + ": " + std::string(cause.separatedBy));
      }
      add(apart,
          "It is not \"no default keychain\": that is -25307. An item in another keychain, or in a group not held, "
          "would be -25300.");
      add(apart,
          "On a Mac: log stream --predicate 'process==\"secd\" OR process==\"securityd_system\" OR "
          "subsystem==\"com.apple.securityd\"'",
          Certainty::Code);
      break;
    case errSecItemNotFound:
      add(by, "The data protection server: no row in this database, or in a group the caller lacks (S13).");
      add(by, "The file side: the reference does not resolve, whatever the reason (F6), or nothing matches (F9).");
      add(by,
          "SecKeychainItemCopyFromPersistentReference: its two data protection attempts fail with whatever status, "
          "which is discarded, and the "
          "bytes hold no `ssui` (6.7).");
      add(apart,
          "From the old function or with the flag false it can hide -25291 and -34018: ask with "
          "kSecUseDataProtectionKeychain = true.");
      add(apart,
          "With the flag true: really not there for this caller. Another access group or another database looks the "
          "same.");
      break;
    case errSecMissingEntitlement:
      add(by,
          "The data protection server: the caller has no access group (S2; writing with com.apple.token alone too); "
          "the query names a group "
          "not held (S6, before any database is opened); the system keychain without com.apple.private.system-keychain "
          "(S9); a sharing group "
          "without its entitlement (S10).");
      add(apart,
          "It is made only inside secd or securityd_system: whoever sees it has reached the service. A query to both "
          "sides drops it (6.3).");
      add(apart,
          "With an explicit kSecAttrAccessGroup: S6. Without one: no groups at all, usually a signature or profile "
          "that does not validate.");
      break;
    case errSecNoSuchClass:
      add(by,
          "The data protection server: an unknown kSecClass, or one that differs from the reference's, as "
          "kSecClassIdentity with a `cert` "
          "reference (S5).");
      add(apart, "Whoever sees it has reached secd: cause a of -25291 is excluded for this process.");
      break;
    case errSecInteractionNotAllowed:
      add(by, "The data protection server: the row is there and the keybag is locked (S14).");
      add(by, "A file keychain that is locked where no dialog may be shown.", Certainty::Documented);
      add(apart, "On the data protection side it goes away after the first unlock; -25291 does not.");
      break;
    case errSecNoSuchAttr:
      add(by, "The parser of `ssui` references: the primary key is too short.", Certainty::Code,
          "OSX/libsecurity_keychain/lib/PrimaryKey.cpp");
      add(by, "The data protection database: SQLite MISMATCH.");
      break;
    case errSecInvalidKeychain:
      add(by, "The writer of `ssui` references, when an attribute of the primary key has no value.");
      break;
    case errSecDataNotAvailable:
      add(by, "The data protection server on reading: no database handle, and no other error set (S11).");
      break;
    case errSecUnimplemented:
      add(by,
          "The data protection server: issuers or a policy for a class without certificates, a host match for another "
          "class than internet "
          "password (S10).");
      break;
    case errSecInternal: add(by, "The XPC client: an error other than a lost connection (6.5)."); break;
    case errSecDecode:
      add(by, "The keystore on decrypting a row; the row is skipped (S14), so it seldom surfaces.");
      break;
    case errSecRestrictedAPI: add(by, "The data protection server: an app clip with foreign groups (S8)."); break;
    case errSecReadOnly: add(by, "The data protection database: SQLite READONLY."); break;
    case errSecDuplicateItem: add(by, "SecItemAdd; the data protection database: SQLite CONSTRAINT."); break;
    case errSecAuthFailed:
      add(by, "The kernel's \"not readable\" or \"not writable\"; a file keychain's wrong password.");
      break;
    case errSecNoDefaultKeychain:
      add(by, "File keychain functions without a default keychain. Often confused with -25291.");
      break;
    case errSecAuthNeeded:
      add(by, "Internal to the data protection path: the caller is asked to authenticate and the call repeated.");
      break;
    default: break;  // names without a story: the table of names is the authority
  }
}

}  // namespace

std::optional<StatusExplanation> explainStatus(OSStatus status) {
  const auto known = osStatusNames();
  const auto found = std::ranges::find(known, status, &OSStatusName::value);
  if (found == known.end()) return std::nullopt;
  StatusExplanation out;
  out.status = status;
  out.names = {found->name};
  out.meaning = found->meaning;
  if (status == errSecParam) out.names.insert(out.names.end(), std::begin(kParamAliases), std::end(kParamAliases));
  if (status == errSecUnimplemented) out.names.push_back(kUnimplementedAlias);
  describe(out);
  return out;
}

std::optional<OSStatus> parseStatus(std::string_view text) {
  for (const OSStatusName& name : osStatusNames())
    if (name.name == text) return name.value;
  if (std::ranges::find(kParamAliases, text) != std::end(kParamAliases)) return errSecParam;
  if (text == kUnimplementedAlias) return errSecUnimplemented;
  constexpr size_t kMaxDigits = 6;  // of a keychain status; longer digits are a reference in hex
  if (text.starts_with("0x") && text.size() == 10) {
    uint32_t bits = 0;
    const auto [end, code] = std::from_chars(text.data() + 2, text.data() + text.size(), bits, 16);
    const auto value = static_cast<OSStatus>(bits);
    if (code == std::errc{} && end == text.data() + text.size() && value <= 0 && value > -100'000) return value;
    return std::nullopt;
  }
  OSStatus value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || code != std::errc{} || end != text.data() + text.size() || text.size() > kMaxDigits + 1)
    return std::nullopt;
  return value > 0 && osStatusName(-value) ? -value : value;
}

}  // namespace wayleave::keychain::explain
