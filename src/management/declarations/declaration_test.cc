#include "management/declarations/declaration.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "management/declarations/declaration_types.h"
#include "management/declarations/json_document.h"

namespace wayleave::management {
namespace {

std::string declaration(std::string_view type, std::string_view payload) {
  return R"({"Type":")" + std::string(type) + R"(","Identifier":"a","ServerToken":"1","Payload":)" + std::string(payload) + "}";
}
Declaration read(std::string_view type, std::string_view payload) { return readDeclaration(asBytes(declaration(type, payload))); }
std::string codes(const Declaration& declaration) {
  std::string out;
  for (const DeclarationReason& reason : declaration.reasons) out += (out.empty() ? "" : " ") + reason.code;
  return out;
}

TEST(Declaration, ReadsAnActivationWithItsPredicate) {
  const Declaration out = read("com.apple.activation.simple", R"({"StandardConfigurations":["b"],"Predicate":"@status(device.model.family) == 'Linux'"})");
  EXPECT_EQ(codes(out), "");
  EXPECT_EQ(out.configurations, std::vector<std::string>{"b"});
  EXPECT_TRUE(out.predicate);
}

TEST(Declaration, AnUnknownKeyIsAnErrorOfItsOwnWithItsPath) {
  const Declaration out = read("com.apple.configuration.management.test", R"({"Echo":"x","Eco":"y","ReturnStatus":"Installed"})");
  EXPECT_EQ(codes(out), "Error.UnknownPayloadKeys");
  EXPECT_EQ(out.reasons.at(0).details["UnknownPayloadKeys"], nlohmann::json::array({"Payload.Eco"}));
}

TEST(Declaration, AWrongTypeAMissingKeyAndAWordOutsideTheListAreInvalid) {
  EXPECT_EQ(codes(read("com.apple.configuration.management.test", R"({"Echo":1})")), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(codes(read("com.apple.configuration.security.identity", "{}")), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(codes(read("com.apple.asset.credential.acme", R"({"Reference":{"DataURL":"http://plain.example/"}})")), "Error.InvalidPayload");
  EXPECT_EQ(codes(read("com.apple.configuration.management.test", R"({"Echo":"x","ReturnStatus":"Perhaps"})")), "Error.ConfigurationIsInvalid");
}

TEST(Declaration, NotJsonAndNotADeclarationSaySo) {
  EXPECT_EQ(codes(readDeclaration(asBytes("{"))), "Error.ConfigurationCannotBeDeserialized");
  EXPECT_EQ(codes(readDeclaration(asBytes("3"))), "Error.InvalidPayload");
}

TEST(Declaration, BaseKeysAreStrict) {
  std::vector<Finding> findings;
  const Declaration out = readDeclaration(
      asBytes("{\n\"Type\":\"com.apple.management.properties\",\n\"Identifier\":\"" + std::string(65, 'x') + "\",\n\"Extra\":1,\"Payload\":{}}"), &findings);
  EXPECT_FALSE(out.isValid());
  ASSERT_EQ(findings.size(), 3u) << "too long, no ServerToken, an unknown key";
  EXPECT_EQ(findings.front().line, 3u);
}

TEST(Declaration, ATypeOfOthersIsNotSupportedAndNotWrong) {
  const Declaration out = read("com.apple.configuration.passcode.settings", R"({"MinimumLength":8})");
  EXPECT_EQ(codes(out), "Error.ConfigurationNotSupported");
  EXPECT_FALSE(out.supported);
}

TEST(Declaration, APredicateThatDoesNotParseHasItsOwnCode) {
  EXPECT_EQ(codes(read("com.apple.activation.simple", R"({"StandardConfigurations":[],"Predicate":"1 =="})")), "Error.UnableToParsePredicate");
  EXPECT_EQ(codes(read("com.apple.activation.simple", R"({"StandardConfigurations":[],"Predicate":"@key(x) == 1"})")),
            "Error.UnableToParsePredicateWithCustomOperator");
}

TEST(Declaration, KnowsTheAssetsThatAConfigurationNames) {
  const Declaration vpn = read("com.apple.configuration.network.vpn.vpn-plugin",
                               R"({"VisibleName":"n","HostName":"h","SubType":"com.wayleave.proxy","VendorConfig":{"TrustAnchorAssetReferences":["ca"]},
                                   "Authentication":{"Method":"Certificate","IdentityAssetReference":"id"},"Provider":{"Type":"app-proxy"}})");
  EXPECT_EQ(codes(vpn), "");
  ASSERT_EQ(vpn.assets.size(), 2u);
  EXPECT_EQ(vpn.assets[0].identifier, "ca");
  EXPECT_EQ(vpn.assets[1].identifier, "id");
  EXPECT_EQ(vpn.assets[1].keyPath, "Payload.Authentication.IdentityAssetReference");
  EXPECT_EQ(codes(read("com.apple.configuration.network.vpn.vpn-plugin",
                       R"({"VisibleName":"n","HostName":"h","SubType":"s","Authentication":{"Method":"Certificate"}})")),
            "Error.ConfigurationIsInvalid")
      << "a certificate without an asset";
}

std::string proxy(std::string_view vendor) {
  return R"({"VisibleName":"n","HostName":"gateway.example:8443","SubType":"com.wayleave.proxy","Authentication":{"Method":"Certificate","IdentityAssetReference":"id"},"VendorConfig":)" +
         std::string(vendor) + "}";
}

TEST(Declaration, OurVendorKeysAreCheckedBeforeTheyAreApplied) {
  const std::string type = "com.apple.configuration.network.vpn.vpn-plugin";
  EXPECT_EQ(codes(read(type, proxy(R"({"IncludedNetworkRules":[{"MatchRemoteHost":"corp.example"}],"Order":2,"FailurePolicy":"direct"})"))), "");
  EXPECT_EQ(codes(read(type, proxy(R"({"GatewayURL":"http://gateway.example"})"))), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(codes(read(type, proxy(R"({"IncludedNetworkRules":[{"MatchRemoteHost":"*.example"}]})"))), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(codes(read(type, proxy(R"({"Order":0})"))), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(codes(read(type, proxy(R"({"TrustAnchorPayloadUUIDs":["x"]})"))), "Error.ConfigurationIsInvalid");
  const Declaration unknown = read(type, proxy(R"({"GatewayUrl":"https://g.example"})"));
  EXPECT_EQ(codes(unknown), "Error.UnknownPayloadKeys");
  EXPECT_EQ(unknown.reasons.at(0).details["UnknownPayloadKeys"], nlohmann::json::array({"Payload.VendorConfig.GatewayUrl"}));
}

TEST(Declaration, WhatIsNestedAndNotUsedIsCheckedToo) {
  const std::string type = "com.apple.configuration.network.vpn.vpn-plugin";
  const auto with = [&](std::string_view more) {
    return codes(read(type, R"({"VisibleName":"n","HostName":"h","SubType":"s","Authentication":{"Method":"Password","CredentialsAssetReference":"c"},)" + std::string(more) + "}"));
  };
  EXPECT_EQ(with(R"("Idle":{"Disconnect":true,"Timer":60},"NetworkRouting":{"EnforceRoutes":false})"), "");
  EXPECT_EQ(with(R"("Idle":{"Timer":"60"})"), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(with(R"("Idle":{"Timout":60})"), "Error.UnknownPayloadKeys");
  EXPECT_EQ(with(R"("OnDemand":{"Rules":[{"Action":"Connect","InterfaceTypeMatch":"WiFi"}]})"), "");
  EXPECT_EQ(with(R"("OnDemand":{"Rules":[{"Action":"Maybe"}]})"), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(with(R"("OnDemand":{"Rules":[{}]})"), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(with(R"("DNS":{"Protocol":"HTTPS","ServerAddresses":["::1"]})"), "Error.ConfigurationIsInvalid") << "no ServerURL";
  EXPECT_EQ(with(R"("Proxies":{"Protocol":{"HTTP":{"Enable":true,"HostName":"h","Port":70000}}})"), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(with(R"("Provider":{"ComposedIdentifier":"not a bundle"})"), "Error.ConfigurationIsInvalid");
  const Declaration dns = read(type, R"({"VisibleName":"n","HostName":"h","SubType":"s","Authentication":{"Method":"Password","CredentialsAssetReference":"c"},
                                         "DNS":{"Protocol":"Cleartext","ServerAddresses":[],"IdentityAssetReference":"id"}})");
  ASSERT_EQ(dns.assets.size(), 2u);
  EXPECT_FALSE(dns.assets[1].isUsed) << "named, not enrolled for";
}

TEST(Declaration, AppManagedNamesOneAppAndTheIdentitiesOfExtensions) {
  const Declaration app = read("com.apple.configuration.app.managed",
                               R"j({"AppComposedIdentifier":"com.example.agent (TEAM123456)","ExtensionConfigs":{"com.example.agent.ext":
                                   {"Identities":[{"Identifier":"device","AssetReference":"id"}]}}})j");
  EXPECT_EQ(codes(app), "");
  ASSERT_EQ(app.assets.size(), 1u);
  EXPECT_EQ(codes(read("com.apple.configuration.app.managed", R"({"BundleID":"a","AppStoreID":"b"})")), "Error.ConfigurationIsInvalid");
}

TEST(Declaration, WhatAnAssetCarriesInlineIsNotKept) {
  const std::string text = declaration("com.apple.asset.credential.identity", R"({"Reference":{"DataURL":"data:application/json;base64,c2VjcmV0"}})");
  const Result<Bytes> stripped = withoutInlineSecrets(asBytes(text));
  ASSERT_TRUE(stripped);
  EXPECT_EQ(asText(*stripped).find("c2VjcmV0"), std::string_view::npos);
  EXPECT_TRUE(lacksInlineSecret(readDeclaration(*stripped)));
  const std::string open = declaration("com.apple.asset.credential.certificate", R"({"Reference":{"DataURL":"data:application/pem;base64,AAAA"}})");
  EXPECT_EQ(asText(*withoutInlineSecrets(asBytes(open))), open) << "certificates are no secret";
  EXPECT_FALSE(withoutInlineSecrets(asBytes("{")));
}

TEST(Declaration, EverySampleGetsItsVerdict) {
  const std::filesystem::path folder = std::filesystem::path(WAYLEAVE_SOURCE_DIR) / "../shared/samples/ddm";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "the samples are not here";
  size_t read = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    const std::string name = entry.path().filename();
    if (name.starts_with("credential-data")) continue;  // the document of an asset, not a declaration
    const Result<Bytes> bytes = readFile(entry.path(), 1024 * 1024);
    ASSERT_TRUE(bytes);
    const Declaration out = readDeclaration(*bytes);
    ++read;
    if (name == "nudge-settings.json")  // no ServerToken: strictly refused
      EXPECT_EQ(codes(out), "Error.ConfigurationIsInvalid");
    else
      EXPECT_EQ(codes(out), "") << name;
  }
  EXPECT_GE(read, 10u);
}

// Status reports of real Macs are JSON that we read; what crashed other readers is refused here as a declaration.
TEST(Declaration, RealReportsAreReadAndHostileSamplesRefused) {
  const std::filesystem::path samples = std::filesystem::path(WAYLEAVE_SOURCE_DIR) / "../shared/samples";
  if (!std::filesystem::exists(samples)) GTEST_SKIP() << "the samples are not here";
  size_t reports = 0, hostile = 0;
  for (const auto& entry : std::filesystem::directory_iterator(samples / "status")) {
    const Result<JsonDocument> report = readJson(readFile(entry.path(), 1024 * 1024).value());
    ASSERT_TRUE(report) << entry.path() << ": " << report.error().message;
    EXPECT_TRUE(report->root.dictionary()->contains("StatusItems"));
    ++reports;
  }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(samples / "json-hostile"))
    if (entry.is_regular_file()) {
      EXPECT_FALSE(readDeclaration(readFile(entry.path(), 1024 * 1024).value()).isValid()) << entry.path();
      ++hostile;
    }
  EXPECT_EQ(reports, 2u);
  EXPECT_GE(hostile, 1u);
}

}  // namespace
}  // namespace wayleave::management
