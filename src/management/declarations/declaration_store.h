#pragma once

// What the engine remembers of a server's declarations: the declarations themselves, the token of the last synchronisation,
// and what the server was last told. One JSON file, mode 0600, replaced whole. All calls are synchronous, short and thread-safe.
//
// No secrets: a declaration whose asset carries its content inline is stored without that content (declaration.h).
// Declarations of profiles are not here but in the profile's record.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::management {

struct StoredDeclaration {
  std::string kind;         // "activation", "asset", "configuration", "management"
  std::string identifier;
  std::string serverToken;  // as the manifest said
  Bytes document;           // JSON, as the server sent it but for inline secrets
  bool operator==(const StoredDeclaration&) const = default;
};

struct DeclaredSet {
  std::string token;  // DeclarationsToken of the manifest that this set is; "" = none, or not complete
  std::vector<StoredDeclaration> declarations;
};

class DeclarationStore {
 public:
  // A missing file is an empty set. Errors: Io, BadInput (a file that is not ours, or of another version; it is not touched).
  static Result<std::unique_ptr<DeclarationStore>> open(const std::string& path);
  virtual ~DeclarationStore() = default;

  virtual Result<DeclaredSet> load() = 0;
  // Replaces the whole set, or nothing.
  virtual Status replace(const DeclaredSet& set) = 0;

  // What the server was last told: status item → JSON text.
  virtual Result<std::map<std::string, std::string>> reported() = 0;
  virtual Status setReported(const std::map<std::string, std::string>& items) = 0;
};

}  // namespace wayleave::management
