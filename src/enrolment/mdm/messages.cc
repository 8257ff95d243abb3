#include "enrolment/mdm/messages.h"

#include "localapi/json_reader.h"

namespace wayleave::enrolment::mdm {
namespace {

using plist::Dictionary;
using plist::Value;

// What came from outside is cleaned before; only our own mistakes could make this empty, and a server refuses an empty body.
std::string xml(Dictionary message) { return plist::toXml(Value(std::move(message))).value_or(std::string()); }

Dictionary checkIn(const Device& device, const char* type) {
  Dictionary out;
  out.set("MessageType", type);
  out.set("UDID", device.udid);
  return out;
}

// XML cannot carry control characters, and error texts may quote anything.
std::string printable(std::string_view text) {
  std::string out = plist::toXml(Value(text)) ? std::string(text) : std::string();
  if (!out.empty() || text.empty()) return out;
  for (const char c : text) out += c >= 0x20 && c < 0x7f ? c : '?';
  return out;
}

const std::string* stringAt(const Dictionary& dictionary, std::string_view key) {
  const Value* value = dictionary.find(key);
  return value == nullptr ? nullptr : value->string();
}

}  // namespace

std::string authenticateMessage(const Device& device, const std::string& topic) {
  Dictionary out = checkIn(device, "Authenticate");
  out.set("Topic", topic);
  out.set("DeviceName", device.hostName);
  out.set("Model", device.model);
  out.set("ModelName", device.modelName);
  out.set("OSVersion", device.osVersion);
  out.set("BuildVersion", device.buildVersion);
  out.set("ProductName", device.productName);
  out.set("SerialNumber", device.serialNumber);
  return xml(std::move(out));
}

std::string tokenUpdateMessage(const Device& device, const std::string& topic, ByteView token, const std::string& pushMagic) {
  Dictionary out = checkIn(device, "TokenUpdate");
  out.set("Topic", topic);
  out.set("Token", toBytes(token));
  out.set("PushMagic", pushMagic);
  out.set("NotOnConsole", false);
  out.set("AwaitingConfiguration", false);
  return xml(std::move(out));
}

std::string checkOutMessage(const Device& device, const std::string& topic) {
  Dictionary out = checkIn(device, "CheckOut");
  out.set("Topic", topic);
  return xml(std::move(out));
}

std::string declarativeManagementMessage(const Device& device, std::string_view endpoint, ByteView data) {
  Dictionary out = checkIn(device, "DeclarativeManagement");
  out.set("Endpoint", endpoint);
  if (!data.empty()) out.set("Data", toBytes(data));
  return xml(std::move(out));
}

Result<std::optional<Command>> parseCommand(ByteView body) {
  if (body.empty()) return std::nullopt;
  plist::ReadOptions options;
  options.limits = {.bytes = kMostAnswerBytes, .depth = 32, .items = 10'000};
  Result<plist::Document> document = plist::parse(body, options);
  if (!document) return withContext(document.error(), "the server's answer is not a property list");
  const Dictionary* root = document->root.dictionary();
  if (root == nullptr) return fail(Reason::BadInput, "the server's answer is no dictionary");
  const std::string* uuid = stringAt(*root, "CommandUUID");
  // Longer ones would only fill logs.
  if (uuid == nullptr || uuid->empty() || uuid->size() > 256)
    return fail(Reason::BadInput, "the server's command has no CommandUUID");
  Command command;
  command.uuid = *uuid;
  if (const Value* value = root->find("Command"); value != nullptr && value->dictionary() != nullptr) {
    command.parameters = *value->dictionary();
    if (const std::string* type = stringAt(command.parameters, "RequestType")) command.requestType = *type;
  }
  return command;
}

std::string answerMessage(const Device& device, const std::string& commandUuid, const Answer& answer) {
  Dictionary out;
  out.set("Status", answer.status);
  out.set("UDID", device.udid);
  if (!commandUuid.empty()) out.set("CommandUUID", printable(commandUuid));
  for (const plist::Entry& entry : answer.results.entries()) out.set(entry.key, entry.value);
  if (!answer.errors.empty()) {
    plist::Array chain;
    for (const ChainError& error : answer.errors) {
      Dictionary entry;
      entry.set("ErrorCode", error.code);
      entry.set("ErrorDomain", error.domain);
      entry.set("LocalizedDescription", printable(error.description));
      entry.set("USEnglishDescription", printable(error.description));
      chain.emplace_back(std::move(entry));
    }
    out.set("ErrorChain", std::move(chain));
  }
  return xml(std::move(out));
}

std::optional<std::string> unrecognizedDevice(const std::string& contentType, ByteView body) {
  constexpr size_t kMost = 64 * 1024;
  constexpr std::string_view kCode = "com.apple.unrecognized.device";
  if (body.empty() || body.size() > kMost) return std::nullopt;
  const std::string_view type = std::string_view(contentType).substr(0, contentType.find(';'));
  if (type == "application/json") {
    const Result<nlohmann::json> document = localapi::parseJson(asText(body));
    if (!document || !document->is_object() || document->value("code", nlohmann::json()) != kCode) return std::nullopt;
    const nlohmann::json description = document->value("description", nlohmann::json());
    return description.is_string() ? description.get<std::string>() : std::string();
  }
  if (type != "application/xml" && type != "text/xml" && type != "application/x-plist") return std::nullopt;
  const Result<plist::Document> document = plist::parseXml(body);
  if (!document || document->root.dictionary() == nullptr) return std::nullopt;
  const std::string* code = stringAt(*document->root.dictionary(), "code");
  if (code == nullptr || *code != kCode) return std::nullopt;
  const std::string* description = stringAt(*document->root.dictionary(), "description");
  return description != nullptr ? *description : std::string();
}

}  // namespace wayleave::enrolment::mdm
