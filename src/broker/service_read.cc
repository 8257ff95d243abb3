// Looking: status, identities, references, the watch stream; and for administrators callers, the audit log, grants.

#include <fmt/format.h>

#include <charconv>
#include <set>

#include "base/osstatus.h"
#include "broker/service_call.h"
#include "broker/verdict_json.h"
#include "localapi/identity_json.h"

namespace wayleave::broker {

using nlohmann::json;

// For anybody: nothing in it tells of an identity, unless a grant lets the caller list them.
void IdentityService::describeTpm(const CallPtr& call) {
  if (need(call, Usage::Inspect) == nullptr) return;
  const Result<keys::tpm::TpmDescription> tpm = parts_.keys.describeTpm();
  if (!parsed(call, tpm)) return;
  json out{{"tcti", tpm->tcti}, {"usable", tpm->facts && !tpm->facts->inLockout && tpm->storageRoot && tpm->signatureTime}};
  if (tpm->facts) {
    out.update({{"manufacturer", tpm->facts->manufacturer},
                {"model", tpm->facts->model},
                {"firmwareVersion", tpm->facts->firmwareVersion},
                {"p256", tpm->facts->p256},
                {"p384", tpm->facts->p384},
                {"rsa2048", tpm->facts->rsa2048},
                {"freeObjectSlots", tpm->facts->transientSlots},
                {"inLockout", tpm->facts->inLockout},
                {"failedTries", tpm->facts->failedTries},
                {"maxTries", tpm->facts->maxTries},
                {"lockoutRecoverySeconds", tpm->facts->lockoutRecovery.count()}});
  }
  if (tpm->storageRoot) out["storageRootName"] = toHex(tpm->storageRoot->name);
  if (tpm->endorsementKey) {
    out["endorsementKeySha256"] = toHex(sha256(tpm->endorsementKey->spki));
    out["endorsementCertificates"] = tpm->endorsementKey->certificates.size();
  }
  if (tpm->signatureTime) out["signatureMilliseconds"] = static_cast<double>(tpm->signatureTime->count()) / 1000.0;
  json problems = json::array();
  for (const Error& problem : tpm->problems) problems.push_back(wayleave::describe(problem));
  out["problems"] = std::move(problems);
  answer(call, out);
}

void IdentityService::status(const CallPtr& call) {
  const KeyRing::TpmState tpm = parts_.keys.tpmState();
  json out{{"version", WAYLEAVE_VERSION}, {"tpm", {{"state", tpm.state}, {"detail", tpm.detail}}}};
  if (call->entitled->find(Usage::List) != nullptr) {
    const Result<std::vector<keychain::IdentityRecord>> all = parts_.store.identities();
    if (!parsed(call, all)) return;
    size_t active = 0;
    for (const keychain::IdentityRecord& record : *all)
      if (record.state == keychain::IdentityState::Active) ++active;
    const SigningStatistics signing = signing_.statistics();
    out["identities"] = {{"active", active}, {"lost", all->size() - active}};
    out["signatures"] = {{"completed", signing.completed},
                         {"failed", signing.failed},
                         {"expired", signing.expired},
                         {"refused", signing.refused},
                         {"abandoned", signing.abandoned},
                         {"queued", signing.queued},
                         {"longestSeconds", signing.longestSeconds}};
    out["watchers"] = watchers_.count();
    const Declared declared = applications_.current();
    out["applications"] = {{"declared", declared->size()},
                           {"unmatched", unmatched(*declared, *parts_.grants.current())},
                           {"streams", streams_.count()}};
    json problems = json::array();
    for (const GrantProblem& problem : parts_.grants.problems()) problems.push_back(describe(problem));
    out["grants"] = {{"count", parts_.grants.current()->size()}, {"problems", std::move(problems)}};
    out["audit"] = {{"lines", parts_.audit.lastSequence()}};
  }
  answer(call, out);
}

void IdentityService::list(const CallPtr& call) {
  // An application lists what is declared for it; the names it could follow anyway.
  const bool application = call->entitled->isApplication();
  if (!application && need(call, Usage::List) == nullptr) return;
  const Result<std::vector<keychain::IdentityRecord>> all = parts_.store.identities();
  if (!parsed(call, all)) return;
  std::set<std::string, std::less<>> own;
  if (application)
    for (const localapi::DeclaredApplication::Item& item : call->entitled->provisions()) own.insert(item.identity);
  json identities = json::array();
  for (const keychain::IdentityRecord& record : *all)
    if (own.contains(record.id) || call->entitled->find(Usage::List, record.accessGroup) != nullptr)
      identities.push_back(view(record, false));
  answer(call, {{"identities", std::move(identities)}});
}

void IdentityService::show(const CallPtr& call) {
  if (!call->entitled->any()) return refuseEntitlement(call, call->entitled->refusal(Usage::List));
  const Result<keychain::IdentityRecord> record = parts_.store.identity(call->subject);
  // What the caller may not see is as if it were not there; what is staged is there for managementd alone.
  const bool visible = record && call->entitled->sees(record->accessGroup, record->id) &&
                       (record->state != keychain::IdentityState::Staged ||
                        call->entitled->find(Usage::Manage, record->accessGroup) != nullptr);
  if (!visible)
    return refuse(call, {Reason::NotFound, fmt::format("there is no identity '{}' for this caller", call->subject),
                         "`wayleave identity list` shows those there are", errSecItemNotFound});
  answer(call, view(*record, true));
}

void IdentityService::resolve(const CallPtr& call) {
  if (!call->entitled->any()) return refuseEntitlement(call, call->entitled->refusal(Usage::TlsClient));
  const std::optional<json> content = body(call);
  if (!content) return;
  const Result<Bytes> reference = localapi::bytesFromJson(*content, "reference");
  if (!parsed(call, reference)) return;
  const Result<keychain::IdentityRecord> record = resolveFor(*call, *reference);
  if (!parsed(call, record)) return;
  if (!call->entitled->sees(record->accessGroup, record->id))
    return refuseEntitlement(call,
                             {Reason::NotEntitled, "no grant of this caller covers the identity behind this reference",
                              "its access group must stand in the grant: `wayleave identity show` as root names it",
                              errSecMissingEntitlement},
                             &*record);
  answer(call, view(*record, true));
}

void IdentityService::watch(const CallPtr& call) {
  if (!call->entitled->any()) return refuseEntitlement(call, call->entitled->refusal(Usage::List));
  uint64_t since = 0;
  if (const auto found = call->request.query.find("since"); found != call->request.query.end()) {
    const std::string& digits = found->second;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), since);
    if (code != std::errc{} || end != digits.data() + digits.size())
      return refuse(call, {Reason::BadInput, "since is not a number", {}, errSecParam});
  }
  if (!watchers_.hasRoom(call->verdict.uid))
    return refuse(call, {Reason::Busy, "too many programs of this user follow the identities",
                         "one stream per program is enough", 0});
  (void)watchers_.add(call->responder->openStream(), *call->entitled, call->verdict.uid, since);
}

// Anybody may see what the broker sees of itself.
void IdentityService::caller(const CallPtr& call) {
  answer(call, {{"caller", verdictJson(call->verdict)},
                {"grants", call->entitled->grantNames()},
                {"nearMisses", nearMissesJson(*call->entitled)},
                {"suggestion", suggestedGrant(call->verdict)}});
}

void IdentityService::checkCaller(const CallPtr& call) {
  if (need(call, Usage::Inspect) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  int64_t pid = 0;
  std::string path;
  localapi::ObjectReader reader(*content, "request");
  reader.integer("pid", pid, 1, INT32_MAX, localapi::ObjectReader::Need::Optional);
  reader.text("path", path, localapi::ObjectReader::Need::Optional);
  if (reader.ok() && (pid == 0) == path.empty()) reader.refuse("pid", "give either a pid or a path");
  if (const Status read = reader.finish(); !read) return refuse(call, read.error());
  const Result<Verdict> verdict = pid != 0 ? parts_.callers.examineProcess(static_cast<pid_t>(pid))
                                           : parts_.callers.examineFile(path, call->verdict.uid);
  if (!parsed(call, verdict)) return;
  const Entitlements entitled(parts_.grants.current(), *verdict);
  json out{{"caller", verdictJson(*verdict)}, {"suggestion", suggestedGrant(*verdict)}};
  if (pid != 0) {  // of a file neither user nor unit is known: no grant can be compared
    out["grants"] = entitled.grantNames();
    out["nearMisses"] = nearMissesJson(entitled);
  }
  answer(call, out);
}

void IdentityService::auditTail(const CallPtr& call) {
  constexpr size_t kMostLines = 1000;
  if (need(call, Usage::Inspect) == nullptr) return;
  size_t limit = 100;
  if (const auto found = call->request.query.find("limit"); found != call->request.query.end()) {
    const std::string& digits = found->second;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), limit);
    if (code != std::errc{} || end != digits.data() + digits.size() || limit > kMostLines)
      return refuse(call,
                    {Reason::BadInput, fmt::format("limit is not a number up to {}", kMostLines), {}, errSecParam});
  }
  const Result<std::vector<std::string>> lines = parts_.audit.tail(limit);
  if (!parsed(call, lines)) return;
  json out = json::array();
  for (const std::string& line : *lines) {
    Result<json> entry = localapi::parseJson(line);
    out.push_back(entry ? std::move(*entry) : json{{"damaged", line}});
  }
  answer(call, {{"lines", std::move(out)}});
}

void IdentityService::auditVerify(const CallPtr& call) {
  if (need(call, Usage::Inspect) == nullptr) return;
  const Result<AuditReport> report = verifyAudit(parts_.auditFolder);
  if (!parsed(call, report)) return;
  json findings = json::array();
  for (const AuditFinding& finding : report->findings)
    findings.push_back({{"file", finding.file}, {"line", finding.line}, {"message", finding.message}});
  answer(call, {{"intact", report->findings.empty()},
                {"lines", report->lines},
                {"first", report->first},
                {"last", report->last},
                {"findings", std::move(findings)}});
}

void IdentityService::grantsReload(const CallPtr& call) {
  if (need(call, Usage::Inspect) == nullptr) return;
  json problems = json::array();
  for (const GrantProblem& problem : reloadGrants())
    problems.push_back(
        {{"file", problem.file}, {"line", problem.line}, {"key", problem.key}, {"message", problem.message}});
  const bool taken = problems.empty();
  if (!record(call, entryFor(*call, "grants"))) return;
  answer(call, {{"reloaded", taken}, {"count", parts_.grants.current()->size()}, {"problems", std::move(problems)}});
}

}  // namespace wayleave::broker
