#pragma once

// One declaration, read and checked by itself: its base keys, its type's payload, and what it refers to. What it needs of
// others (that its assets exist, that a configuration names it) is the engine's to judge.
//
// Reading never fails as a call: a declaration that is wrong carries its reasons, in Apple's codes (declarationbase.yaml).

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "management/declarations/predicate.h"
#include "management/profile_finding.h"
#include "plist/value.h"

namespace wayleave::management {

enum class DeclarationKind : uint8_t { Activation, Asset, Configuration, Management };
std::string_view text(DeclarationKind kind);  // "activation", …; the word of the endpoints

struct DeclarationReason {
  std::string code;  // "Error.MissingAssets"
  std::string description;
  nlohmann::json details = nlohmann::json::object();
  bool operator==(const DeclarationReason&) const = default;
};

// Where an asset's content is and what it must be.
struct AssetSource {
  std::string url;          // https, or a data: URL with the content itself (ours: docs/declarations.md)
  std::string contentType;  // "" = any
  std::optional<uint64_t> size;
  std::string sha256;             // lower-case hex, "" = not stated
  std::string authentication;     // "MDM", "None", "" = not stated, which means MDM for a server's declarations
  bool isInline() const { return url.starts_with("data:"); }
};

struct Declaration {
  DeclarationKind kind = DeclarationKind::Management;
  std::string type, identifier, serverToken;
  plist::Dictionary payload;
  std::vector<DeclarationReason> reasons;  // not empty: invalid
  bool supported = true;                   // false: a type that Wayleave does not carry out

  // Activations.
  std::vector<std::string> configurations;
  std::string predicateText;
  std::optional<Predicate> predicate;
  // Configurations: the assets they name, each with the types that may stand there.
  struct AssetUse {
    std::string identifier;
    std::string keyPath;
    std::vector<std::string_view> types;
    bool isUsed = true;  // false: it must be there and be valid, but what it brings has no use here
  };
  std::vector<AssetUse> assets;
  // Assets.
  std::optional<AssetSource> source;

  bool isValid() const { return reasons.empty() && supported; }
};

// `findings`, when given, gets what `wayleave lint` prints, with lines. Never throws.
Declaration readDeclaration(ByteView json, std::vector<Finding>* findings = nullptr);

// Types that this device may be sent, by kind: management.client-capabilities.
const std::vector<std::string_view>& supportedTypes(DeclarationKind kind);

// The same JSON without what an asset carries inline if that is a secret; unchanged otherwise. What is stored.
// Errors: BadInput (not JSON).
Result<Bytes> withoutInlineSecrets(ByteView json);
bool lacksInlineSecret(const Declaration& declaration);

}  // namespace wayleave::management
