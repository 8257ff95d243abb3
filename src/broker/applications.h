#pragma once

// Applications that declarations give identities to (com.apple.configuration.app.managed: AppConfig, ExtensionConfigs).
// On macOS the program's code signature proves that it is "com.example.agent (TEAM123456)". Here nothing does: which
// local program stands for that name an administrator says, in an [[application]] entry beside the grants
// (broker/grants.h). A declaration without an entry gives nobody anything, and is reported.

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "keychain/store.h"
#include "localapi/identity_client.h"

namespace wayleave::broker {

struct Grant;

// "Bundle-ID" or "Bundle-ID (Team-ID)".
struct ComposedIdentifier {
  std::string bundle;
  std::string team;  // empty: none said
  bool operator==(const ComposedIdentifier&) const = default;
};
// Errors: BadInput (empty, longer than 255 bytes, characters that neither identifier has; a designated requirement in
// braces, the form of 2025, which says nothing about a program of this machine).
Result<ComposedIdentifier> parseComposedIdentifier(std::string_view text);
// Does what is declared for `declared` belong to the program that the administrator calls `local`? A declaration without
// a team is for the bundle of any team; one with a team needs the administrator to have named that team.
bool isFor(std::string_view declared, std::string_view local);

using Declared = std::shared_ptr<const std::vector<localapi::DeclaredApplication>>;

// The declared set, kept in the identity store. Thread-safe.
class ApplicationTable {
 public:
  static constexpr size_t kMostApplications = 256;
  static constexpr size_t kMostIdentities = 64;  // per application
  static constexpr size_t kMostTextBytes = 255;  // of a name; of a problem four times this

  // Reads what was declared before; a value that cannot be read is logged and counts as nothing declared. `store`
  // outlives the table.
  explicit ApplicationTable(keychain::Store& store);
  // Whether replace() would take it, the store aside. Errors: BadInput.
  static Status check(const std::vector<localapi::DeclaredApplication>& all);
  // The new set, stored before it is in force. Errors: BadInput, Io; then the old set stays.
  Status replace(std::vector<localapi::DeclaredApplication> all);
  Declared current() const;

 private:
  keychain::Store& store_;
  mutable std::mutex mutex_;
  Declared declared_;
};

// The declared identifiers that no entry of `grants` is for: nobody gets their identities.
std::vector<std::string> unmatched(const std::vector<localapi::DeclaredApplication>& declared,
                                   const std::vector<Grant>& grants);

}  // namespace wayleave::broker
