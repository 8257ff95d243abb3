// Signatures: what may be signed, how often, and that each is recorded before it leaves.

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "base/log.h"
#include "base/osstatus.h"
#include "broker/certificate_verify.h"
#include "broker/service_call.h"
#include "localapi/identity_json.h"

namespace wayleave::broker {
namespace {

using nlohmann::json;

// A message is hashed by us; larger files are hashed by nobody's broker.
constexpr size_t kMostMessageBytes = 1024 * 1024;
// A caller that gives 0 wants the usual patience: several times a slow TPM's signature.
constexpr std::chrono::milliseconds kUsualDeadline{10'000};
constexpr std::chrono::milliseconds kRequestDeadline{30'000};
constexpr size_t kMostBuckets = 4096;

bool hasGone(const localapi::Peer& peer) {
  if (!peer.pidfd) return true;
  pollfd entry{peer.pidfd.borrow(), POLLIN, 0};
  return ::poll(&entry, 1, 0) != 0;
}

Steady deadlineIn(const Clock& clock, std::chrono::milliseconds time) {
  return clock.now() + (time.count() == 0 ? kUsualDeadline : time);
}

}  // namespace

std::optional<keychain::IdentityRecord> IdentityService::usableIdentity(const CallPtr& call, ByteView reference) {
  if (!call->entitled->any()) {
    refuseEntitlement(call, call->entitled->refusal(Usage::TlsClient));
    return std::nullopt;
  }
  Result<keychain::IdentityRecord> found = resolveFor(*call, reference);
  if (!parsed(call, found)) return std::nullopt;
  return std::move(*found);
}

bool IdentityService::withinRate(const CallPtr& call, const Grant& grant) {
  const std::lock_guard lock(bucketsMutex_);
  const Steady now = parts_.clock.now();
  const std::string key = fmt::format("{}\n{}\n{}", grant.name, call->verdict.uid, call->verdict.executable);
  if (signatureBuckets_.size() >= kMostBuckets)
    std::erase_if(signatureBuckets_, [&](const auto& entry) { return entry.second.full(now); });
  TokenBucket& bucket =
      signatureBuckets_.try_emplace(key, grant.signatureBurst, grant.signaturesPerMinute / 60, now).first->second;
  if (bucket.take(1, now)) return true;
  refuse(call,
         {Reason::RateLimited,
          fmt::format("grant '{}' allows {:g} signatures per minute", grant.name, grant.signaturesPerMinute),
          fmt::format("try again in {} ms; a TLS client should resume sessions", bucket.waitFor(1, now).count()), 0});
  return false;
}

void IdentityService::signTls(const CallPtr& call) {
  const std::optional<json> content = body(call);
  if (!content) return;
  Result<localapi::TlsSignBody> request = localapi::tlsSignBodyFromJson(*content);
  if (!parsed(call, request)) return;
  std::optional<keychain::IdentityRecord> identity = usableIdentity(call, request->request.reference);
  if (!identity) return;
  const Usage usage = request->request.tls13 ? Usage::TlsClient : Usage::Digest;
  const Grant* grant = call->entitled->find(usage, identity->accessGroup, identity->id);
  if (grant == nullptr) return refuseEntitlement(call, call->entitled->refusal(usage), &*identity);
  const Result<keys::SignatureScheme> scheme = keys::parseScheme(request->request.scheme);
  if (!parsed(call, scheme)) return;
  const Status shape = request->request.tls13 ? checkClientCertificateVerify(*scheme, request->request.content)
                                              : checkDigest(*scheme, request->request.content);
  if (!shape) return refuseEntitlement(call, shape.error(), &*identity);
  if (!withinRate(call, *grant)) return;
  sign(call, {.key = {},
              .identity = std::move(identity),
              .grant = grant->name,
              .usage = text(usage),
              .scheme = *scheme,
              .content = std::move(request->request.content),
              .isDigest = !request->request.tls13,
              .deadline = deadlineIn(parts_.clock, request->deadline)});
}

void IdentityService::signMessage(const CallPtr& call) {
  const std::optional<json> content = body(call);
  if (!content) return;
  Result<localapi::MessageSignBody> request = localapi::messageSignBodyFromJson(*content);
  if (!parsed(call, request)) return;
  std::optional<keychain::IdentityRecord> identity = usableIdentity(call, request->reference);
  if (!identity) return;
  const Grant* grant = call->entitled->find(Usage::Sign, identity->accessGroup, identity->id);
  if (grant == nullptr) return refuseEntitlement(call, call->entitled->refusal(Usage::Sign), &*identity);
  const Result<keys::SignatureScheme> scheme = keys::parseScheme(request->scheme);
  if (!parsed(call, scheme)) return;
  if (request->message.size() > kMostMessageBytes)
    return refuse(
        call,
        {Reason::BadInput, fmt::format("the message is larger than {} bytes", kMostMessageBytes), {}, errSecParam});
  if (!withinRate(call, *grant)) return;
  sign(call, {.key = {},
              .identity = std::move(identity),
              .grant = grant->name,
              .usage = text(Usage::Sign),
              .scheme = *scheme,
              .content = std::move(request->message),
              .isDigest = false,
              .deadline = deadlineIn(parts_.clock, request->deadline)});
}

void IdentityService::signRequest(const CallPtr& call) {
  const Grant* grant = need(call, Usage::Manage);
  if (grant == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  Result<localapi::CertificationRequestBody> request = localapi::certificationRequestBodyFromJson(*content);
  if (!parsed(call, request)) return;
  const Result<keys::SignatureScheme> scheme = keys::parseScheme(request->scheme);
  if (!parsed(call, scheme)) return;
  Result<keychain::KeyRecord> key = keyNamed(call->subject);
  if (!parsed(call, key)) return;
  const Status shape = checkCertificationRequestInfo(request->certificationRequestInfo, key->spki);
  if (!shape) return refuseEntitlement(call, shape.error());
  if (!withinRate(call, *grant)) return;
  sign(call, {.key = std::move(*key),
              .identity = std::nullopt,
              .grant = grant->name,
              .usage = "certification-request",
              .scheme = *scheme,
              .content = std::move(request->certificationRequestInfo),
              .isDigest = false,
              .deadline = parts_.clock.now() + kRequestDeadline});
}

void IdentityService::sign(const CallPtr& call, Signature signature) {
  if (signature.identity) {
    if (signature.identity->state == keychain::IdentityState::Lost)
      return refuse(call, {Reason::IdentityLost,
                           fmt::format("'{}' is lost: {}", signature.identity->label, signature.identity->stateDetail),
                           "install its profile again to enrol a new key", errSecDataNotAvailable});
    Result<keychain::KeyRecord> key = parts_.store.key(signature.identity->keyId);
    if (!parsed(call, key)) return;
    signature.key = std::move(*key);
  }
  auto shared = std::make_shared<Signature>(std::move(signature));
  signing_.submit(
      {.key = shared->key.id,
       .threads = shared->key.kind == keys::KeyKind::Software ? parts_.signing.softwareThreads : 1,
       .caller = std::hash<std::string>{}(fmt::format("{}\n{}", call->verdict.uid, call->verdict.executable)),
       .deadline = shared->deadline,
       .abandoned = [call] { return call->responder->gone() || hasGone(*call->request.peer); },
       .work = [this, shared]() -> Result<Bytes> {
         Result<std::shared_ptr<keys::PrivateKey>> key = parts_.keys.open(shared->key);
         if (!key) return propagate(key.error());
         if (shared->work) return shared->work(**key);
         return shared->isDigest ? (*key)->signDigest(shared->scheme, shared->content, shared->deadline)
                                 : (*key)->sign(shared->scheme, shared->content, shared->deadline);
       },
       .done = [this, call, shared](Result<Bytes> result) { signatureDone(call, *shared, std::move(result)); }});
}

void IdentityService::signatureDone(const CallPtr& call, const Signature& signature, Result<Bytes> result) {
  AuditEntry entry = entryFor(*call, call->event);
  entry.grant = signature.grant;
  entry.usage = signature.usage;
  entry.scheme = keys::text(signature.scheme);
  if (signature.identity) {
    entry.identity = signature.identity->id;
    entry.label = signature.identity->label;
  } else {
    entry.detail = "for key " + signature.key.id;
  }
  if (!result) {
    entry.outcome = text(result.error().reason);
    entry.detail = result.error().message;
  }
  // Before the answer: a signature that could not be recorded never leaves.
  if (!record(call, std::move(entry))) return;
  if (!result) {
    if (signature.identity && result.error().reason == Reason::IdentityLost)
      markLost(*signature.identity, result.error());
    return refuse(call, result.error());
  }
  answer(call, signature.render ? signature.render(*result) : localapi::bytesJson("signature", *result));
  if (signature.identity && !signature.identity->previousChain.empty())
    if (const Status confirmed = parts_.store.confirmCertificate(signature.identity->id); !confirmed)
      log::failure("renewed certificate not confirmed", confirmed.error(), {{"identity", signature.identity->id}});
}

void IdentityService::markLost(const keychain::IdentityRecord& identity, const Error& why) {
  log::failure("identity lost", why, {{"identity", identity.id}, {"label", identity.label}});
  if (const Status set = parts_.store.setState(identity.id, keychain::IdentityState::Lost, describe(why)); !set)
    return log::failure("identity could not be marked lost", set.error(), {{"identity", identity.id}});
  announce("identity-lost", identity);
}

void IdentityService::examineTpmKeys() {
  (void)slow_.submit([this] {
    const Status root = parts_.keys.checkStorageRoot();
    const bool lost = !root && root.error().reason == Reason::IdentityLost;
    if (!root && !lost)
      return log::failure("the TPM could not be examined; its identities stay as they are", root.error());
    const Result<std::vector<keychain::IdentityRecord>> all = parts_.store.identities();
    if (!all) return log::failure("identities could not be read", all.error());
    for (const keychain::IdentityRecord& identity : *all) {
      const Result<keychain::KeyRecord> key = parts_.store.key(identity.keyId);
      if (!key || key->kind != keys::KeyKind::Tpm) continue;
      if (lost && identity.state == keychain::IdentityState::Active) markLost(identity, root.error());
      if (lost || identity.state != keychain::IdentityState::Lost) continue;
      // Lost before, but this is its TPM again, it seems: one signature over nothing in particular proves it.
      const Result<std::shared_ptr<keys::PrivateKey>> opened = parts_.keys.open(*key);
      if (!opened) continue;
      const keys::SignatureScheme scheme = (*opened)->supportedSchemes().front();
      const Result<Bytes> signature = (*opened)->signDigest(scheme, randomBytes(keys::digestLength(scheme)),
                                                            parts_.clock.now() + kRequestDeadline);
      // No caller's, and it goes nowhere; but every signature is in the log.
      const Status recorded = parts_.audit.append(
          {.event = "probe",
           .outcome = std::string(text(signature ? Reason::Ok : signature.error().reason)),
           .pid = ::getpid(),
           .uid = ::getuid(),
           .identity = identity.id,
           .label = identity.label,
           .scheme = std::string(keys::text(scheme)),
           .usage = "digest",
           .detail = signature ? "identityd itself, over random bytes: the lost key is back" : signature.error().message});
      if (!recorded) log::failure("not recorded, so not done", recorded.error(), {{"event", "probe"}});
      if (!signature || !recorded) continue;
      if (const Status back = parts_.store.setState(identity.id, keychain::IdentityState::Active, ""); !back) continue;
      log::info("identity is back", {{"identity", identity.id}, {"label", identity.label}});
      announce("identity-added", identity);
    }
  });
}

}  // namespace wayleave::broker
