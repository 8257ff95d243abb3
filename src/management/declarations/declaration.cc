#include "management/declarations/declaration.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "localapi/json_reader.h"
#include "management/declarations/declaration_types.h"
#include "management/declarations/json_document.h"
#include "management/profile_keys.h"

namespace wayleave::management {
namespace {

constexpr size_t kLongestIdentifier = 64;  // octets, for Identifier and ServerToken
constexpr std::string_view kStripped = "data:,";

void add(Declaration& declaration, std::string code, std::string description, nlohmann::json details = nlohmann::json::object()) {
  declaration.reasons.push_back({std::move(code), std::move(description), std::move(details)});
}

std::optional<DeclarationKind> kindOf(std::string_view type) {
  constexpr std::string_view kApple = "com.apple.";
  if (!type.starts_with(kApple)) return std::nullopt;
  for (const DeclarationKind kind : {DeclarationKind::Activation, DeclarationKind::Asset, DeclarationKind::Configuration,
                                     DeclarationKind::Management})
    if (const std::string prefix = std::string(text(kind)) + '.'; type.substr(kApple.size()).starts_with(prefix)) return kind;
  return std::nullopt;
}

std::string nameIn(Keys& keys, std::string_view key) {
  const std::string* text = keys.string(key, Need::Required);
  if (text == nullptr) return {};
  if (text->size() > kLongestIdentifier) keys.error(key, fmt::format("is longer than {} octets", kLongestIdentifier));
  if (std::ranges::any_of(*text, [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; }))
    keys.error(key, "holds a control character");
  return *text;
}

std::string invalidCode(DeclarationKind kind) {
  return kind == DeclarationKind::Configuration ? "Error.ConfigurationIsInvalid" : "Error.InvalidPayload";
}

void readPredicate(Declaration& declaration) {
  if (declaration.predicateText.empty()) return;
  std::expected<Predicate, PredicateError> predicate = Predicate::parse(declaration.predicateText);
  if (predicate) {
    declaration.predicate = std::move(*predicate);
    return;
  }
  add(declaration, std::string(code(predicate.error().problem)), predicate.error().message,
      {{"Identifier", declaration.identifier}, {"ServerToken", declaration.serverToken}, {"Predicate", declaration.predicateText}});
}

// An ACME document is a secret only with the key of an external account in it.
bool carriesSecret(const std::string& type, std::string_view url) {
  if (type != kAcmeAsset) return holdsSecret(type);
  const Result<Bytes> content = fromBase64(url.substr(std::min(url.find(',') + 1, url.size())));
  return !content || asText(*content).contains("ExternalAccountBinding");
}

}  // namespace

std::string_view text(DeclarationKind kind) {
  switch (kind) {
    case DeclarationKind::Activation: return "activation";
    case DeclarationKind::Asset: return "asset";
    case DeclarationKind::Configuration: return "configuration";
    case DeclarationKind::Management: return "management";
  }
  return "?";
}

Declaration readDeclaration(ByteView json, std::vector<Finding>* findings) {
  Declaration out;
  std::vector<Finding> own;
  std::vector<Finding>& all = findings != nullptr ? *findings : own;
  const size_t before = all.size();
  Report report(all);
  Result<JsonDocument> document = readJson(json);
  if (!document) {
    report.error("", document.error().message, document.error().hint);
    add(out, "Error.ConfigurationCannotBeDeserialized", document.error().message, {{"Error", document.error().message}});
    return out;
  }
  report.useLines(std::move(document->lines));
  plist::Dictionary* root = document->root.dictionary();
  if (root == nullptr) {
    report.error("", "is JSON, but no declaration: those are objects");
    add(out, "Error.InvalidPayload", "is no JSON object");
    return out;
  }
  Keys base(*root, "", report);
  out.type = nameIn(base, "Type");
  out.identifier = nameIn(base, "Identifier");
  out.serverToken = nameIn(base, "ServerToken");
  const plist::Dictionary* payload = base.dictionary("Payload", Need::Required);
  base.finish(Severity::Error);

  std::vector<std::string> unknown;
  const auto kind = kindOf(out.type);
  if (!kind) {
    if (!out.type.empty())
      base.error("Type", fmt::format("is \"{}\"", shown(out.type)), "com.apple.{activation,asset,configuration,management}.…");
  } else {
    out.kind = *kind;
    if (const TypeReader reader = readerOf(out.type); reader == nullptr) {
      out.supported = false;
      report.warn("Type", fmt::format("{} is not a type that Wayleave carries out", shown(out.type)));
      add(out, "Error.ConfigurationNotSupported", fmt::format("{} is not carried out on this device", shown(out.type)),
          {{"Identifier", out.identifier}, {"ServerToken", out.serverToken}});
      return out;
    } else if (payload != nullptr) {
      Keys keys(*payload, "Payload", report);
      TypeContext context{out, unknown};
      reader(keys, context);
    }
  }
  if (!unknown.empty())
    add(out, "Error.UnknownPayloadKeys", fmt::format("{} unknown: {}", unknown.size() == 1 ? "a key is" : "keys are", fmt::join(unknown, ", ")),
        {{"UnknownPayloadKeys", unknown}});
  for (size_t i = before; i < all.size(); ++i) {
    const Finding& finding = all[i];
    if (finding.severity != Severity::Error || std::ranges::find(unknown, finding.keyPath) != unknown.end()) continue;
    const std::string sentence = describe(finding);
    add(out, invalidCode(out.kind), sentence,
        out.kind == DeclarationKind::Configuration
            ? nlohmann::json{{"Error", sentence}}
            : nlohmann::json{{"Identifier", out.identifier}, {"ServerToken", out.serverToken}});
  }
  const size_t reasons = out.reasons.size();
  readPredicate(out);
  if (out.reasons.size() > reasons) report.error("Payload.Predicate", out.reasons.back().description);
  if (payload != nullptr) out.payload = *payload;
  return out;
}

Result<Bytes> withoutInlineSecrets(ByteView bytes) {
  Result<nlohmann::json> document = localapi::parseJson(asText(bytes));
  if (!document) return propagate(document.error());
  const nlohmann::json::json_pointer where("/Payload/Reference/DataURL");
  if (!document->is_object() || !document->contains(where) || !(*document)[where].is_string()) return toBytes(bytes);
  const auto type = document->find("Type");
  const std::string& url = (*document)[where].get_ref<const std::string&>();
  if (type == document->end() || !type->is_string() || !url.starts_with("data:")) return toBytes(bytes);
  if (!carriesSecret(type->get_ref<const std::string&>(), url)) return toBytes(bytes);
  (*document)[where] = kStripped;
  return toBytes(localapi::dump(*document));
}

bool lacksInlineSecret(const Declaration& declaration) {
  return declaration.source && declaration.source->url == kStripped && holdsSecret(declaration.type);
}

}  // namespace wayleave::management
