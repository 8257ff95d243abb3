#pragma once

// What an OSStatus of the keychain means: all its names, who returns it, and what tells its causes apart.

#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "keychain/explain/statement.h"

namespace wayleave::keychain::explain {

struct StatusExplanation {
  OSStatus status = 0;
  std::vector<std::string_view> names;  // the public one first; -50 has a dozen internal ones
  std::string_view meaning;
  std::vector<Statement> producers;  // who returns it, by rule
  std::vector<Statement> apart;      // observations that separate the causes
};

// nullopt for a status that is not the keychain's.
std::optional<StatusExplanation> explainStatus(OSStatus status);
// "-25291", "25291" (people leave the sign out), "errSecNotAvailable", "errSecItemInvalidKey", "0xffff9d35".
// nullopt: not a status at all.
std::optional<OSStatus> parseStatus(std::string_view text);

}  // namespace wayleave::keychain::explain
