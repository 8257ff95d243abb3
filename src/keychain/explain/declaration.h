#pragma once

// Declarations and credential documents of declarative device management, as far as identities go: which identities
// they would deliver, and to whom. Whether they are right is management's to judge (management/declarations,
// management/documents). Sources: the schema in apple/device-management; docs/answers.md.

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "keychain/explain/identity_delivery.h"

namespace wayleave::keychain::explain {

struct DeclaredIdentity {
  std::string name;  // the declaration's identifier and type, fit for a terminal
  Delivery delivery;
};

struct DeclarationExplanation {
  std::vector<DeclaredIdentity> identities;
  std::vector<std::string> uses;  // who refers to an identity, and what it then receives
  std::vector<std::string> notes;
};

// One declaration, or one credential document (com.apple.credential.acme, .scep, .identity). Empty for those that have
// nothing to do with identities. Errors: BadInput (not a JSON object).
Result<DeclarationExplanation> explainDeclaration(ByteView json);

}  // namespace wayleave::keychain::explain
