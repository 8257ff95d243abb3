#include "broker/grants.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "base/osstatus.h"

namespace wayleave::broker {
namespace {

constexpr std::string_view kWriteGrantHint =
    "an administrator can write a grant: `wayleave caller check PID` prints what it must say";

// Without an executable in the grant nothing about the program's file needs to hold.
bool required(const Grant& grant, ConditionName name) {
  if (grant.accept.contains(name)) return false;
  if (grant.require.contains(name)) return true;
  switch (name) {
    case ConditionName::Alive:
    case ConditionName::NotTraced:
    case ConditionName::UserNamespace:
    case ConditionName::Connection: return true;
    case ConditionName::Executable:
    case ConditionName::Path:
    case ConditionName::LoaderVariables:
    case ConditionName::MappedCode: return !grant.executables.empty();
    case ConditionName::Digest: return !grant.sha256.empty();
    case ConditionName::Undumpable: return false;
  }
  return true;
}

bool inGroup(const Verdict& caller, gid_t group) {
  return caller.gid == group || std::ranges::find(caller.groups, group) != caller.groups.end();
}

// A grant written with a symbolic link is a mistake worth explaining: the kernel names the file, not the link.
std::string linkedTo(const Grant& grant, const std::string& executable) {
  for (const std::string& path : grant.executables) {
    std::error_code code;
    const std::filesystem::path real = std::filesystem::canonical(path, code);
    if (!code && real == executable) return path;
  }
  return {};
}

}  // namespace

std::string_view text(Usage usage) {
  switch (usage) {
    case Usage::TlsClient: return "tls-client";
    case Usage::Digest: return "digest";
    case Usage::Sign: return "sign";
    case Usage::List: return "list";
    case Usage::Manage: return "manage";
    case Usage::Inspect: return "inspect";
  }
  return "corrupted";
}

Entitlements::Entitlements(std::shared_ptr<const std::vector<Grant>> all, const Verdict& caller, Declared declared)
    : all_(std::move(all)),
      declared_(std::move(declared)),
      callerText_(fmt::format("{} (process {}, user {})", caller.executable.empty() ? "the caller" : caller.executable,
                              caller.pid, caller.uid)) {
  for (const Grant& grant : *all_) {
    NearMiss miss{grant.name, {}, {}};
    const auto fails = [&](std::string sentence, std::string hint = {}) {
      miss.failures.push_back(std::move(sentence));
      if (miss.hint.empty()) miss.hint = std::move(hint);
    };
    // A grant is about this caller when it names its program, or, naming none, its user, group or unit.
    bool about = grant.executables.empty();
    if (!grant.executables.empty()) {
      about = std::ranges::find(grant.executables, caller.executable) != grant.executables.end();
      if (!about) {
        if (caller.executable.empty() && grant.user == caller.uid) {
          about = true;  // whether it is that program could not be seen: the conditions say why
        } else if (const std::string link = linkedTo(grant, caller.executable); !link.empty()) {
          about = true;
          fails(fmt::format("the grant names {}, a symbolic link to {}", link, caller.executable),
                fmt::format("name {} in the grant", caller.executable));
        } else if (caller.executable == grant.executables.front() + " (deleted)") {
          about = true;
        }
      }
    }
    if (!about) continue;
    const bool userFits = !grant.user || *grant.user == caller.uid;
    const bool groupFits = !grant.group || inGroup(caller, *grant.group);
    const bool unitFits = grant.unit.empty() || grant.unit == caller.unit;
    if (grant.executables.empty() && !(userFits && groupFits && unitFits)) continue;

    if (!userFits) fails(fmt::format("it runs as user {}, the grant is for user {}", caller.uid, *grant.user));
    if (!groupFits) fails(fmt::format("it is not in group {}", *grant.group));
    if (!unitFits)
      fails(caller.unit.empty() ? fmt::format("systemd did not start it as {}", grant.unit)
                                : fmt::format("it is in unit {}, the grant is for {}", caller.unit, grant.unit));
    if (grant.owner && caller[ConditionName::Path].held && caller.owner != *grant.owner)
      fails(fmt::format("its executable belongs to user {}, the grant asks for {}", caller.owner, *grant.owner));
    if (!grant.sha256.empty() && !caller.sha256.empty() &&
        std::ranges::find(grant.sha256, caller.sha256) == grant.sha256.end())
      fails(fmt::format("its contents (SHA-256 {}) are not those the grant names", caller.sha256),
            "if the program was upgraded on purpose, put the new digest into the grant");
    for (const Condition& condition : caller.conditions)
      if (!condition.held && required(grant, condition.name))
        fails(fmt::format("{}: {}", text(condition.name), condition.sentence), condition.hint);

    if (!miss.failures.empty())
      nearMisses_.push_back(std::move(miss));
    else
      (grant.application.empty() ? granted_ : applications_).push_back(&grant);
  }
}

const Grant* Entitlements::find(Usage usage) const {
  for (const Grant* grant : granted_)
    if (grant->usages.contains(usage)) return grant;
  return nullptr;
}

const Grant* Entitlements::find(Usage usage, std::string_view accessGroup, std::string_view identity) const {
  for (const Grant* grant : granted_)
    if (grant->usages.contains(usage) && grant->covers(accessGroup)) return grant;
  for (const Grant* entry : applications_)
    if (entry->usages.contains(usage) && isDeclared(*entry, identity)) return entry;
  return nullptr;
}

bool Entitlements::sees(std::string_view accessGroup, std::string_view identity) const {
  return std::ranges::any_of(granted_, [&](const Grant* grant) { return grant->covers(accessGroup); }) ||
         std::ranges::any_of(applications_, [&](const Grant* entry) { return isDeclared(*entry, identity); });
}

bool Entitlements::isDeclared(const Grant& entry, std::string_view identity) const {
  if (!declared_ || identity.empty()) return false;
  return std::ranges::any_of(*declared_, [&](const localapi::DeclaredApplication& application) {
    return std::ranges::find(application.identities, identity, &localapi::DeclaredApplication::Item::identity) !=
               application.identities.end() &&
           isFor(application.composedIdentifier, entry.application);
  });
}

std::vector<localapi::DeclaredApplication::Item> Entitlements::provisions() const {
  std::vector<localapi::DeclaredApplication::Item> out;
  if (!declared_) return out;
  for (const Grant* entry : applications_)
    for (const localapi::DeclaredApplication& application : *declared_) {
      if (!isFor(application.composedIdentifier, entry->application)) continue;
      for (const localapi::DeclaredApplication::Item& item : application.identities)
        if (std::ranges::find(out, item.identifier, &localapi::DeclaredApplication::Item::identifier) == out.end())
          out.push_back(item);
    }
  return out;
}

Error Entitlements::refusal(Usage usage) const {
  if (!any() && !nearMisses_.empty()) {
    // The nearest is the one with the fewest failures.
    const NearMiss& nearest =
        *std::ranges::min_element(nearMisses_, {}, [](const NearMiss& miss) { return miss.failures.size(); });
    return {Reason::CallerUnverified,
            fmt::format("{} is not what grant '{}' describes: {}", callerText_, nearest.grant,
                        fmt::join(nearest.failures, "; ")),
            nearest.hint, errSecMissingEntitlement};
  }
  if (!any())
    return {Reason::NotEntitled, fmt::format("no grant names {}", callerText_), std::string(kWriteGrantHint),
            errSecMissingEntitlement};
  return {Reason::NotEntitled,
          fmt::format("no grant gives {} the usage '{}' here (its grants: {})", callerText_, text(usage),
                      fmt::join(grantNames(), ", ")),
          std::string(kWriteGrantHint), errSecMissingEntitlement};
}

std::vector<std::string> Entitlements::grantNames() const {
  std::vector<std::string> names;
  for (const Grant* grant : granted_) names.push_back(grant->name);
  for (const Grant* entry : applications_) names.push_back(entry->name);
  return names;
}

std::vector<GrantProblem> GrantTable::reload() {
  std::error_code code;
  const bool fallBack = !fallback_.empty() && !std::filesystem::exists(folder_, code) && !code;
  GrantSet loaded =
      fallBack ? parseGrants(fallback_, "the shipped grants", variables_) : loadGrants(folder_, variables_);
  const std::lock_guard lock(mutex_);
  problems_ = loaded.problems;
  if (problems_.empty()) {
    grants_ = std::make_shared<const std::vector<Grant>>(std::move(loaded.grants));
    log::info("grants loaded",
              {{"from", fallBack ? "the shipped grants" : folder_}, {"grants", std::to_string(grants_->size())}});
  } else {
    for (const GrantProblem& problem : problems_) log::error("grants not loaded", {{"problem", describe(problem)}});
  }
  return problems_;
}

std::shared_ptr<const std::vector<Grant>> GrantTable::current() const {
  const std::lock_guard lock(mutex_);
  return grants_;
}

std::vector<GrantProblem> GrantTable::problems() const {
  const std::lock_guard lock(mutex_);
  return problems_;
}

}  // namespace wayleave::broker
