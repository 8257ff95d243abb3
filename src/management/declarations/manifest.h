#pragma once

// What the endpoints "tokens" and "declaration-items" answer.

#include <string>
#include <vector>

#include "base/result.h"
#include "management/declarations/declaration.h"

namespace wayleave::management {

struct ManifestItem {
  DeclarationKind kind = DeclarationKind::Management;
  std::string identifier, serverToken;
};
struct Manifest {
  std::string token;
  std::vector<ManifestItem> items;
};

// {"SyncTokens": {"DeclarationsToken", "Timestamp"}} → the token. Errors: BadInput.
Result<std::string> readToken(ByteView tokensResponse);
// {"Declarations": {"Activations": [{"Identifier", "ServerToken"}], …}, "DeclarationsToken"}. Errors: BadInput; more than `most`.
Result<Manifest> readManifest(ByteView declarationItems, size_t most);

}  // namespace wayleave::management
