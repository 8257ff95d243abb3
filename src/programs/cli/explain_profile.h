#pragma once

// The identities that a profile or a declaration would deliver: where each ends up and who can use it there.

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "keychain/explain/render.h"

namespace wayleave::cli {

struct ProfileExplanation {
  std::string text;
  nlohmann::ordered_json json;
  bool mistaken = false;  // something in it is an error
};

// Whether the bytes look like a profile (a property list, signed or not) or like a declaration (JSON).
bool looksLikeProfile(ByteView bytes);
bool looksLikeDeclaration(ByteView bytes);

ProfileExplanation explainProfile(ByteView bytes, const keychain::explain::Style& style);
// Errors: BadInput.
Result<ProfileExplanation> explainDeclarations(ByteView bytes, const keychain::explain::Style& style);

}  // namespace wayleave::cli
