// Sources: Apple's schema of device-management (mdm/checkin/*.yaml, mdm/commands/*.yaml), and what real devices send.

#include "management/documents/mdm_document.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "management/declarations/json_document.h"
#include "management/documents/protocol_document.h"
#include "management/profile.h"
#include "management/profile_keys.h"
#include "management/shape.h"

namespace wayleave::management {
namespace {

constexpr std::array<std::string_view, 9> kMessageTypes{"Authenticate",      "TokenUpdate",       "CheckOut",         "DeclarativeManagement", "GetToken",
                                                        "SetBootstrapToken", "GetBootstrapToken", "UserAuthenticate", "ReturnToService"};
constexpr std::array<std::string_view, 5> kStatuses{"Acknowledged", "Error", "CommandFormatError", "NotNow", "Idle"};
constexpr std::array<std::string_view, 6> kOurCommands{"InstallProfile", "RemoveProfile", "ProfileList", "CertificateList", "DeviceInformation", "DeclarativeManagement"};

std::string textAt(const plist::Dictionary& dictionary, std::string_view key) {
  const plist::Value* value = dictionary.find(key);
  return value == nullptr || value->string() == nullptr ? std::string() : *value->string();
}

bool isOneOf(std::string_view text, std::span<const std::string_view> words) { return std::ranges::find(words, text) != words.end(); }

// Whose message it is. Every body names the enrolment, by the one key or the other.
void checkEnrolment(Keys& keys, Severity severity) {
  const std::string* udid = keys.string("UDID");
  const std::string* enrolment = keys.string("EnrollmentID");
  for (const std::string_view key : {"EnrollmentUserID", "UserID", "UserShortName", "UserLongName"}) keys.string(key);
  if (udid != nullptr && udid->empty()) keys.error("UDID", "is empty");
  if (enrolment != nullptr && enrolment->empty()) keys.error("EnrollmentID", "is empty");
  if (keys.has("UDID") || keys.has("EnrollmentID")) {
    if (keys.has("UDID") && keys.has("EnrollmentID"))
      keys.warn("EnrollmentID", "stands beside UDID: device enrolments have the one, user enrolments the other");
    return;
  }
  const std::string message = "is missing, and EnrollmentID too: no server can tell whose this is";
  if (severity == Severity::Error)
    keys.error("UDID", message);
  else
    keys.warn("UDID", message);
}

void checkTopic(Keys& keys) {
  if (const std::string* topic = keys.string("Topic", Need::Required); topic != nullptr && !topic->starts_with("com.apple.mgmt."))
    keys.error("Topic", "does not start with com.apple.mgmt.");
}

// JSON that a property list carries as data.
std::optional<JsonDocument> jsonIn(Keys& keys, std::string_view key, Need need) {
  const Bytes* data = keys.data(key, need);
  if (data == nullptr) return std::nullopt;
  Result<JsonDocument> document = readJson(*data, {.nulls = true});
  if (document && document->root.dictionary() != nullptr) return std::move(*document);
  keys.error(key, document ? "is JSON, but no object" : document.error().message);
  return std::nullopt;
}

void checkEndpoint(Keys& keys) {
  const std::string* endpoint = keys.string("Endpoint", Need::Required);
  if (endpoint == nullptr) return;
  if (*endpoint == "status") {
    if (const auto report = jsonIn(keys, "Data", Need::Required))
      checkProtocolDocument(ProtocolDocument::StatusReport, *report->root.dictionary(), keys.pathOf("Data"), keys.report());
    return;
  }
  keys.data("Data");
  if (*endpoint == "tokens" || *endpoint == "declaration-items") return;
  constexpr std::string_view kOne = "declaration/";
  if (endpoint->starts_with(kOne)) {
    const std::string_view rest = std::string_view(*endpoint).substr(kOne.size());
    const size_t slash = rest.find('/');
    const std::string_view kind = rest.substr(0, slash);
    if (slash != std::string_view::npos && slash + 1 < rest.size() &&
        (kind == "activation" || kind == "asset" || kind == "configuration" || kind == "management"))
      return;
  }
  keys.error("Endpoint", fmt::format("is \"{}\"", shown(*endpoint)), "tokens, declaration-items, status, or declaration/KIND/IDENTIFIER");
}

void checkTokenParameters(Keys& keys) {
  constexpr std::array<std::string_view, 2> kServices{"com.apple.maid", "com.apple.watch.pairing"};
  const std::string* service = keys.string("TokenServiceType", Need::Required);
  if (service != nullptr && !isOneOf(*service, kServices))
    keys.error("TokenServiceType", fmt::format("is \"{}\"", shown(*service)), fmt::format("one of {}", fmt::join(kServices, ", ")));
  const bool pairing = service != nullptr && *service == "com.apple.watch.pairing";
  const plist::Dictionary* parameters = keys.dictionary("TokenParameters", pairing ? Need::Required : Need::Optional);
  if (parameters == nullptr) return;
  Keys inner(*parameters, keys.pathOf("TokenParameters"), keys.report());
  for (const std::string_view key : {"SecurityToken", "PhoneUDID", "WatchUDID"}) inner.string(key, pairing ? Need::Required : Need::Optional);
  inner.finish();
}

void checkAuthenticate(Keys& keys) {
  checkTopic(keys);
  checkEnrolment(keys, Severity::Error);
  for (const std::string_view key : {"OSVersion", "BuildVersion", "ProductName", "SerialNumber", "IMEI", "MEID"}) keys.string(key);
  std::string missing;
  for (const std::string_view key : {"DeviceName", "Model", "ModelName"})
    if (keys.string(key) == nullptr && !keys.has(key)) missing += (missing.empty() ? "" : ", ") + std::string(key);
  if (!missing.empty()) keys.note("", fmt::format("without {}, which Macs send and other devices do not", missing));
  keys.data("Challenge");  // in no schema, and in what real devices send
}

void checkTokenUpdate(Keys& keys) {
  checkTopic(keys);
  checkEnrolment(keys, Severity::Error);
  keys.data("Token", Need::Required);
  keys.string("PushMagic", Need::Required);
  keys.data("UnlockToken");
  keys.boolean("AwaitingConfiguration");
  keys.boolean("NotOnConsole");
  // Phones have an UnlockToken; Macs name their users.
  if (!keys.has("NotOnConsole") && !keys.has("UnlockToken"))
    keys.warn("NotOnConsole", "is missing, although Apple's schema requires it of Macs", "Macs leave it out on the device channel");
}

void checkCheckIn(const std::string& type, const plist::Dictionary& root, Report& report) {
  Keys keys(root, "", report);
  keys.string("MessageType", Need::Required);
  if (!type.empty() && !isOneOf(type, kMessageTypes)) {
    keys.error("MessageType", fmt::format("\"{}\" is no check-in message", shown(type)), fmt::format("one of {}", fmt::join(kMessageTypes, ", ")));
    return;
  }
  if (type == "Authenticate") checkAuthenticate(keys);
  if (type == "TokenUpdate") checkTokenUpdate(keys);
  if (type == "CheckOut") {
    checkTopic(keys);
    checkEnrolment(keys, Severity::Error);
  }
  if (type == "DeclarativeManagement") {
    checkEnrolment(keys, Severity::Error);
    checkEndpoint(keys);
  }
  if (type == "GetToken") {
    checkEnrolment(keys, Severity::Error);
    checkTokenParameters(keys);
  }
  if (type == "UserAuthenticate") {
    keys.string("UDID", Need::Required);
    keys.string("UserID", Need::Required);
    keys.string("UserShortName");
    keys.string("UserLongName");
    keys.string("DigestResponse");  // in the second message only
  }
  if (type == "SetBootstrapToken" || type == "GetBootstrapToken") {
    if (type == "SetBootstrapToken" && keys.data("BootstrapToken") == nullptr && !keys.has("BootstrapToken"))
      keys.note("BootstrapToken", "is missing: the server removes the one it has");
    keys.boolean("AwaitingConfiguration");
    checkEnrolment(keys, Severity::Warning);  // in no schema; every device sends it
  }
  if (type == "ReturnToService") keys.string("UDID", Need::Required);
  if (type != "Authenticate" && type != "TokenUpdate" && type != "CheckOut") keys.string("Topic");  // some devices repeat it
  keys.finish();
}

void checkInstallProfile(Keys& keys, Wall now) {
  const Bytes* payload = keys.data("Payload", Need::Required);
  if (payload == nullptr) return;
  const ImportResult inside = importProfile(*payload, {.now = now, .limits = ImportOptions{}.limits, .signerTrust = {}});
  if (!inside.profile) keys.error("Payload", "holds a profile that is refused: a device answers Error");
  for (const Finding& finding : inside.findings) {
    const std::string sentence = describe(finding);
    switch (finding.severity) {
      case Severity::Error: keys.error("Payload", sentence); break;
      case Severity::Warning: keys.warn("Payload", sentence); break;
      case Severity::Note: keys.note("Payload", sentence); break;
    }
  }
}

void checkCommand(const std::string& type, const plist::Dictionary& root, Report& report, Wall now) {
  Keys keys(root, "", report);
  keys.string("CommandUUID", Need::Required);
  const plist::Dictionary* command = keys.dictionary("Command", Need::Required);
  keys.finish();
  if (command == nullptr) return;
  if (command->contains("Command")) {
    keys.error("Command", "holds another command", "CommandUUID and Command stand side by side at the top");
    return;
  }
  Keys inner(*command, keys.pathOf("Command"), report);
  inner.string("RequestType", Need::Required);
  inner.boolean("RequestRequiresNetworkTether");
  if (type.empty()) return;
  if (!isOneOf(type, kOurCommands)) {
    inner.warn("RequestType", fmt::format("{} is not a command that Wayleave carries out: it answers Error", shown(type)));
    return;
  }
  if (type == "InstallProfile") checkInstallProfile(inner, now);
  if (type == "RemoveProfile") inner.string("Identifier", Need::Required);
  if (type == "ProfileList" || type == "CertificateList") inner.boolean("ManagedOnly");
  if (type == "DeviceInformation") {
    inner.strings("Queries", Need::Required);
    inner.known({"DeviceAttestationNonce"});
  }
  if (type == "DeclarativeManagement")
    if (const auto tokens = jsonIn(inner, "Data", Need::Optional))
      checkProtocolDocument(ProtocolDocument::Tokens, *tokens->root.dictionary(), inner.pathOf("Data"), report);
  inner.finish();
}

constexpr std::array kErrorKeys{ShapeKey{.name = "ErrorCode", .kind = ValueKind::Integer, .required = true},
                                ShapeKey{.name = "ErrorDomain", .kind = ValueKind::String, .required = true},
                                ShapeKey{.name = "LocalizedDescription", .kind = ValueKind::String},
                                ShapeKey{.name = "USEnglishDescription", .kind = ValueKind::String}};
constexpr std::array kCertificateKeys{ShapeKey{.name = "CommonName", .kind = ValueKind::String, .required = true},
                                      ShapeKey{.name = "Data", .kind = ValueKind::Data, .required = true},
                                      ShapeKey{.name = "IsIdentity", .kind = ValueKind::Boolean, .required = true}};
constexpr std::array kProfileKeys{ShapeKey{.name = "PayloadIdentifier", .kind = ValueKind::String, .required = true},
                                  ShapeKey{.name = "PayloadUUID", .kind = ValueKind::String, .required = true},
                                  ShapeKey{.name = "PayloadVersion", .kind = ValueKind::Integer}, ShapeKey{.name = "*"}};
// What commands that we know are answered with. Other keys are other commands' and may be anything.
constexpr std::array kResultKeys{ShapeKey{.name = "QueryResponses", .kind = ValueKind::Dictionary},
                                 ShapeKey{.name = "CertificateList", .kind = ValueKind::Array, .keys = kCertificateKeys},
                                 ShapeKey{.name = "ProfileList", .kind = ValueKind::Array, .keys = kProfileKeys},
                                 ShapeKey{.name = "ErrorChain", .kind = ValueKind::Array, .keys = kErrorKeys},
                                 ShapeKey{.name = "NotOnConsole", .kind = ValueKind::Boolean},
                                 ShapeKey{.name = "RequestType", .kind = ValueKind::String},  // in no schema; Macs send it
                                 ShapeKey{.name = "Status", .kind = ValueKind::String, .required = true, .words = kStatuses},
                                 ShapeKey{.name = "*"}};

void checkResponse(const std::string& status, const plist::Dictionary& root, Report& report) {
  checkShape(root, kResultKeys, "", report);
  Keys keys(root, "", report);
  checkEnrolment(keys, Severity::Error);
  if (status == "Idle") {
    if (keys.has("CommandUUID")) keys.warn("CommandUUID", "is there, but Idle answers no command");
  } else {
    keys.string("CommandUUID", Need::Required);
  }
  if ((status == "Error" || status == "CommandFormatError") && !keys.has("ErrorChain"))
    keys.warn("ErrorChain", fmt::format("is missing: {} does not say why", status));
}

}  // namespace

std::string MdmDocument::description() const {
  const std::string name = type.empty() ? std::string() : ": " + shown(type);
  switch (body) {
    case MdmBody::CheckIn: return "a check-in message of a device" + name;
    case MdmBody::Command: return "a command of an MDM server" + name;
    case MdmBody::Response: return "a device's answer to an MDM server" + name;
  }
  return "?";
}

std::optional<MdmDocument> mdmDocumentOf(const plist::Dictionary& root) {
  if (root.contains("PayloadType") || root.contains("PayloadContent")) return std::nullopt;
  if (root.contains("MessageType")) return MdmDocument{MdmBody::CheckIn, textAt(root, "MessageType")};
  if (const plist::Value* command = root.find("Command"))
    return MdmDocument{MdmBody::Command, command->dictionary() == nullptr ? std::string() : textAt(*command->dictionary(), "RequestType")};
  if (root.contains("Status") && (root.contains("CommandUUID") || root.contains("UDID") || root.contains("EnrollmentID")))
    return MdmDocument{MdmBody::Response, textAt(root, "Status")};
  return std::nullopt;
}

void checkMdmDocument(const MdmDocument& document, const plist::Dictionary& root, Report& report, Wall now) {
  switch (document.body) {
    case MdmBody::CheckIn: return checkCheckIn(document.type, root, report);
    case MdmBody::Command: return checkCommand(document.type, root, report, now);
    case MdmBody::Response: return checkResponse(document.type, root, report);
  }
}

}  // namespace wayleave::management
