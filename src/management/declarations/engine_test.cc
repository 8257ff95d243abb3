#include "management/declarations/engine.h"
#include "management/declarations/asset.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include "localapi/json_reader.h"
#include "management/declarations/synthesis.h"
#include "management/installer_test_support.h"

namespace wayleave::management {
namespace {

using nlohmann::json;

constexpr const char* kActivation = "com.apple.activation.simple";
constexpr const char* kVpn = "com.apple.configuration.network.vpn.vpn-plugin";
constexpr const char* kAcme = "com.apple.asset.credential.acme";
constexpr const char* kPkcs12 = "com.apple.asset.credential.identity";

std::string inlineUrl(std::string_view content, std::string_view type = "application/json") {
  return fmt::format("data:{};base64,{}", type, toBase64(asBytes(content)));
}
json reference(const std::string& url) { return {{"Reference", {{"DataURL", url}}}}; }

// A server that declares what the test tells it to.
class FakeServer final : public DeclarationServer {
 public:
  Result<Bytes> fetch(std::string_view endpoint) override {
    ++fetches[std::string(endpoint)];
    if (failure) return propagate(*failure);
    if (endpoint == "tokens") return bytes({{"SyncTokens", {{"DeclarationsToken", token}, {"Timestamp", "2026-11-24T00:00:00Z"}}}});
    if (endpoint == "declaration-items") {
      json groups{{"Activations", json::array()}, {"Assets", json::array()}, {"Configurations", json::array()}, {"Management", json::array()}};
      for (const auto& [identifier, declaration] : declarations)
        groups[group(declaration["Type"])].push_back({{"Identifier", identifier}, {"ServerToken", declaration["ServerToken"]}});
      for (const std::string& identifier : ghosts) groups["Configurations"].push_back({{"Identifier", identifier}, {"ServerToken", "1"}});
      return bytes({{"Declarations", groups}, {"DeclarationsToken", token}});
    }
    const std::string identifier(endpoint.substr(endpoint.rfind('/') + 1));
    const auto found = declarations.find(identifier);
    if (found == declarations.end()) return fail(Reason::NotFound, "404");
    return bytes(found->second);
  }
  Status report(ByteView report) override {
    if (failure) return propagate(*failure);
    reports.push_back(json::parse(asText(report)));
    return {};
  }

  void declare(const std::string& identifier, std::string_view type, json payload, const std::string& revision = "1") {
    declarations[identifier] = {{"Type", type}, {"Identifier", identifier}, {"ServerToken", revision}, {"Payload", std::move(payload)}};
    token = "token-" + std::to_string(++count_);
  }
  void drop(const std::string& identifier) {
    declarations.erase(identifier);
    token = "token-" + std::to_string(++count_);
  }

  std::map<std::string, json> declarations;
  std::vector<std::string> ghosts;
  std::string token = "none";
  std::optional<Error> failure;
  std::map<std::string, int> fetches;
  std::vector<json> reports;

 private:
  static Bytes bytes(const json& value) { return toBytes(value.dump()); }
  static const char* group(const std::string& type) {
    return type.contains(".activation.") ? "Activations" : type.contains(".asset.") ? "Assets" : type.contains(".configuration.") ? "Configurations" : "Management";
  }
  int count_ = 0;
};

class Engine : public ::testing::Test {
 protected:
  Engine() : enroller_(agent_) {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-de-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    open();
  }
  ~Engine() override {
    engine_.reset();
    std::filesystem::remove_all(folder_);
  }
  // As after a crash: everything in memory is gone.
  void open() {
    engine_.reset();
    installer_.reset();
    store_ = ManagementStore::open(folder_ + "/management.db", clock_).value();
    declarations_ = DeclarationStore::open(folder_ + "/declarations.json").value();
    installer_ = std::make_unique<Installer>(Installer::Parts{*store_, agent_, clock_, &enroller_, std::chrono::milliseconds{0}},
                                             [](const std::string&, std::string_view) {}, [](uint64_t, std::string_view, const std::string&) {});
    engine_ = std::make_unique<DeclarationEngine>(DeclarationEngine::Parts{
        .store = *store_,
        .declarations = *declarations_,
        .installer = *installer_,
        .agent = agent_,
        .clock = clock_,
        .fetch = [this](const AssetRequest& request, std::stop_token) -> Result<FetchedAsset> {
          requests_.push_back(request);
          const auto found = web_.find(request.url);
          if (found == web_.end()) return fail(Reason::NotFound, request.url + " answered 404");
          return FetchedAsset{Secret::copyOf(found->second), "application/json"};
        },
        .deviceItems = [] { return std::map<std::string, json>{{"device.model.family", "Linux"}}; },
        .changed = {}});
  }
  // The proxy of examples/ with an ACME identity, as declarations.
  void declareAcme() {
    server_.declare("act", kActivation, {{"StandardConfigurations", {"vpn"}}});
    server_.declare("vpn", kVpn,
                    {{"VisibleName", "Gateway"},
                     {"HostName", "gateway.example:8443"},
                     {"SubType", "com.wayleave.proxy"},
                     {"VendorConfig", {{"IncludedNetworkRules", {{{"MatchRemoteHost", "corp.example"}}}}}},
                     {"Authentication", {{"Method", "Certificate"}, {"IdentityAssetReference", "id"}}},
                     {"Provider", {{"Type", "app-proxy"}}}});
    server_.declare("id", kAcme, reference(inlineUrl(acmeDocument())));
  }
  static std::string acmeDocument(const std::string& name = "device") {
    return json{{"DirectoryURL", "https://ca.example/acme"}, {"ClientIdentifier", name}, {"KeySize", 384}, {"KeyType", "ECSECPrimeRandom"},
                {"HardwareBound", true}, {"Subject", json::array({json::array({json::array({"CN", name})})})}}
        .dump();
  }
  Status synchronise() { return engine_->synchronise(server_, {}, {}); }
  static std::string pkcs12Document(const std::string& password) {
    plist::Value profile = example("pkcs12.mobileconfig");
    const Bytes& identity = *payloadOf(profile, "com.apple.security.pkcs12")->find("PayloadContent")->data();
    return json{{"Password", password}, {"Identity", toBase64(identity)}}.dump();
  }
  json stateOf(const std::string& identifier) {
    for (const json& entry : engine_->state())
      if (entry["identifier"] == identifier) return entry;
    return {};
  }
  std::string codeOf(const std::string& identifier) {
    const json state = stateOf(identifier);
    return state.is_null() || state["reasons"].empty() ? "" : state["reasons"][0]["code"].get<std::string>();
  }
  std::vector<localapi::ProxyConfiguration> configurations() { return store_->configurations().value().configurations; }

  SystemClock clock_;
  FakeAgent agent_;
  FakeEnroller enroller_;
  FakeServer server_;
  std::string folder_;
  std::map<std::string, std::string> web_;
  std::vector<AssetRequest> requests_;
  std::unique_ptr<ManagementStore> store_;
  std::unique_ptr<DeclarationStore> declarations_;
  std::unique_ptr<Installer> installer_;
  std::unique_ptr<DeclarationEngine> engine_;
};

TEST_F(Engine, AnAcmeIdentityAndAProxyComeIntoForceAndAreReported) {
  declareAcme();
  const Status done = synchronise();
  ASSERT_TRUE(done) << done.error().message;
  ASSERT_EQ(configurations().size(), 1u) << engine_->state().dump(1);
  EXPECT_EQ(configurations()[0].gatewayHost, "gateway.example");
  EXPECT_EQ(configurations()[0].gatewayPort, 8443);
  EXPECT_EQ(asText(configurations()[0].identityReference), "ref-1");
  EXPECT_EQ(enroller_.enrolled.size(), 1u);
  EXPECT_TRUE(stateOf("vpn")["active"]);
  EXPECT_EQ(stateOf("vpn")["valid"], "valid");
  EXPECT_TRUE(stateOf("id")["active"]);

  ASSERT_EQ(server_.reports.size(), 1u);
  const json& report = server_.reports[0];
  EXPECT_TRUE(report["FullReport"]);
  const json& reported = report["StatusItems"]["management"]["declarations"];
  EXPECT_EQ(reported["configurations"], json::array({{{"identifier", "vpn"}, {"server-token", "1"}, {"active", true}, {"valid", "valid"}}}));
  EXPECT_EQ(reported["activations"].size(), 1u);
  EXPECT_TRUE(report["StatusItems"]["management"].contains("client-capabilities"));
  EXPECT_TRUE(report["Errors"].empty());
}

TEST_F(Engine, EqualTokensEndItEarlyAndSayNothingNew) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(server_.fetches["declaration-items"], 1);
  EXPECT_EQ(server_.reports.size(), 1u);
  EXPECT_EQ(enroller_.enrolled.size(), 1u);
}

TEST_F(Engine, OnlyWhatChangedIsFetched) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  server_.declare("test", "com.apple.configuration.management.test", {{"Echo", "x"}});
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(server_.fetches["declaration/configuration/vpn"], 1);
  EXPECT_EQ(server_.fetches["declaration/configuration/test"], 1);
  ASSERT_EQ(server_.reports.size(), 2u);
  EXPECT_FALSE(server_.reports[1].contains("FullReport"));
  EXPECT_EQ(server_.reports[1]["StatusItems"]["management"]["declarations"]["configurations"].size(), 1u) << "incremental: the new one alone";
  EXPECT_EQ(codeOf("test"), "Info.NotReferencedByActivation");
}

TEST_F(Engine, AnAssetReplacedBehindItsReferenceRenewsTheIdentityAndLeavesTheConfigurationAsItWas) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  const std::string id = configurations()[0].id;
  server_.declare("id", kAcme, reference(inlineUrl(acmeDocument("other"))), "2");
  ASSERT_TRUE(synchronise());
  ASSERT_EQ(configurations().size(), 1u);
  EXPECT_EQ(configurations()[0].id, id);
  EXPECT_EQ(asText(configurations()[0].identityReference), "ref-2");
  EXPECT_EQ(server_.fetches["declaration/configuration/vpn"], 1);
  EXPECT_EQ(agent_.active(), std::vector<std::string>{"identity-2"});
}

TEST_F(Engine, WhatIsNoLongerDeclaredGoes) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  server_.drop("vpn");
  server_.drop("act");
  ASSERT_TRUE(synchronise());
  EXPECT_TRUE(configurations().empty());
  EXPECT_TRUE(agent_.active().empty());
  EXPECT_EQ(codeOf("id"), "Info.NotReferencedByConfiguration");
  const json& reported = server_.reports.back()["StatusItems"]["management"]["declarations"];
  EXPECT_EQ(reported["configurations"], json::array({{{"identifier", "vpn"}, {"_removed", true}}}));
}

TEST_F(Engine, ABrokenNewRevisionKeepsWhatIsInForce) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  server_.declare("vpn", kVpn, {{"VisibleName", 1}}, "2");
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(configurations().size(), 1u);
  EXPECT_EQ(codeOf("vpn"), "Error.ConfigurationIsInvalid");
  EXPECT_FALSE(stateOf("act")["active"]);
  EXPECT_EQ(stateOf("vpn")["valid"], "invalid");
}

TEST_F(Engine, AnEnrolmentThatFailsIsReportedAndTriedAgainOnlyWhenItMayPass) {
  declareAcme();
  enroller_.failure = Error{Reason::AttestationRefused, "the CA says no", {}, 0};
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("vpn"), "Error.ConfigurationCannotBeApplied");
  EXPECT_TRUE(engine_->reconcile({})) << "nothing to wait for";
  EXPECT_EQ(enroller_.enrolled.size(), 1u);

  enroller_.failure = Error{Reason::Unavailable, "the CA is away", {}, 0};
  server_.declare("id", kAcme, reference(inlineUrl(acmeDocument())), "2");
  ASSERT_TRUE(synchronise());
  EXPECT_FALSE(engine_->reconcile({})) << "later";
  EXPECT_EQ(enroller_.enrolled.size(), 2u) << "and not at once";
}

TEST_F(Engine, ADeclarationThatIsListedAndNotThereKeepsTheSetIncomplete) {
  declareAcme();
  server_.ghosts = {"ghost"};
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(configurations().size(), 1u);
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(server_.fetches["declaration-items"], 2) << "the token was not taken";
}

TEST_F(Engine, AServerThatFailsInTheMiddleChangesNothing) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  server_.drop("vpn");
  server_.failure = Error{Reason::ServerError, "500", {}, 0};
  EXPECT_FALSE(synchronise());
  EXPECT_EQ(configurations().size(), 1u);
  EXPECT_FALSE(engine_->synchronise(server_, asBytes("not json"), {}));
}

TEST_F(Engine, MissingAssetsAndMissingConfigurationsAreNamed) {
  declareAcme();
  server_.drop("id");
  server_.declare("second", kActivation, {{"StandardConfigurations", {"nowhere"}}});
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("vpn"), "Error.MissingAssets");
  EXPECT_EQ(stateOf("vpn")["reasons"][0]["details"]["AssetIdentifiers"], json::array({"id"}));
  EXPECT_EQ(codeOf("second"), "Error.MissingConfigurations");
  EXPECT_TRUE(configurations().empty());
}

TEST_F(Engine, ReferencesInACircleAndToTheWrongKindAreMissingOrInvalidAndNothingIsApplied) {
  declareAcme();
  server_.declare("act", kActivation, {{"StandardConfigurations", {"vpn", "act"}}}, "2");  // itself
  server_.declare("other", kActivation, {{"StandardConfigurations", {"act", "id"}}});      // an activation, an asset
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("act"), "Error.MissingConfigurations");
  EXPECT_EQ(codeOf("other"), "Error.MissingConfigurations");
  EXPECT_TRUE(configurations().empty());
  server_.declare("act", kActivation, {{"StandardConfigurations", {"vpn"}}}, "3");
  json vpn = server_.declarations["vpn"]["Payload"];
  vpn["Authentication"]["IdentityAssetReference"] = "vpn";  // itself
  server_.declare("vpn", kVpn, vpn, "2");
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("vpn"), "Error.MissingAssets");
  EXPECT_TRUE(configurations().empty());
}

TEST_F(Engine, ADeclarationThatIsNotTheOneThatWasListedIsRefusedUnderItsOwnName) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  ASSERT_EQ(configurations().size(), 1u);
  server_.declare("vpn", kVpn, server_.declarations["vpn"]["Payload"], "2");
  server_.declarations["vpn"]["Identifier"] = "id";  // would stand in another's place
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("vpn"), "Error.InvalidPayload");
  EXPECT_EQ(codeOf("id"), "");
  EXPECT_EQ(configurations().size(), 1u) << "the old state is kept";
}

TEST_F(Engine, AnUrlThatHasExpiredAndAnAssetThatIsTooLargeLeaveTheOldStateInForce) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  const auto before = configurations();
  ASSERT_EQ(before.size(), 1u);
  server_.declare("id", kAcme, reference("https://assets.example/expired?token=x"), "2");  // answers 404
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("id"), "Error.AssetCannotBeDownloaded");
  EXPECT_EQ(codeOf("vpn"), "Error.ConfigurationCannotBeApplied");
  EXPECT_EQ(configurations(), before);
  const size_t asked = requests_.size();
  EXPECT_TRUE(engine_->reconcile({})) << "nothing that may pass by itself";
  EXPECT_EQ(requests_.size(), asked) << "not asked again before there is a new revision";
  web_["https://assets.example/large.json"] = std::string(kMostAssetBytes + 1, ' ');
  server_.declare("id", kAcme, reference("https://assets.example/large.json"), "3");
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("id"), "Error.AssetCannotBeVerified");
  EXPECT_EQ(configurations(), before);
  EXPECT_EQ(requests_.back().mostBytes, kMostAssetBytes) << "the download itself is bounded";
}

TEST_F(Engine, ADocumentThatIsNotWhatItsAssetSaysIsReportedWithTheAsset) {
  declareAcme();
  web_["https://assets.example/id.json"] = R"({"DirectoryURL":"https://ca.example","KeyType":"RSA","KeySize":2048,"HardwareBound":true})";
  server_.declare("id", kAcme, reference("https://assets.example/id.json"), "2");
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("vpn"), "Error.ConfigurationCannotBeApplied");
  EXPECT_NE(stateOf("vpn")["reasons"][0]["description"].get<std::string>().find("ClientIdentifier"), std::string::npos) << stateOf("vpn").dump();
  EXPECT_TRUE(configurations().empty());
}

TEST_F(Engine, APredicateThatIsFalseWithdraws) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  server_.declare("act", kActivation, {{"StandardConfigurations", {"vpn"}}, {"Predicate", "@status(device.model.family) == 'AppleTV'"}}, "2");
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("act"), "Info.Predicate");
  EXPECT_TRUE(configurations().empty());
  server_.declare("act", kActivation, {{"StandardConfigurations", {"vpn"}}, {"Predicate", "@status(device.model.family) == @property(family)"}}, "3");
  server_.declare("properties", "com.apple.management.properties", {{"family", "Linux"}});
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(configurations().size(), 1u);
}

TEST_F(Engine, ATypeOfOthersDoesNotHoldUpTheRest) {
  declareAcme();
  server_.declare("act", kActivation, {{"StandardConfigurations", {"vpn", "passcode"}}}, "2");
  server_.declare("passcode", "com.apple.configuration.passcode.settings", json::object());
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("passcode"), "Error.ConfigurationNotSupported");
  EXPECT_EQ(configurations().size(), 1u);
}

TEST_F(Engine, AssetsAreVerified) {
  declareAcme();
  const std::string url = "https://assets.example/id.json";
  web_[url] = acmeDocument();
  const auto declareWith = [&](json extra, const std::string& revision) {
    json payload = reference(url);
    payload["Reference"].update(extra);
    server_.declare("id", kAcme, payload, revision);
    ASSERT_TRUE(synchronise());
  };
  declareWith({{"Size", 3}}, "2");
  EXPECT_EQ(codeOf("id"), "Error.AssetCannotBeVerified");
  declareWith({{"Hash-SHA-256", std::string(64, 'a')}}, "3");
  EXPECT_EQ(codeOf("id"), "Error.AssetCannotBeVerified");
  declareWith({{"ContentType", "text/plain"}}, "4");
  EXPECT_EQ(codeOf("id"), "Error.AssetCannotBeVerified");
  web_.erase(url);
  declareWith(json::object(), "5");
  EXPECT_EQ(codeOf("id"), "Error.AssetCannotBeDownloaded");
  web_[url] = "{";
  declareWith(json::object(), "6");
  EXPECT_EQ(codeOf("vpn"), "Error.ConfigurationCannotBeApplied");
  EXPECT_TRUE(configurations().empty());
  web_[url] = acmeDocument();
  declareWith({{"Size", web_[url].size()}, {"Hash-SHA-256", toHex(sha256(asBytes(web_[url])))}, {"ContentType", "application/json"}}, "7");
  EXPECT_EQ(configurations().size(), 1u);
  EXPECT_TRUE(requests_.back().withDeviceIdentity) << "no Authentication means MDM";
}

TEST_F(Engine, Pkcs12ContentIsNeverKeptAndIsAskedForAgainWhenNeeded) {
  declareAcme();
  server_.declare("id", kPkcs12, reference(inlineUrl(pkcs12Document("hunter2"))));
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(configurations().size(), 1u) << engine_->state().dump(1);
  EXPECT_EQ(agent_.lastPassword, "hunter2");
  const std::string onDisk(asText(readFile(folder_ + "/declarations.json", 1 << 20).value()));
  EXPECT_EQ(onDisk.find("hunter2"), std::string::npos);
  EXPECT_EQ(onDisk.find(toBase64(asBytes("hunter2"))), std::string::npos);
  open();
  EXPECT_TRUE(engine_->reconcile({}));
  EXPECT_EQ(configurations().size(), 1u) << "in force: its content is not needed";

  server_.declare("id", kPkcs12, reference(inlineUrl(pkcs12Document("second"))), "2");
  agent_.failNext("import", Reason::Unavailable, 1);
  ASSERT_TRUE(synchronise());
  open();  // what was in memory is lost before it could be used
  EXPECT_TRUE(engine_->reconcile({}));
  EXPECT_EQ(codeOf("id"), "Error.MissingState");
  ASSERT_TRUE(engine_->report(server_, ReportKind::Incremental)) << "asks again without being told to";
  EXPECT_EQ(agent_.lastPassword, "second");
  EXPECT_EQ(stateOf("vpn")["valid"], "valid");
}

TEST_F(Engine, ACrashAtAnyCallOfIdentitydEndsWhereItWouldHaveEnded) {
  for (const char* call : {"begin", "commit", "remove"}) {
    SCOPED_TRACE(call);
    declareAcme();
    server_.declare("id", kAcme, reference(inlineUrl(acmeDocument(call))), std::string("for-") + call);
    agent_.failNext(call, Reason::Unavailable, 1);
    (void)synchronise();
    open();
    ASSERT_TRUE(installer_->recover({}));
    ASSERT_TRUE(engine_->reconcile({}));
    EXPECT_EQ(configurations().size(), 1u);
    EXPECT_EQ(agent_.active().size(), 1u);
    EXPECT_TRUE(agent_.pending.empty());
  }
}

TEST_F(Engine, AppManagedGivesIdentitiesToPrograms) {
  server_.declare("act", kActivation, {{"StandardConfigurations", {"app"}}});
  server_.declare("id", kAcme, reference(inlineUrl(acmeDocument())));
  server_.declare("app", "com.apple.configuration.app.managed",
                  {{"BundleID", "com.example.agent"},
                   {"ExtensionConfigs",
                    {{"com.example.agent.ext (TEAM123456)", {{"Identities", {{{"Identifier", "device"}, {"AssetReference", "id"}}}}}}}}});
  ASSERT_TRUE(synchronise());
  ASSERT_EQ(agent_.applications.size(), 1u) << engine_->state().dump(1);
  EXPECT_EQ(agent_.applications[0].composedIdentifier, "com.example.agent.ext (TEAM123456)");
  ASSERT_EQ(agent_.applications[0].identities.size(), 1u);
  EXPECT_EQ(agent_.applications[0].identities[0].identifier, "device");
  EXPECT_EQ(agent_.applications[0].identities[0].identity, "identity-1");
  server_.drop("app");
  ASSERT_TRUE(synchronise());
  EXPECT_TRUE(agent_.applications.empty());
}

TEST_F(Engine, ALegacyProfileIsInstalledUnderTheDeclarationsNameAndMayBringNoDeclarations) {
  web_["https://mdm.example/p.mobileconfig"] = asText(bytesOf(example("pkcs12.mobileconfig")));
  server_.declare("act", kActivation, {{"StandardConfigurations", {"old"}}});
  server_.declare("old", "com.apple.configuration.legacy", {{"ProfileURL", "https://mdm.example/p.mobileconfig"}});
  ASSERT_TRUE(synchronise());
  EXPECT_TRUE(store_->profile("declared:mdm:old")) << engine_->state().dump(1);
  EXPECT_EQ(configurations().size(), 1u);

  plist::Value nested = example("pkcs12.mobileconfig");
  payloadOf(nested, "com.apple.security.pkcs12")->set("PayloadType", "com.apple.declarations");
  web_["https://mdm.example/p.mobileconfig"] = asText(bytesOf(nested));
  server_.declare("old", "com.apple.configuration.legacy", {{"ProfileURL", "https://mdm.example/p.mobileconfig"}}, "2");
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(codeOf("old"), "Error.ConfigurationIsInvalid");
  EXPECT_EQ(configurations().size(), 1u) << "the old one stays";
}

TEST_F(Engine, SubscriptionsAreReported) {
  server_.declare("act", kActivation, {{"StandardConfigurations", {"sub", "failing"}}});
  server_.declare("sub", "com.apple.configuration.management.status-subscriptions", {{"StatusItems", {{{"Name", "device.model.family"}}}}});
  server_.declare("failing", "com.apple.configuration.management.test", {{"Echo", "x"}, {"ReturnStatus", "Failed"}});
  ASSERT_TRUE(synchronise());
  EXPECT_EQ(server_.reports[0]["StatusItems"]["device"]["model"]["family"], "Linux");
  EXPECT_EQ(codeOf("failing"), "Error.ConfigurationCannotBeApplied");
}

TEST_F(Engine, WithdrawLeavesNothingBehind) {
  declareAcme();
  ASSERT_TRUE(synchronise());
  ASSERT_TRUE(engine_->withdraw({}));
  EXPECT_TRUE(configurations().empty());
  EXPECT_TRUE(agent_.active().empty());
  EXPECT_TRUE(engine_->state().empty());
  EXPECT_TRUE(declarations_->load()->declarations.empty());
  EXPECT_TRUE(declarations_->reported()->empty());
}

TEST_F(Engine, DeclarationsOfAProfileComeAndGoWithIt) {
  declareAcme();
  plist::Array texts;
  std::vector<Bytes> documents;
  for (const auto& [identifier, declaration] : server_.declarations) {
    documents.push_back(toBytes(declaration.dump()));
    texts.push_back(documents.back());
  }
  plist::Value profile = example("pkcs12.mobileconfig");
  plist::Dictionary payload;
  payload.set("PayloadType", "com.apple.declarations");
  payload.set("PayloadVersion", 1);
  payload.set("PayloadIdentifier", "offline");
  payload.set("PayloadUUID", "5D0E8D1C-58E5-4F5E-8A58-0F3C1D9B7A99");
  payload.set("Declarations", std::move(texts));
  profile.dictionary()->set("PayloadContent", plist::Array{plist::Value(std::move(payload))});
  const Result<InstallOutcome> installed = installer_->install(bytesOf(profile), {});
  ASSERT_TRUE(installed) << installed.error().message;
  engine_->offer(installed->profile.identifier, documents);
  EXPECT_TRUE(engine_->reconcile({}));
  ASSERT_EQ(configurations().size(), 1u) << engine_->state().dump(1);
  open();
  EXPECT_TRUE(engine_->reconcile({}));
  EXPECT_EQ(stateOf("vpn")["valid"], "valid");
  EXPECT_EQ(stateOf("vpn")["source"], "com.wayleave.example.pkcs12");
  ASSERT_TRUE(installer_->remove(installed->profile.identifier, {}));
  EXPECT_TRUE(engine_->reconcile({}));
  EXPECT_TRUE(configurations().empty());
}

TEST(DeclarationStore, RefusesAFileThatIsNotOurs) {
  std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-ds-XXXXXX").string();
  const std::string folder = mkdtemp(pattern.data());
  ASSERT_TRUE(writeFileAtomically(folder + "/d.json", asBytes("{\"other\":1}")));
  EXPECT_EQ(DeclarationStore::open(folder + "/d.json").error().reason, Reason::BadInput);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace wayleave::management
