#pragma once

// The JSON documents that credential assets refer to (com.apple.credential.*): what becomes an identity, a certificate's request
// or a password. Read as a declaration's download will read them; wayleave lint and explain ask the same reader.

#include <optional>
#include <string_view>

#include "management/profile_report.h"
#include "plist/value.h"

namespace wayleave::management {

enum class CredentialKind : uint8_t { Acme, Scep, Identity, UserNameAndPassword };
std::string_view text(CredentialKind kind);  // "com.apple.credential.acme", …

// By the keys that only this kind has; nullopt: none of them.
std::optional<CredentialKind> credentialKindOf(const plist::Dictionary& document);

// Data in JSON is a base64 string. Findings never show a secret.
void checkCredentialDocument(CredentialKind kind, plist::Dictionary document, Report& report);

}  // namespace wayleave::management
