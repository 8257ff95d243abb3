#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/cms.h>

#include <filesystem>

#include "base/file.h"
#include "enrolment/mdm/client.h"
#include "enrolment/mdm/mdm_test_support.h"
#include "enrolment/mdm/messages.h"
#include "enrolment/mdm/signature.h"

namespace wayleave::enrolment::mdm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using nlohmann::json;

constexpr const char* kEnrolment = "com.example.enrolment";

plist::Dictionary payload(const char* type, const char* uuid) {
  plist::Dictionary out;
  out.set("PayloadType", type);
  out.set("PayloadVersion", 1);
  out.set("PayloadIdentifier", std::string("com.example.") + uuid);
  out.set("PayloadUUID", uuid);
  return out;
}

Bytes profile(const std::string& identifier, std::vector<plist::Dictionary> payloads) {
  plist::Dictionary out;
  out.set("PayloadType", "Configuration");
  out.set("PayloadVersion", 1);
  out.set("PayloadIdentifier", identifier);
  out.set("PayloadUUID", identifier + "-uuid");
  plist::Array content;
  for (plist::Dictionary& one : payloads) content.emplace_back(std::move(one));
  out.set("PayloadContent", std::move(content));
  return plist::toBinary(plist::Value(std::move(out))).value();
}

// The importer wants https; the test's server speaks http, which the state then says.
Bytes enrolmentProfile(const std::function<void(plist::Dictionary& mdm)>& change = {}) {
  plist::Dictionary identity = payload("com.apple.security.scep", "identity-uuid"), scep;
  scep.set("URL", "https://scep.example/scep");
  scep.set("Keysize", 2048);
  identity.set("PayloadContent", std::move(scep));
  plist::Dictionary mdm = payload("com.apple.mdm", "mdm-uuid");
  mdm.set("IdentityCertificateUUID", "identity-uuid");
  mdm.set("Topic", "com.apple.mgmt.test");
  mdm.set("ServerURL", "https://mdm.example/mdm");
  mdm.set("CheckOutWhenRemoved", true);
  if (change) change(mdm);
  return profile(kEnrolment, {std::move(identity), std::move(mdm)});
}

std::string command(const std::string& uuid, const std::string& type, const plist::Dictionary& more = {}) {
  plist::Dictionary inner = more, out;
  inner.set("RequestType", type);
  out.set("CommandUUID", uuid);
  out.set("Command", std::move(inner));
  return plist::toXml(plist::Value(std::move(out))).value();
}

plist::Dictionary parsed(const Asked& asked) { return *plist::parse(asBytes(asked.body)).value().root.dictionary(); }
std::string textAt(const plist::Dictionary& message, const char* key) {
  const plist::Value* value = message.find(key);
  return value != nullptr && value->string() != nullptr ? *value->string() : std::string();
}

class MdmClient : public ::testing::Test {
 protected:
  MdmClient() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-mdm-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    device_.udid = "5E0C2F1A-0000-8000-8000-000000000001";
    device_.hostName = "host";
    device_.osVersion = "12";
    device_.serialNumber = "WL1";
  }
  ~MdmClient() override {
    client_.reset();
    std::filesystem::remove_all(folder_);
  }

  // As after a restart.
  void open() {
    client_.reset();
    client_ = Client::open({machine_, agent_, clock_, device_, path()},
                           {.enrolTries = 1, .enrolPause = std::chrono::milliseconds{0}, .allowPlainHttp = true})
                  .value();
  }
  // Enrolled with the server, whose answers are `answers_`, and empty when there is none left.
  void enrolled(const std::function<void(State&)>& change = {}) {
    server();
    State state;
    state.stage = Stage::Enrolled;
    state.profile = kEnrolment;
    state.identityPayloads = {"identity-uuid"};
    state.topic = "com.apple.mgmt.test";
    state.serverUrl = state.checkInUrl = server_->url();
    state.checkOutWhenRemoved = true;
    state.token = toBytes("token");
    if (change) change(state);
    ASSERT_TRUE(StateFile(path()).save(state).has_value());
    machine_.installed[kEnrolment].identifier = kEnrolment;
    machine_.installed[kEnrolment].identities = {{"identity-uuid", "identity-1", toBytes("reference")}};
    open();
  }
  void server() {
    server_ = std::make_unique<WebServer>([this](const Asked& asked) {
      if (answer_) return answer_(asked);
      if (answers_.empty()) return Reply{};
      Reply reply = answers_.front();
      answers_.erase(answers_.begin());
      return reply;
    });
  }
  // One conversation; what the device said.
  std::vector<plist::Dictionary> converse(std::vector<Reply> answers) {
    answers_ = std::move(answers);
    const size_t before = server_->asked().size();
    client_->wake();
    pause_ = client_->step();
    std::vector<plist::Dictionary> said;
    const std::vector<Asked> asked = server_->asked();
    for (size_t i = before; i < asked.size(); ++i) said.push_back(parsed(asked[i]));
    return said;
  }
  std::string lastError() const { return client_->state().value("lastError", json::object()).value("message", ""); }
  std::string stage() const { return client_->state()["state"]; }
  std::string path() const { return folder_ + "/mdm.json"; }

  ManualClock clock_;
  KeyAgent agent_;
  FakeMachine machine_;
  Device device_;
  std::string folder_;
  std::function<Reply(const Asked&)> answer_;
  std::vector<Reply> answers_;
  std::unique_ptr<WebServer> server_;
  std::unique_ptr<Client> client_;
  std::chrono::milliseconds pause_{};
};

TEST(MdmSignature, IsADetachedCmsOverTheBody) {
  KeyAgent agent;
  const std::string body = "<plist/>";
  const auto signature = mdmSignature(agent, agent.info, asBytes(body), Steady::max());
  ASSERT_TRUE(signature.has_value()) << describe(signature.error());
  EXPECT_EQ(signature->find('\n'), std::string::npos);
  const Bytes der = fromBase64(*signature).value();
  const uint8_t* cursor = der.data();
  const Handle<CMS_ContentInfo, CMS_ContentInfo_free> cms(d2i_CMS_ContentInfo(nullptr, &cursor, static_cast<long>(der.size())));
  ASSERT_TRUE(cms);
  for (const std::string& content : {body, body + " "}) {
    const Handle<BIO, BIO_free> bio(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
    EXPECT_EQ(content == body, CMS_verify(cms.get(), nullptr, nullptr, bio.get(), nullptr, CMS_BINARY | CMS_NO_SIGNER_CERT_VERIFY) == 1);
  }
  agent.refuse = Error{Reason::NotEntitled, "no grant", "", 0};
  EXPECT_EQ(mdmSignature(agent, agent.info, asBytes(body), Steady::max()).error().reason, Reason::NotEntitled);
}

TEST_F(MdmClient, AnswersEachKindOfCommand) {
  enrolled();
  plist::Dictionary install, remove, query;
  install.set("Payload", profile("com.example.vpn", {payload("com.example.unknown", "u1")}));
  remove.set("Identifier", "com.example.vpn");
  plist::Array queries;
  for (const char* name : {"UDID", "WiFiMAC"}) queries.emplace_back(name);
  query.set("Queries", std::move(queries));
  const auto said = converse({{200, command("C1", "InstallProfile", install)},
                              {200, command("C2", "ProfileList")},
                              {200, command("C3", "DeviceInformation", query)},
                              {200, command("C4", "CertificateList")},
                              {200, command("C5", "RemoveProfile", remove)},
                              {200, command("C6", "EraseDevice")},
                              {}});
  ASSERT_EQ(said.size(), 7U);
  EXPECT_EQ(textAt(said[0], "Status"), "Idle");
  EXPECT_EQ(textAt(said[0], "UDID"), device_.udid);
  for (size_t i = 1; i < 6; ++i) {
    EXPECT_EQ(textAt(said[i], "Status"), "Acknowledged") << i;
    EXPECT_EQ(textAt(said[i], "CommandUUID"), "C" + std::to_string(i));
  }
  EXPECT_EQ(said[2].find("ProfileList")->array()->size(), 2U);
  EXPECT_EQ(said[3].find("QueryResponses")->dictionary()->size(), 1U);
  EXPECT_EQ(said[4].find("CertificateList")->array()->size(), 1U);
  EXPECT_EQ(textAt(said[6], "Status"), "Error");
  const plist::Dictionary& error = *(*said[6].find("ErrorChain")->array())[0].dictionary();
  EXPECT_EQ(textAt(error, "ErrorDomain"), "MCMDMErrorDomain");
  EXPECT_EQ(error.find("ErrorCode")->integer(), 12'021);
  EXPECT_EQ(lastError(), "");
  EXPECT_FALSE(machine_.installed.contains("com.example.vpn"));
}

TEST_F(MdmClient, SurvivesEveryBadAnswer) {
  enrolled();
  plist::Dictionary noUuid;
  noUuid.set("Command", plist::Dictionary());
  const std::vector<std::pair<Reply, std::string>> bad{
      {{200, "hello"}, "not a property list"},
      {{200, "<html></html>", "Content-Type: text/html\r\n"}, "not a property list"},
      {{200, plist::toXml(plist::Value("text")).value()}, "no dictionary"},
      {{200, plist::toXml(plist::Value(noUuid)).value()}, "no CommandUUID"},
      {{200, command(std::string(300, 'x'), "ProfileList")}, "no CommandUUID"},
      {{200, std::string(kMostAnswerBytes + 1, 'x')}, "larger"},
      {{500, "oops"}, "500"},
      {{404}, "404"},
      {{403, "forbidden", "Content-Type: text/plain\r\n"}, "403"},
      {{403, R"({"code":"com.apple.other"})", "Content-Type: application/json\r\n"}, "403"},
      {{403, R"({"code":"com.apple.unrecognized.device"})", "Content-Type: text/plain\r\n"}, "403"},
      {{302, "", "Location: https://elsewhere.example/\r\n"}, "redirect"},
  };
  for (const auto& [reply, words] : bad) {
    converse({reply});
    EXPECT_THAT(lastError(), HasSubstr(words));
    EXPECT_EQ(stage(), "enrolled") << words;
  }
  converse({{}});
  EXPECT_EQ(lastError(), "");
}

TEST_F(MdmClient, SaysWhatIsWrongWithACommand) {
  enrolled();
  plist::Dictionary wrong, broken;
  wrong.set("Payload", "text");
  broken.set("Payload", toBytes("foobarbaz"));
  plist::Dictionary bare;
  bare.set("CommandUUID", "C0");
  const auto said = converse({{200, plist::toXml(plist::Value(bare)).value()},
                              {200, command("C1", "InstallProfile", wrong)},
                              {200, command("C2", "InstallProfile", broken)},
                              {200, command("C3", "RemoveProfile")},
                              {}});
  ASSERT_EQ(said.size(), 5U);
  EXPECT_EQ(textAt(said[1], "Status"), "CommandFormatError");
  EXPECT_EQ(textAt(said[2], "Status"), "CommandFormatError");
  EXPECT_EQ(textAt(said[3], "Status"), "Error");
  EXPECT_EQ(textAt(said[4], "Status"), "CommandFormatError");
}

TEST_F(MdmClient, EndsAConversationThatNeverEnds) {
  enrolled();
  int count = 0;
  answer_ = [&](const Asked&) { return Reply{200, command("C" + std::to_string(++count), "ProfileList")}; };
  converse({});
  EXPECT_THAT(lastError(), HasSubstr("more than 200 commands"));
  answer_ = [](const Asked&) { return Reply{200, command("same", "ProfileList")}; };
  converse({});
  EXPECT_THAT(lastError(), HasSubstr("again and again"));
}

TEST_F(MdmClient, SaysNotNowWhileSomethingIsInstalledAndComesBackSoon) {
  enrolled();
  machine_.isBusy = true;
  plist::Dictionary install;
  install.set("Payload", profile("com.example.vpn", {payload("com.example.unknown", "u1")}));
  const auto said = converse({{200, command("C1", "InstallProfile", install)}, {}});
  EXPECT_EQ(textAt(said[1], "Status"), "NotNow");
  EXPECT_LT(pause_, std::chrono::seconds{30});
  EXPECT_EQ(lastError(), "");
}

TEST_F(MdmClient, CarriesOutACommandOnceThoughItsAnswerIsLost) {
  enrolled();
  plist::Dictionary install;
  install.set("Payload", profile("com.example.vpn", {payload("com.example.unknown", "u1")}));
  converse({{200, command("C1", "InstallProfile", install)}, {500}});
  ASSERT_TRUE(machine_.installed.contains("com.example.vpn"));
  open();  // a restart
  const auto said = converse({{}});
  ASSERT_EQ(said.size(), 1U);
  EXPECT_EQ(textAt(said[0], "CommandUUID"), "C1");
  EXPECT_EQ(textAt(converse({{}}).at(0), "Status"), "Idle");
}

TEST_F(MdmClient, LeavesWhenTheServerSaysSoAndTakesAllAlong) {
  for (const Reply& ending : {Reply{401}, Reply{403, R"({"code":"com.apple.unrecognized.device"})", "Content-Type: application/json; charset=utf-8\r\n"},
                              Reply{403, R"(<?xml version="1.0"?><plist version="1.0"><dict><key>code</key><string>com.apple.unrecognized.device</string></dict></plist>)",
                                    "Content-Type: application/xml\r\n"}}) {
    enrolled([](State& state) {
      state.managed = {"com.example.managed"};
      state.declarative = true;
    });
    for (const char* identifier : {"com.example.managed", "com.example.local"}) machine_.installed[identifier].identifier = identifier;
    const int withdrawn = machine_.withdrawn;
    converse({ending});
    EXPECT_EQ(stage(), "none");
    EXPECT_EQ(machine_.withdrawn, withdrawn + 1);
    EXPECT_EQ(machine_.installed.size(), 1U);
    EXPECT_FALSE(std::filesystem::exists(path()));
    EXPECT_EQ(server_->asked().size(), 1U) << "no CheckOut for a server that threw us out";
  }
}

TEST_F(MdmClient, LeavingGoesOnUntilNothingIsLeft) {
  enrolled([](State& state) { state.managed = {"com.example.managed"}; });
  machine_.installed["com.example.managed"] = {};
  machine_.failNext = Error{Reason::Io, "disk full", "", 0};
  EXPECT_FALSE(client_->unenroll({}).has_value());
  EXPECT_EQ(stage(), "leaving");
  open();  // a restart in between
  client_->wake();
  client_->step();
  EXPECT_EQ(stage(), "none");
  EXPECT_TRUE(machine_.installed.empty());
  EXPECT_EQ(textAt(parsed(server_->asked().at(0)), "MessageType"), "CheckOut");
  EXPECT_EQ(server_->asked().size(), 1U);
  EXPECT_EQ(client_->unenroll({}).error().reason, Reason::NotFound);
}

TEST_F(MdmClient, WaitsWithLeavingForAnInstallationUnderWay) {
  enrolled([](State& state) { state.managed = {"com.example.managed"}; });
  machine_.pending.resize(1);
  machine_.pending[0].identifier = "com.example.managed";
  EXPECT_EQ(client_->unenroll({}).error().reason, Reason::Busy);
  machine_.pending.clear();
  EXPECT_TRUE(client_->unenroll({}).has_value());
}

TEST_F(MdmClient, AServerAwayForDaysChangesNothingAndIsAskedRarely) {
  enrolled();
  server_.reset();
  std::chrono::milliseconds total{0}, longest{0};
  int attempts = 0;
  while (total < std::chrono::hours{72}) {
    const auto pause = client_->step();
    if (pause.count() == 0) continue;
    ++attempts;
    longest = std::max(longest, pause);
    total += pause;
    clock_.advance(pause);
    clock_.jumpWall(std::chrono::hours{attempts % 2 == 0 ? 1000 : -1000});  // neither delays nor hurries anything
  }
  EXPECT_EQ(stage(), "enrolled");
  EXPECT_LE(longest, std::chrono::minutes{72});
  EXPECT_LT(attempts, 110);
  EXPECT_EQ(machine_.installed.size(), 1U);
}

TEST_F(MdmClient, SpeaksDeclarativeManagement) {
  enrolled();
  plist::Dictionary data;
  data.set("Data", toBytes("{}"));
  answer_ = [&](const Asked& asked) -> Reply {
    const plist::Dictionary message = *plist::parse(asBytes(asked.body)).value().root.dictionary();
    if (textAt(message, "Status") == "Idle" && machine_.synchronised == 0) return {200, command("C1", "DeclarativeManagement", data)};
    if (textAt(message, "MessageType") != "DeclarativeManagement") return {};
    if (textAt(message, "Endpoint") == "tokens") return {200, "T"};
    return textAt(message, "Endpoint").starts_with("declaration/") ? Reply{404} : Reply{200, "I"};
  };
  converse({});
  EXPECT_EQ(machine_.synchronised, 1);
  EXPECT_EQ(asText(machine_.lastTokens), "{}");
  EXPECT_EQ(machine_.fetched["tokens"], "T");
  EXPECT_EQ(machine_.fetched["declaration/configuration/com.example.a"], "NOT_FOUND");
  const plist::Dictionary report = parsed(server_->asked().back());
  EXPECT_EQ(textAt(report, "Endpoint"), "status");
  EXPECT_EQ(asText(*report.find("Data")->data()), "{}");
  converse({});
  EXPECT_EQ(machine_.synchronised, 1) << "only when the server says so";
  EXPECT_EQ(machine_.reported, 1);
}

TEST_F(MdmClient, HoldsToItsRights) {
  enrolled([](State& state) { state.accessRights = kQueryDevice; });
  plist::Dictionary remove, enrolment;
  remove.set("Identifier", "com.example.x");
  enrolment.set("Identifier", kEnrolment);
  const auto said = converse({{200, command("C1", "ProfileList")}, {200, command("C2", "RemoveProfile", remove)},
                              {200, command("C3", "RemoveProfile", enrolment)}, {}});
  EXPECT_EQ(textAt(said[1], "Status"), "Error");
  EXPECT_EQ(textAt(said[2], "Status"), "Error");
  EXPECT_EQ(textAt(said[3], "Status"), "Acknowledged") << "a server may always end the enrolment";
  EXPECT_EQ(stage(), "none");
}

TEST_F(MdmClient, WhatWentByItselfBelongsToNobody) {
  enrolled([](State& state) { state.managed = {"com.example.gone", "com.example.here", "com.example.coming"}; });
  machine_.installed["com.example.here"].identifier = "com.example.here";
  machine_.pending.emplace_back().identifier = "com.example.coming";
  converse({{}});
  EXPECT_EQ(client_->state()["managedProfiles"], json::array({"com.example.coming", "com.example.here"}));
  EXPECT_TRUE(client_->mayRemove("com.example.gone"));
}

TEST_F(MdmClient, TellsAProfileThatIsNotThereFromOneThatIsNotTheServers) {
  enrolled();
  machine_.installed["com.example.local"].identifier = "com.example.local";
  const auto codeOf = [](const plist::Dictionary& answer) { return *answer.find("ErrorChain")->array()->front().dictionary()->find("ErrorCode")->integer(); };
  plist::Dictionary local, nowhere;
  local.set("Identifier", "com.example.local");
  nowhere.set("Identifier", "com.example.nowhere");
  const auto said = converse({{200, command("C1", "RemoveProfile", local)}, {200, command("C2", "RemoveProfile", nowhere)}, {}});
  EXPECT_EQ(codeOf(said[1]), 12'013);
  EXPECT_EQ(codeOf(said[2]), 12'075);
}

TEST_F(MdmClient, RefusesAProfileOfAnotherKind) {
  open();
  const auto nothing = [](std::string_view) {};
  EXPECT_EQ(client_->enroll(profile("com.example.x", {payload("com.example.unknown", "u1")}), nothing).error().reason, Reason::BadInput);
  for (const auto& change : std::vector<std::function<void(plist::Dictionary&)>>{
           [](plist::Dictionary& mdm) { mdm.set("EnrollmentMode", "BYOD"); },
           [](plist::Dictionary& mdm) { mdm.set("PinningRevocationCheckRequired", true); }})
    EXPECT_EQ(client_->enroll(enrolmentProfile(change), nothing).error().reason, Reason::Unsupported);
  EXPECT_FALSE(std::filesystem::exists(path()));
  EXPECT_TRUE(machine_.installed.empty());
}

TEST_F(MdmClient, TakesAFailedEnrolmentBack) {
  open();
  const auto nothing = [](std::string_view) {};
  machine_.failNext = Error{Reason::WrongPassword, "no", "", 0};
  EXPECT_EQ(client_->enroll(enrolmentProfile(), nothing).error().reason, Reason::WrongPassword);
  EXPECT_EQ(stage(), "none");
  // Nobody answers at mdm.example.
  EXPECT_FALSE(client_->enroll(enrolmentProfile(), nothing).has_value());
  EXPECT_EQ(stage(), "none");
  EXPECT_TRUE(machine_.installed.empty());
}

TEST_F(MdmClient, TakesUpAnInterruptedEnrolmentWhereTheInstallerLeftIt) {
  enrolled([](State& state) { state.stage = Stage::Installing; });
  machine_.pending.resize(1);
  machine_.pending[0].identifier = kEnrolment;
  client_->step();
  EXPECT_EQ(stage(), "installing");
  machine_.pending.clear();
  const auto said = converse({});
  EXPECT_EQ(stage(), "enrolled");
  EXPECT_EQ(textAt(said.at(0), "MessageType"), "Authenticate");
  EXPECT_EQ(textAt(said.at(1), "MessageType"), "TokenUpdate");
  // And one that the installer took back.
  enrolled([](State& state) { state.stage = Stage::Installing; });
  machine_.installed.clear();
  client_->step();
  EXPECT_EQ(stage(), "none");
}

TEST_F(MdmClient, GuardsWhatIsTheServers) {
  enrolled([](State& state) { state.managed = {"com.example.managed"}; });
  EXPECT_TRUE(client_->mayRemove("com.example.local").has_value());
  EXPECT_EQ(client_->mayRemove("com.example.managed").error().reason, Reason::Conflict);
  EXPECT_THAT(client_->mayRemove(kEnrolment).error().hint, HasSubstr("unenroll"));
  const auto nothing = [](std::string_view) {};
  EXPECT_EQ(client_->enroll(enrolmentProfile(), nothing).error().reason, Reason::Conflict);
}

TEST(MdmState, RefusesAFileThatIsNotOurs) {
  const std::string path = std::filesystem::temp_directory_path() / ("wayleave-mdm-state-" + randomUuid());
  for (const char* content : {"", "[]", R"({"version":2})", R"({"version":1,"stage":"odd"})"}) {
    ASSERT_TRUE(writeFileAtomically(path, asBytes(content)).has_value());
    EXPECT_EQ(StateFile(path).load().error().reason, Reason::BadInput) << content;
  }
  ASSERT_TRUE(StateFile(path).remove().has_value());
  EXPECT_TRUE(StateFile(path).remove().has_value());
  EXPECT_FALSE(StateFile(path).load().value().has_value());
}

TEST(MdmDevice, IsKnownByAHashOfTheMachineId) {
  const std::string root = std::filesystem::temp_directory_path() / ("wayleave-mdm-root-" + randomUuid());
  std::filesystem::create_directories(root + "/etc");
  EXPECT_EQ(readDevice(root).error().reason, Reason::NotFound);
  ASSERT_TRUE(writeFileAtomically(root + "/etc/machine-id", asBytes("0123456789abcdef0123456789abcdef\n")).has_value());
  ASSERT_TRUE(writeFileAtomically(root + "/etc/os-release", asBytes("NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n")).has_value());
  const auto device = readDevice(root);
  ASSERT_TRUE(device.has_value());
  EXPECT_EQ(device->udid, readDevice(root)->udid);
  EXPECT_EQ(device->udid.size(), 36U);
  EXPECT_EQ(device->osVersion, "12");
  EXPECT_THAT(device->serialNumber, ::testing::StartsWith("WL"));
  EXPECT_EQ(device->udid.find("0123456789ABCDEF"), std::string::npos);
  EXPECT_EQ(queryResponses(*device, {"EthernetMAC", "IMEI"}).size(), 0U);
  std::filesystem::remove_all(root);
}

TEST(MdmMessages, ReadTheSamplesOfRealServers) {
  const char* samples = std::getenv("WAYLEAVE_SAMPLES");
  const std::string folder = (samples != nullptr ? std::string(samples) : std::string(WAYLEAVE_SOURCE_DIR) + "/../shared/samples") + "/checkin/";
  const Result<Bytes> file = readFile(folder + "micromdm-InstallProfile.plist", 1 << 20);
  if (!file) GTEST_SKIP() << "no samples at " << folder;
  const auto command = parseCommand(*file);
  ASSERT_TRUE(command.has_value() && command->has_value());
  EXPECT_EQ((*command)->requestType, "InstallProfile");
  EXPECT_EQ(asText(*(*command)->parameters.find("Payload")->data()), "foobarbaz");
}

}  // namespace
}  // namespace wayleave::enrolment::mdm
