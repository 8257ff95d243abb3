#include "broker/applications.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/osstatus.h"
#include "broker/grants.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"

namespace wayleave::broker {
namespace {

constexpr const char* kStoredAs = "declared-applications";

std::unexpected<Error> malformed(std::string message, std::string hint = {}) {
  return fail(Reason::BadInput, std::move(message), std::move(hint), errSecParam);
}

bool isAlphanumeric(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Names reach terminals and logs: no control characters, and none that are invisible.
bool isPrintable(std::string_view text) {
  return std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

std::vector<localapi::DeclaredApplication> readFrom(keychain::Store& store) {
  const auto nothing = [](const Error& why) {
    log::failure("declared applications could not be read: none have identities until they are declared again", why);
    return std::vector<localapi::DeclaredApplication>{};
  };
  const Result<std::optional<Bytes>> stored = store.value(kStoredAs);
  if (!stored) return nothing(stored.error());
  if (!*stored) return {};
  const Result<nlohmann::json> document = localapi::parseJson(asText(**stored));
  if (!document) return nothing(document.error());
  Result<std::vector<localapi::DeclaredApplication>> all = localapi::applicationsFromJson(*document);
  if (!all) return nothing(all.error());
  if (const Status good = ApplicationTable::check(*all); !good) return nothing(good.error());
  return std::move(*all);
}

}  // namespace

Result<ComposedIdentifier> parseComposedIdentifier(std::string_view text) {
  if (text.size() > ApplicationTable::kMostTextBytes) return malformed("a composed identifier is too long");
  if (text.find('{') != std::string_view::npos)
    return malformed(fmt::format("'{}' holds a designated requirement", text),
                     "write Bundle-ID (Team-ID): no code signature can be compared with a requirement here");
  ComposedIdentifier out;
  const size_t open = text.find(" (");
  out.bundle = std::string(text.substr(0, open));
  if (open != std::string_view::npos) {
    if (!text.ends_with(')') || text.size() == open + 3)
      return malformed(fmt::format("'{}' is not Bundle-ID (Team-ID)", text));
    out.team = std::string(text.substr(open + 2, text.size() - open - 3));
  }
  const auto inBundle = [](char c) { return isAlphanumeric(c) || c == '.' || c == '-' || c == '_'; };
  if (out.bundle.empty() || !std::ranges::all_of(out.bundle, inBundle) ||
      !std::ranges::all_of(out.team, isAlphanumeric))
    return malformed(fmt::format("'{}' is neither Bundle-ID nor Bundle-ID (Team-ID)", text));
  return out;
}

bool isFor(std::string_view declared, std::string_view local) {
  const Result<ComposedIdentifier> wanted = parseComposedIdentifier(declared);
  const Result<ComposedIdentifier> here = parseComposedIdentifier(local);
  return wanted && here && wanted->bundle == here->bundle && (wanted->team.empty() || wanted->team == here->team);
}

ApplicationTable::ApplicationTable(keychain::Store& store)
    : store_(store), declared_(std::make_shared<const std::vector<localapi::DeclaredApplication>>(readFrom(store))) {}

Status ApplicationTable::check(const std::vector<localapi::DeclaredApplication>& all) {
  if (all.size() > kMostApplications) return malformed(fmt::format("more than {} applications", kMostApplications));
  for (size_t index = 0; index < all.size(); ++index) {
    const localapi::DeclaredApplication& application = all[index];
    const auto at = [&](std::string_view what) {
      return malformed(fmt::format("applications[{}] ({}): {}", index, application.declaration, what));
    };
    if (application.declaration.size() > kMostTextBytes || !isPrintable(application.declaration))
      return malformed(fmt::format("applications[{}]: the declaration's identifier cannot be one", index));
    if (const auto parsed = parseComposedIdentifier(application.composedIdentifier); !parsed)
      return at(parsed.error().message);
    if (application.identities.size() > kMostIdentities)
      return at(fmt::format("more than {} identities", kMostIdentities));
    std::set<std::string_view> names;
    for (const localapi::DeclaredApplication::Item& item : application.identities) {
      if (item.identifier.empty() || item.identifier.size() > kMostTextBytes || !isPrintable(item.identifier))
        return at("an identity's identifier is empty, too long or not printable");
      if (!names.insert(item.identifier).second) return at(fmt::format("'{}' stands in it twice", item.identifier));
      if (item.identity.size() > kMostTextBytes || item.problem.size() > 4 * kMostTextBytes)
        return at(fmt::format("'{}' carries too much text", item.identifier));
      if (!item.identity.empty() && !item.problem.empty())
        return at(fmt::format("'{}' has both an identity and a problem", item.identifier));
    }
  }
  return {};
}

Status ApplicationTable::replace(std::vector<localapi::DeclaredApplication> all) {
  if (Status good = check(all); !good) return good;
  auto next = std::make_shared<const std::vector<localapi::DeclaredApplication>>(std::move(all));
  const std::lock_guard lock(mutex_);
  if (*next == *declared_) return {};
  if (Status stored = store_.setValue(kStoredAs, asBytes(localapi::dump(localapi::toJson(*next)))); !stored)
    return stored;
  declared_ = std::move(next);
  return {};
}

Declared ApplicationTable::current() const {
  const std::lock_guard lock(mutex_);
  return declared_;
}

std::vector<std::string> unmatched(const std::vector<localapi::DeclaredApplication>& declared,
                                   const std::vector<Grant>& grants) {
  std::vector<std::string> out;
  for (const localapi::DeclaredApplication& application : declared) {
    const bool wanted = std::ranges::any_of(grants, [&](const Grant& grant) {
      return !grant.application.empty() && isFor(application.composedIdentifier, grant.application);
    });
    if (!wanted && std::ranges::find(out, application.composedIdentifier) == out.end())
      out.push_back(application.composedIdentifier);
  }
  return out;
}

}  // namespace wayleave::broker
