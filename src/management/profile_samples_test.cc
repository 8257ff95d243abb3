// The verdict on every public profile sample. Skipped where the samples are absent.

#include <gtest/gtest.h>

#include <map>

#include "base/file.h"
#include "management/profile.h"
#include "plist/plist_test_support.h"

namespace wayleave::management {
namespace {

struct Verdict {
  bool accepted = true;
  // What the findings must say, each "severity: part of the description".
  std::vector<std::string> findings = {};
};

const Verdict kTemplate = {false, {"error: PayloadVersion: is a string", "error: PayloadContent[0].PayloadUUID in "}};
Verdict templateAnd(std::vector<std::string> more) {
  Verdict verdict = kTemplate;
  verdict.findings.insert(verdict.findings.end(), more.begin(), more.end());
  return verdict;
}
const std::string kOutside = "is not a payload type that Wayleave carries out";

const std::map<std::string, Verdict> kVerdicts = {
    {"profiles/acme/apple-com.apple.security.acme-example1.plist", {}},
    {"profiles/acme/cfgprofiles-multiple-nt-principals-error.mobileconfig",
     {false, {"error: the key Subject has no value"}}},
    {"profiles/certificate/dod.mobileconfig", {}},
    {"profiles/certificate/profiledocs-com.apple.security.pkcs1.mobileconfig",
     templateAnd({"error: is a string, must be data", "warning: .Password"})},
    {"profiles/certificate/profiledocs-com.apple.security.root.mobileconfig",
     templateAnd({"error: is a string, must be data", "warning: .Password"})},
    {"profiles/declarations/apple-com.apple.declarations-example1.plist", {}},
    {"profiles/lint/mobileconfig-validator/invalid/invalid-uuid-format.mobileconfig",
     {true, {"warning: \"not-a-valid-uuid\" is not a UUID"}}},
    {"profiles/lint/mobileconfig-validator/invalid/not-a-plist.mobileconfig", {false, {"error: not a property list"}}},
    {"profiles/lint/mobileconfig-validator/invalid/unknown-payload-type.mobileconfig",
     {true, {"warning: com.nonexistent.payload.type " + kOutside}}},
    {"profiles/lint/mobileconfig-validator/invalid/wrong-outer-type.mobileconfig",
     {false, {"error: PayloadType: is \"NotConfiguration\", must be Configuration"}}},
    {"profiles/lint/mobileconfig-validator/valid/dock-basic.mobileconfig",
     {true, {"warning: com.apple.dock " + kOutside}}},
    {"profiles/lint/mobileconfig-validator/valid/screensaver.mobileconfig",
     {true, {"warning: com.apple.screensaver " + kOutside}}},
    {"profiles/lint/mobileconfig-validator/warning/unknown-key.mobileconfig",
     {true, {"warning: unknownKeyThatDoesNotExist"}}},
    {"profiles/other/mdm-server-Example.mobileconfig", {true, {"warning: com.apple.applicationaccess " + kOutside}}},
    {"profiles/other/profilecreator-com.apple.TCC.configuration-profile-policy.mobileconfig",
     {true, {"warning: com.apple.TCC.configuration-profile-policy " + kOutside}}},
    {"profiles/other/profiledocs-com.apple.SoftwareUpdate.mobileconfig",
     {false, {"error: not a configuration profile"}}},
    {"profiles/other/profiledocs-com.apple.mdm.mobileconfig",
     templateAnd({"error: IdentityCertificateUUID", "error: ServerCapabilities"})},
    {"profiles/other/profiledocs-com.apple.screensaver.mobileconfig", {false, {"error: not a configuration profile"}}},
    {"profiles/other/zentral-test.mobileconfig", {true, {"warning: TargetDeviceType: is 1", "warning: " + kOutside}}},
    {"profiles/pkcs12/profiledocs-com.apple.security.pkcs12.mobileconfig",
     templateAnd({"error: is a string, must be data"})},
    {"profiles/scep/micromdm-scep-sceptest.mobileconfig",
     {true,
      {"warning: PayloadContent[0].PayloadVersion", "warning: Key Type", "warning: PEM text where DER belongs",
       "warning: plain http"}}},
    {"profiles/scep/nanomdm-enroll.mobileconfig", {true, {"warning: YOUR-PUSH-TOPIC-HERE", "warning: Challenge"}}},
    {"profiles/scep/profiledocs-com.apple.security.scep.mobileconfig",
     templateAnd({"error: CAFingerprint", "error: array of 1, must be an array of exactly two", "warning: GetCACaps",
                  "warning: Key Type", "warning: Key Usage"})},
    {"profiles/system-extension/apple-com.apple.system-extension-policy-example1.plist",
     {true, {"warning: com.apple.nsextension " + kOutside}}},
    {"profiles/vpn/apple-com.apple.vpn.managed-example1-l2tp.plist", {true, {"warning: L2TP is not supported"}}},
    {"profiles/vpn/profiledocs-com.apple.vpn.managed.applayer.mobileconfig", templateAnd({"warning: " + kOutside})},
    {"profiles/vpn/profiledocs-com.apple.vpn.managed.appmapping.mobileconfig", templateAnd({"warning: " + kOutside})},
    {"signed-der/encrypted-dns/profiles/adguard-default-https.mobileconfig",
     {true, {"warning: com.apple.dnsSettings.managed " + kOutside}}},
    {"signed-der/encrypted-dns/profiles/cloudflare-default-https.mobileconfig",
     {true, {"warning: com.apple.dnsSettings.managed " + kOutside}}},
    {"signed-der/encrypted-dns/signed/adguard-default-https.mobileconfig",
     {true,
      {"note: signed by CN=encrypted-dns.brunch.io", "warning: expired at 2026-05-28",
       "warning: com.apple.dnsSettings.managed " + kOutside}}},
    {"signed-der/encrypted-dns/signed/cloudflare-default-https.mobileconfig",
     {true,
      {"note: signed by CN=encrypted-dns.brunch.io", "warning: expired at 2026-05-28",
       "warning: com.apple.dnsSettings.managed " + kOutside}}},
};

// The moment at which the manifest of the samples was written.
const Wall kThen = Wall{std::chrono::seconds{1'795'000'000}};

bool says(const ImportResult& result, const std::string& expected) {
  const size_t colon = expected.find(": ");
  return std::ranges::any_of(result.findings, [&](const Finding& finding) {
    return text(finding.severity) == expected.substr(0, colon) &&
           describe(finding).find(expected.substr(colon + 2)) != std::string::npos;
  });
}

TEST(ProfileSamples, EveryFileGetsItsVerdict) {
  const auto folder = test::samplesFolder();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no sample files at " << folder;
  size_t seen = 0;
  for (const char* part : {"profiles", "signed-der"}) {
    for (const auto& file : std::filesystem::recursive_directory_iterator(folder / part)) {
      if (!file.is_regular_file()) continue;
      const std::string name = std::filesystem::relative(file.path(), folder);
      SCOPED_TRACE(name);
      ASSERT_TRUE(kVerdicts.contains(name)) << "no verdict for this file";
      const Verdict& verdict = kVerdicts.at(name);
      const auto result = importProfile(readFile(file.path(), 1 << 24).value(), {.now = kThen});
      EXPECT_EQ(result.profile.has_value(), verdict.accepted);
      std::string all;
      for (const Finding& finding : result.findings) all += describe(finding) + "\n";
      for (const std::string& finding : verdict.findings)
        EXPECT_TRUE(says(result, finding)) << finding << "\namong\n" << all;
      ++seen;
    }
  }
  EXPECT_EQ(seen, kVerdicts.size());
}

TEST(ProfileSamples, SignedFilesCarryTheUnsignedTwin) {
  const auto folder = test::samplesFolder() / "signed-der/encrypted-dns";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no sample files at " << folder;
  for (const char* name : {"adguard-default-https.mobileconfig", "cloudflare-default-https.mobileconfig"}) {
    const auto content =
        verifyCms(readFile(folder / "signed" / name, 1 << 20).value(), {.useSystemStore = true}, kThen);
    ASSERT_TRUE(content) << content.error().message;
    EXPECT_EQ(content->content, readFile(folder / "profiles" / name, 1 << 20).value());
    ASSERT_EQ(content->signers.size(), 1u);
    const Signer& signer = content->signers[0];
    ASSERT_GE(signer.chain.size(), 2u);
    EXPECT_EQ(signer.chain[0].subject, "CN=encrypted-dns.brunch.io");
    EXPECT_EQ(signer.chain[0].issuer, signer.chain[1].subject);
    EXPECT_EQ(signer.digest, "SHA256");
    EXPECT_EQ(signer.weakness, "");
    EXPECT_NE(signer.trust, Trust::Trusted);  // expired; untrusted on a machine without the public roots
  }
}

TEST(ProfileSamples, TheBytesInsideAnInstallCommandAreNoProfile) {
  const auto file = test::samplesFolder() / "checkin/micromdm-InstallProfile.plist";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no sample file " << file;
  const auto command = plist::parse(readFile(file, 1 << 20).value());
  ASSERT_TRUE(command);
  const Bytes& payload = *command->root.dictionary()->find("Command")->dictionary()->find("Payload")->data();
  EXPECT_FALSE(importProfile(payload).profile);
}

TEST(ProfileSamples, IdentityReferenceOfTheEnrolmentProfileResolves) {
  const auto file = test::samplesFolder() / "profiles/scep/nanomdm-enroll.mobileconfig";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no sample file " << file;
  const auto result = importProfile(readFile(file, 1 << 20).value());
  ASSERT_TRUE(result.profile);
  const MdmPayload* mdm = result.profile->payloads.at(1).as<MdmPayload>();
  ASSERT_NE(mdm, nullptr);
  const Payload* identity = result.profile->findPayload(mdm->identityPayloadUuid);
  ASSERT_NE(identity, nullptr);
  ASSERT_NE(identity->as<ScepPayload>(), nullptr);
  EXPECT_EQ(identity->as<ScepPayload>()->keySize, 2048);
  EXPECT_EQ(mdm->checkInUrl, mdm->serverUrl);
}

}  // namespace
}  // namespace wayleave::management
