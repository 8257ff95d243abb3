#include "localapi/identity_json.h"

#include <openssl/crypto.h>

#include "localapi/json_reader.h"

namespace wayleave::localapi {
namespace {

using nlohmann::json;
using Need = ObjectReader::Need;
using Unknown = ObjectReader::Unknown;

// Longest a caller may let a signature wait: far beyond a slow TPM behind a full queue.
constexpr int64_t kLongestDeadlineMs = 600'000;

json base64List(const std::vector<Bytes>& list) {
  json out = json::array();
  for (const Bytes& bytes : list) out.push_back(toBase64(bytes));
  return out;
}

void readIdentity(ObjectReader& reader, IdentityInfo& out) {
  reader.text("id", out.id);
  reader.text("label", out.label);
  reader.text("source", out.source);
  reader.text("keychain", out.keychain);
  reader.bytes("reference", out.reference);
  reader.text("accessGroup", out.accessGroup);
  reader.text("keyType", out.keyType);
  reader.text("keyKind", out.keyKind);
  reader.boolean("attested", out.attested);
  reader.text("subject", out.subject);
  reader.text("issuer", out.issuer);
  reader.text("serial", out.serial);
  reader.text("notBefore", out.notBefore);
  reader.text("notAfter", out.notAfter);
  reader.text("renewAfter", out.renewAfter, Need::Optional);
  reader.text("sha256", out.sha256);
  reader.texts("schemes", out.schemes);
  reader.bytesList("chain", out.chain, Need::Optional);
  reader.bytes("publicKey", out.publicKey);
  reader.text("profileIdentifier", out.profileIdentifier);
  reader.text("payloadUuid", out.payloadUuid);
  reader.text("state", out.state);
  reader.text("stateDetail", out.stateDetail, Need::Optional);
}

void readDeadline(ObjectReader& reader, std::chrono::milliseconds& out) {
  int64_t milliseconds = 0;
  reader.integer("deadlineMs", milliseconds, 0, kLongestDeadlineMs);
  out = std::chrono::milliseconds(milliseconds);
}

template <typename T>
Result<T> finished(ObjectReader& reader, T value, Unknown unknown = Unknown::Refuse) {
  if (Status read = reader.finish(unknown); !read) return propagate(read.error());
  return value;
}

}  // namespace

json toJson(const IdentityInfo& identity) {
  return {{"id", identity.id},
          {"label", identity.label},
          {"source", identity.source},
          {"keychain", identity.keychain},
          {"reference", toBase64(identity.reference)},
          {"accessGroup", identity.accessGroup},
          {"keyType", identity.keyType},
          {"keyKind", identity.keyKind},
          {"attested", identity.attested},
          {"subject", identity.subject},
          {"issuer", identity.issuer},
          {"serial", identity.serial},
          {"notBefore", identity.notBefore},
          {"notAfter", identity.notAfter},
          {"renewAfter", identity.renewAfter},
          {"sha256", identity.sha256},
          {"schemes", identity.schemes},
          {"chain", base64List(identity.chain)},
          {"publicKey", toBase64(identity.publicKey)},
          {"profileIdentifier", identity.profileIdentifier},
          {"payloadUuid", identity.payloadUuid},
          {"state", identity.state},
          {"stateDetail", identity.stateDetail}};
}

json toJson(const TlsSignBody& body) {
  return {{"reference", toBase64(body.request.reference)},
          {"scheme", body.request.scheme},
          {"protocol", body.request.tls13 ? "tls1.3" : "tls1.2"},
          {"content", toBase64(body.request.content)},
          {"deadlineMs", body.deadline.count()}};
}

json toJson(const MessageSignBody& body) {
  return {{"reference", toBase64(body.reference)},
          {"scheme", body.scheme},
          {"message", toBase64(body.message)},
          {"deadlineMs", body.deadline.count()}};
}

json toJson(const ImportRequest& request) {
  return {{"profileIdentifier", request.profileIdentifier},
          {"payloadIdentifier", request.payloadIdentifier},
          {"payloadUuid", request.payloadUuid},
          {"label", request.label},
          {"accessGroup", request.accessGroup},
          {"pkcs12", toBase64(request.pkcs12)},
          {"password", toBase64(request.password.view())},
          {"hasPassword", request.hasPassword}};
}

json toJson(const KeyRequest& request) {
  return {{"payloadUuid", request.payloadUuid},
          {"keyType", request.keyType},
          {"keySize", request.keySize},
          {"hardwareBound", request.hardwareBound}};
}

json toJson(const KeyInfo& key) {
  return {{"key", key.key},
          {"keyType", key.keyType},
          {"keyKind", key.keyKind},
          {"publicKey", toBase64(key.publicKey)},
          {"existed", key.existed}};
}

json toJson(const KeyAttestation& attestation) {
  return {{"akChain", base64List(attestation.akChain)},
          {"signature", toBase64(attestation.signature)},
          {"certifyInfo", toBase64(attestation.certifyInfo)},
          {"publicArea", toBase64(attestation.publicArea)},
          {"algorithm", attestation.algorithm}};
}

json toJson(const OpenedReply& reply) {
  return {{"content", toBase64(reply.content)}, {"cipher", reply.cipher}, {"weak", reply.weak}};
}

json toJson(const BindRequest& request) {
  return {{"key", request.key},
          {"source", request.source},
          {"profileIdentifier", request.profileIdentifier},
          {"payloadIdentifier", request.payloadIdentifier},
          {"payloadUuid", request.payloadUuid},
          {"label", request.label},
          {"accessGroup", request.accessGroup},
          {"chain", base64List(request.chain)},
          {"attested", request.attested}};
}

json toJson(const CertificationRequestBody& body) {
  return {{"scheme", body.scheme}, {"certificationRequestInfo", toBase64(body.certificationRequestInfo)}};
}

json toJson(const CredentialBody& body) {
  return {{"credential", toBase64(body.credential)}, {"secret", toBase64(body.secret)}};
}

json toJson(const AkEnrolment& enrolment) {
  return {{"chainValid", enrolment.chainValid},
          {"manufacturer", enrolment.manufacturer},
          {"model", enrolment.model},
          {"firmwareVersion", enrolment.firmwareVersion},
          {"ek", toBase64(enrolment.ek)},
          {"ekCertificates", base64List(enrolment.ekCertificates)},
          {"akPublic", toBase64(enrolment.akPublic)},
          {"createData", toBase64(enrolment.createData)},
          {"createAttestation", toBase64(enrolment.createAttestation)},
          {"createSignature", toBase64(enrolment.createSignature)}};
}

json toJson(const IdentityEvent& event) {
  return {{"sequence", event.sequence},
          {"event", event.kind},
          {"identity", event.identity},
          {"reference", toBase64(event.reference)}};
}

json toJson(const std::vector<DeclaredApplication>& applications) {
  json list = json::array();
  for (const DeclaredApplication& application : applications) {
    json identities = json::array();
    for (const DeclaredApplication::Item& item : application.identities)
      identities.push_back({{"identifier", item.identifier}, {"identity", item.identity}, {"problem", item.problem}});
    list.push_back({{"composedIdentifier", application.composedIdentifier},
                    {"declaration", application.declaration},
                    {"identities", std::move(identities)}});
  }
  return {{"applications", std::move(list)}};
}

json bytesJson(const char* name, ByteView bytes) { return {{name, toBase64(bytes)}}; }
json bytesListJson(const char* name, const std::vector<Bytes>& list) { return {{name, base64List(list)}}; }
json textsJson(const char* name, const std::vector<std::string>& list) { return {{name, list}}; }

Result<IdentityInfo> identityInfoFromJson(const json& value) {
  IdentityInfo out;
  ObjectReader reader(value, "identity");
  readIdentity(reader, out);
  return finished(reader, std::move(out), Unknown::Ignore);
}

Result<std::vector<IdentityInfo>> identitiesFromJson(const json& value) {
  std::vector<IdentityInfo> out;
  ObjectReader reader(value, "answer");
  reader.objects(
      "identities", [&](ObjectReader& entry) { readIdentity(entry, out.emplace_back()); }, Need::Required,
      Unknown::Ignore);
  return finished(reader, std::move(out), Unknown::Ignore);
}

Result<TlsSignBody> tlsSignBodyFromJson(const json& value) {
  TlsSignBody out;
  std::string protocol;
  ObjectReader reader(value, "request");
  reader.bytes("reference", out.request.reference);
  reader.text("scheme", out.request.scheme);
  reader.text("protocol", protocol);
  reader.bytes("content", out.request.content);
  readDeadline(reader, out.deadline);
  if (reader.ok() && protocol != "tls1.3" && protocol != "tls1.2")
    reader.refuse("protocol", "is neither tls1.3 nor tls1.2");
  out.request.tls13 = protocol == "tls1.3";
  return finished(reader, std::move(out));
}

Result<MessageSignBody> messageSignBodyFromJson(const json& value) {
  MessageSignBody out;
  ObjectReader reader(value, "request");
  reader.bytes("reference", out.reference);
  reader.text("scheme", out.scheme);
  reader.bytes("message", out.message);
  readDeadline(reader, out.deadline);
  return finished(reader, std::move(out));
}

Result<ImportRequest> importRequestFromJson(const json& value, std::string installation) {
  ImportRequest out;
  out.installation = std::move(installation);
  Bytes password;
  ObjectReader reader(value, "request");
  reader.text("profileIdentifier", out.profileIdentifier);
  reader.text("payloadIdentifier", out.payloadIdentifier);
  reader.text("payloadUuid", out.payloadUuid);
  reader.text("label", out.label);
  reader.text("accessGroup", out.accessGroup);
  reader.bytes("pkcs12", out.pkcs12);
  reader.bytes("password", password);
  reader.boolean("hasPassword", out.hasPassword);
  out.password = Secret(std::move(password));
  return finished(reader, std::move(out));
}

Result<KeyRequest> keyRequestFromJson(const json& value, std::string installation) {
  KeyRequest out;
  out.installation = std::move(installation);
  ObjectReader reader(value, "request");
  reader.text("payloadUuid", out.payloadUuid);
  reader.text("keyType", out.keyType);
  reader.integer("keySize", out.keySize, 0, 65536);
  reader.boolean("hardwareBound", out.hardwareBound);
  return finished(reader, std::move(out));
}

Result<KeyInfo> keyInfoFromJson(const json& value) {
  KeyInfo out;
  ObjectReader reader(value, "key");
  reader.text("key", out.key);
  reader.text("keyType", out.keyType);
  reader.text("keyKind", out.keyKind);
  reader.bytes("publicKey", out.publicKey);
  reader.boolean("existed", out.existed);
  return finished(reader, std::move(out), Unknown::Ignore);
}

Result<KeyAttestation> keyAttestationFromJson(const json& value) {
  KeyAttestation out;
  ObjectReader reader(value, "attestation");
  reader.bytesList("akChain", out.akChain);
  reader.bytes("signature", out.signature);
  reader.bytes("certifyInfo", out.certifyInfo);
  reader.bytes("publicArea", out.publicArea);
  reader.integer("algorithm", out.algorithm, INT32_MIN, INT32_MAX);
  return finished(reader, std::move(out), Unknown::Ignore);
}

Result<OpenedReply> openedReplyFromJson(const json& value) {
  OpenedReply out;
  ObjectReader reader(value, "reply");
  reader.bytes("content", out.content);
  reader.text("cipher", out.cipher);
  reader.boolean("weak", out.weak);
  if (Status read = reader.finish(ObjectReader::Unknown::Ignore); !read) return propagate(read.error());
  return out;
}

Result<BindRequest> bindRequestFromJson(const json& value, std::string installation) {
  BindRequest out;
  out.installation = std::move(installation);
  ObjectReader reader(value, "request");
  reader.text("key", out.key);
  reader.text("source", out.source);
  reader.text("profileIdentifier", out.profileIdentifier);
  reader.text("payloadIdentifier", out.payloadIdentifier);
  reader.text("payloadUuid", out.payloadUuid);
  reader.text("label", out.label);
  reader.text("accessGroup", out.accessGroup);
  reader.bytesList("chain", out.chain);
  reader.boolean("attested", out.attested);
  return finished(reader, std::move(out));
}

Result<CertificationRequestBody> certificationRequestBodyFromJson(const json& value) {
  CertificationRequestBody out;
  ObjectReader reader(value, "request");
  reader.text("scheme", out.scheme);
  reader.bytes("certificationRequestInfo", out.certificationRequestInfo);
  return finished(reader, std::move(out));
}

Result<CredentialBody> credentialBodyFromJson(const json& value) {
  CredentialBody out;
  ObjectReader reader(value, "request");
  reader.bytes("credential", out.credential);
  reader.bytes("secret", out.secret);
  return finished(reader, std::move(out));
}

Result<AkEnrolment> akEnrolmentFromJson(const json& value) {
  AkEnrolment out;
  ObjectReader reader(value, "enrolment");
  reader.boolean("chainValid", out.chainValid);
  reader.text("manufacturer", out.manufacturer);
  reader.text("model", out.model);
  reader.text("firmwareVersion", out.firmwareVersion);
  reader.bytes("ek", out.ek);
  reader.bytesList("ekCertificates", out.ekCertificates);
  reader.bytes("akPublic", out.akPublic);
  reader.bytes("createData", out.createData);
  reader.bytes("createAttestation", out.createAttestation);
  reader.bytes("createSignature", out.createSignature);
  return finished(reader, std::move(out), Unknown::Ignore);
}

Result<IdentityEvent> identityEventFromJson(const json& value) {
  IdentityEvent out;
  ObjectReader reader(value, "event");
  reader.integer("sequence", out.sequence, 0, std::numeric_limits<int64_t>::max());
  reader.text("event", out.kind);
  reader.text("identity", out.identity);
  reader.bytes("reference", out.reference);
  return finished(reader, std::move(out), Unknown::Ignore);
}

Result<std::vector<DeclaredApplication>> applicationsFromJson(const json& value) {
  std::vector<DeclaredApplication> out;
  ObjectReader reader(value, "request");
  reader.objects("applications", [&](ObjectReader& entry) {
    DeclaredApplication& application = out.emplace_back();
    entry.text("composedIdentifier", application.composedIdentifier);
    entry.text("declaration", application.declaration);
    entry.objects("identities", [&](ObjectReader& item) {
      DeclaredApplication::Item& identity = application.identities.emplace_back();
      item.text("identifier", identity.identifier);
      item.text("identity", identity.identity);
      item.text("problem", identity.problem, Need::Optional);
    });
  });
  return finished(reader, std::move(out));
}

Result<Bytes> bytesFromJson(const json& value, const char* name) {
  Bytes out;
  ObjectReader reader(value, "body");
  reader.bytes(name, out);
  return finished(reader, std::move(out));
}

Result<std::vector<Bytes>> bytesListFromJson(const json& value, const char* name) {
  std::vector<Bytes> out;
  ObjectReader reader(value, "body");
  reader.bytesList(name, out);
  return finished(reader, std::move(out));
}

Result<std::vector<std::string>> textsFromJson(const json& value, const char* name) {
  std::vector<std::string> out;
  ObjectReader reader(value, "body");
  reader.texts(name, out);
  return finished(reader, std::move(out));
}

void wipeText(std::string& text) {
  OPENSSL_cleanse(text.data(), text.size());
  text.clear();
}

}  // namespace wayleave::localapi
