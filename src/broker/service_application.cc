// Applications: what managementd declares for them, and the ManagedApp contract for the programs themselves.

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/osstatus.h"
#include "broker/service_call.h"
#include "localapi/application_client.h"
#include "localapi/identity_json.h"

namespace wayleave::broker {

using nlohmann::json;

void IdentityService::declareApplications(const CallPtr& call) {
  if (need(call, Usage::Manage) == nullptr) return;
  const std::optional<json> content = body(call);
  if (!content) return;
  Result<std::vector<localapi::DeclaredApplication>> all = localapi::applicationsFromJson(*content);
  if (!parsed(call, all)) return;
  if (!parsed(call, ApplicationTable::check(*all))) return;
  std::set<std::string> names;
  for (const localapi::DeclaredApplication& application : *all)
    for (const localapi::DeclaredApplication::Item& item : application.identities)
      if (!item.identity.empty()) names.insert(item.identity);
  for (const std::string& name : names) {
    const Result<keychain::IdentityRecord> identity = parts_.store.identity(name);
    if (!parsed(call, identity)) return;
    if (need(call, Usage::Manage, identity->accessGroup) == nullptr) return;
  }
  // Recorded first, like a commit: whoever declares again after an error loses nothing.
  AuditEntry entry = entryFor(*call, call->event);
  entry.detail = fmt::format("{} applications, {} identities", all->size(), names.size());
  if (!record(call, std::move(entry))) return;
  if (!parsed(call, applications_.replace(std::move(*all)))) return;
  watchers_.redeclare(applications_.current());
  streams_.refresh(applications_.current());
  answer(call, json::object());
}

// For managementd and administrators: what is declared, and which entries (if any) it is for.
void IdentityService::showApplications(const CallPtr& call) {
  if (call->entitled->find(Usage::Inspect) == nullptr && need(call, Usage::Manage) == nullptr) return;
  const Declared declared = applications_.current();
  const auto grants = parts_.grants.current();
  json list = json::array();
  for (const localapi::DeclaredApplication& application : *declared) {
    json entries = json::array();
    for (const Grant& grant : *grants)
      if (!grant.application.empty() && isFor(application.composedIdentifier, grant.application)) {
        json usages = json::array();
        for (const Usage usage : grant.usages) usages.push_back(text(usage));
        entries.push_back({{"identifier", grant.application},
                           {"executables", grant.executables},
                           {"usages", std::move(usages)},
                           {"where", fmt::format("{}:{}", grant.file, grant.line)}});
      }
    json identities = json::array();
    for (const localapi::DeclaredApplication::Item& item : application.identities) {
      const auto identity = item.identity.empty() ? Result<keychain::IdentityRecord>(fail(Reason::NotFound, ""))
                                                  : parts_.store.identity(item.identity);
      identities.push_back({{"identifier", item.identifier},
                            {"identity", item.identity},
                            {"problem", item.problem},
                            {"state", identity ? text(identity->state) : "missing"}});
    }
    list.push_back({{"composedIdentifier", application.composedIdentifier},
                    {"declaration", application.declaration},
                    {"identities", std::move(identities)},
                    {"entries", std::move(entries)}});
  }
  answer(call, {{"applications", std::move(list)}, {"unmatched", unmatched(*declared, *grants)}});
}

bool IdentityService::needApplication(const CallPtr& call) {
  if (call->entitled->isApplication()) return true;
  Error error = call->entitled->refusal(Usage::TlsClient);
  if (call->entitled->any())  // grants it has, but none of them makes it an application
    error = {Reason::NotEntitled, "no [[application]] entry of the grants describes this program",
             "an administrator can write one: `wayleave caller check PID` prints what it must say",
             errSecMissingEntitlement};
  refuseEntitlement(call, error);
  return false;
}

void IdentityService::followApplication(const CallPtr& call) {
  if (!needApplication(call)) return;
  const Status added = streams_.add([&] { return call->responder->openStream(); }, *call->entitled, call->verdict.uid);
  if (!added) refuse(call, added.error());
}

void IdentityService::refuseApplication(const CallPtr& call, const Error& error) {
  localapi::Response response = localapi::errorResponse(error);
  if (Result<json> content = localapi::parseJson(response.body)) {
    (*content)["error"]["managedAppError"] = localapi::text(localapi::managedAppError(error));
    response.body = localapi::dump(*content) + "\n";
  }
  call->responder->respond(std::move(response));
}

void IdentityService::applicationIdentity(const CallPtr& call) {
  if (!needApplication(call)) return;
  const auto provisions = call->entitled->provisions();
  const auto item =
      std::ranges::find(provisions, call->subject, &localapi::DeclaredApplication::Item::identifier);
  const Error none{Reason::NotFound, fmt::format("no identity '{}' is provisioned for this program", call->subject),
                   "the list may have changed: follow it, and ask for what it names", errSecItemNotFound};
  if (item == provisions.end()) return refuseApplication(call, none);
  if (!item->problem.empty())
    return refuseApplication(
        call, {Reason::ServerError, fmt::format("the asset behind '{}' was not delivered: {}", call->subject,
                                                item->problem),
               "`wayleave status` shows when it is tried again", errSecDataNotAvailable});
  if (item->identity.empty()) return refuseApplication(call, none);
  const Result<keychain::IdentityRecord> identity = parts_.store.identity(item->identity);
  if (!identity && identity.error().reason != Reason::NotFound) return refuseApplication(call, identity.error());
  if (!identity || identity->state == keychain::IdentityState::Staged) return refuseApplication(call, none);
  if (identity->state == keychain::IdentityState::Lost)
    return refuseApplication(call, {Reason::IdentityLost,
                                    fmt::format("'{}' is lost: {}", call->subject, identity->stateDetail),
                                    "its declaration must bring a new one", errSecDataNotAvailable});
  answer(call, view(*identity, true));
}

std::optional<std::string> IdentityService::versionOf(const std::string& identity) {
  const Result<keychain::IdentityRecord> record = parts_.store.identity(identity);
  if (!record || record->state == keychain::IdentityState::Staged || record->chain.empty()) return std::nullopt;
  return fmt::format("{} {}", toHex(sha256(record->chain.front())), text(record->state));
}

void IdentityService::announce(std::string kind, const keychain::IdentityRecord& identity) {
  watchers_.announce(std::move(kind), identity);
  streams_.refresh();
}

// A renewed certificate of two profiles, or one file installed twice: the reference names several identities, and the
// store answers with the newest. An application is told of its own.
Result<keychain::IdentityRecord> IdentityService::resolveFor(const Call& call, ByteView reference) {
  Result<keychain::IdentityRecord> found = parts_.store.resolve(reference);
  if (!found || call.entitled->sees(found->accessGroup, found->id)) return found;
  for (const localapi::DeclaredApplication::Item& item : call.entitled->provisions()) {
    Result<keychain::IdentityRecord> own = parts_.store.identity(item.identity);
    if (own && own->state != keychain::IdentityState::Staged && own->reference == found->reference) return own;
  }
  return found;
}

}  // namespace wayleave::broker
