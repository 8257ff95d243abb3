#pragma once

// What an administrator wants to know of profiles and declarations before any device sees them: all that the importer finds,
// plus what it has no reason to refuse and the author will regret (docs/profile.md, "Before deployment"). Works on bytes
// alone: no daemon, no network, no state. Safe from any thread; as slow as the PKCS#12 files in the profiles say.

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "management/profile_finding.h"

namespace wayleave::authoring {

using management::Severity;

struct LintFinding {
  Severity severity = Severity::Error;
  std::string file;
  uint32_t line = 0;    // 0 = unknown: a binary or unreadable file
  uint32_t column = 0;  // 0 = unknown
  std::string rule;     // stable, for scripts and --ignore: "secret-in-profile"; "profile" is the importer itself
  std::string where;    // "PayloadContent[2].Attest in com.example.acme (com.apple.security.acme)"; may be empty
  std::string message;  // one sentence, never a secret
  std::string hint;     // what to do; may be empty
};

struct LintInput {
  std::string name;  // as findings should call it
  Bytes bytes;
};

// What a file is taken for. Names count where bytes leave it open; what is neither property list nor JSON is a bad profile.
enum class FileKind : uint8_t {
  Profile,
  Declaration,
  Document,  // JSON that belongs to declarations: a credential document, a status report, a server's answer
  MdmBody,   // a property list of the MDM protocol
};
FileKind kindOf(const LintInput& input);

struct LintOptions {
  Wall now = std::chrono::system_clock::now();  // judges certificates and dates
  std::vector<std::string> ignoredRules;        // findings of these rules are left out; errors never are
};

// All findings, by input and line. Declarations are judged together, as one set that a server would offer; profiles each
// on its own, and against each other where they would meet on a device. Also known, each by itself: the documents of
// credential assets, status reports, a server's answers to a device, and the property lists of the MDM protocol.
std::vector<LintFinding> lint(const std::vector<LintInput>& inputs, const LintOptions& options = {});

struct LintCounts {
  size_t errors = 0, warnings = 0, notes = 0;
};
LintCounts count(const std::vector<LintFinding>& findings);

// "profile.mobileconfig:12:3: error: …", as compilers write it and editors read it.
std::string describe(const LintFinding& finding);

// SARIF 2.1.0 (OASIS), what code review tools take.
std::string toSarif(const std::vector<LintFinding>& findings);

struct CollectedFiles {
  std::vector<LintInput> inputs;
  std::vector<Error> unreadable;
};
// Files as named ("-" is standard input), folders with every *.mobileconfig and *.json below them, sorted. JSON files in
// folders that have nothing to do with management (a package.json) are left out; a file that was named is not.
CollectedFiles collectFiles(const std::vector<std::string>& paths);

}  // namespace wayleave::authoring
