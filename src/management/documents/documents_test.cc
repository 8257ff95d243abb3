// The kinds of documents that exist in the wild, in variants of our own: what a server, a device or an asset's host would take.

#include <gtest/gtest.h>

#include "management/declarations/json_document.h"
#include "management/documents/credential_document.h"
#include "management/documents/mdm_document.h"
#include "management/documents/protocol_document.h"
#include "plist/plist.h"

namespace wayleave::management {
namespace {

std::string all(const std::vector<Finding>& findings) {
  std::string out;
  for (const Finding& finding : findings) out += std::string(text(finding.severity)) + " " + finding.keyPath + " " + finding.message + "\n";
  return out;
}
bool says(const std::vector<Finding>& findings, Severity severity, std::string_view keyPath, std::string_view words = "") {
  return std::ranges::any_of(findings, [&](const Finding& f) { return f.severity == severity && f.keyPath == keyPath && f.message.contains(words); });
}

// ---- The MDM protocol.

std::string body(std::string_view inside) { return "<plist version=\"1.0\"><dict>" + std::string(inside) + "</dict></plist>"; }
std::string key(std::string_view name, std::string_view value) { return "<key>" + std::string(name) + "</key><string>" + std::string(value) + "</string>"; }
const std::string kUdid = key("UDID", "66ADE930-5FDF-5EC4-8429-15640684C489");
const std::string kTopic = key("Topic", "com.apple.mgmt.External.e0bd1eac");

std::vector<Finding> checked(const std::string& inside, MdmBody wanted) {
  std::vector<Finding> findings;
  Report report(findings);
  const auto document = plist::parseXml(asBytes(body(inside)));
  EXPECT_TRUE(document) << inside;
  const auto kind = mdmDocumentOf(*document->root.dictionary());
  EXPECT_TRUE(kind && kind->body == wanted) << inside;
  if (kind) checkMdmDocument(*kind, *document->root.dictionary(), report, Wall{});
  return findings;
}
std::vector<Finding> checkIn(const std::string& type, const std::string& more) { return checked(key("MessageType", type) + more, MdmBody::CheckIn); }

TEST(MdmDocument, CheckInMessagesOfRealDevicesAreValid) {
  const std::string token = "<key>Token</key><data>AAEC</data>" + key("PushMagic", "magic");
  for (const auto& [type, more] : std::vector<std::pair<std::string, std::string>>{
           {"Authenticate", kUdid + kTopic + key("DeviceName", "d") + key("Model", "m") + key("ModelName", "n") + key("SerialNumber", "s")},
           {"Authenticate", key("EnrollmentID", "E") + kTopic + "<key>Challenge</key><data>AA==</data>"},
           {"TokenUpdate", kUdid + kTopic + token + "<key>NotOnConsole</key><false/>"},
           {"TokenUpdate", kUdid + kTopic + token + "<key>UnlockToken</key><data>AA==</data><key>AwaitingConfiguration</key><true/>"},
           {"TokenUpdate", kUdid + kTopic + token + "<key>NotOnConsole</key><false/>" + key("UserID", "U") + key("UserShortName", "u") + key("UserLongName", "User")},
           {"CheckOut", kUdid + kTopic},
           {"UserAuthenticate", kUdid + key("UserID", "U") + key("UserShortName", "u")},
           {"UserAuthenticate", kUdid + key("UserID", "U") + key("DigestResponse", "Digest username=\"u\"")},
           {"SetBootstrapToken", kUdid + "<key>BootstrapToken</key><data>AAEC</data>"},
           {"GetBootstrapToken", kUdid + "<key>AwaitingConfiguration</key><false/>"},
           {"GetToken", kUdid + key("TokenServiceType", "com.apple.maid")},
           {"DeclarativeManagement", kUdid + key("Endpoint", "tokens")},
           {"DeclarativeManagement", kUdid + key("Endpoint", "declaration/configuration/com.example.test")},
           {"ReturnToService", kUdid}}) {
    const auto findings = checkIn(type, more);
    EXPECT_FALSE(hasErrors(findings)) << type << more << "\n" << all(findings);
    EXPECT_FALSE(std::ranges::any_of(findings, [](const Finding& f) { return f.severity == Severity::Warning; })) << type << more << "\n" << all(findings);
  }
}

TEST(MdmDocument, CheckInMessagesThatNoServerCouldTakeAreErrors) {
  EXPECT_TRUE(says(checkIn("Authenticate", kTopic), Severity::Error, "UDID", "no server can tell"));
  EXPECT_TRUE(says(checkIn("Authenticate", kUdid), Severity::Error, "Topic", "is missing"));
  EXPECT_TRUE(says(checkIn("CheckOut", kUdid + key("Topic", "com.example.push")), Severity::Error, "Topic", "com.apple.mgmt."));
  EXPECT_TRUE(says(checkIn("TokenUpdate", kUdid + kTopic + key("Token", "text") + key("PushMagic", "m")), Severity::Error, "Token", "must be data"));
  EXPECT_TRUE(says(checkIn("TokenUpdate", kUdid + kTopic + "<key>Token</key><data></data>"), Severity::Error, "Token", "is empty"));
  EXPECT_TRUE(says(checkIn("TokenUpdate", kUdid + kTopic), Severity::Error, "PushMagic", "is missing"));
  EXPECT_TRUE(says(checkIn("TokenUpdate", kUdid + kTopic + key("NotOnConsole", "false")), Severity::Error, "NotOnConsole", "must be a boolean"));
  EXPECT_TRUE(says(checkIn("Enroll", kUdid), Severity::Error, "MessageType", "no check-in message"));
  EXPECT_TRUE(says(checked("<key>MessageType</key><integer>1</integer>", MdmBody::CheckIn), Severity::Error, "MessageType"));
  EXPECT_TRUE(says(checkIn("UserAuthenticate", kUdid), Severity::Error, "UserID"));
  EXPECT_TRUE(says(checkIn("GetToken", kUdid + key("TokenServiceType", "com.example")), Severity::Error, "TokenServiceType"));
  EXPECT_TRUE(says(checkIn("GetToken", kUdid + key("TokenServiceType", "com.apple.watch.pairing")), Severity::Error, "TokenParameters"));
  EXPECT_TRUE(says(checkIn("DeclarativeManagement", kUdid), Severity::Error, "Endpoint"));
  for (const char* endpoint : {"declarations", "declaration/configuration", "declaration/profile/x", "declaration//x", ""})
    EXPECT_TRUE(says(checkIn("DeclarativeManagement", kUdid + key("Endpoint", endpoint)), Severity::Error, "Endpoint")) << endpoint;
}

TEST(MdmDocument, WhatIsOddButTakenIsAWarning) {
  EXPECT_TRUE(says(checkIn("SetBootstrapToken", ""), Severity::Warning, "UDID"));
  EXPECT_FALSE(hasErrors(checkIn("SetBootstrapToken", kUdid)));
  EXPECT_TRUE(says(checkIn("CheckOut", kUdid + kTopic + key("Extra", "x")), Severity::Warning, "Extra", "not a known key"));
  EXPECT_TRUE(says(checkIn("CheckOut", kUdid + kTopic + key("EnrollmentID", "E")), Severity::Warning, "EnrollmentID"));
}

TEST(MdmDocument, AStatusReportInsideAMessageIsReadToo) {
  const auto status = [](std::string_view json) { return checkIn("DeclarativeManagement", kUdid + key("Endpoint", "status") + "<key>Data</key><data>" + toBase64(asBytes(json)) + "</data>"); };
  EXPECT_FALSE(hasErrors(status(R"({"StatusItems":{"device":{"model":{"family":"Mac"}}},"Errors":[]})")));
  EXPECT_TRUE(says(status("{"), Severity::Error, "Data", "not JSON"));
  EXPECT_TRUE(says(status(R"({"Errors":[]})"), Severity::Error, "Data.StatusItems"));
  EXPECT_TRUE(says(checkIn("DeclarativeManagement", kUdid + key("Endpoint", "status")), Severity::Error, "Data"));
}

std::vector<Finding> command(const std::string& inside, const std::string& more = key("CommandUUID", "c")) {
  return checked(more + "<key>Command</key><dict>" + inside + "</dict>", MdmBody::Command);
}

TEST(MdmDocument, CommandsAreJudgedAsTheDeviceWould) {
  EXPECT_FALSE(hasErrors(command(key("RequestType", "ProfileList") + "<key>ManagedOnly</key><true/>")));
  EXPECT_FALSE(hasErrors(command(key("RequestType", "RemoveProfile") + key("Identifier", "com.example"))));
  EXPECT_FALSE(hasErrors(command(key("RequestType", "DeviceInformation") + "<key>Queries</key><array><string>UDID</string></array>")));
  EXPECT_TRUE(says(command(key("RequestType", "DeviceLock") + key("PIN", "123456")), Severity::Warning, "Command.RequestType", "answers Error"));
  EXPECT_TRUE(says(command(key("RequestType", "RemoveProfile")), Severity::Error, "Command.Identifier"));
  EXPECT_TRUE(says(command(""), Severity::Error, "Command.RequestType"));
  EXPECT_TRUE(says(command(key("RequestType", "ProfileList"), ""), Severity::Error, "CommandUUID"));
  EXPECT_TRUE(says(command("<key>Command</key><dict>" + key("RequestType", "DeclarativeManagement") + "</dict>", ""), Severity::Error, "Command", "holds another command"));
  EXPECT_TRUE(says(command(key("RequestType", "InstallProfile") + key("Payload", "text")), Severity::Error, "Command.Payload", "must be data"));
  EXPECT_TRUE(says(command(key("RequestType", "InstallProfile") + "<key>Payload</key><data>Zm9v</data>"), Severity::Error, "Command.Payload", "answers Error"));
  const auto declarative = [](std::string_view json) {
    return command(key("RequestType", "DeclarativeManagement") + "<key>Data</key><data>" + toBase64(asBytes(json)) + "</data>");
  };
  EXPECT_FALSE(hasErrors(declarative(R"({"SyncTokens":{"Timestamp":"2021-06-02T01:28:00Z","DeclarationsToken":"b6"}})")));
  EXPECT_TRUE(says(declarative(R"({"SyncTokens":{}})"), Severity::Error, "Command.Data.SyncTokens.DeclarationsToken"));
}

std::vector<Finding> answer(const std::string& status, const std::string& more) { return checked(key("Status", status) + more, MdmBody::Response); }

TEST(MdmDocument, AnswersSayWhoseTheyAreToWhatAndWhy) {
  EXPECT_FALSE(hasErrors(answer("Idle", kUdid)));
  EXPECT_FALSE(hasErrors(answer("NotNow", kUdid + key("CommandUUID", "c"))));
  EXPECT_FALSE(hasErrors(answer("Acknowledged", key("EnrollmentID", "E") + key("CommandUUID", "c") + "<key>SoftwareUpdateSettings</key><dict/>"))) << "other commands' results may be anything";
  const std::string chain = "<key>ErrorChain</key><array><dict><key>ErrorCode</key><integer>12021</integer>" + key("ErrorDomain", "MCMDMErrorDomain") +
                            key("LocalizedDescription", "no") + "</dict></array>";
  EXPECT_TRUE(answer("Error", kUdid + key("CommandUUID", "c") + chain).empty());
  EXPECT_TRUE(says(answer("Error", kUdid + key("CommandUUID", "c")), Severity::Warning, "ErrorChain"));
  EXPECT_TRUE(says(answer("Error", kUdid + key("CommandUUID", "c") + "<key>ErrorChain</key><array><dict/></array>"), Severity::Error, "ErrorChain[0].ErrorCode"));
  EXPECT_TRUE(says(answer("Done", kUdid + key("CommandUUID", "c")), Severity::Error, "Status"));
  EXPECT_TRUE(says(answer("Acknowledged", kUdid), Severity::Error, "CommandUUID"));
  EXPECT_TRUE(says(answer("Acknowledged", key("CommandUUID", "c")), Severity::Error, "UDID"));
  EXPECT_TRUE(says(answer("Acknowledged", kUdid + key("CommandUUID", "c") + "<key>CertificateList</key><array><dict>" + key("CommonName", "x") + "</dict></array>"),
                   Severity::Error, "CertificateList[0].Data"));
}

TEST(MdmDocument, AProfileIsNone) {
  const auto profile = plist::parseXml(asBytes(body(key("PayloadType", "Configuration") + key("MessageType", "x"))));
  EXPECT_FALSE(mdmDocumentOf(*profile->root.dictionary()));
  EXPECT_FALSE(mdmDocumentOf(plist::Dictionary{}));
}

// ---- JSON.

std::vector<Finding> protocol(std::string_view json, ProtocolDocument wanted) {
  std::vector<Finding> findings;
  Report report(findings);
  const auto document = readJson(asBytes(json), {.nulls = true});
  EXPECT_TRUE(document) << json;
  EXPECT_EQ(protocolDocumentOf(*document->root.dictionary()), wanted) << json;
  checkProtocolDocument(wanted, *document->root.dictionary(), "", report);
  return findings;
}

TEST(ProtocolDocument, StatusReports) {
  const auto report = [](std::string_view json) { return protocol(json, ProtocolDocument::StatusReport); };
  EXPECT_TRUE(report(R"({"StatusItems":{},"Errors":[],"FullReport":true})").empty());
  EXPECT_TRUE(report(R"({"StatusItems":{"test":{"string-value":null}},"Errors":[{"StatusItem":"test.error-value","Reasons":[{"Code":"Error.Unknown"}]}]})").empty());
  const auto declarations = [&](std::string_view entry) {
    return report(R"({"Errors":[],"StatusItems":{"management":{"declarations":{"activations":[],"assets":[],"management":[],"configurations":[)" + std::string(entry) + "]}}}}");
  };
  EXPECT_TRUE(declarations(R"({"identifier":"a","server-token":"1","active":true,"valid":"invalid","reasons":[{"code":"Error.MissingAssets","details":{}}]})").empty());
  EXPECT_TRUE(declarations(R"({"identifier":"a","_removed":true})").empty());
  const std::string at = "StatusItems.management.declarations.configurations[0]";
  EXPECT_TRUE(says(declarations(R"({"identifier":"a","server-token":"1","active":"yes","valid":"valid"})"), Severity::Error, at + ".active"));
  EXPECT_TRUE(says(declarations(R"({"identifier":"a","server-token":"1","active":true,"valid":"broken"})"), Severity::Error, at + ".valid"));
  EXPECT_TRUE(says(declarations(R"({"identifier":"a","server-token":"1","active":true})"), Severity::Error, at + ".valid"));
  EXPECT_TRUE(says(declarations(R"(3)"), Severity::Error, at));
  EXPECT_TRUE(says(report(R"({"StatusItems":{"management":{"declarations":{}}},"Errors":[]})"), Severity::Error, "StatusItems.management.declarations.assets"));
  EXPECT_TRUE(says(report(R"({"StatusItems":[],"Errors":[]})"), Severity::Error, "StatusItems"));
  EXPECT_TRUE(says(report(R"({"StatusItems":{}})"), Severity::Warning, "Errors"));
  EXPECT_TRUE(says(report(R"({"StatusItems":{"device.model.family":"Mac"},"Errors":[]})"), Severity::Error, "StatusItems.device.model.family"));
}

TEST(ProtocolDocument, StatusItemsAlone) {
  EXPECT_TRUE(protocol(R"({"account":{"list":{"caldav":[{"identifier":"a","_removed":true}]}}})", ProtocolDocument::StatusItems).empty());
  EXPECT_TRUE(says(protocol(R"({"management":{"declarations":{}}})", ProtocolDocument::StatusItems), Severity::Error, "management.declarations.assets"));
  for (const char* other : {"{}", R"({"name":"x"})", R"({"device":1})", R"({"device":{},"name":{}})"}) EXPECT_FALSE(protocolDocumentOf(*readJson(asBytes(other))->root.dictionary())) << other;
}

TEST(ProtocolDocument, WhatServersAnswer) {
  const auto items = [](std::string_view json) { return protocol(json, ProtocolDocument::DeclarationItems); };
  EXPECT_TRUE(items(R"({"DeclarationsToken":"t","Declarations":{"Activations":[{"Identifier":"a","ServerToken":"1"}],"Assets":[],"Configurations":[],"Management":[]}})").empty());
  EXPECT_TRUE(says(items(R"({"DeclarationsToken":"t"})"), Severity::Error, "Declarations"));
  EXPECT_TRUE(says(items(R"({"DeclarationsToken":"t","Declarations":{"Activations":[{"Identifier":"a"}],"Assets":[],"Configurations":[],"Management":[]}})"),
                   Severity::Error, "Declarations.Activations[0].ServerToken"));
  EXPECT_TRUE(says(items(R"({"DeclarationsToken":"t","Declarations":{"Activations":[{"Identifier":"a","ServerToken":"1"}],"Assets":[{"Identifier":"a","ServerToken":"1"}],"Configurations":[],"Management":[]}})"),
                   Severity::Error, "Declarations.Assets[0].Identifier", "twice"));
  EXPECT_TRUE(says(items(R"({"DeclarationsToken":"t","Declarations":{"Activations":[],"Assets":[],"Configurations":[]}})"), Severity::Error, "Declarations.Management"));
  const auto tokens = [](std::string_view json) { return protocol(json, ProtocolDocument::Tokens); };
  EXPECT_TRUE(tokens(R"({"SyncTokens":{"DeclarationsToken":"t","Timestamp":"2025-06-01T12:00:00Z"}})").empty());
  EXPECT_TRUE(says(tokens(R"({"SyncTokens":{"DeclarationsToken":"t","Timestamp":"yesterday"}})"), Severity::Warning, "SyncTokens.Timestamp"));
  EXPECT_TRUE(says(tokens(R"({"SyncTokens":{"DeclarationsToken":")" + std::string(257, 'x') + "\"}}"), Severity::Error, "SyncTokens.DeclarationsToken", "longer"));
  EXPECT_FALSE(protocolDocumentOf(plist::Dictionary{}));
}

std::vector<Finding> credential(std::string_view json, CredentialKind wanted) {
  std::vector<Finding> findings;
  Report report(findings);
  const auto document = readJson(asBytes(json));
  EXPECT_TRUE(document) << json;
  EXPECT_EQ(credentialKindOf(*document->root.dictionary()), wanted) << json;
  checkCredentialDocument(wanted, *document->root.dictionary(), report);
  return findings;
}
std::vector<Finding> acme(std::string_view keyType, int size, bool bound, bool attest, std::string_view more = "") {
  return credential(R"({"DirectoryURL":"https://ca.example/dir","ClientIdentifier":"c","Subject":[[["CN","x"]]],"AttestationURL":"https://a.example","KeyType":")" +
                        std::string(keyType) + R"(","KeySize":)" + std::to_string(size) + R"(,"HardwareBound":)" + (bound ? "true" : "false") + R"(,"Attest":)" +
                        (attest ? "true" : "false") + std::string(more) + "}",
                    CredentialKind::Acme);
}

TEST(CredentialDocument, AcmeKeyRulesAreThoseOfTheDocument) {
  EXPECT_TRUE(acme("ECSECPrimeRandom", 384, true, true, R"(,"UsageFlags":5,"SubjectAltName":{"dNSName":"a.example"},"ExtendedKeyUsage":["1.3.6.1.5.5.7.3.2"])").empty());
  EXPECT_FALSE(hasErrors(acme("RSA", 2048, false, false)));
  EXPECT_TRUE(says(acme("ECSECPrimeRandom", 192, false, false), Severity::Error, "KeySize")) << "allowed in a profile only";
  EXPECT_TRUE(says(acme("ECSECPrimeRandom", 521, true, false), Severity::Error, "KeySize"));
  EXPECT_TRUE(says(acme("RSA", 2048, true, false), Severity::Error, "HardwareBound"));
  EXPECT_TRUE(says(acme("ECSECPrimeRandom", 256, false, true), Severity::Error, "Attest"));
  EXPECT_TRUE(says(acme("ECSECPrimeRandom", 256, false, false, R"(,"KeyIsExtractable":false)"), Severity::Warning, "KeyIsExtractable", "not a known key"));
  EXPECT_TRUE(says(credential(R"({"DirectoryURL":"http://ca.example"})", CredentialKind::Acme), Severity::Error, "DirectoryURL", "https"));
  EXPECT_TRUE(says(credential(R"({"DirectoryURL":"https://ca.example"})", CredentialKind::Acme), Severity::Error, "Subject", "is missing"));
}

TEST(CredentialDocument, ScepIdentityAndPassword) {
  EXPECT_FALSE(hasErrors(credential(R"({"URL":"https://ca.example/scep","Challenge":"secret","Keysize":2048,"Key Type":"RSA","Key Usage":5,"Subject":[[["CN","x"]]],"Retries":3,"RetryDelay":10,"CAFingerprint":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="})",
                                    CredentialKind::Scep)));
  EXPECT_TRUE(says(credential(R"({"URL":"https://ca.example","Keysize":2048,"CAFingerprint":"?"})", CredentialKind::Scep), Severity::Error, "CAFingerprint", "base64"));
  EXPECT_TRUE(says(credential(R"({"Keysize":2048})", CredentialKind::Scep), Severity::Error, "URL"));
  EXPECT_TRUE(says(credential(R"({"Password":"x","Identity":"MIIJ....CCAA="})", CredentialKind::Identity), Severity::Error, "Identity", "base64"));
  EXPECT_TRUE(says(credential(R"({"Password":"x","Identity":"AAAA"})", CredentialKind::Identity), Severity::Error, "Identity", "PKCS #12"));
  EXPECT_TRUE(says(credential(R"({"Identity":"AAAA"})", CredentialKind::Identity), Severity::Error, "Password", "is missing"));
  EXPECT_TRUE(credential(R"({"UserName":"u","Password":"p"})", CredentialKind::UserNameAndPassword).empty());
  EXPECT_TRUE(says(credential(R"({"UserName":1})", CredentialKind::UserNameAndPassword), Severity::Error, "UserName"));
  EXPECT_FALSE(credentialKindOf(plist::Dictionary{}));
}

TEST(CredentialDocument, ItsSecretsAreNotShown) {
  const std::string secret = "c2VjcmV0IGNoYWxsZW5nZQ";
  const auto findings = credential(R"({"URL":5,"Challenge":")" + secret + R"(","Keysize":"x"})", CredentialKind::Scep);
  EXPECT_TRUE(hasErrors(findings));
  EXPECT_EQ(all(findings).find(secret), std::string::npos);
}

}  // namespace
}  // namespace wayleave::management
