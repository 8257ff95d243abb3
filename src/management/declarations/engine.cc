#include "management/declarations/engine.h"

#include <algorithm>
#include <mutex>
#include <set>

#include <fmt/format.h>

#include "base/log.h"
#include "localapi/json_reader.h"
#include "management/declarations/attempts.h"
#include "management/declarations/declaration_types.h"
#include "management/declarations/evaluation.h"
#include "management/declarations/json_document.h"
#include "management/declarations/manifest.h"
#include "management/declarations/status_items.h"
#include "management/declarations/synthesis.h"
#include "management/installer_plan.h"
#include "management/profile_report.h"

namespace wayleave::management {
namespace {

using nlohmann::json;

constexpr std::string_view kServer = "mdm";
constexpr size_t kMostDeclarations = 1000;
constexpr std::chrono::hours kFullReportEvery{24};

// The revision of a configuration: what it and its assets are, by the tokens that change when they do.
std::string revisionOf(std::string_view source, const Declaration& configuration, const Evaluation& all) {
  std::string text = fmt::format("{}\n{}\n{}\n", source, configuration.identifier, configuration.serverToken);
  for (const Declaration::AssetUse& use : configuration.assets)
    if (const Judged* asset = all.find(DeclarationKind::Asset, use.identifier))
      text += fmt::format("{}\n{}\n", use.identifier, asset->declaration.serverToken);
  return derivedUuid(text);
}

bool comesBack(Reason reason) {
  return reason == Reason::Unavailable || reason == Reason::DeadlineExceeded || reason == Reason::Busy || reason == Reason::Io ||
         reason == Reason::ServerError || reason == Reason::RateLimited || reason == Reason::Pending || reason == Reason::Conflict ||
         reason == Reason::Cancelled;
}

// Name, kind and revision are those under which the server listed the declaration: a document that says otherwise could take the
// place of another one. One that could not be read still has them. Its own revision may be newer than the list.
void keepToManifest(Declaration& declaration, const StoredDeclaration& stored) {
  const bool isAnother = !declaration.identifier.empty() && (declaration.identifier != stored.identifier || text(declaration.kind) != stored.kind);
  if (isAnother) {
    const std::string sentence = fmt::format("the server lists the {} {}, and sends the {} {}", stored.kind, stored.identifier, text(declaration.kind), shown(declaration.identifier));
    declaration.reasons.push_back({"Error.InvalidPayload", sentence, {{"Identifier", stored.identifier}, {"ServerToken", stored.serverToken}}});
  }
  declaration.identifier = stored.identifier;
  declaration.serverToken = stored.serverToken;
  for (const DeclarationKind kind : {DeclarationKind::Activation, DeclarationKind::Asset, DeclarationKind::Configuration, DeclarationKind::Management})
    if (text(kind) == stored.kind) declaration.kind = kind;
}

DeclarationReason cannotBeApplied(const std::string& sentence) {
  return {"Error.ConfigurationCannotBeApplied", sentence, {{"Error", sentence}}};
}

}  // namespace

class DeclarationEngine::Work {
 public:
  explicit Work(Parts parts) : parts_(std::move(parts)) {}

  Status synchronise(DeclarationServer& server, ByteView tokens, std::stop_token stop);
  std::optional<StatusReport> statusReport(ReportKind kind);
  Status report(DeclarationServer& server, ReportKind kind);
  Status withdraw(std::stop_token stop);
  bool reconcile(std::stop_token stop);
  void offer(const std::string& profile, const std::vector<Bytes>& declarations);
  json state() const;

 private:
  using Sources = std::map<std::string, Evaluation>;

  Result<Sources> evaluateAll();
  bool isInForce(const std::string& asset, const Sources& sources);
  bool lacksWhatItNeeds(const DeclaredSet& set, const Sources& sources);
  Status send(DeclarationServer& server, ReportKind kind);
  Status pull(DeclarationServer& server, const std::string& token);
  bool removeTheRest(const Sources& sources, const std::stop_token& stop);
  void apply(const std::string& source, Judged& configuration, Evaluation& all, const std::stop_token& stop);
  std::expected<std::map<std::string, Ingredient>, AssetProblem> gather(const std::string& source, const Judged& configuration,
                                                                        Evaluation& all, const std::stop_token& stop);
  std::expected<Secret, AssetProblem> compose(const std::string& source, const Judged& configuration, const std::string& revision,
                                              Evaluation& all, const std::stop_token& stop);
  std::expected<FetchedAsset, AssetProblem> obtain(const std::string& source, const Declaration& asset,
                                                   const std::vector<std::string>& anchors, const std::stop_token& stop);
  void declareApplications(const Sources& sources);
  void publish(const Sources& sources);
  StatusItems statusItems();

  Parts parts_;
  Attempts attempts_;
  bool later_ = false;  // something of this round may succeed later
  // source → asset identifier → the whole declaration; what the stores do not keep, until it was used.
  std::map<std::string, std::map<std::string, Bytes>> whole_;
  std::optional<std::vector<localapi::DeclaredApplication>> applications_;  // as identityd has them
  Wall lastFull_{};
  std::set<std::string> subscriptions_;

  mutable std::mutex mutex_;
  std::vector<DeclarationState> states_;
};

// ---- What there is.

Result<DeclarationEngine::Work::Sources> DeclarationEngine::Work::evaluateAll() {
  std::map<std::string, std::vector<Declaration>> read;
  const Result<DeclaredSet> set = parts_.declarations.load();
  if (!set) return propagate(set.error());
  for (const StoredDeclaration& stored : set->declarations) {
    Declaration declaration = readDeclaration(stored.document);
    keepToManifest(declaration, stored);
    read[std::string(kServer)].push_back(std::move(declaration));
  }
  const Result<std::vector<ProfileRecord>> profiles = parts_.store.profiles();
  if (!profiles) return propagate(profiles.error());
  for (const ProfileRecord& profile : *profiles)
    for (const Bytes& document : readDeclarations(profile.declarations)) read[profile.identifier].push_back(readDeclaration(document));

  const std::map<std::string, json> items = parts_.deviceItems ? parts_.deviceItems() : std::map<std::string, json>{};
  Sources out;
  for (auto& [source, declarations] : read) out.emplace(source, evaluate(std::move(declarations), items));
  return out;
}

// ---- The server.

bool DeclarationEngine::Work::isInForce(const std::string& asset, const Sources& sources) {
  const auto found = sources.find(std::string(kServer));
  if (found == sources.end()) return true;
  for (const Judged& judged : found->second.all) {
    if (!judged.active || std::ranges::find(judged.declaration.assets, asset, &Declaration::AssetUse::identifier) == judged.declaration.assets.end())
      continue;
    const Result<ProfileRecord> installed = parts_.store.profile(declaredIdentifier(kServer, judged.declaration.identifier));
    if (!installed || installed->uuid != revisionOf(kServer, judged.declaration, found->second)) return false;
  }
  return true;
}

// An asset whose content was taken out of what is kept is needed now: it must be asked for again.
bool DeclarationEngine::Work::lacksWhatItNeeds(const DeclaredSet& set, const Sources& sources) {
  return std::ranges::any_of(set.declarations, [&](const StoredDeclaration& stored) {
    const auto whole = whole_.find(std::string(kServer));
    if (whole != whole_.end() && whole->second.contains(stored.identifier)) return false;
    return lacksInlineSecret(readDeclaration(stored.document)) && !isInForce(stored.identifier, sources);
  });
}

Status DeclarationEngine::Work::pull(DeclarationServer& server, const std::string& token) {
  const Result<Bytes> body = server.fetch("declaration-items");
  if (!body) return withContext(body.error(), "declaration-items");
  const Result<Manifest> manifest = readManifest(*body, kMostDeclarations);
  if (!manifest) return withContext(manifest.error(), "declaration-items");
  const Result<DeclaredSet> before = parts_.declarations.load();
  if (!before) return propagate(before.error());
  const Result<Sources> sources = evaluateAll();
  if (!sources) return propagate(sources.error());

  DeclaredSet next{.token = manifest->token.empty() ? token : manifest->token, .declarations = {}};
  std::map<std::string, Bytes> whole;
  for (const ManifestItem& item : manifest->items) {
    const auto known = std::ranges::find_if(before->declarations, [&](const StoredDeclaration& stored) {
      return stored.kind == text(item.kind) && stored.identifier == item.identifier && stored.serverToken == item.serverToken;
    });
    if (known != before->declarations.end() && (!lacksInlineSecret(readDeclaration(known->document)) || isInForce(item.identifier, *sources))) {
      next.declarations.push_back(*known);
      continue;
    }
    Result<Bytes> document = server.fetch(fmt::format("declaration/{}/{}", text(item.kind), item.identifier));
    if (!document && document.error().reason == Reason::NotFound) {
      // It was listed and is not there: ours goes, and the set is asked for again.
      log::warn("the server lists a declaration that it does not have", {{"identifier", item.identifier}});
      next.token.clear();
      continue;
    }
    if (!document) return withContext(document.error(), "declaration " + item.identifier);
    StoredDeclaration stored{std::string(text(item.kind)), item.identifier, item.serverToken, *document};
    if (item.kind == DeclarationKind::Asset) {
      if (Result<Bytes> kept = withoutInlineSecrets(*document)) stored.document = std::move(*kept);
      if (stored.document != *document) whole.emplace(item.identifier, std::move(*document));
    }
    next.declarations.push_back(std::move(stored));
  }
  if (Status kept = parts_.declarations.replace(next); !kept) return kept;
  whole_[std::string(kServer)] = std::move(whole);
  log::info("declarations received", {{"count", std::to_string(next.declarations.size())}});
  return {};
}

Status DeclarationEngine::Work::synchronise(DeclarationServer& server, ByteView tokens, std::stop_token stop) {
  Bytes asked;
  if (tokens.empty()) {
    Result<Bytes> answer = server.fetch("tokens");
    if (!answer) return withContext(answer.error(), "tokens");
    asked = std::move(*answer);
    tokens = asked;
  }
  const Result<std::string> token = readToken(tokens);
  if (!token) return withContext(token.error(), "tokens");
  const Result<DeclaredSet> known = parts_.declarations.load();
  if (!known) return propagate(known.error());
  const Result<Sources> sources = evaluateAll();
  if (!sources) return propagate(sources.error());
  if (known->token.empty() || known->token != *token || lacksWhatItNeeds(*known, *sources))
    if (Status pulled = pull(server, *token); !pulled) return pulled;
  if (stop.stop_requested()) return fail(Reason::Cancelled, "wayleave-managementd is stopping");
  reconcile(stop);
  return send(server, ReportKind::Incremental);
}

Status DeclarationEngine::Work::withdraw(std::stop_token stop) {
  if (Status gone = parts_.declarations.replace({}); !gone) return gone;
  if (Status forgotten = parts_.declarations.setReported({}); !forgotten) return forgotten;
  whole_.erase(std::string(kServer));
  if (!reconcile(std::move(stop))) return fail(Reason::Pending, "what the server declared is not all gone yet");
  return {};
}

// ---- Applying.

void DeclarationEngine::Work::offer(const std::string& profile, const std::vector<Bytes>& declarations) {
  std::map<std::string, Bytes>& whole = whole_[profile];
  whole.clear();
  for (const Bytes& document : declarations) {
    const Declaration declaration = readDeclaration(document);
    if (declaration.kind == DeclarationKind::Asset && !declaration.identifier.empty()) whole[declaration.identifier] = document;
  }
}

std::expected<FetchedAsset, AssetProblem> DeclarationEngine::Work::obtain(const std::string& source, const Declaration& asset,
                                                                          const std::vector<std::string>& anchors, const std::stop_token& stop) {
  const bool offline = source != kServer;
  if (lacksInlineSecret(asset))
    if (const auto whole = whole_.find(source); whole != whole_.end())
      if (const auto document = whole->second.find(asset.identifier); document != whole->second.end())
        return obtainAsset(readDeclaration(document->second), parts_.fetch, offline, anchors, stop);
  return obtainAsset(asset, parts_.fetch, offline, anchors, stop);
}

// Certificates first: the servers of the other assets may be trusted through them.
std::expected<std::map<std::string, Ingredient>, AssetProblem> DeclarationEngine::Work::gather(const std::string& source,
                                                                                               const Judged& configuration,
                                                                                               Evaluation& all, const std::stop_token& stop) {
  std::map<std::string, Ingredient> out;
  std::vector<std::string> anchors;
  for (const bool certificates : {true, false})
    for (const Declaration::AssetUse& use : configuration.declaration.assets) {
      const auto found = std::ranges::find_if(all.all, [&](const Judged& judged) {
        return judged.declaration.kind == DeclarationKind::Asset && judged.declaration.identifier == use.identifier;
      });
      if (found == all.all.end() || !use.isUsed || !isIngredient(found->declaration.type) || out.contains(use.identifier) ||
          (found->declaration.type == kCertificateAsset) != certificates)
        continue;
      auto content = obtain(source, found->declaration, anchors, stop);
      if (!content) {
        found->reasons.push_back(content.error().reason);
        return std::unexpected(content.error());
      }
      if (certificates && asText(content->body.view()).contains("-----BEGIN")) anchors.emplace_back(content->body.viewText());
      out.emplace(use.identifier, Ingredient{&found->declaration, std::move(*content)});
    }
  return out;
}

std::expected<Secret, AssetProblem> DeclarationEngine::Work::compose(const std::string& source, const Judged& configuration,
                                                                     const std::string& revision, Evaluation& all, const std::stop_token& stop) {
  const Declaration& declaration = configuration.declaration;
  if (declaration.type != kLegacy && declaration.type != kLegacyInteractive) {
    auto ingredients = gather(source, configuration, all, stop);
    if (!ingredients) return std::unexpected(ingredients.error());
    return profileOf(source, declaration, revision, *ingredients);
  }
  Declaration where;  // ProfileURL is an asset in all but name
  if (const plist::Value* url = declaration.payload.find("ProfileURL"); url != nullptr && url->string() != nullptr)
    where.source = AssetSource{.url = *url->string(), .contentType = {}, .size = {}, .sha256 = {}, .authentication = {}};
  else if (const Judged* asset = declaration.assets.empty() ? nullptr : all.find(DeclarationKind::Asset, declaration.assets.front().identifier))
    where = asset->declaration;
  auto profile = obtainAsset(where, parts_.fetch, source != kServer, {}, stop);
  if (!profile) return std::unexpected(profile.error());
  return legacyProfileOf(source, declaration, revision, profile->body.view(), parts_.clock.wallNow());
}

void DeclarationEngine::Work::apply(const std::string& source, Judged& configuration, Evaluation& all, const std::stop_token& stop) {
  const Declaration& declaration = configuration.declaration;
  if (declaration.type == kTest) {
    const plist::Value* wanted = declaration.payload.find("ReturnStatus");
    if (wanted != nullptr && wanted->string() != nullptr && *wanted->string() == "Failed")
      configuration.reasons.push_back(cannotBeApplied("the declaration asks to fail"));
  }
  if (!becomesProfile(declaration.type)) return;
  const std::string identifier = declaredIdentifier(source, declaration.identifier);
  const std::string revision = revisionOf(source, declaration, all);
  const Result<ProfileRecord> installed = parts_.store.profile(identifier);
  if (installed && installed->uuid == revision) return attempts_.forget(identifier);
  if (const Attempts::Entry* last = attempts_.find(identifier, revision); last != nullptr && parts_.clock.now() < last->notBefore) {
    later_ = later_ || last->mayPass;
    configuration.reasons.push_back(last->reason);
    return;
  }
  const auto failed = [&](DeclarationReason reason, bool mayPass) {
    if (stop.stop_requested()) return void(later_ = true);
    log::warn("declaration not applied", {{"identifier", declaration.identifier}, {"code", reason.code}, {"why", reason.description}});
    configuration.reasons.push_back(reason);
    later_ = later_ || mayPass;
    attempts_.failed(identifier, revision, std::move(reason), mayPass, parts_.clock.now());
  };
  auto profile = compose(source, configuration, revision, all, stop);
  if (!profile) {
    // A reason of an asset stands with the asset; the configuration says that it waits for it.
    if (profile.error().reason.code == "Error.MissingState")  // whoever has it will offer it: no attempt that counts
      return configuration.reasons.push_back(cannotBeApplied("an asset: " + profile.error().reason.description));
    const bool ofAsset = profile.error().reason.code.starts_with("Error.Asset");
    return failed(ofAsset ? cannotBeApplied("an asset: " + profile.error().reason.description) : profile.error().reason, profile.error().mayPass);
  }
  const Result<InstallOutcome> outcome = parts_.installer.install(profile->view(), stop);
  if (outcome) return attempts_.forget(identifier);
  failed(cannotBeApplied(describe(outcome.error())), comesBack(outcome.error().reason));
}

// What was declared and is no longer, or not now.
bool DeclarationEngine::Work::removeTheRest(const Sources& sources, const std::stop_token& stop) {
  std::set<std::string> wanted;
  for (const auto& [source, all] : sources)
    for (const Judged& judged : all.all)
      if (judged.declaration.kind == DeclarationKind::Configuration && (judged.active || judged.held))
        wanted.insert(declaredIdentifier(source, judged.declaration.identifier));
  const Result<std::vector<ProfileRecord>> installed = parts_.store.profiles();
  if (!installed) return false;
  bool all = true;
  for (const ProfileRecord& profile : *installed) {
    if (!profile.identifier.starts_with(kDeclaredPrefix) || wanted.contains(profile.identifier)) continue;
    if (const Status removed = parts_.installer.remove(profile.identifier, stop); !removed) {
      log::failure("cannot withdraw a declaration yet", removed.error(), {{"identifier", profile.identifier}});
      all = false;
    }
  }
  return all;
}

void DeclarationEngine::Work::declareApplications(const Sources& sources) {
  std::vector<localapi::DeclaredApplication> wanted;
  for (const auto& [source, all] : sources)
    for (const Judged& judged : all.all) {
      if (judged.declaration.type != kManagedApp || !judged.active) continue;
      const Result<ProfileRecord> installed = parts_.store.profile(declaredIdentifier(source, judged.declaration.identifier));
      for (const auto& [composed, names] : managedIdentities(judged.declaration)) {
        localapi::DeclaredApplication application{composed, judged.declaration.identifier, {}};
        for (const auto& [name, asset] : names) {
          localapi::DeclaredApplication::Item item{name, {}, {}};
          if (installed) {
            const std::string uuid = assetPayloadUuid(source, judged.declaration.identifier, asset);
            const auto identity = std::ranges::find(installed->identities, uuid, &InstalledIdentity::payloadUuid);
            if (identity != installed->identities.end()) item.identity = identity->identity;
          }
          if (item.identity.empty())
            item.problem = judged.reasons.empty() ? "it has not been delivered yet" : judged.reasons.front().description;
          application.identities.push_back(std::move(item));
        }
        wanted.push_back(std::move(application));
      }
    }
  if (applications_ == wanted) return;
  const bool neverAny = !applications_ && wanted.empty();  // what an earlier run left there goes, if there is anything
  if (const Status declared = parts_.agent.declareApplications(wanted); !declared && !neverAny) {
    log::failure("identityd does not take the declared applications", declared.error());
    later_ = true;
    return;
  }
  applications_ = std::move(wanted);
}

bool DeclarationEngine::Work::reconcile(std::stop_token stop) {
  Result<Sources> sources = evaluateAll();
  if (!sources) {
    log::failure("cannot read the declarations", sources.error());
    return false;
  }
  later_ = !removeTheRest(*sources, stop);
  for (auto& [source, all] : *sources)
    for (Judged& judged : all.all) {
      if (stop.stop_requested()) return false;
      if (judged.declaration.kind == DeclarationKind::Configuration && judged.active && judged.reasons.empty()) apply(source, judged, all, stop);
    }
  declareApplications(*sources);
  publish(*sources);
  // What was carried inline has been used, or will be sent again by whoever wants it used.
  if (!later_) whole_.clear();
  return !later_;
}

// ---- Telling.

void DeclarationEngine::Work::publish(const Sources& sources) {
  std::vector<DeclarationState> states;
  subscriptions_.clear();
  for (const auto& [source, all] : sources) {
    if (source == kServer) subscriptions_ = all.subscriptions;
    for (const Judged& judged : all.all) {
      const bool wrong = std::ranges::any_of(judged.reasons, [](const DeclarationReason& reason) { return reason.code.starts_with("Error."); });
      states.push_back({source, judged.declaration.kind, judged.declaration.type, judged.declaration.identifier, judged.declaration.serverToken,
                        judged.active, wrong ? Validity::Invalid : Validity::Valid, judged.reasons});
    }
  }
  {
    const std::lock_guard lock(mutex_);
    states_ = std::move(states);
  }
  if (parts_.changed) parts_.changed();
}

json DeclarationEngine::Work::state() const {
  const std::lock_guard lock(mutex_);
  json out = json::array();
  for (const DeclarationState& state : states_) {
    json entry = statusEntry(state);
    out.push_back({{"source", state.source},
                   {"kind", text(state.kind)},
                   {"type", state.type},
                   {"identifier", state.identifier},
                   {"serverToken", state.serverToken},
                   {"active", state.active},
                   {"valid", text(state.valid)},
                   {"reasons", entry.contains("reasons") ? entry["reasons"] : json::array()}});
  }
  return out;
}

StatusItems DeclarationEngine::Work::statusItems() {
  StatusItems out;
  std::vector<DeclarationState> ofServer;
  {
    const std::lock_guard lock(mutex_);
    std::ranges::copy_if(states_, std::back_inserter(ofServer), [](const DeclarationState& state) { return state.source == kServer; });
  }
  const std::map<std::string, json> device = parts_.deviceItems ? parts_.deviceItems() : std::map<std::string, json>{};
  std::vector<std::string> names{"management.client-capabilities", "management.declarations"};
  for (const auto& [name, value] : device) {
    names.push_back(name);
    if (subscriptions_.contains(name)) out.emplace(name, value);
  }
  out.emplace("management.declarations", declarationsItem(ofServer));
  out.emplace("management.client-capabilities", clientCapabilities(names));
  return out;
}

std::optional<DeclarationEngine::StatusReport> DeclarationEngine::Work::statusReport(ReportKind kind) {
  const Result<std::map<std::string, std::string>> reported = parts_.declarations.reported();
  const std::map<std::string, std::string> known = reported ? *reported : std::map<std::string, std::string>{};
  const Wall now = parts_.clock.wallNow();
  const bool full = kind == ReportKind::Full || known.empty() || now - lastFull_ >= kFullReportEvery;
  const StatusItems items = statusItems();
  const std::optional<json> body = statusReportFor(items, known, full);
  if (!body) return std::nullopt;
  return StatusReport{localapi::dump(*body), [this, items, full, now] {
                        std::map<std::string, std::string> told;
                        for (const auto& [item, value] : items) told.emplace(item, localapi::dump(value));
                        if (const Status kept = parts_.declarations.setReported(told); !kept) log::failure("cannot note the status report", kept.error());
                        if (full) lastFull_ = now;
                      }};
}

Status DeclarationEngine::Work::report(DeclarationServer& server, ReportKind kind) {
  const Result<DeclaredSet> set = parts_.declarations.load();
  const Result<Sources> sources = evaluateAll();
  if (set && sources && (lacksWhatItNeeds(*set, *sources) || (set->token.empty() && !set->declarations.empty())))
    return synchronise(server, {}, {});
  return send(server, kind);
}

Status DeclarationEngine::Work::send(DeclarationServer& server, ReportKind kind) {
  const std::optional<StatusReport> due = statusReport(kind);
  if (!due) return {};
  if (Status taken = server.report(asBytes(due->json)); !taken) return withContext(taken.error(), "status report");
  due->sent();
  return {};
}

// ----

DeclarationEngine::DeclarationEngine(Parts parts) : work_(std::make_unique<Work>(std::move(parts))) {}
DeclarationEngine::~DeclarationEngine() = default;
Status DeclarationEngine::synchronise(DeclarationServer& server, ByteView tokens, std::stop_token stop) {
  return work_->synchronise(server, tokens, std::move(stop));
}
std::optional<DeclarationEngine::StatusReport> DeclarationEngine::statusReport(ReportKind kind) { return work_->statusReport(kind); }
Status DeclarationEngine::report(DeclarationServer& server, ReportKind kind) { return work_->report(server, kind); }
Status DeclarationEngine::withdraw(std::stop_token stop) { return work_->withdraw(std::move(stop)); }
bool DeclarationEngine::reconcile(std::stop_token stop) { return work_->reconcile(std::move(stop)); }
void DeclarationEngine::offer(const std::string& profile, const std::vector<Bytes>& declarations) { work_->offer(profile, declarations); }
json DeclarationEngine::state() const { return work_->state(); }

}  // namespace wayleave::management
