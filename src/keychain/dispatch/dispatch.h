#pragma once

// What a keychain call returns, and why: a pure function from query, caller and what exists to the implementations that
// are asked, in order, and the OSStatus that comes back. It follows apple-oss-distributions/Security-61901:
//   rules 0–10   which side: OSX/libsecurity_keychain/lib/SecItem.cpp SecItemCategorizeQuery
//   6.2, 6.3     translation and merging: SecItemCopyTranslatedAttributes, SecItemMergeResults
//   F1–F9        the file side: SecItemCopyMatching_osx
//   6.5, S0–S15  the data protection side: OSX/sec/Security/SecItem.m, keychain/securityd/SecItemServer.c
//   6.7          SecKeychainItemCopyFromPersistentReference: SecKeychainItem.cpp
// The numbers are those of docs/references.md. Nothing here has run on a Mac; each step says how sure it is.

#include <string>
#include <vector>

#include "base/result.h"
#include "keychain/dispatch/caller.h"
#include "keychain/dispatch/query.h"

namespace wayleave::keychain::dispatch {

enum class Api : uint8_t { CopyMatching, Add, Update, Delete, CopyFromPersistentReference, CreatePersistentReference };
std::string_view text(Api api);  // "SecItemCopyMatching"
std::optional<Api> parseApi(
    std::string_view name);  // that, or copy-matching, add, update, delete, copy-from-reference, create-reference

enum class Side : uint8_t { UserKeychain, SystemKeychain, FileKeychains };
std::string_view text(Side side);

struct Step {
  std::string rule;  // "7", "S6", "F9"
  std::string text;
  Certainty certainty = Certainty::Code;
  int depth = 0;  // of calls that one call makes inside
};

struct Asked {
  Side side = Side::FileKeychains;
  OSStatus status = 0;
  bool hidden = false;  // the caller never sees this status
};

struct Prediction {
  OSStatus status = 0;
  std::string decidedBy;                  // the rule that made the status
  Certainty certainty = Certainty::Code;  // the least sure of what led there
  std::vector<Asked> asked;               // in order; empty: no keychain was touched
  std::vector<Step> steps;
};

Prediction predict(Api api, const Query& query, const Caller& caller, const World& world);

}  // namespace wayleave::keychain::dispatch
