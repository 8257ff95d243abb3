// The verdict of `wayleave lint` on every public sample that is no profile (those: management/profile_samples_test.cc): the
// declarations, the documents and reports of declarative management, the messages of the MDM protocol, and what crashed
// other readers. Skipped where the samples are absent.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "authoring/lint.h"
#include "base/file.h"

namespace wayleave::authoring {
namespace {

struct Verdict {
  bool valid = true;                       // no error
  std::vector<std::string> findings = {};  // each "severity: part of what is said"
};

const std::string kNoConfiguration = "note: no configuration of these files is ";
const std::map<std::string, Verdict> kVerdicts = {
    {"ddm/apple/activation.simple-example1.json", {true, {kNoConfiguration}}},
    {"ddm/apple/activation.simple-example2-predicate.json", {true, {kNoConfiguration}}},
    {"ddm/apple/asset.credential.acme.json", {}},
    {"ddm/apple/asset.credential.identity.json", {}},
    {"ddm/apple/asset.credential.scep.json", {}},
    {"ddm/apple/asset.credential.userpassword.json", {}},
    {"ddm/apple/configuration.legacy-example1.json", {}},
    {"ddm/apple/configuration.network.vpn.vpn-plugin-example1-password.json", {true, {"note: no asset of these files is "}}},
    {"ddm/apple/configuration.security.identity.json", {true, {"note: no asset of these files is "}}},
    {"ddm/apple/credential-data.acme.json", {true, {"note: is a credential document, com.apple.credential.acme"}}},
    {"ddm/fleet/nudge-settings.json", {false, {"error: ServerToken: is missing"}}},
    {"checkin/micromdm-InstallProfile.plist",
     {false, {"note: is a command of an MDM server: InstallProfile", "error: Command.Payload: holds a profile that is refused: a device answers Error", "error: Command.Payload: not a property list"}}},
    {"checkin/nanomdm-Authenticate.1.plist",
     {true, {"note: is a check-in message of a device: Authenticate", "note: without DeviceName, Model, ModelName"}}},
    {"checkin/nanomdm-DeviceInformation.1.plist", {true, {"note: is a device's answer to an MDM server: Acknowledged"}}},
    {"checkin/nanomdm-TokenUpdate.2.plist",
     {true, {"note: is a check-in message of a device: TokenUpdate", "warning: NotOnConsole: is missing"}}},
    {"status/kmfddm-status.1st.json", {true, {"note: is a status report"}}},
    {"status/kmfddm-status.D0.error.json", {true, {"note: is a status report"}}},
    {"json-hostile/libplist/clusterfuzz-testcase-minimized-jplist_fuzzer-4997614678966272", {false, {"error: not JSON"}}},
    {"json-hostile/libplist/clusterfuzz-testcase-minimized-jplist_fuzzer-5486807695884288", {false, {"error: is JSON, but no declaration"}}},
    {"json-hostile/libplist/clusterfuzz-testcase-minimized-jplist_fuzzer-5576833398079488", {false, {"error: not JSON: a colon belongs here"}}},
    {"json-hostile/libplist/clusterfuzz-testcase-minimized-jplist_fuzzer-6639076466360320", {false, {"error: not JSON: a value belongs here"}}},
    {"profiles/declarations/apple-com.apple.declarations-example1.plist", {}},
};

std::string said(const LintFinding& finding) {
  return std::string(management::text(finding.severity)) + ": " + (finding.where.empty() ? "" : finding.where + ": ") + finding.message;
}

TEST(LintSamples, EveryFileThatIsNoProfileGetsItsVerdict) {
  const std::filesystem::path folder = std::filesystem::path(WAYLEAVE_SOURCE_DIR) / "../shared/samples";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no sample files at " << folder;
  size_t seen = 0;
  for (const char* part : {"ddm", "checkin", "status", "json-hostile", "profiles/declarations"})
    for (const auto& file : std::filesystem::recursive_directory_iterator(folder / part)) {
      if (!file.is_regular_file()) continue;
      const std::string name = std::filesystem::relative(file.path(), folder);
      SCOPED_TRACE(name);
      ASSERT_TRUE(kVerdicts.contains(name)) << "no verdict for this file";
      const Verdict& verdict = kVerdicts.at(name);
      const std::vector<LintFinding> findings = lint({{name, readFile(file.path(), 1 << 20).value()}});
      std::string all;
      for (const LintFinding& finding : findings) all += said(finding) + "\n";
      EXPECT_EQ(count(findings).errors == 0, verdict.valid) << all;
      for (const std::string& wanted : verdict.findings) {
        const size_t colon = wanted.find(": ") + 2;
        EXPECT_TRUE(std::ranges::any_of(findings, [&](const LintFinding& finding) {
          const std::string sentence = said(finding);
          return sentence.starts_with(wanted.substr(0, colon)) && sentence.contains(wanted.substr(colon));
        })) << wanted << "\namong\n" << all;
      }
      ++seen;
    }
  EXPECT_EQ(seen, kVerdicts.size());
}

}  // namespace
}  // namespace wayleave::authoring
