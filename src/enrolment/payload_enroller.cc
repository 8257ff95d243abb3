#include "enrolment/payload_enroller.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "base/file.h"
#include "base/log.h"
#include "enrolment/acme/enrolment.h"
#include "enrolment/http.h"
#include "enrolment/journal.h"
#include "enrolment/scep/enrolment.h"

namespace wayleave::enrolment {
namespace {

using management::AcmePayload;
using management::ScepPayload;

constexpr std::string_view kScepRecord = ".scep";
constexpr std::string_view kFirstRequest = "request-";
constexpr std::string_view kAccount = "account-";
constexpr std::string_view kRenewal = "renewal-";

class StoppablePacer final : public Pacer {
 public:
  explicit StoppablePacer(std::stop_token stop) : stop_(std::move(stop)) {}
  bool wait(std::chrono::milliseconds time) override {
    std::unique_lock lock(mutex_);
    std::condition_variable_any wake;
    return !wake.wait_for(lock, stop_, time, [this] { return stop_.stop_requested(); });
  }

 private:
  std::stop_token stop_;
  std::mutex mutex_;
};

// File names from outside text: only what cannot leave the folder.
std::string fileName(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 100))
    out += (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ? c : '_';
  return out;
}

localapi::KeyRequest keyRequest(const AcmePayload& payload, const management::EnrolmentRequest& request) {
  localapi::KeyRequest out;
  out.installation = request.installation;
  out.payloadUuid = request.payload.header.uuid;
  out.keyType = payload.keyType == management::KeyType::Rsa ? "RSA" : fmt::format("EC P-{}", payload.keySize);
  out.keySize = payload.keyType == management::KeyType::Rsa ? payload.keySize : 0;
  out.hardwareBound = payload.hardwareBound;
  return out;
}

localapi::KeyRequest keyRequest(const ScepPayload& payload, const management::EnrolmentRequest& request) {
  if (payload.keySize < keys::kMinRsaBits)
    log::warn("SCEP", {{"payload", request.payload.header.label()},
                       {"warning", fmt::format("an RSA key of {} bits is too weak: {} are made", payload.keySize, keys::kMinRsaBits)}});
  localapi::KeyRequest out;
  out.installation = request.installation;
  out.payloadUuid = request.payload.header.uuid;
  out.keyType = "RSA";
  out.keySize = std::max(payload.keySize, keys::kMinRsaBits);
  return out;
}

scep::Parameters parametersOf(const ScepPayload& payload, const std::vector<std::string>& trustAnchors) {
  scep::Parameters out;
  out.url = payload.url;
  out.caIdentifier = payload.name;
  out.fingerprint = payload.caFingerprint;
  out.trustAnchorsPem = trustAnchors;
  out.request.subject = payload.subject;
  out.request.alternativeNames = {payload.subjectAltNames.rfc822Names, payload.subjectAltNames.dnsNames, payload.subjectAltNames.uris,
                                  payload.subjectAltNames.ntPrincipalNames, {}};
  out.request.signing = (payload.keyUsage & 1) != 0;
  out.request.encrypting = (payload.keyUsage & 4) != 0;
  if (payload.challenge) out.request.challengePassword = payload.challenge->clone();
  out.retries = payload.retries;
  out.retryDelay = payload.retryDelay;
  return out;
}

acme::Parameters parametersOf(const AcmePayload& payload) {
  acme::Parameters out;
  out.directoryUrl = payload.directoryUrl;
  out.identifier.value = payload.clientIdentifier;
  out.request.subject = payload.subject;
  out.request.alternativeNames = {payload.subjectAltNames.rfc822Names, payload.subjectAltNames.dnsNames, payload.subjectAltNames.uris,
                                  payload.subjectAltNames.ntPrincipalNames, {payload.clientIdentifier}};
  const int usage = payload.usageFlags.value_or(0);
  out.request.signing = (usage & 1) != 0;
  out.request.encrypting = (usage & 4) != 0;
  out.request.extendedKeyUsage = payload.extendedKeyUsage;
  out.attest = payload.attest;
  out.attestationUrl = payload.attestationUrl;
  if (payload.externalAccount)
    out.externalAccount = acme::ExternalAccount{payload.externalAccount->keyIdentifier, payload.externalAccount->hmacKey.clone()};
  return out;
}

}  // namespace

struct PayloadEnroller::Certification {
  const AcmePayload& payload;
  const acme::SubjectKey key;
  const std::vector<std::string>& trustAnchors;
  std::string journalPath;
  acme::Progress progress;
};

Result<std::unique_ptr<PayloadEnroller>> PayloadEnroller::make(localapi::IdentityAgent& agent, std::string folder) {
  if (Status made = ensureFolder(folder, 0700); !made) return propagate(made.error());
  return std::unique_ptr<PayloadEnroller>(new PayloadEnroller(agent, std::move(folder)));
}

std::string PayloadEnroller::journalPath(std::string_view owner, std::string_view payloadUuid) const {
  return fmt::format("{}/{}.{}.journal", folder_, fileName(owner), fileName(payloadUuid));
}

std::string PayloadEnroller::accountPath(const std::string& directoryUrl) const {
  return fmt::format("{}/{}{}", folder_, kAccount, toHex(sha256(asBytes(directoryUrl))).substr(0, 32));
}

Result<std::vector<Bytes>> PayloadEnroller::certify(const Certification& what, std::stop_token stop) {
  const auto account = acme::AccountKey::openOrCreate(accountPath(what.payload.directoryUrl));
  if (!account) return propagate(account.error());
  auto journal = Journal::open(what.journalPath);
  if (!journal) return propagate(journal.error());
  const auto http = makeHttp({.trustAnchorsPem = what.trustAnchors});
  StoppablePacer pacer(std::move(stop));
  return acme::obtainCertificate({agent_, *http, pacer, clock_, *account, *journal, acme::checkBeforeSending}, parametersOf(what.payload),
                                 what.key, what.progress);
}

std::string PayloadEnroller::requestPath(ByteView publicKey) const {
  return fmt::format("{}/{}{}", folder_, kFirstRequest, toHex(sha256(publicKey)));
}

Result<std::vector<Bytes>> PayloadEnroller::certifyByScep(const ScepPayload& payload, const acme::SubjectKey& key,
                                                          const management::EnrolmentRequest& request,
                                                          const management::EnrolmentProgress& progress, std::stop_token stop) {
  auto record = scep::Record::open(journalPath(request.installation, request.payload.header.uuid) + std::string(kScepRecord));
  if (!record) return propagate(record.error());
  const auto http = makeHttp({.trustAnchorsPem = request.trustAnchors, .allowPlainHttp = true});
  StoppablePacer pacer(std::move(stop));
  return scep::obtainCertificate({agent_, *http, pacer, clock_, *record}, parametersOf(payload, request.trustAnchors), {key.id, key.publicKey}, progress);
}

Result<localapi::IdentityInfo> PayloadEnroller::enroll(const management::EnrolmentRequest& request,
                                                       const management::EnrolmentProgress& progress, std::stop_token stop) {
  const auto* payload = request.payload.as<AcmePayload>();
  const auto* scepPayload = request.payload.as<ScepPayload>();
  if (payload == nullptr && scepPayload == nullptr)
    return fail(Reason::Unsupported, request.payload.header.label() + " is neither an ACME nor a SCEP payload");
  if (progress) progress("key");
  const auto key = agent_.createKey(payload != nullptr ? keyRequest(*payload, request) : keyRequest(*scepPayload, request));
  if (!key) return withContext(key.error(), request.payload.header.label());
  const acme::SubjectKey subjectKey{key->key, key->publicKey};
  const auto chain = payload != nullptr ? certify({*payload, subjectKey, request.trustAnchors,
                                                   journalPath(request.installation, request.payload.header.uuid), progress},
                                                  std::move(stop))
                                        : certifyByScep(*scepPayload, subjectKey, request, progress, std::move(stop));
  if (!chain) return withContext(chain.error(), request.payload.header.label());

  localapi::BindRequest bind;
  bind.installation = request.installation;
  bind.key = key->key;
  bind.source = payload != nullptr ? "acme" : "scep";
  bind.profileIdentifier = request.profileIdentifier;
  bind.payloadIdentifier = request.payload.header.identifier;
  bind.payloadUuid = request.payload.header.uuid;
  bind.label = request.payload.header.displayName;
  bind.accessGroup = request.accessGroup;
  bind.chain = *chain;
  bind.attested = payload != nullptr && payload->attest;
  return agent_.bindCertificate(bind);
}

void PayloadEnroller::settled(std::string_view installation, bool committed) {
  const std::string prefix = fileName(installation) + ".";
  std::error_code ignored;  // an unreadable folder shows at the next enrolment, with its reason
  for (const auto& entry : std::filesystem::directory_iterator(folder_, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !(name.ends_with(".journal") || name.ends_with(kScepRecord))) continue;
    std::error_code failed;
    if (committed && name.ends_with(kScepRecord)) {
      // Kept for renewals, under the key's name: the request that the CA has seen.
      auto record = scep::Record::open(entry.path());
      if (record && !record->progress().recipient.empty()) {
        if (auto kept = scep::Record::open(requestPath(record->progress().publicKey)); kept) {
          scep::Progress first = record->progress();
          first.chain.clear();
          first.pending = false;
          if (Status written = kept->write(std::move(first)); !written) log::failure("a request is not kept for renewals", written.error());
        }
      }
    }
    if (!std::filesystem::remove(entry.path(), failed) && failed)
      log::warn("an enrolment's journal stays behind", {{"path", entry.path().string()}, {"error", failed.message()}});
  }
}

void PayloadEnroller::forgetAllBut(const std::vector<const management::Payload*>& payloads) {
  std::vector<std::string> accounts;
  for (const management::Payload* payload : payloads)
    if (const auto* acme = payload->as<AcmePayload>()) accounts.push_back(accountPath(acme->directoryUrl));
  std::error_code ignored;
  std::vector<std::filesystem::path> unused;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, ignored))
    if (entry.path().filename().string().starts_with(kAccount) && std::ranges::find(accounts, entry.path().string()) == accounts.end())
      unused.push_back(entry.path());
  for (const auto& path : unused) std::filesystem::remove(path, ignored);
  forgetIdentitiesBut([this] { return agent_.list(); });
}

void PayloadEnroller::forgetIdentitiesBut(const std::function<Result<std::vector<localapi::IdentityInfo>>()>& list) {
  std::vector<std::filesystem::path> kept;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, ignored))
    if (const std::string name = entry.path().filename().string(); name.starts_with(kFirstRequest) || name.starts_with(kRenewal)) kept.push_back(entry.path());
  if (kept.empty()) return;
  const auto present = list();
  if (!present) return;
  for (const auto& path : kept) {
    const std::string name = path.filename().string();
    const bool needed = std::ranges::any_of(*present, [&](const localapi::IdentityInfo& identity) {
      return requestPath(identity.publicKey) == path.string() || name.starts_with(fileName(std::string(kRenewal) + identity.id) + ".");
    });
    if (!needed) std::filesystem::remove(path, ignored);
  }
}

Result<localapi::IdentityInfo> PayloadEnroller::renewByScep(const localapi::IdentityInfo& identity, const management::Payload& payload,
                                                            const std::vector<std::string>& trustAnchors, std::stop_token stop) {
  if (identity.chain.empty()) return fail(Reason::Internal, "identity " + identity.id + " came without its certificate");
  auto record = scep::Record::open(journalPath(std::string(kRenewal) + identity.id, payload.header.uuid) + std::string(kScepRecord));
  if (!record) return propagate(record.error());
  const auto first = scep::Record::open(requestPath(identity.publicKey));
  if (!first) return propagate(first.error());
  const auto http = makeHttp({.trustAnchorsPem = trustAnchors, .allowPlainHttp = true});
  StoppablePacer pacer(std::move(stop));
  const auto chain = scep::renewCertificate({agent_, *http, pacer, clock_, *record}, parametersOf(*payload.as<ScepPayload>(), trustAnchors),
                                            {identity.id, identity.publicKey}, identity.chain.front(), first->progress());
  if (!chain) return withContext(chain.error(), "renew " + identity.label);
  auto renewed = agent_.renewCertificate(identity.id, *chain);
  if (!renewed) return renewed;
  if (Status removed = record->remove(); !removed) return propagate(removed.error());
  return renewed;
}

Result<localapi::IdentityInfo> PayloadEnroller::renew(const localapi::IdentityInfo& identity, const management::Payload& payload,
                                                      const std::vector<std::string>& trustAnchors, std::stop_token stop) {
  const auto* acmePayload = payload.as<AcmePayload>();
  if (payload.as<ScepPayload>() != nullptr) return renewByScep(identity, payload, trustAnchors, std::move(stop));
  if (acmePayload == nullptr) return fail(Reason::Unsupported, payload.header.label() + " is not renewed by this device");
  // The same key is certified again: whoever registered its public key keeps recognising the device. A renewal has a journal of
  // its own, under the identity's name.
  const std::string path = journalPath(std::string(kRenewal) + identity.id, payload.header.uuid);
  const auto chain = certify({*acmePayload, {identity.id, identity.publicKey}, trustAnchors, path, {}}, std::move(stop));
  if (!chain) return withContext(chain.error(), "renew " + identity.label);
  auto renewed = agent_.renewCertificate(identity.id, *chain);
  if (!renewed) return renewed;
  auto journal = Journal::open(path);
  if (!journal) return propagate(journal.error());
  if (Status removed = journal->remove(); !removed) return propagate(removed.error());
  return renewed;
}

}  // namespace wayleave::enrolment
