#include "base/osstatus.h"

#include <algorithm>
#include <array>

namespace wayleave {
namespace {

constexpr std::array kNames = {
    OSStatusName{errSecSuccess, "errSecSuccess", "no error"},
    OSStatusName{errSecUnimplemented, "errSecUnimplemented", "function or operation not implemented"},
    OSStatusName{errSecParam, "errSecParam", "one or more parameters passed to the function were not valid"},
    OSStatusName{errSecNotAvailable, "errSecNotAvailable", "no keychain is available"},
    OSStatusName{errSecReadOnly, "errSecReadOnly", "read-only error"},
    OSStatusName{errSecAuthFailed, "errSecAuthFailed", "authorization or authentication failed"},
    OSStatusName{errSecInvalidKeychain, "errSecInvalidKeychain", "the keychain is not valid"},
    OSStatusName{errSecDuplicateItem, "errSecDuplicateItem", "the item already exists"},
    OSStatusName{errSecItemNotFound, "errSecItemNotFound", "the item cannot be found"},
    OSStatusName{errSecNoSuchAttr, "errSecNoSuchAttr", "the attribute does not exist"},
    OSStatusName{errSecInvalidItemRef, "errSecInvalidItemRef", "the item reference is not valid"},
    OSStatusName{errSecNoSuchClass, "errSecNoSuchClass", "the keychain item class does not exist"},
    OSStatusName{errSecNoDefaultKeychain, "errSecNoDefaultKeychain", "a default keychain does not exist"},
    OSStatusName{errSecInteractionNotAllowed, "errSecInteractionNotAllowed", "user interaction is not allowed"},
    OSStatusName{errSecDataNotAvailable, "errSecDataNotAvailable", "the data is not available"},
    OSStatusName{errSecAuthNeeded, "errSecAuthNeeded", "authentication is needed (internal)"},
    OSStatusName{errSecDecode, "errSecDecode", "unable to decode the provided data"},
    OSStatusName{errSecInternal, "errSecInternal", "an internal error occurred"},
    OSStatusName{errSecMissingEntitlement, "errSecMissingEntitlement", "a required entitlement is missing"},
    OSStatusName{errSecRestrictedAPI, "errSecRestrictedAPI", "the client is restricted and cannot do this"},
};

}  // namespace

std::span<const OSStatusName> osStatusNames() { return kNames; }

std::optional<std::string_view> osStatusName(OSStatus status) {
  const auto found = std::ranges::find(kNames, status, &OSStatusName::value);
  if (found == kNames.end()) return std::nullopt;
  return found->name;
}

std::string_view apiCode(const Error& error) {
  if (error.osStatus != 0) {
    if (const auto name = osStatusName(error.osStatus)) return *name;
  }
  return text(error.reason);
}

}  // namespace wayleave
