#include "management/declarations/manifest.h"

#include <set>

#include <fmt/format.h>

#include "management/declarations/json_document.h"

namespace wayleave::management {
namespace {

constexpr size_t kLongestToken = 256;      // octets, of a DeclarationsToken
constexpr size_t kLongestIdentifier = 64;  // it becomes part of an endpoint
const plist::Dictionary kNone;

const plist::Dictionary& inside(const plist::Dictionary& dictionary, std::string_view key) {
  const plist::Value* value = dictionary.find(key);
  return value == nullptr || value->dictionary() == nullptr ? kNone : *value->dictionary();
}

Result<std::string> textIn(const plist::Dictionary& dictionary, std::string_view key, size_t longest) {
  const plist::Value* value = dictionary.find(key);
  if (value == nullptr || value->string() == nullptr || value->string()->empty()) return fail(Reason::BadInput, fmt::format("has no {}", key));
  if (value->string()->size() > longest) return fail(Reason::BadInput, fmt::format("{} is longer than {} octets", key, longest));
  return *value->string();
}

Result<plist::Dictionary> object(ByteView bytes) {
  Result<JsonDocument> document = readJson(bytes);
  if (!document) return propagate(document.error());
  if (document->root.dictionary() == nullptr) return fail(Reason::BadInput, "is no JSON object");
  return std::move(*document->root.dictionary());
}

}  // namespace

Result<std::string> readToken(ByteView bytes) {
  const Result<plist::Dictionary> root = object(bytes);
  if (!root) return propagate(root.error());
  return textIn(inside(*root, "SyncTokens"), "DeclarationsToken", kLongestToken);
}

Result<Manifest> readManifest(ByteView bytes, size_t most) {
  const Result<plist::Dictionary> root = object(bytes);
  if (!root) return propagate(root.error());
  Manifest out;
  Result<std::string> token = textIn(*root, "DeclarationsToken", kLongestToken);
  if (!token) return propagate(token.error());
  out.token = std::move(*token);
  constexpr std::pair<std::string_view, DeclarationKind> kGroups[] = {{"Activations", DeclarationKind::Activation},
                                                                      {"Assets", DeclarationKind::Asset},
                                                                      {"Configurations", DeclarationKind::Configuration},
                                                                      {"Management", DeclarationKind::Management}};
  std::set<std::string> seen;
  for (const auto& [group, kind] : kGroups) {
    const plist::Value* list = inside(*root, "Declarations").find(group);
    if (list == nullptr || list->array() == nullptr) return fail(Reason::BadInput, fmt::format("has no {}", group));
    for (const plist::Value& entry : *list->array()) {
      if (entry.dictionary() == nullptr) return fail(Reason::BadInput, fmt::format("{} holds something that is no object", group));
      Result<std::string> identifier = textIn(*entry.dictionary(), "Identifier", kLongestIdentifier);
      if (!identifier) return withContext(identifier.error(), group);
      Result<std::string> serverToken = textIn(*entry.dictionary(), "ServerToken", kLongestIdentifier);
      if (!serverToken) return withContext(serverToken.error(), *identifier);
      if (!seen.insert(*identifier).second) return fail(Reason::BadInput, fmt::format("lists {} twice", *identifier));
      out.items.push_back({kind, std::move(*identifier), std::move(*serverToken)});
      if (out.items.size() > most) return fail(Reason::BadInput, fmt::format("lists more than {} declarations", most));
    }
  }
  return out;
}

}  // namespace wayleave::management
