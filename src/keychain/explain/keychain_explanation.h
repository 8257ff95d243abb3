#pragma once

// What a copy of a keychain holds, and what a reference names in it. Never a secret: of private keys only whether they
// are there, decrypt, and belong to their certificate.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "keychain/file_keychain.h"
#include "keychain/keychain_database.h"

namespace wayleave::keychain::explain {

struct Section {
  std::string title;
  std::vector<std::pair<std::string, std::string>> values;
};

struct KeychainExplanation {
  Section summary;
  std::vector<Section> items;  // certificates, each with its key; at most kMaxListed
  size_t unlisted = 0;
  std::optional<Section> resolved;  // when a reference was given and found
  std::optional<Error> unresolved;  // when it was given and not found
};
inline constexpr size_t kMaxListed = 200;

KeychainExplanation explainKeychain(const FileKeychain& keychain, const Reference* reference);
// Errors: BadInput (a damaged database).
Result<KeychainExplanation> explainKeychain(const KeychainDatabase& database, const Reference* reference);

// A text from outside, fit for a terminal: control characters and bytes that are not UTF-8 become \xNN.
std::string printable(std::string_view text);

}  // namespace wayleave::keychain::explain
