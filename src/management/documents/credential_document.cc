#include "management/documents/credential_document.h"

#include <openssl/err.h>
#include <openssl/pkcs12.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/owned.h"
#include "management/payload_reader.h"

namespace wayleave::management {
namespace {

bool hasAny(const plist::Dictionary& dictionary, std::initializer_list<std::string_view> keys) {
  return std::ranges::any_of(keys, [&](std::string_view key) { return dictionary.contains(key); });
}

// The text becomes data in place; a finding when it is no base64. Something else than text is the reader's to refuse.
void decode(plist::Dictionary& dictionary, std::string_view key, const std::string& path, Report& report) {
  plist::Value* value = dictionary.find(key);
  if (value == nullptr || value->string() == nullptr) return;
  Result<Bytes> bytes = fromBase64(*value->string());
  if (bytes)
    dictionary.set(std::string(key), std::move(*bytes));
  else
    report.error(plist::childPath(path, key), "is not base64");
}

void checkIdentity(plist::Dictionary& document, Report& report) {
  Keys keys(document, "", report);
  if (keys.string("Password") == nullptr && !keys.has("Password")) keys.error("Password", "is missing", "in a profile it may be left out, here not");
  const std::string* identity = keys.string("Identity", Need::Required);
  keys.finish();
  if (identity == nullptr) return;
  const Result<Bytes> bytes = fromBase64(*identity);
  if (!bytes) return keys.error("Identity", "is not base64");
  const unsigned char* at = bytes->data();
  const Handle<PKCS12, PKCS12_free> file(d2i_PKCS12(nullptr, &at, static_cast<long>(bytes->size())));
  ERR_clear_error();
  if (!file) keys.error("Identity", "is not a PKCS #12 file");
}

}  // namespace

std::string_view text(CredentialKind kind) {
  switch (kind) {
    case CredentialKind::Acme: return "com.apple.credential.acme";
    case CredentialKind::Scep: return "com.apple.credential.scep";
    case CredentialKind::Identity: return "com.apple.credential.identity";
    case CredentialKind::UserNameAndPassword: return "com.apple.credential.usernameandpassword";
  }
  return "?";
}

std::optional<CredentialKind> credentialKindOf(const plist::Dictionary& document) {
  if (hasAny(document, {"Type", "Payload", "ServerToken", "StatusItems", "DeclarationsToken", "SyncTokens"})) return std::nullopt;
  if (hasAny(document, {"DirectoryURL", "ClientIdentifier", "HardwareBound", "KeyType"})) return CredentialKind::Acme;
  if (hasAny(document, {"Identity"})) return CredentialKind::Identity;
  if (hasAny(document, {"UserName"})) return CredentialKind::UserNameAndPassword;
  if (hasAny(document, {"Keysize", "Challenge", "Key Type", "Key Usage", "CAFingerprint"})) return CredentialKind::Scep;
  if (document.contains("URL") && hasAny(document, {"Subject", "Name", "SubjectAltName", "Retries", "RetryDelay"})) return CredentialKind::Scep;
  return std::nullopt;
}

void checkCredentialDocument(CredentialKind kind, plist::Dictionary document, Report& report) {
  const PayloadHeader header;
  const std::vector<PayloadHeader> none;
  const Resolver resolver(none);
  const ReadContext context{header, resolver, report, Wall{}};
  switch (kind) {
    case CredentialKind::Acme: {
      if (plist::Value* account = document.find("ExternalAccountBinding"); account != nullptr && account->dictionary() != nullptr)
        decode(*account->dictionary(), "HMACKey", "ExternalAccountBinding", report);
      Keys keys(document, "", report);
      readAcmePayload(keys, context, AcmeForm::DeclarationDocument);
      return;
    }
    case CredentialKind::Scep: {
      decode(document, "CAFingerprint", "", report);
      Keys keys(document, "", report);
      ScepPayload payload;
      readScepContent(keys, payload, false);
      return;
    }
    case CredentialKind::Identity: return checkIdentity(document, report);
    case CredentialKind::UserNameAndPassword: {
      Keys keys(document, "", report);
      keys.string("UserName", Need::Required);
      keys.string("Password");
      keys.finish();
      return;
    }
  }
}

}  // namespace wayleave::management
