#include "keychain/dispatch/caller.h"

#include <algorithm>

namespace wayleave::keychain::dispatch {
namespace {

const std::string kOwnGroup = "TEAMID.com.example.agent";

std::vector<Caller> makeContexts() {
  const std::vector<std::string> everyFile = {"/Library/Keychains/", "~/Library/Keychains/"};
  const std::vector<std::string> systemFile = {"/Library/Keychains/"};
  std::vector<Caller> out;

  Caller app;
  app.id = "app";
  app.title = "app or LaunchAgent in a login session";
  app.note = "holds the row's access group; the user is logged in and the keybag unlocked";
  app.accessGroups = {std::string(kRowGroup), kOwnGroup, std::string(kTokenGroup)};
  app.fileKeychains = everyFile;
  out.push_back(app);

  Caller other = app;
  other.id = "app-other-group";
  other.title = "the same without the row's access group";
  other.note = "has access groups of its own only";
  other.accessGroups = {kOwnGroup, std::string(kTokenGroup)};
  out.push_back(other);

  Caller extension = app;
  extension.id = "app-extension";
  extension.title = "app extension in a login session";
  extension.note = "holds the row's access group and com.apple.managed.vpn.shared in its signed profile";
  extension.accessGroups = {std::string(kRowGroup), std::string(kVpnSharedGroup), kOwnGroup, std::string(kTokenGroup)};
  out.push_back(extension);

  Caller bare = app;
  bare.id = "app-no-groups";
  bare.title = "user process without keychain entitlements";
  bare.note = "its only group is com.apple.token";
  bare.accessGroups = {std::string(kTokenGroup)};
  out.push_back(bare);

  Caller daemon;
  daemon.id = "daemon";
  daemon.title = "root daemon or system extension, third party";
  daemon.note = "no secd serves the system's launchd domain";
  daemon.userService = ServiceState::Unreachable;
  daemon.accessGroups = {kOwnGroup, std::string(kTokenGroup)};
  daemon.fileKeychains = systemFile;
  daemon.certainty = Certainty::Documented;  // TN3137
  out.push_back(daemon);

  Caller sandboxed = daemon;
  sandboxed.id = "daemon-sandboxed";
  sandboxed.title = "the same in a sandbox without a mach-lookup exception";
  sandboxed.note = "neither service can be looked up";
  sandboxed.systemService = ServiceState::Unreachable;
  sandboxed.certainty = Certainty::Inferred;
  out.push_back(sandboxed);

  Caller withSecd = daemon;
  withSecd.id = "daemon-with-secd";
  withSecd.title = "root process that reaches a secd for uid 0";
  withSecd.note = "whether this happens is not publicly known; its database would be unusable";
  withSecd.userService = ServiceState::DatabaseUnusable;
  withSecd.certainty = Certainty::Unknown;
  out.push_back(withSecd);

  Caller entitled = daemon;
  entitled.id = "entitled-daemon";
  entitled.title = "Apple's own daemon with com.apple.private.system-keychain";
  entitled.note = "holds the row's access group; third parties cannot have this entitlement";
  entitled.systemKeychainEntitlement = true;
  entitled.accessGroups = {std::string(kRowGroup), "com.apple.identities"};
  entitled.certainty = Certainty::Code;
  out.push_back(entitled);

  Caller invalid = app;
  invalid.id = "invalid-signature";
  invalid.title = "process whose signature or profile does not validate";
  invalid.note = "has an application identifier and is left without any group";
  invalid.accessGroups = {};
  out.push_back(invalid);

  Caller ios;
  ios.id = "ios-extension";
  ios.title = "network extension on iOS";
  ios.note = "the row stands in a group ending in com.apple.networkextensionsharing";
  ios.platform = Platform::Ios;
  ios.systemService = ServiceState::Unreachable;
  ios.accessGroups = {kOwnGroup, std::string(kTokenGroup)};
  ios.networkExtensionKeychain = true;
  out.push_back(ios);
  return out;
}

}  // namespace

std::string_view mark(Certainty certainty) {
  switch (certainty) {
    case Certainty::Code: return "code";
    case Certainty::Files: return "files";
    case Certainty::Documented: return "doc";
    case Certainty::Inferred: return "inferred";
    case Certainty::Unknown: return "unknown";
  }
  return "?";
}

std::string_view text(ServiceState state) {
  switch (state) {
    case ServiceState::Unreachable: return "unreachable";
    case ServiceState::DatabaseUnusable: return "database unusable";
    case ServiceState::ClassKeyMissing: return "class key missing";
    case ServiceState::KeybagLocked: return "keybag locked";
    case ServiceState::Well: return "well";
  }
  return "?";
}

const std::vector<Caller>& contexts() {
  static const std::vector<Caller> all = makeContexts();
  return all;
}

const Caller* findContext(std::string_view id) {
  const auto found = std::ranges::find(contexts(), id, &Caller::id);
  return found == contexts().end() ? nullptr : &*found;
}

std::vector<std::string> accessGroupsOf(const Entitlements& e) {
  std::vector<std::string> groups = e.keychainAccessGroups;
  if (e.validated) {
    groups.insert(groups.end(), e.associatedApplicationIdentifiers.begin(), e.associatedApplicationIdentifiers.end());
    if (!e.applicationIdentifier.empty()) groups.push_back(e.applicationIdentifier);
    groups.insert(groups.end(), e.applicationGroups.begin(), e.applicationGroups.end());
  }
  std::erase(groups, kTokenGroup);
  if (groups.empty() && !e.applicationIdentifier.empty()) return groups;
  groups.emplace_back(kTokenGroup);
  return groups;
}

World worldWith(const Reference& reference, Home home) {
  World world;
  if (home == Home::Nowhere) return world;
  if (const auto* file = std::get_if<FileReference>(&reference)) {
    world.fileItems.push_back({*file});
    return world;
  }
  ModelRow row;
  if (const auto* uuid = std::get_if<UuidReference>(&reference)) {
    row.itemClass = uuid->itemClass;
    row.uuid = uuid->uuid;
  } else if (const auto* rowId = std::get_if<RowReference>(&reference)) {
    row.itemClass = rowId->itemClass;
    row.rowId = rowId->rowId;
  } else {
    const auto& token = std::get<TokenReference>(reference);
    row.itemClass = token.itemClass;
    row.tokenId = token.tokenId;
  }
  if (row.itemClass == ItemClass::Identity) row.itemClass = ItemClass::Certificate;  // there are no identity rows
  (home == Home::SystemKeychain ? world.systemRows : world.userRows).push_back(std::move(row));
  return world;
}

}  // namespace wayleave::keychain::dispatch
