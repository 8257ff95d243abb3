#include "authoring/lint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>


namespace wayleave::authoring {
namespace {

// A profile of one payload, or of several; each on a line of its own from line 10 on.
std::string profile(const std::string& payloads, const std::string& identifier = "com.example.test",
                    const std::string& uuid = "3F1C9F64-0C57-4D2E-9E0B-6A1D5B7C2E10") {
  return fmt::format(R"(<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string>
<key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>{}</string>
<key>PayloadUUID</key><string>{}</string>
<key>PayloadDisplayName</key><string>Test</string>
<key>PayloadContent</key>
<array>
{}
</array></dict></plist>
)",
                     identifier, uuid, payloads);
}

std::string payload(const std::string& type, const std::string& keys, const std::string& uuid = "B6A8E6B0-6B7D-4A53-9C7E-55B2F2B6C612") {
  return fmt::format("<dict><key>PayloadType</key><string>{}</string><key>PayloadVersion</key><integer>1</integer>"
                     "<key>PayloadIdentifier</key><string>com.example.test.{}</string><key>PayloadUUID</key><string>{}</string>\n{}</dict>\n",
                     type, uuid.substr(0, 4), uuid, keys);
}

std::string acme(const std::string& more) {
  return payload("com.apple.security.acme",
                 "<key>DirectoryURL</key><string>https://ca.example/dir</string><key>ClientIdentifier</key><string>device-1</string>"
                 "<key>KeyType</key><string>ECSECPrimeRandom</string><key>KeySize</key><integer>256</integer>"
                 "<key>Subject</key><array><array><array><string>CN</string><string>device-1</string></array></array></array>\n" + more);
}

std::vector<LintFinding> lintText(const std::string& text, const std::string& name = "a.mobileconfig") { return lint({{name, toBytes(text)}}); }

const LintFinding* find(const std::vector<LintFinding>& findings, std::string_view rule, std::string_view words = "") {
  const auto found = std::ranges::find_if(findings, [&](const LintFinding& f) { return f.rule == rule && f.message.contains(words); });
  return found == findings.end() ? nullptr : &*found;
}

std::string all(const std::vector<LintFinding>& findings) {
  std::string out;
  for (const LintFinding& finding : findings) out += describe(finding) + "\n";
  return out;
}

#define EXPECT_RULE(findings, wantedSeverity, rule, words)                                       \
  do {                                                                                           \
    const std::vector<LintFinding> found_ = findings;                                            \
    const LintFinding* one_ = find(found_, rule, words);                                         \
    ASSERT_NE(one_, nullptr) << "no " << rule << " with \"" << (words) << "\" in:\n" << all(found_); \
    EXPECT_EQ(one_->severity, Severity::wantedSeverity);                                         \
  } while (false)

TEST(Lint, TellsTheLineAsCompilersDo) {
  const auto findings = lintText(profile(acme("<key>HardwareBound</key><true/>\n<key>Attest</key><true/>")));
  const LintFinding* missing = find(findings, "profile", "is missing: Apple's devices need no such key");
  ASSERT_NE(missing, nullptr) << all(findings);
  EXPECT_TRUE(describe(*missing).starts_with("a.mobileconfig:")) << describe(*missing);
  EXPECT_NE(missing->line, 0u);

  const auto both = lintText(profile(acme("<key>HardwareBound</key><true/>\n<key>KeyIsExtractable</key><true/>\n")));
  EXPECT_EQ(find(both, "attestation", "never be exported")->line, 13u);
}

TEST(Lint, SaysWhereAFileStopsBeingXml) {
  const auto findings = lintText("<?xml version=\"1.0\"?>\n<plist version=\"1.0\">\n<dict>\n<key>a</key></dict>\n</plist>\n");
  ASSERT_EQ(findings.size(), 1u) << all(findings);
  EXPECT_EQ(findings[0].severity, Severity::Error);
  EXPECT_EQ(findings[0].line, 4u);
  EXPECT_FALSE(findings[0].message.starts_with("line")) << findings[0].message;
}

TEST(Lint, HasNothingAgainstAPlainProfile) {
  const auto findings = lintText(profile(acme("<key>HardwareBound</key><false/>")));
  EXPECT_EQ(count(findings).errors + count(findings).warnings, 0u) << all(findings);
}

TEST(Lint, KnowsThePitfallsOfIdentities) {
  EXPECT_RULE(lintText(profile(acme("<key>HardwareBound</key><true/>"))), Note, "attestation", "the CA cannot tell");
  EXPECT_RULE(lintText(profile(acme("<key>HardwareBound</key><false/><key>ExtendedKeyUsage</key><array><string>1.3.6.1.5.5.7.3.1</string></array>"))),
              Warning, "client-authentication", "lacks client authentication");
  EXPECT_RULE(lintText(profile(acme("<key>HardwareBound</key><false/><key>UsageFlags</key><integer>4</integer>"))), Warning,
              "client-authentication", "lacks bit 1");
  EXPECT_RULE(lintText(profile(acme("<key>HardwareBound</key><false/><key>AllowAllAppsAccess</key><true/>"))), Warning, "all-apps", "");
  const auto scep = [](const std::string& keys) {
    return profile(payload("com.apple.security.scep", "<key>PayloadContent</key><dict><key>Keysize</key><integer>2048</integer>" + keys + "</dict>"));
  };
  EXPECT_RULE(lintText(scep("<key>URL</key><string>https://ca.example</string><key>Challenge</key><string>swordfish</string>")), Note,
              "secret-in-profile", "can enrol");
  EXPECT_EQ(find(lintText(scep("<key>URL</key><string>https://ca.example</string><key>Challenge</key><string>$CHALLENGE</string>")),
                 "secret-in-profile"), nullptr);
  EXPECT_RULE(lintText(scep("<key>URL</key><string>http://ca.example</string>")), Warning, "profile", "plain http");
  const auto pinned = lintText(scep("<key>URL</key><string>http://ca.example</string><key>CAFingerprint</key><data>" + toBase64(sha256({})) + "</data>"));
  EXPECT_EQ(count(pinned).warnings, 0u) << all(pinned);
}

TEST(Lint, NeverShowsASecret) {
  const auto findings = lintText(profile(payload("com.apple.security.scep", "<key>PayloadContent</key><dict><key>URL</key><string>https://ca.example</string>"
                                                                            "<key>Challenge</key><string>swordfish</string></dict>")));
  EXPECT_FALSE(all(findings).contains("swordfish"));
  EXPECT_FALSE(toSarif(findings).contains("swordfish"));
}

TEST(Lint, FindsAPrivateKeyInTheClearAnywhere) {
  EXPECT_RULE(lintText(profile(payload("com.example.other", "<key>Deep</key><array><string>-----BEGIN PRIVATE KEY-----\nAAAA</string></array>"))), Error,
              "private-key", "in the clear");
}

TEST(Lint, KnowsWhichRouteDeliversAPayload) {
  const std::string declarations = payload("com.apple.declarations", "<key>Declarations</key><array/>");
  const std::string extension = payload("com.apple.system-extension-policy", "", "5D0E8D1C-58E5-4F5E-8A58-0F3C1D9B7A13");
  EXPECT_RULE(lintText(profile(declarations)), Note, "delivery", "cannot install declarations by profile");
  EXPECT_RULE(lintText(profile(declarations + extension)), Warning, "delivery", "no Mac installs both");
}

TEST(Lint, ReportsUnusedPayloadsAndSharedOrders) {
  EXPECT_RULE(lintText(profile(acme("<key>HardwareBound</key><false/>"))), Note, "unused", "programs with a grant");
  const auto proxy = [](const std::string& uuid) {
    return payload("com.apple.vpn.managed",
                   "<key>VPNType</key><string>TransparentProxy</string><key>VPNSubType</key><string>com.wayleave.proxy</string>"
                   "<key>UserDefinedName</key><string>P</string><key>TransparentProxy</key><dict><key>ProviderType</key><string>app-proxy</string>"
                   "<key>Order</key><integer>1</integer><key>ProviderBundleIdentifier</key><string>com.example.x</string></dict><key>VendorConfig</key>"
                   "<dict><key>GatewayURL</key><string>https://g.example</string><key>IncludedNetworkRules</key><array><dict>"
                   "<key>MatchProtocol</key><string>tcp</string></dict></array></dict>", uuid);
  };
  const auto findings = lintText(profile(proxy("B6A8E6B0-6B7D-4A53-9C7E-55B2F2B6C612") + proxy("5D0E8D1C-58E5-4F5E-8A58-0F3C1D9B7A13")));
  EXPECT_RULE(findings, Warning, "order", "is also the order of PayloadContent[0]");
  EXPECT_RULE(findings, Warning, "provider", "needs both");
  EXPECT_RULE(findings, Note, "catch-all", "the device is offline");
}

TEST(Lint, JudgesProfilesAgainstEachOther) {
  const std::string first = profile(acme("<key>HardwareBound</key><false/>"));
  const auto same = lint({{"a.mobileconfig", toBytes(first)}, {"b.mobileconfig", toBytes(first)}});
  EXPECT_RULE(same, Warning, "same-identifier", "of a.mobileconfig");
  EXPECT_EQ(find(same, "same-uuid"), nullptr) << "one reason is enough";
  const std::string other = profile(acme("<key>HardwareBound</key><false/>"), "com.example.other", "11111111-0C57-4D2E-9E0B-6A1D5B7C2E10");
  EXPECT_RULE(lint({{"a.mobileconfig", toBytes(first)}, {"b.mobileconfig", toBytes(other)}}), Warning, "same-uuid", "a.mobileconfig");

  const std::string refers = profile(payload("com.apple.mdm", "<key>IdentityCertificateUUID</key><string>b6a8e6b0-6b7d-4a53-9c7e-55b2f2b6c612</string>", "22222222-58E5-4F5E-8A58-0F3C1D9B7A13"),
                                     "com.example.third", "33333333-0C57-4D2E-9E0B-6A1D5B7C2E10");
  EXPECT_RULE(lint({{"c.mobileconfig", toBytes(refers)}, {"a.mobileconfig", toBytes(first)}}), Note, "cross-reference", "a.mobileconfig has a payload");
}

TEST(Lint, IgnoresRulesButNeverErrors) {
  const std::string text = profile(acme("<key>HardwareBound</key><true/>") + payload("com.example.other", "<key>k</key><string>-----BEGIN PRIVATE KEY-----</string>", "5D0E8D1C-58E5-4F5E-8A58-0F3C1D9B7A13"));
  LintOptions options;
  options.ignoredRules = {"attestation", "private-key"};
  const auto findings = lint({{"a", toBytes(text)}}, options);
  EXPECT_EQ(find(findings, "attestation"), nullptr);
  EXPECT_NE(find(findings, "private-key"), nullptr);
}

TEST(Lint, WritesSarif) {
  const auto document = nlohmann::json::parse(toSarif(lintText(profile(acme("<key>HardwareBound</key><true/>")))), nullptr, false);
  ASSERT_TRUE(document.is_object());
  EXPECT_EQ(document["version"], "2.1.0");
  const auto& result = document["runs"][0]["results"][0];
  EXPECT_EQ(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "a.mobileconfig");
  EXPECT_TRUE(result["locations"][0]["physicalLocation"]["region"].contains("startLine"));
}

TEST(Lint, ReadsADocumentOfCredentialsAsADeviceDoes) {
  EXPECT_RULE(lintText(R"({"UserName": "u", "Password": null})", "c.json"), Error, "credential", "null");
}

TEST(Lint, TakesPemForNoJson) {
  const auto findings = lintText("-----BEGIN CMS-----\nAAAA\n-----END CMS-----\n", "-");
  EXPECT_EQ(all(findings).find("JSON"), std::string::npos) << all(findings);
  EXPECT_NE(all(findings).find("PEM"), std::string::npos) << all(findings);
}

TEST(Lint, KnowsWhatTheDnsAndProxiesOfAVpnNeed) {
  const auto vpn = [](const std::string& keys) {
    return lintText(profile(payload("com.apple.vpn.managed", "<key>UserDefinedName</key><string>v</string><key>VPNType</key><string>L2TP</string>\n" + keys)));
  };
  const std::string addresses = "<key>ServerAddresses</key><array><string>192.0.2.1</string></array>";
  EXPECT_NE(all(vpn("<key>DNS</key><dict><key>DNSProtocol</key><string>Cleartext</string></dict>")).find("ServerAddresses"), std::string::npos);
  EXPECT_NE(all(vpn("<key>DNS</key><dict><key>DNSProtocol</key><string>HTTPS</string>" + addresses + "</dict>")).find("DNSProtocol is HTTPS"), std::string::npos);
  EXPECT_NE(all(vpn("<key>DNS</key><dict><key>DNSProtocol</key><string>TLS</string>" + addresses + "</dict>")).find("DNSProtocol is TLS"), std::string::npos);
  EXPECT_NE(all(vpn("<key>Proxies</key><dict><key>HTTPProxy</key><string>p</string></dict>")).find("there is HTTPProxy"), std::string::npos);
  const auto whole = vpn("<key>DNS</key><dict><key>DNSProtocol</key><string>HTTPS</string><key>ServerURL</key><string>https://dns.example/</string>" + addresses + "</dict>");
  EXPECT_EQ(count(whole).errors, 0u) << all(whole);
}

TEST(Lint, TellsBrokenJsonByLineAndColumn) {
  const auto findings = lintText("{\n  \"Type\": oops\n}\n", "d.json");
  ASSERT_EQ(findings.size(), 1u) << all(findings);
  EXPECT_EQ(findings[0].line, 2u);
  EXPECT_NE(findings[0].column, 0u);
}

TEST(Lint, JudgesDeclarationsAsOneSet) {
  const auto declaration = [](std::string_view type, std::string_view identifier, std::string_view payload) {
    return std::string(R"({"Type":")").append(type).append(R"(","Identifier":")").append(identifier).append(R"(","ServerToken":"1","Payload":)").append(payload) + "}";
  };
  const std::string activation = declaration("com.apple.activation.simple", "act", R"({"StandardConfigurations":["conf","nowhere"]})");
  const std::string configuration = declaration("com.apple.configuration.security.identity", "conf", R"({"CredentialAssetReference":"ca"})");
  const std::string asset = declaration("com.apple.asset.credential.certificate", "ca", R"({"Reference":{"DataURL":"https://mdm.example/ca.pem"}})");
  const auto findings = lint({{"act.json", toBytes(activation)}, {"conf.json", toBytes(configuration)}, {"ca.json", toBytes(asset)}});
  EXPECT_RULE(findings, Error, "declaration-reference", "no configuration of these files is nowhere");
  EXPECT_RULE(findings, Error, "declaration-reference", "ca is com.apple.asset.credential.certificate");
  EXPECT_EQ(count(findings).errors, 2u) << all(findings);
}

class LintFolder : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "wayleave-lint.XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    std::filesystem::create_directories(folder_ + "/below");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ + "/" + name) << text; }
  std::string folder_;
};

TEST_F(LintFolder, TakesProfilesAndDeclarationsOfAWholeFolder) {
  write("b.mobileconfig", profile(""));
  write("below/a.mobileconfig", profile(""));
  write("below/activation.json", R"({"Type": "com.apple.activation.simple"})");
  write("below/broken.json", R"({"Type": )");
  write("package.json", R"({"name": "not a declaration"})");
  write("readme.txt", "text");
  const CollectedFiles files = collectFiles({folder_});
  std::vector<std::string> names;
  for (const LintInput& input : files.inputs) names.push_back(input.name.substr(folder_.size() + 1));
  EXPECT_EQ(names, (std::vector<std::string>{"b.mobileconfig", "below/a.mobileconfig", "below/activation.json", "below/broken.json"}));
  EXPECT_TRUE(files.unreadable.empty());
}

TEST_F(LintFolder, SaysWhatCannotBeRead) {
  const CollectedFiles files = collectFiles({folder_ + "/none.mobileconfig", folder_});
  EXPECT_EQ(files.unreadable.size(), 2u) << "a file that is not there, a folder without files";
  write("package.json", "{}");
  EXPECT_EQ(collectFiles({folder_ + "/package.json"}).inputs.size(), 1u) << "a file that was named is always judged";
}

TEST(LintExample, TheExamplesHaveNoErrorAndNoWarning) {
  const CollectedFiles files = collectFiles({WAYLEAVE_SOURCE_DIR "/examples"});
  ASSERT_FALSE(files.inputs.empty());
  const auto findings = lint(files.inputs);
  EXPECT_EQ(count(findings).errors + count(findings).warnings, 0u) << all(findings);
}

}  // namespace
}  // namespace wayleave::authoring
