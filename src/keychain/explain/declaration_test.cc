#include "keychain/explain/declaration.h"

#include <gtest/gtest.h>

namespace wayleave::keychain::explain {
namespace {

Result<DeclarationExplanation> explain(std::string_view json) { return explainDeclaration(asBytes(json)); }

TEST(ExplainDeclaration, AnAcmeAssetLeavesTheHardwareBindingToItsDocument) {
  const auto e = explain(R"({"Type":"com.apple.asset.credential.acme","Identifier":"A","ServerToken":"1",
                             "Payload":{"Reference":{"DataURL":"https://mdm.example/acme.json"}}})")
                     .value();
  ASSERT_EQ(e.identities.size(), 1u);
  EXPECT_FALSE(e.identities[0].delivery.hardwareBoundKnown);
}

TEST(ExplainDeclaration, TheAcmeDocumentSaysHowTheKeyIsBound) {
  const auto e = explain(R"({"DirectoryURL":"https://ca.example/dir","KeyType":"ECSECPrimeRandom","KeySize":384,"HardwareBound":true,"Attest":true})").value();
  ASSERT_EQ(e.identities.size(), 1u);
  EXPECT_TRUE(e.identities[0].delivery.hardwareBound);
  EXPECT_TRUE(e.identities[0].delivery.attest);
}

TEST(ExplainDeclaration, VpnManagedAppAndIdentitySayWhatTheyReceive) {
  const auto vpn = explain(R"({"Type":"com.apple.configuration.network.vpn.vpn-plugin","Identifier":"V","ServerToken":"1",
                               "Payload":{"Authentication":{"Method":"Certificate","IdentityAssetReference":"A"}}})")
                       .value();
  EXPECT_EQ(vpn.uses.size(), 1u);
  EXPECT_EQ(vpn.notes.size(), 1u);
  const auto ours = explain(R"({"Type":"com.apple.configuration.network.vpn.vpn-plugin","Identifier":"V","ServerToken":"1","Payload":{"SubType":"com.wayleave.proxy"}})");
  EXPECT_NE(ours->notes.at(0).find("to Wayleave alone"), std::string::npos);
  const auto app = explain(R"({"Type":"com.apple.configuration.app.managed","Identifier":"M","ServerToken":"1",
                               "Payload":{"ExtensionConfigs":{"com.example.ext":{"Identities":[{"Identifier":"id","AssetReference":"A"}]}}}})");
  EXPECT_EQ(app->uses.size(), 1u);
  EXPECT_EQ(explain(R"({"Type":"com.apple.configuration.security.identity","Identifier":"I","ServerToken":"1","Payload":{"CredentialAssetReference":"A"}})")->uses.size(), 1u);
}

TEST(ExplainDeclaration, SaysNothingOfWhatIsNotAboutIdentitiesAndRefusesOtherJson) {
  const auto activation = explain(R"({"Type":"com.apple.activation.simple","Identifier":"A","ServerToken":"1","Payload":{"StandardConfigurations":[]}})");
  ASSERT_TRUE(activation);
  EXPECT_TRUE(activation->identities.empty() && activation->uses.empty() && activation->notes.empty());
  EXPECT_EQ(explain("{").error().message, "declaration: not JSON");
  EXPECT_EQ(explain("[1,2]").error().reason, Reason::BadInput);
  EXPECT_EQ(explain(std::string(100'000, '[')).error().message, "declaration: nested too deep");
}

}  // namespace
}  // namespace wayleave::keychain::explain
