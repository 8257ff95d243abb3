// SCEP for managementd's grant (RFC 8894): three narrow uses of a key. None is an oracle. The requester's certificate is made
// here and vouches for nothing; signed attributes have SCEP's shape or are refused; what is opened leaves only when it is
// certificates, and why something does not open is never told.

#include <fmt/format.h>

#include "broker/service_call.h"
#include "enrolment/scep/authority.h"
#include "enrolment/scep/message.h"
#include "localapi/identity_json.h"

namespace wayleave::broker {
namespace {

namespace scep = enrolment::scep;

constexpr std::chrono::milliseconds kScepDeadline{30'000};

}  // namespace

std::optional<IdentityService::Signature> IdentityService::scepUse(const CallPtr& call, const char* member, std::string_view usage) {
  const Grant* grant = need(call, Usage::Manage);
  if (grant == nullptr) return std::nullopt;
  const std::optional<nlohmann::json> content = body(call);
  if (!content) return std::nullopt;
  Result<Bytes> bytes = localapi::bytesFromJson(*content, member);
  if (!parsed(call, bytes)) return std::nullopt;
  Result<keychain::KeyRecord> key = keyNamed(call->subject);
  if (!parsed(call, key)) return std::nullopt;
  const Result<keys::PublicKey> decoded = keys::PublicKey::fromSpki(key->spki);
  if (!parsed(call, decoded)) return std::nullopt;
  if (decoded->type != keys::KeyType::Rsa) {
    refuse(call, {Reason::Unsupported, fmt::format("SCEP needs an RSA key, this is {}", keys::text(decoded->type)), {}, 0});
    return std::nullopt;
  }
  if (!withinRate(call, *grant)) return std::nullopt;
  return Signature{.key = std::move(*key),
                   .identity = std::nullopt,
                   .grant = grant->name,
                   .usage = usage,
                   .scheme = keys::SignatureScheme::RsaPkcs1Sha256,
                   .content = std::move(*bytes),
                   .isDigest = false,
                   .deadline = parts_.clock.now() + kScepDeadline};
}

void IdentityService::makeScepSigner(const CallPtr& call) {
  std::optional<Signature> use = scepUse(call, "subject", "scep-signer");
  if (!use) return;
  const auto certificate = scep::RequesterCertificate::make(use->content, use->key.spki, parts_.clock.wallNow());
  if (!parsed(call, certificate)) return;
  use->content = certificate->info();
  use->render = [certificate = *certificate](const Bytes& signature) {
    return localapi::bytesJson("certificate", certificate.complete(signature));
  };
  sign(call, std::move(*use));
}

void IdentityService::signScepMessage(const CallPtr& call) {
  std::optional<Signature> use = scepUse(call, "attributes", "scep-message");
  if (!use) return;
  if (const Status shape = scep::checkSignedAttributes(use->content); !shape) return refuseEntitlement(call, shape.error());
  sign(call, std::move(*use));
}

void IdentityService::openScepReply(const CallPtr& call) {
  std::optional<Signature> use = scepUse(call, "envelope", "scep-open");
  if (!use) return;
  // What `work` finds out beside the content; both run on the key's thread, one after the other.
  const auto opened = std::make_shared<localapi::OpenedReply>();
  use->work = [opened, envelope = std::move(use->content), deadline = use->deadline](keys::PrivateKey& key) -> Result<Bytes> {
    Result<keys::OpenedEnvelope> content = key.openEnvelope(envelope, deadline);
    if (!content) return propagate(content.error());
    // Mail, configuration or a secret encrypted to the same key is nobody's business; nor is it which of both failed.
    if (!scep::readCertificates(content->content))
      return fail(Reason::KeyMismatch, "the encrypted message does not open with this key, or is damaged");
    opened->cipher = std::move(content->cipher);
    opened->weak = content->weak;
    return std::move(content->content);
  };
  use->render = [opened](const Bytes& content) {
    opened->content = content;
    return localapi::toJson(*opened);
  };
  sign(call, std::move(*use));
}

}  // namespace wayleave::broker
