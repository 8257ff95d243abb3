#pragma once

// Who asks, and what there is to find. A prediction depends on nothing else.

#include <string>
#include <string_view>
#include <vector>

#include "keychain/reference_codec.h"

namespace wayleave::keychain::dispatch {

// How sure a statement is. Code: read in Apple's published source. Files: checked on real files. Documented: stated by
// Apple in public. Inferred: deduced. Unknown: could not be established from public material.
enum class Certainty : uint8_t { Code, Files, Documented, Inferred, Unknown };
std::string_view mark(Certainty certainty);  // "code", "files", "doc", "inferred", "unknown"

// One data protection keychain service, as one caller meets it.
enum class ServiceState : uint8_t {
  Unreachable,       // no such service in the caller's launchd domain, or its sandbox denies the lookup
  DatabaseUnusable,  // it answers, its database cannot be opened
  ClassKeyMissing,   // rows are found, and no key to decrypt them
  KeybagLocked,
  Well,
};
std::string_view text(ServiceState state);

enum class Platform : uint8_t { Mac, IosOnMac, Ios };

struct Caller {
  std::string id;     // "daemon"
  std::string title;  // "root daemon or system extension (third party)"
  std::string note;   // what was assumed
  Platform platform = Platform::Mac;
  ServiceState userService = ServiceState::Well;    // com.apple.securityd.xpc
  ServiceState systemService = ServiceState::Well;  // com.apple.securityd.systemkeychain
  std::vector<std::string> accessGroups;            // as accessGroupsOf builds them; "*" is every group
  bool systemKeychainEntitlement = false;           // com.apple.private.system-keychain
  bool keychainDenied = false;                      // com.apple.private.keychain.deny
  bool sharingEntitlement = false;                  // private sharing-group entitlement
  bool appClip = false;
  bool networkExtensionKeychain = false;   // com.apple.networkextension.keychain, honoured on iOS only
  std::vector<std::string> fileKeychains;  // path prefixes that it can open
  Certainty certainty = Certainty::Code;   // of the assumptions about the services
};

// The access group that the model's rows have unless told otherwise. The group that MDM gives an identity is not
// publicly known, so the contexts are "holds it" and "does not".
inline constexpr std::string_view kRowGroup = "<the row's access group>";
inline constexpr std::string_view kTokenGroup = "com.apple.token";
inline constexpr std::string_view kVpnSharedGroup = "com.apple.managed.vpn.shared";

// The contexts of docs/references.md: app, app-other-group, app-extension, app-no-groups, daemon, daemon-sandboxed,
// daemon-with-secd, entitled-daemon, invalid-signature, ios-extension.
const std::vector<Caller>& contexts();
const Caller* findContext(std::string_view id);

struct Entitlements {
  std::vector<std::string> keychainAccessGroups;
  std::vector<std::string> associatedApplicationIdentifiers;
  std::string applicationIdentifier;
  std::vector<std::string> applicationGroups;
  bool validated = true;  // signature and provisioning profile
};
// SecTaskCopyAccessGroups (server_entitlement_helpers.c): keychain-access-groups; if validated also the application's
// own identifiers and groups; `com.apple.token` last. A process with an application identifier that ends up with no
// group gets none, so that it sees -34018 instead of -25300.
std::vector<std::string> accessGroupsOf(const Entitlements& entitlements);

struct ModelRow {
  ItemClass itemClass = ItemClass::Certificate;
  std::array<uint8_t, 16> uuid{};
  int64_t rowId = 0;
  std::string accessGroup{kRowGroup};
  std::string tokenId;
  bool synchronizable = false;
  bool hasPrivateKey = true;  // of a certificate: its key is in the same database, in an allowed group
};
struct ModelFileItem {
  FileReference reference;
  bool hasPrivateKey = true;
};
struct World {
  std::vector<ModelRow> userRows, systemRows;
  std::vector<ModelFileItem> fileItems;
};

enum class Home : uint8_t { UserKeychain, SystemKeychain, FileKeychain, Nowhere };
// A world in which the item that `reference` names exists in `home` (for a file reference only FileKeychain makes
// sense).
World worldWith(const Reference& reference, Home home);

}  // namespace wayleave::keychain::dispatch
