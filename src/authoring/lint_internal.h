#pragma once

// How the parts of lint work together. Internal to authoring/.

#include <string>
#include <string_view>
#include <vector>

#include "authoring/lint.h"
#include "management/profile_report.h"
#include "plist/plist.h"

namespace wayleave::authoring {

// Findings of our own, each under a rule, with lines found by key path.
class RuleReport {
 public:
  explicit RuleReport(plist::Lines lines) : report_(findings_) { report_.useLines(std::move(lines)); }
  RuleReport(const RuleReport&) = delete;
  RuleReport& operator=(const RuleReport&) = delete;

  void setPayload(std::string label) { report_.setPayload(std::move(label)); }
  void add(std::string_view rule, Severity severity, std::string keyPath, std::string message, std::string hint = {});
  std::vector<LintFinding> take(const std::string& file);

 private:
  std::vector<management::Finding> findings_;
  std::vector<std::string> rules_;  // of findings_, one each
  management::Report report_;
};

LintFinding toLintFinding(const management::Finding& finding, const std::string& file, std::string_view rule);

// One profile, as far as other files matter to it.
struct ProfileFacts {
  std::string file;
  std::string identifier;
  uint32_t identifierLine = 0;
  struct Named {
    std::string value;  // a PayloadUUID, or a reference to one
    uint32_t line = 0;
    std::string where;
  };
  std::vector<Named> uuids;
  std::vector<Named> references;
};

struct LintedProfile {
  std::vector<LintFinding> findings;
  ProfileFacts facts;
};
LintedProfile lintProfile(const LintInput& input, const LintOptions& options);

// Pitfalls of one payload; `path` is "PayloadContent[i]".
void lintIdentityPayload(const plist::Dictionary& payload, const std::string& path, RuleReport& report, Wall now);
void lintCertificatePayload(const plist::Dictionary& payload, const std::string& path, RuleReport& report, Wall now);

std::vector<LintFinding> lintAcross(const std::vector<ProfileFacts>& profiles);

// One declaration: a file of its own, or a part of a profile.
struct DeclarationInput {
  std::string file;
  ByteView bytes;
  std::string place;  // in the file: "PayloadContent[0].Declarations[1]"; empty: the file itself
  uint32_t line = 0;  // of the place
};
// Declarations that are offered together, judged as one set.
std::vector<LintFinding> lintDeclarations(const std::vector<DeclarationInput>& declarations);

bool looksLikeJson(ByteView bytes);
// JSON that belongs to declarations and is none (an asset's document, a status report, a server's answer), and the bodies of
// the MDM protocol.
std::vector<LintFinding> lintDocument(const LintInput& input);
std::vector<LintFinding> lintMdmBody(const LintInput& input, const LintOptions& options);

// The string under `key`, or "".
std::string stringOf(const plist::Dictionary& dictionary, std::string_view key);

}  // namespace wayleave::authoring
