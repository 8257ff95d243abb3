// For managementd's grant: bringing identities in, whole or not at all, renewing and removing them.

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/osstatus.h"
#include "broker/certificate_view.h"
#include "broker/service_call.h"
#include "enrolment/pkcs12.h"
#include "keychain/reference.h"
#include "keychain/store_names.h"
#include "localapi/identity_json.h"

namespace wayleave::broker {
namespace {

using nlohmann::json;

// Where macOS keeps what a device profile brings; the reference of an identity from PKCS#12 or SCEP names it.
constexpr std::string_view kSystemKeychain = "/Library/Keychains/System.keychain";

Error malformed(std::string message) { return {Reason::BadInput, std::move(message), {}, errSecParam}; }

// A fresh version 4 UUID as bytes.
std::array<uint8_t, 16> randomRowUuid() {
  const Bytes bytes = randomBytes(16);
  std::array<uint8_t, 16> uuid{};
  std::ranges::copy(bytes, uuid.begin());
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

Status placeInFileKeychain(keychain::IdentityRecord& record) {
  const Result<keychain::CertificateName> name = keychain::certificateName(record.chain.front());
  if (!name) return propagate(name.error());
  record.keychain = keychain::KeychainKind::File;
  record.keychainPath = kSystemKeychain;
  Result<Bytes> reference = keychain::mintFileReference(record.keychainPath, name->issuer, name->serial);
  if (!reference) return propagate(reference.error());
  record.reference = std::move(*reference);
  return {};
}

void placeInDataProtectionKeychain(keychain::IdentityRecord& record) {
  record.keychain = keychain::KeychainKind::DataProtection;
  record.uuid = randomRowUuid();
  record.reference = keychain::mintDataProtectionReference(keychain::ItemClass::Certificate, record.uuid);
}

// The names an administrator gave, or what the certificate says.
std::string labelFor(std::string_view asked, std::string_view friendly, const CertificateView& leaf) {
  for (const std::string_view candidate :
       {asked, friendly, std::string_view(leaf.commonName), std::string_view(leaf.subject)})
    if (!candidate.empty()) return std::string(candidate);
  return "identity";
}

struct KeyShape {
  keys::KeyType type = keys::KeyType::EcP256;
  int bits = 0;
};
Result<KeyShape> keyShape(const localapi::KeyRequest& request) {
  for (const keys::KeyType type :
       {keys::KeyType::EcP256, keys::KeyType::EcP384, keys::KeyType::EcP521, keys::KeyType::Rsa})
    if (keys::text(type) == request.keyType) return KeyShape{type, type == keys::KeyType::Rsa ? request.keySize : 0};
  return fail(Reason::Unsupported, fmt::format("'{}' is not a key type", request.keyType),
              "use EC P-256, EC P-384, EC P-521 or RSA", errSecParam);
}

}  // namespace

void IdentityService::beginInstallation(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  localapi::ObjectReader reader(*content, "request");
  if (const Status read = reader.finish(); !read) return refuse(call, read.error());
  if (!parsed(call, parts_.store.beginInstallation(call->subject))) return;
  answer(call, json::object());
}

void IdentityService::pendingInstallations(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const Result<std::vector<std::string>> pending = parts_.store.pendingInstallations();
  if (!parsed(call, pending)) return;
  answer(call, localapi::textsJson("pending", *pending));
}

void IdentityService::importPkcs12(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  std::optional<json> content = body(call);
  localapi::wipeText(call->request.body);  // it holds the password
  if (!content) return;
  const Result<localapi::ImportRequest> request = localapi::importRequestFromJson(*content, call->subject);
  if (const auto password = content->find("password"); password != content->end() && password->is_string())
    localapi::wipeText(password->get_ref<std::string&>());
  if (!parsed(call, request)) return;
  if (need(call, Usage::Manage, request->accessGroup) == nullptr) return;
  if (request->accessGroup.empty()) return refuse(call, malformed("accessGroup is empty"));

  std::optional<std::string_view> password;
  if (request->hasPassword) password = request->password.viewText();
  const Result<enrolment::Pkcs12Contents> contents = enrolment::parsePkcs12(request->pkcs12, password);
  if (!parsed(call, contents)) return;
  for (const std::string& warning : contents->warnings)
    log::warn("PKCS#12", {{"payload", request->payloadIdentifier}, {"warning", warning}});

  keychain::KeyRecord key{.id = randomUuid(),
                          .installation = request->installation,
                          .payloadUuid = request->payloadUuid,
                          .spki = {},
                          .blob = {}};
  Result<MadeKey> made = parts_.keys.import(key.id, contents->pkcs8);
  if (!parsed(call, made)) return;
  key.kind = made->kind;
  key.spki = std::move(made->spki);
  key.blob = std::move(made->blob);
  const Result<CertificateView> leaf = viewCertificate(contents->chain.front());
  if (!parsed(call, leaf)) return;

  keychain::IdentityRecord record;
  record.id = randomUuid();
  record.keyId = key.id;
  record.installation = request->installation;
  record.source = "pkcs12";
  record.label = labelFor(request->label, contents->friendlyName, *leaf);
  record.accessGroup = request->accessGroup;
  record.profileIdentifier = request->profileIdentifier;
  record.payloadIdentifier = request->payloadIdentifier;
  record.payloadUuid = request->payloadUuid;
  record.chain = contents->chain;
  if (!parsed(call, placeInFileKeychain(record))) return;
  if (!parsed(call, parts_.store.addKey(key))) return;
  if (!parsed(call, parts_.store.addIdentity(record))) return;

  AuditEntry entry = entryFor(*call, call->event);
  entry.identity = record.id;
  entry.label = record.label;
  if (!this->record(call, std::move(entry))) return;
  answer(call, view(record, true));
}

void IdentityService::createKey(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  const Result<localapi::KeyRequest> request = localapi::keyRequestFromJson(*content, call->subject);
  if (!parsed(call, request)) return;
  const Result<KeyShape> shape = keyShape(*request);
  if (!parsed(call, shape)) return;
  const auto reply = [&](const keychain::KeyRecord& key, bool existed) {
    const Result<keys::PublicKey> decoded = keys::PublicKey::fromSpki(key.spki);
    if (!parsed(call, decoded)) return;
    answer(call, localapi::toJson(localapi::KeyInfo{.key = key.id,
                                                    .keyType = decoded->type == keys::KeyType::Rsa
                                                                   ? fmt::format("RSA {}", decoded->bits)
                                                                   : std::string(keys::text(decoded->type)),
                                                    .keyKind = std::string(keys::text(key.kind)),
                                                    .publicKey = key.spki,
                                                    .existed = existed}));
  };
  const Result<std::optional<keychain::KeyRecord>> existing =
      parts_.store.keyFor(request->installation, request->payloadUuid);
  if (!parsed(call, existing)) return;
  if (*existing) {
    if (request->hardwareBound && (*existing)->kind != keys::KeyKind::Tpm)
      return refuse(call,
                    {Reason::Conflict, "this payload has a software key already, and now asks for a hardware-bound one",
                     "abort the installation and begin a new one", 0});
    return reply(**existing, true);
  }
  keychain::KeyRecord key{.id = randomUuid(),
                          .installation = request->installation,
                          .payloadUuid = request->payloadUuid,
                          .spki = {},
                          .blob = {}};
  Result<MadeKey> made = parts_.keys.create(key.id, shape->type, shape->bits, request->hardwareBound);
  if (!parsed(call, made)) return;
  key.kind = made->kind;
  key.spki = std::move(made->spki);
  key.blob = std::move(made->blob);
  if (!parsed(call, parts_.store.addKey(key))) return;
  AuditEntry entry = entryFor(*call, call->event);
  entry.detail = fmt::format("{} key {}", keys::text(key.kind), key.id);
  if (!record(call, std::move(entry))) return;
  reply(key, false);
}

void IdentityService::bindCertificate(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  Result<localapi::BindRequest> request = localapi::bindRequestFromJson(*content, call->subject);
  if (!parsed(call, request)) return;
  if (need(call, Usage::Manage, request->accessGroup) == nullptr) return;
  if (request->accessGroup.empty()) return refuse(call, malformed("accessGroup is empty"));
  if (request->chain.empty()) return refuse(call, malformed("chain is empty"));
  const Result<keychain::KeyRecord> key = parts_.store.key(request->key);
  if (!parsed(call, key)) return;
  if (key->installation != request->installation)
    return refuse(call, {Reason::Conflict, "the key belongs to another installation", {}, 0});
  if (request->attested && key->kind != keys::KeyKind::Tpm)
    return refuse(call, malformed("a software key cannot have been attested"));
  const Result<CertificateView> leaf = viewCertificate(request->chain.front());
  if (!parsed(call, leaf)) return;

  keychain::IdentityRecord record;
  record.id = randomUuid();
  record.keyId = key->id;
  record.installation = request->installation;
  record.source = request->source;
  record.label = labelFor(request->label, {}, *leaf);
  record.accessGroup = request->accessGroup;
  record.profileIdentifier = request->profileIdentifier;
  record.payloadIdentifier = request->payloadIdentifier;
  record.payloadUuid = request->payloadUuid;
  record.chain = std::move(request->chain);
  record.attested = request->attested;
  if (request->source == "acme") {
    placeInDataProtectionKeychain(record);
  } else if (request->source == "scep") {
    if (!parsed(call, placeInFileKeychain(record))) return;
  } else {
    return refuse(call, malformed(fmt::format("source '{}' is neither acme nor scep", request->source)));
  }
  if (!parsed(call, parts_.store.addIdentity(record))) return;
  AuditEntry entry = entryFor(*call, call->event);
  entry.identity = record.id;
  entry.label = record.label;
  if (!this->record(call, std::move(entry))) return;
  answer(call, view(record, true));
}

void IdentityService::announceRemoved(const std::vector<keychain::IdentityRecord>& before,
                                      const std::vector<std::string>& removed) {
  for (const keychain::IdentityRecord& identity : before) {
    if (std::ranges::find(removed, identity.id) == removed.end()) continue;
    parts_.keys.forget(identity.keyId);
    announce("identity-removed", identity);
  }
}

void IdentityService::commitInstallation(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  const Result<std::vector<std::string>> replaced = localapi::textsFromJson(*content, "replacedProfiles");
  if (!parsed(call, replaced)) return;
  const Result<std::vector<keychain::IdentityRecord>> before = parts_.store.identities();
  if (!parsed(call, before)) return;
  // Recorded first: managementd commits again what it got no answer for, so a commit is never lost for want of a line.
  AuditEntry entry = entryFor(*call, call->event);
  entry.detail = fmt::format("installation {}", call->subject);
  if (!record(call, std::move(entry))) return;
  const Result<keychain::Store::CommitResult> done = parts_.store.commit(call->subject, *replaced);
  if (!parsed(call, done)) return;
  announceRemoved(*before, done->removed);
  for (const std::string& id : done->added)
    if (const Result<keychain::IdentityRecord> added = parts_.store.identity(id))
      announce("identity-added", *added);
  answer(call, {{"added", done->added}, {"removed", done->removed}});
}

void IdentityService::abortInstallation(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  if (!parsed(call, parts_.store.abort(call->subject))) return;
  answer(call, json::object());
}

void IdentityService::removeProfile(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const Result<std::vector<keychain::IdentityRecord>> before = parts_.store.identities();
  if (!parsed(call, before)) return;
  AuditEntry entry = entryFor(*call, call->event);
  entry.detail = fmt::format("profile {}", call->subject);
  if (!record(call, std::move(entry))) return;
  const Result<std::vector<std::string>> removed = parts_.store.removeProfile(call->subject);
  if (!parsed(call, removed)) return;
  announceRemoved(*before, *removed);
  answer(call, {{"removed", *removed}});
}

void IdentityService::renewCertificate(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  const Result<std::vector<Bytes>> chain = localapi::bytesListFromJson(*content, "chain");
  if (!parsed(call, chain)) return;
  const Result<keychain::IdentityRecord> before = parts_.store.identity(call->subject);
  if (!parsed(call, before)) return;
  if (need(call, Usage::Manage, before->accessGroup) == nullptr) return;
  if (!parsed(call, parts_.store.renewCertificate(call->subject, *chain))) return;
  const Result<keychain::IdentityRecord> after = parts_.store.identity(call->subject);
  if (!parsed(call, after)) return;
  AuditEntry entry = entryFor(*call, call->event);
  entry.identity = after->id;
  entry.label = after->label;
  if (!record(call, std::move(entry))) return;
  announce("identity-renewed", *after);
  answer(call, view(*after, true));
}

Result<keychain::KeyRecord> IdentityService::keyNamed(std::string_view keyOrIdentity) {
  Result<keychain::KeyRecord> key = parts_.store.key(keyOrIdentity);
  if (key || key.error().reason != Reason::NotFound) return key;
  const Result<keychain::IdentityRecord> identity = parts_.store.identity(keyOrIdentity);
  return identity ? parts_.store.key(identity->keyId) : key;
}

void IdentityService::attestKey(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  const Result<Bytes> qualifyingData = localapi::bytesFromJson(*content, "qualifyingData");
  if (!parsed(call, qualifyingData)) return;
  const Result<keychain::KeyRecord> key = keyNamed(call->subject);
  if (!parsed(call, key)) return;
  const Result<localapi::KeyAttestation> attestation = parts_.keys.attest(*key, *qualifyingData);
  AuditEntry entry = entryFor(*call, call->event);
  entry.detail = "key " + key->id;
  if (!attestation) {
    entry.outcome = text(attestation.error().reason);
    entry.detail += ": " + attestation.error().message;
  }
  if (!record(call, std::move(entry))) return;
  if (!parsed(call, attestation)) return;
  answer(call, localapi::toJson(*attestation));
}

void IdentityService::beginAk(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const Result<localapi::AkEnrolment> enrolment = parts_.keys.beginAkEnrolment();
  if (!parsed(call, enrolment)) return;
  if (!record(call, entryFor(*call, call->event))) return;
  answer(call, localapi::toJson(*enrolment));
}

void IdentityService::activateAk(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  const Result<localapi::CredentialBody> request = localapi::credentialBodyFromJson(*content);
  if (!parsed(call, request)) return;
  const Result<Bytes> secret = parts_.keys.activateCredential(request->credential, request->secret);
  if (!parsed(call, secret)) return;
  if (!record(call, entryFor(*call, call->event))) return;
  answer(call, localapi::bytesJson("secret", *secret));
}

void IdentityService::storeAkChain(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  const Result<std::vector<Bytes>> chain = localapi::bytesListFromJson(*content, "chain");
  if (!parsed(call, chain)) return;
  if (!parsed(call, parts_.keys.storeAkChain(*chain))) return;
  if (!record(call, entryFor(*call, call->event))) return;
  answer(call, json::object());
}

}  // namespace wayleave::broker
