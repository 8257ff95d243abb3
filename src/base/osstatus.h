#pragma once

// Names of the OSStatus values that Apple's keychain code returns. Source: apple-oss-distributions/Security,
// base/SecBase.h and base/SecBasePriv.h (Security-61901).

#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"

namespace wayleave {

inline constexpr OSStatus errSecSuccess = 0;
inline constexpr OSStatus errSecUnimplemented = -4;
inline constexpr OSStatus errSecParam = -50;
inline constexpr OSStatus errSecNotAvailable = -25291;
inline constexpr OSStatus errSecReadOnly = -25292;
inline constexpr OSStatus errSecAuthFailed = -25293;
inline constexpr OSStatus errSecInvalidKeychain = -25295;
inline constexpr OSStatus errSecDuplicateItem = -25299;
inline constexpr OSStatus errSecItemNotFound = -25300;
inline constexpr OSStatus errSecNoSuchAttr = -25303;
inline constexpr OSStatus errSecInvalidItemRef = -25304;
inline constexpr OSStatus errSecNoSuchClass = -25306;
inline constexpr OSStatus errSecNoDefaultKeychain = -25307;
inline constexpr OSStatus errSecInteractionNotAllowed = -25308;
inline constexpr OSStatus errSecDataNotAvailable = -25316;
inline constexpr OSStatus errSecAuthNeeded = -25330;
inline constexpr OSStatus errSecDecode = -26275;
inline constexpr OSStatus errSecInternal = -26276;
inline constexpr OSStatus errSecMissingEntitlement = -34018;
inline constexpr OSStatus errSecRestrictedAPI = -34020;

struct OSStatusName {
  OSStatus value;
  std::string_view name;
  std::string_view meaning;
};

// Every status above, ascending by absolute value.
std::span<const OSStatusName> osStatusNames();

// "errSecItemNotFound"; nullopt for a value that is not in the table.
std::optional<std::string_view> osStatusName(OSStatus status);

// The `code` of an API error: an OSStatus name where one fits, otherwise the Reason's text.
std::string_view apiCode(const Error& error);

}  // namespace wayleave
