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
  EXPECT_TRUE(e.mistakes.empty());
}

TEST(ExplainDeclaration, TheAcmeDocumentIsLinted) {
  const auto e =
      explain(
          R"({"DirectoryURL":"https://ca.example/dir","ClientIdentifier":"x","KeyType":"ECSECPrimeRandom","KeySize":521,
                             "HardwareBound":true,"Attest":true,"Subject":[],"KeyIsExtractable":false})")
          .value();
  EXPECT_TRUE(e.identities[0].delivery.hardwareBound);
  ASSERT_EQ(e.mistakes.size(), 2u);
  EXPECT_NE(e.mistakes[0].find("HardwareBound needs a KeySize of 256 or 384"), std::string::npos);
  const auto rsa =
      explain(R"({"DirectoryURL":"http://ca","KeyType":"RSA","KeySize":100,"HardwareBound":true,"Attest":false})")
          .value();
  EXPECT_EQ(rsa.mistakes.size(), 5u);  // two missing keys, http, RSA in hardware, the size
}

TEST(ExplainDeclaration, VpnAndManagedAppSayWhatTheyReceive) {
  const auto vpn =
      explain(R"([{"Type":"com.apple.configuration.network.vpn.vpn-plugin","Identifier":"V","ServerToken":"1",
                               "Payload":{"Authentication":{"Method":"Certificate","IdentityAssetReference":"A"}}},
                              {"Type":"com.apple.configuration.app.managed","Identifier":"M","ServerToken":"1",
                               "Payload":{"ExtensionConfigs":{"com.example.ext":{"Identities":[{"Identifier":"id","AssetReference":"A"}]}}}}])")
          .value();
  EXPECT_EQ(vpn.uses.size(), 2u);
  EXPECT_EQ(vpn.notes.size(), 2u);
  EXPECT_EQ(explain(R"({"Type":"com.apple.configuration.network.vpn.vpn-plugin","Identifier":"V","ServerToken":"1",
                        "Payload":{"Authentication":{"Method":"Certificate"}}})")
                ->mistakes.size(),
            1u);
}

TEST(ExplainDeclaration, RefusesOtherJson) {
  EXPECT_EQ(explain("{").error().message, "declaration: not JSON");
  EXPECT_EQ(explain("{}").error().reason, Reason::BadInput);
  EXPECT_EQ(explain("[1,2]")->mistakes.size(), 4u);
  EXPECT_EQ(explain(std::string(100'000, '[')).error().message, "declaration: nested too deep");
}

}  // namespace
}  // namespace wayleave::keychain::explain
