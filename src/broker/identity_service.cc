// Routes, verification and answers; what the routes do is in the service_*.cc files.

#include "broker/identity_service.h"

#include <fmt/format.h>

#include <array>

#include "base/log.h"
#include "base/osstatus.h"
#include "broker/certificate_view.h"
#include "broker/service_call.h"
#include "broker/verdict_json.h"
#include "enrolment/renewal.h"
#include "localapi/identity_json.h"
#include "localapi/url.h"

namespace wayleave::broker {
namespace {

using nlohmann::json;

// Verification is a round trip to a witness and a few reads. As many as there are witnesses: two that wait for answers
// about a user whose processes hang (witness_pool.h) leave two for everybody else.
constexpr size_t kClerks = 4;
// The server holds at most 512 connections, each with one request under way.
constexpr size_t kMostWaiting = 512;
constexpr size_t kMostSlowWaiting = 32;
constexpr size_t kMostSubjectBytes = 255;
constexpr double kRefusalBurst = 20;
constexpr double kRefusalsPerSecond = 0.2;
constexpr size_t kMostBuckets = 4096;

std::string_view mediaType(std::string_view contentType) {
  const std::string_view type = contentType.substr(0, contentType.find(';'));
  return type.substr(0, type.find_last_not_of(' ') + 1);
}

}  // namespace

const std::vector<IdentityService::Route>& IdentityService::routes() {
  using Self = IdentityService;
  constexpr std::string_view kWhole = "!";
  constexpr std::string_view kRest = "*";
  static const std::vector<Route> table = {
      {"GET", "/v1/status", kWhole, "status", Place::Clerk, &Self::status},
      {"GET", "/v1/tpm", kWhole, "tpm", Place::Slow, &Self::describeTpm},
      {"GET", "/v1/identities", kWhole, "list", Place::Clerk, &Self::list},
      {"GET", "/v1/identities/", "", "show", Place::Clerk, &Self::show},
      {"POST", "/v1/resolve", kWhole, "resolve", Place::Clerk, &Self::resolve},
      {"POST", "/v1/sign/tls", kWhole, "sign", Place::Clerk, &Self::signTls},
      {"POST", "/v1/sign/message", kWhole, "sign", Place::Clerk, &Self::signMessage},
      {"GET", "/v1/watch", kWhole, "watch", Place::Clerk, &Self::watch},
      {"GET", "/v1/caller", kWhole, "caller", Place::Clerk, &Self::caller},
      {"POST", "/v1/callers/check", kWhole, "check", Place::Slow, &Self::checkCaller},
      {"GET", "/v1/audit", kWhole, "audit", Place::Slow, &Self::auditTail},
      {"POST", "/v1/audit/verify", kWhole, "audit", Place::Slow, &Self::auditVerify},
      {"POST", "/v1/grants/reload", kWhole, "grants", Place::Clerk, &Self::grantsReload},
      {"PUT", "/v1/applications", kWhole, "applications", Place::Clerk, &Self::declareApplications},
      {"GET", "/v1/applications", kWhole, "applications", Place::Clerk, &Self::showApplications},
      {"GET", "/v1/application/identities", kWhole, "application", Place::Clerk, &Self::followApplication},
      {"GET", "/v1/application/identities/", kRest, "application", Place::Clerk, &Self::applicationIdentity},
      {"GET", "/v1/installations", kWhole, "installations", Place::Clerk, &Self::pendingInstallations},
      {"POST", "/v1/installations/", "/pkcs12", "import", Place::Slow, &Self::importPkcs12},
      {"POST", "/v1/installations/", "/keys", "create-key", Place::Slow, &Self::createKey},
      {"POST", "/v1/installations/", "/certificates", "bind", Place::Clerk, &Self::bindCertificate},
      {"POST", "/v1/installations/", "/commit", "commit", Place::Clerk, &Self::commitInstallation},
      {"POST", "/v1/installations/", "", "begin", Place::Clerk, &Self::beginInstallation},
      {"DELETE", "/v1/installations/", "", "abort", Place::Clerk, &Self::abortInstallation},
      {"POST", "/v1/keys/", "/attest", "attest", Place::Slow, &Self::attestKey},
      {"POST", "/v1/keys/", "/sign-request", "sign-request", Place::Clerk, &Self::signRequest},
      {"POST", "/v1/keys/", "/scep-signer", "scep-signer", Place::Clerk, &Self::makeScepSigner},
      {"POST", "/v1/keys/", "/sign-scep", "sign-scep", Place::Clerk, &Self::signScepMessage},
      {"POST", "/v1/keys/", "/open-scep", "open-scep", Place::Clerk, &Self::openScepReply},
      {"POST", "/v1/identities/", "/certificate", "renew", Place::Clerk, &Self::renewCertificate},
      {"DELETE", "/v1/profiles/", "/identities", "remove", Place::Clerk, &Self::removeProfile},
      {"POST", "/v1/attestation/begin", kWhole, "attestation-begin", Place::Slow, &Self::beginAk},
      {"POST", "/v1/attestation/activate", kWhole, "attestation-activate", Place::Slow, &Self::activateAk},
      {"POST", "/v1/attestation/chain", kWhole, "attestation-chain", Place::Slow, &Self::storeAkChain},
  };
  return table;
}

IdentityService::IdentityService(ServiceParts parts)
    : parts_(std::move(parts)),
      applications_(parts_.store),
      streams_([this](const std::string& identity) { return versionOf(identity); }),
      clerks_(kClerks, kMostWaiting), slow_(1, kMostSlowWaiting),
      signing_(parts_.signing) {}

IdentityService::~IdentityService() { stop(); }

void IdentityService::stop() {
  watchers_.closeAll();
  streams_.closeAll();
  clerks_.stop();
  slow_.stop();
}

void IdentityService::handle(localapi::Request request, std::shared_ptr<localapi::Responder> responder) {
  auto call = std::make_shared<Call>();
  call->request = std::move(request);
  call->responder = std::move(responder);
  const std::string_view path = call->request.path;
  const Route* found = nullptr;
  bool pathKnown = false;
  for (const Route& route : routes()) {
    std::string_view subject;
    if (route.after == "!") {
      if (path != route.before) continue;
    } else if (route.after == "*") {
      if (path.size() <= route.before.size() || !path.starts_with(route.before)) continue;
      subject = path.substr(route.before.size());
    } else {
      if (path.size() <= route.before.size() + route.after.size() || !path.starts_with(route.before) ||
          !path.ends_with(route.after))
        continue;
      subject = path.substr(route.before.size(), path.size() - route.before.size() - route.after.size());
      if (subject.find('/') != std::string_view::npos) continue;
    }
    pathKnown = true;
    if (route.method != call->request.method) continue;
    call->subject = std::string(subject);
    found = &route;
    break;
  }
  if (found == nullptr)
    return refuse(
        call,
        pathKnown
            ? Error{Reason::Unsupported, fmt::format("{} is not a method of {}", call->request.method, path), {}, 0}
            : Error{Reason::NotFound, fmt::format("there is no {}", path), "see docs/identity-api.openapi.yaml", 0});
  if (call->subject.size() > kMostSubjectBytes)
    return refuse(call, {Reason::BadInput,
                         fmt::format("a name in the path is longer than {} bytes", kMostSubjectBytes),
                         {},
                         errSecParam});
  call->event = std::string(found->event);
  if (!clerks_.submit([this, call, found] { serve(call, *found); }))
    refuse(call, {Reason::Busy, "the broker has too many requests to look at", "try again in a moment", 0});
}

void IdentityService::serve(const CallPtr& call, const Route& route) {
  Result<Verdict> verdict = call->request.peer
                                ? parts_.callers.verify(*call->request.peer)
                                : Result<Verdict>(fail(Reason::CallerUnverified, "the caller is not known"));
  if (!verdict) return refuse(call, verdict.error());
  call->verdict = std::move(*verdict);
  call->entitled.emplace(parts_.grants.current(), call->verdict, applications_.current());
  switch (route.place) {
    case Place::Clerk: return (this->*route.run)(call);
    case Place::Slow:
      if (!slow_.submit([this, call, run = route.run] { (this->*run)(call); }))
        refuse(call, {Reason::Busy, "too many enrolments at once", "try again in a moment", 0});
      return;
  }
}

void IdentityService::answer(const CallPtr& call, const json& content) {
  call->responder->respond({200, "application/json", localapi::dump(content) + "\n"});
}

void IdentityService::refuse(const CallPtr& call, const Error& error) {
  call->responder->respond(localapi::errorResponse(error));
}

void IdentityService::refuseEntitlement(const CallPtr& call, const Error& error,
                                        const keychain::IdentityRecord* identity) {
  recordRefusal(*call, error, identity);
  localapi::Response response = localapi::errorResponse(error);
  if (Result<json> content = localapi::parseJson(response.body)) {
    (*content)["caller"] = verdictJson(call->verdict);
    (*content)["nearMisses"] = nearMissesJson(*call->entitled);
    response.body = localapi::dump(*content) + "\n";
  }
  call->responder->respond(std::move(response));
}

const Grant* IdentityService::need(const CallPtr& call, Usage usage, std::string_view accessGroup) {
  const Grant* grant = accessGroup.empty() ? call->entitled->find(usage) : call->entitled->find(usage, accessGroup);
  if (grant == nullptr) refuseEntitlement(call, call->entitled->refusal(usage));
  return grant;
}

std::optional<json> IdentityService::body(const CallPtr& call) {
  const localapi::Request& request = call->request;
  if (request.body.size() > kMostBodyBytes) {
    refuse(call, {Reason::BadInput, fmt::format("the body is larger than {} bytes", kMostBodyBytes), {}, errSecParam});
    return std::nullopt;
  }
  if (request.body.empty()) return json::object();
  if (mediaType(request.contentType) != "application/json") {
    refuse(call, {Reason::BadInput, fmt::format("the body is '{}', not application/json", request.contentType),
                  "send Content-Type: application/json", errSecParam});
    return std::nullopt;
  }
  Result<json> parsedBody = localapi::parseJson(request.body);
  if (!parsedBody) {
    refuse(call, parsedBody.error());
    return std::nullopt;
  }
  return std::move(*parsedBody);
}

json IdentityService::view(const keychain::IdentityRecord& record, bool whole) {
  localapi::IdentityInfo info;
  info.id = record.id;
  info.label = record.label;
  info.source = record.source;
  info.keychain = std::string(text(record.keychain));
  info.reference = record.reference;
  info.accessGroup = record.accessGroup;
  info.attested = record.attested;
  info.profileIdentifier = record.profileIdentifier;
  info.payloadUuid = record.payloadUuid;
  info.state = std::string(text(record.state));
  info.stateDetail = record.stateDetail;
  if (whole) info.chain = record.chain;
  if (const Result<keychain::KeyRecord> key = parts_.store.key(record.keyId)) {
    info.publicKey = key->spki;
    info.keyKind = std::string(keys::text(key->kind));
    if (const auto decoded = publicKeys_.of(key->spki, keys::PublicKey::fromSpki)) {
      const keys::PublicKey& its = **decoded;
      info.keyType =
          its.type == keys::KeyType::Rsa ? fmt::format("RSA {}", its.bits) : std::string(keys::text(its.type));
      for (const keys::SignatureScheme scheme : keys::schemesFor(its.type))
        info.schemes.emplace_back(keys::text(scheme));
    }
  }
  if (record.chain.empty()) return localapi::toJson(info);
  if (const auto decoded = certificates_.of(record.chain.front(), viewCertificate)) {
    const CertificateView* leaf = decoded->get();
    info.subject = leaf->subject;
    info.issuer = leaf->issuer;
    info.serial = leaf->serial;
    info.notBefore = rfc3339(leaf->notBefore);
    info.notAfter = rfc3339(leaf->notAfter);
    info.sha256 = leaf->sha256;
    if (record.source == "acme" || record.source == "scep")
      info.renewAfter = rfc3339(enrolment::renewalTime(leaf->notBefore, leaf->notAfter, record.id));
    // Said, not enforced: a wrong clock must not cut a device off that its gateway would still let in.
    if (record.state == keychain::IdentityState::Active && parts_.clock.wallNow() > leaf->notAfter) {
      info.state = "expired";
      info.stateDetail = fmt::format("the certificate expired at {}", info.notAfter);
    }
  }
  return localapi::toJson(info);
}

AuditEntry IdentityService::entryFor(const Call& call, std::string event) const {
  AuditEntry entry;
  entry.event = std::move(event);
  entry.outcome = text(Reason::Ok);
  entry.pid = call.verdict.pid;
  entry.uid = call.verdict.uid;
  entry.executable = call.verdict.executable;
  entry.sha256 = call.verdict.sha256;
  entry.unit = call.verdict.unit;
  return entry;
}

bool IdentityService::record(const CallPtr& call, AuditEntry entry) {
  const Status written = parts_.audit.append(entry);
  if (written) return true;
  log::failure("not recorded, so not done", written.error(), {{"event", entry.event}});
  refuse(call, written.error());
  return false;
}

void IdentityService::recordRefusal(const Call& call, const Error& error, const keychain::IdentityRecord* identity) {
  uint64_t unrecorded = 0;
  {
    const std::lock_guard lock(bucketsMutex_);
    const Steady now = parts_.clock.now();
    if (refusalBuckets_.size() >= kMostBuckets)
      std::erase_if(refusalBuckets_, [&](const auto& entry) { return entry.second.full(now); });
    const auto bucket =
        refusalBuckets_.size() < kMostBuckets
            ? refusalBuckets_.try_emplace(call.verdict.uid, kRefusalBurst, kRefusalsPerSecond, now).first
            : refusalBuckets_.find(call.verdict.uid);
    if (bucket == refusalBuckets_.end() || !bucket->second.take(1, now)) {
      ++unrecordedRefusals_;
      return;
    }
    unrecorded = std::exchange(unrecordedRefusals_, 0);
  }
  AuditEntry entry = entryFor(call, call.event);
  entry.outcome = text(error.reason);
  entry.detail = error.message;
  if (unrecorded > 0) entry.detail += fmt::format(" ({} further refusals before this were not recorded)", unrecorded);
  if (identity != nullptr) {
    entry.identity = identity->id;
    entry.label = identity->label;
  }
  log::warn("refused", {{"event", entry.event},
                        {"executable", entry.executable},
                        {"uid", std::to_string(entry.uid)},
                        {"reason", entry.outcome},
                        {"why", entry.detail}});
  // A refusal that cannot be recorded stays a refusal.
  if (const Status written = parts_.audit.append(entry); !written)
    log::failure("refusal not recorded", written.error());
}

std::vector<GrantProblem> IdentityService::reloadGrants() {
  std::vector<GrantProblem> problems = parts_.grants.reload();
  if (problems.empty()) {
    watchers_.closeAll();
    streams_.closeAll();
  }
  return problems;
}

}  // namespace wayleave::broker
