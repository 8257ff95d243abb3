#include "management/declarations/evaluation.h"

#include <algorithm>

#include <fmt/format.h>

#include "management/declarations/declaration_types.h"

namespace wayleave::management {
namespace {

using nlohmann::json;

class Evaluator {
 public:
  Evaluator(Evaluation& out, const std::map<std::string, json>& status) : out_(out), status_(status) {
    for (size_t i = 0; i < out.all.size(); ++i) {
      const Declaration& declaration = out.all[i].declaration;
      index_.emplace(std::pair(declaration.kind, declaration.identifier), i);
      if (declaration.type == kProperties)
        for (const plist::Entry& entry : declaration.payload.entries()) properties_[entry.key] = toJson(entry.value);
    }
  }

  void run() {
    for (Judged& judged : out_.all)
      if (judged.declaration.kind == DeclarationKind::Configuration) needAssets(judged);
    for (Judged& judged : out_.all)
      if (judged.declaration.kind == DeclarationKind::Activation) activate(judged);
    for (Judged& judged : out_.all)
      if (judged.declaration.kind == DeclarationKind::Configuration) settle(judged);
    for (Judged& judged : out_.all)
      if (judged.declaration.kind == DeclarationKind::Asset) judgeAsset(judged);
  }

 private:
  Judged* find(DeclarationKind kind, const std::string& identifier) {
    const auto found = index_.find({kind, identifier});
    return found == index_.end() ? nullptr : &out_.all[found->second];
  }

  json self(const Judged& judged) const {
    return {{"Identifier", judged.declaration.identifier}, {"ServerToken", judged.declaration.serverToken}};
  }

  void needAssets(Judged& configuration) {
    json missing = json::array();
    for (const Declaration::AssetUse& use : configuration.declaration.assets) {
      const Judged* asset = find(DeclarationKind::Asset, use.identifier);
      if (asset == nullptr) {
        missing.push_back(use.identifier);
      } else if (std::ranges::find(use.types, asset->declaration.type) == use.types.end()) {
        const std::string sentence = fmt::format("{}: {} is {}", use.keyPath, use.identifier, asset->declaration.type);
        configuration.reasons.push_back({"Error.ConfigurationIsInvalid", sentence, {{"Error", sentence}}});
      } else if (!asset->declaration.isValid()) {
        const std::string sentence = fmt::format("{}: the asset {} is invalid", use.keyPath, use.identifier);
        configuration.reasons.push_back({"Error.ConfigurationIsInvalid", sentence, {{"Error", sentence}}});
      }
    }
    if (missing.empty()) return;
    json details = self(configuration);
    details["AssetIdentifiers"] = missing;
    configuration.reasons.push_back({"Error.MissingAssets", fmt::format("assets are missing: {}", missing.dump()), details});
  }

  // nullopt: it has no answer, and the reason is noted.
  std::optional<bool> predicate(Judged& activation) {
    if (!activation.declaration.predicate) return true;
    const PredicateValues values{
        .status = [this](const std::string& item) -> std::optional<json> {
          const auto found = status_.find(item);
          return found == status_.end() ? std::nullopt : std::optional(found->second);
        },
        .property = [this](const std::string& name) -> std::optional<json> {
          const auto found = properties_.find(name);
          return found == properties_.end() ? std::nullopt : std::optional(found->second);
        }};
    const auto answer = activation.declaration.predicate->evaluate(values);
    json details = self(activation);
    details["Predicate"] = activation.declaration.predicateText;
    if (!answer) {
      activation.reasons.push_back({std::string(code(answer.error().problem)), answer.error().message, details});
      return std::nullopt;
    }
    if (!*answer) activation.reasons.push_back({"Info.Predicate", "the predicate is false", details});
    return *answer;
  }

  void activate(Judged& activation) {
    bool admitted = activation.reasons.empty();
    json missing = json::array();
    for (const std::string& identifier : activation.declaration.configurations) {
      const Judged* configuration = find(DeclarationKind::Configuration, identifier);
      if (configuration == nullptr) {
        missing.push_back(identifier);
      } else if (configuration->declaration.supported && !configuration->reasons.empty()) {
        admitted = false;
        invalid_.push_back({&activation, identifier});
      }
    }
    const std::optional<bool> wanted = predicate(activation);
    if (wanted == false) return;  // whatever else is wrong: nothing of it is to be there
    if (!missing.empty()) {
      json details = self(activation);
      details["ConfigurationIdentifiers"] = missing;
      activation.reasons.push_back({"Error.MissingConfigurations", fmt::format("configurations are missing: {}", missing.dump()), details});
    }
    admitted = admitted && wanted && missing.empty();
    activation.active = admitted;
    for (const std::string& identifier : activation.declaration.configurations) {
      Judged* configuration = find(DeclarationKind::Configuration, identifier);
      if (configuration == nullptr) continue;
      if (admitted) {
        configuration->active = true;
      } else {
        configuration->held = true;
        failedBy_[configuration] = &activation;
      }
    }
    if (!admitted)
      for (const auto& [judged, identifier] : invalid_)
        if (judged == &activation) {
          const std::string sentence = fmt::format("the configuration {} is invalid", identifier);
          activation.reasons.push_back({"Error.ConfigurationIsInvalid", sentence, {{"Error", sentence}}});
        }
  }

  void settle(Judged& configuration) {
    if (!configuration.declaration.supported) {
      configuration.active = configuration.held = false;
      return;
    }
    if (configuration.active) {
      configuration.held = false;
      if (configuration.declaration.type == kStatusSubscriptions) subscribe(configuration.declaration);
      return;
    }
    if (const auto failed = failedBy_.find(&configuration); failed != failedBy_.end()) {
      if (configuration.reasons.empty())
        configuration.reasons.push_back(
            {"Error.ActivationFailed", fmt::format("the activation {} failed", failed->second->declaration.identifier), self(*failed->second)});
    } else if (!named(configuration.declaration.identifier)) {
      configuration.reasons.push_back({"Info.NotReferencedByActivation", "no activation names it", self(configuration)});
    }
  }

  bool named(const std::string& identifier) const {
    return std::ranges::any_of(out_.all, [&](const Judged& other) {
      return other.declaration.kind == DeclarationKind::Activation &&
             std::ranges::find(other.declaration.configurations, identifier) != other.declaration.configurations.end();
    });
  }

  void judgeAsset(Judged& asset) {
    bool used = false;
    for (const Judged& other : out_.all) {
      const bool uses = std::ranges::find(other.declaration.assets, asset.declaration.identifier, &Declaration::AssetUse::identifier) !=
                        other.declaration.assets.end();
      used = used || uses;
      asset.active = asset.active || (uses && other.active);
    }
    if (!used) asset.reasons.push_back({"Info.NotReferencedByConfiguration", "no configuration uses it", self(asset)});
  }

  void subscribe(const Declaration& declaration) {
    const plist::Value* items = declaration.payload.find("StatusItems");
    if (items == nullptr || items->array() == nullptr) return;
    for (const plist::Value& item : *items->array())
      if (item.dictionary() != nullptr)
        if (const plist::Value* name = item.dictionary()->find("Name"); name != nullptr && name->string() != nullptr)
          out_.subscriptions.insert(*name->string());
  }

  Evaluation& out_;
  const std::map<std::string, json>& status_;
  std::map<std::pair<DeclarationKind, std::string>, size_t> index_;
  std::map<std::string, json> properties_;
  std::vector<std::pair<Judged*, std::string>> invalid_;
  std::map<const Judged*, const Judged*> failedBy_;
};

}  // namespace

const Judged* Evaluation::find(DeclarationKind kind, std::string_view identifier) const {
  const auto found = std::ranges::find_if(all, [&](const Judged& judged) {
    return judged.declaration.kind == kind && judged.declaration.identifier == identifier;
  });
  return found == all.end() ? nullptr : &*found;
}

Evaluation evaluate(std::vector<Declaration> declarations, const std::map<std::string, json>& statusItems) {
  Evaluation out;
  for (Declaration& declaration : declarations) {
    Judged& judged = out.all.emplace_back();
    judged.reasons = declaration.reasons;
    judged.declaration = std::move(declaration);
  }
  Evaluator(out, statusItems).run();
  return out;
}

json toJson(const plist::Value& value) {
  switch (value.type()) {
    case plist::Type::Boolean: return *value.boolean();
    case plist::Type::Integer: return *value.integer();
    case plist::Type::Unsigned: return *value.unsignedInteger();
    case plist::Type::Real: return *value.real();
    case plist::Type::String: return *value.string();
    case plist::Type::Array: {
      json out = json::array();
      for (const plist::Value& item : *value.array()) out.push_back(toJson(item));
      return out;
    }
    case plist::Type::Dictionary: {
      json out = json::object();
      for (const plist::Entry& entry : value.dictionary()->entries()) out[entry.key] = toJson(entry.value);
      return out;
    }
    case plist::Type::Data:
    case plist::Type::Date:
    case plist::Type::Uid: return {};  // JSON has none
  }
  return {};
}

}  // namespace wayleave::management
