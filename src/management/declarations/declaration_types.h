#pragma once

// The payloads of the declaration types that Wayleave carries out. Internal to the declarations.

#include <string>
#include <string_view>
#include <vector>

#include "management/declarations/declaration.h"
#include "management/profile_keys.h"

namespace wayleave::management {

struct TypeContext {
  Declaration& declaration;
  std::vector<std::string>& unknown;  // key paths of unknown keys: an error of its own in declarations

  // Reports every key of `keys` that was neither read nor named known.
  void close(Keys& keys) {
    for (std::string& path : keys.unread()) unknown.push_back(std::move(path));
    keys.finish(Severity::Error);
  }
  void useAsset(Keys& keys, std::string_view key, Need need, std::vector<std::string_view> types, bool isUsed = true);
};

// Reads Payload and closes it.
using TypeReader = void (*)(Keys& keys, TypeContext& context);
// nullptr: not a type of ours.
TypeReader readerOf(std::string_view type);

// An asset whose document holds a password, a challenge or a key.
bool holdsSecret(std::string_view assetType);

inline constexpr std::string_view kIdentityAsset = "com.apple.asset.credential.identity";
inline constexpr std::string_view kAcmeAsset = "com.apple.asset.credential.acme";
inline constexpr std::string_view kScepAsset = "com.apple.asset.credential.scep";
inline constexpr std::string_view kCertificateAsset = "com.apple.asset.credential.certificate";
inline constexpr std::string_view kPasswordAsset = "com.apple.asset.credential.userpassword";
inline constexpr std::string_view kDataAsset = "com.apple.asset.data";

inline constexpr std::string_view kVpnPlugin = "com.apple.configuration.network.vpn.vpn-plugin";
inline constexpr std::string_view kSecurityIdentity = "com.apple.configuration.security.identity";
inline constexpr std::string_view kSecurityCertificate = "com.apple.configuration.security.certificate";
inline constexpr std::string_view kManagedApp = "com.apple.configuration.app.managed";
inline constexpr std::string_view kLegacy = "com.apple.configuration.legacy";
inline constexpr std::string_view kLegacyInteractive = "com.apple.configuration.legacy.interactive";
inline constexpr std::string_view kStatusSubscriptions = "com.apple.configuration.management.status-subscriptions";
inline constexpr std::string_view kTest = "com.apple.configuration.management.test";
inline constexpr std::string_view kProperties = "com.apple.management.properties";

}  // namespace wayleave::management
