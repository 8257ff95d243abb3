// Sources: Apple's schema of device-management (declarative/protocol/*, declarative/status/*) and docs/declarations.md.

#include "management/documents/protocol_document.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "management/profile_keys.h"
#include "management/shape.h"

namespace wayleave::management {
namespace {

constexpr size_t kLongestToken = 256, kLongestName = 64;  // octets

// Reasons in the Errors of a report are spelt with capitals, those inside status items without.
constexpr std::array kErrorReasonKeys{ShapeKey{.name = "Code", .kind = ValueKind::String, .required = true},
                                      ShapeKey{.name = "Description", .kind = ValueKind::String}, ShapeKey{.name = "Details", .kind = ValueKind::Dictionary}};
constexpr std::array kErrorKeys{ShapeKey{.name = "StatusItem", .kind = ValueKind::String, .required = true},
                                ShapeKey{.name = "Reasons", .kind = ValueKind::Array, .keys = kErrorReasonKeys}};
constexpr std::array<std::string_view, 3> kValid{"unknown", "invalid", "valid"};
constexpr std::array kReasonKeys{ShapeKey{.name = "code", .kind = ValueKind::String, .required = true},
                                 ShapeKey{.name = "description", .kind = ValueKind::String}, ShapeKey{.name = "details", .kind = ValueKind::Dictionary}};
constexpr std::array kDeclarationKeys{ShapeKey{.name = "identifier", .kind = ValueKind::String, .required = true},
                                      ShapeKey{.name = "server-token", .kind = ValueKind::String, .required = true},
                                      ShapeKey{.name = "active", .kind = ValueKind::Boolean, .required = true},
                                      ShapeKey{.name = "valid", .kind = ValueKind::String, .required = true, .words = kValid},
                                      ShapeKey{.name = "reasons", .kind = ValueKind::Array, .keys = kReasonKeys},
                                      ShapeKey{.name = "_removed", .kind = ValueKind::Boolean}};
constexpr std::array kRemovedKeys{ShapeKey{.name = "identifier", .kind = ValueKind::String, .required = true},
                                  ShapeKey{.name = "_removed", .kind = ValueKind::Boolean}, ShapeKey{.name = "*"}};
constexpr std::array kPayloadTypeKeys{ShapeKey{.name = "activations", .kind = ValueKind::Array, .required = true, .items = ValueKind::String},
                                      ShapeKey{.name = "assets", .kind = ValueKind::Array, .required = true, .items = ValueKind::String},
                                      ShapeKey{.name = "configurations", .kind = ValueKind::Array, .required = true, .items = ValueKind::String},
                                      ShapeKey{.name = "management", .kind = ValueKind::Array, .required = true, .items = ValueKind::String}};
constexpr std::array kPayloadKeys{ShapeKey{.name = "declarations", .kind = ValueKind::Dictionary, .required = true, .keys = kPayloadTypeKeys},
                                  ShapeKey{.name = "status-items", .kind = ValueKind::Array, .required = true, .items = ValueKind::String}};
constexpr std::array kCapabilityKeys{ShapeKey{.name = "supported-versions", .kind = ValueKind::Array, .required = true, .items = ValueKind::String},
                                     ShapeKey{.name = "supported-features", .kind = ValueKind::Dictionary, .required = true},
                                     ShapeKey{.name = "supported-payloads", .kind = ValueKind::Dictionary, .required = true, .keys = kPayloadKeys}};

void checkDeclarationStates(const plist::Dictionary& declarations, const std::string& path, Report& report) {
  Keys keys(declarations, path, report);
  for (const std::string_view group : {"activations", "assets", "configurations", "management"}) {
    const plist::Array* entries = keys.array(group, Need::Required);
    if (entries == nullptr) continue;
    std::set<std::string> seen;
    for (size_t i = 0; i < entries->size(); ++i) {
      const std::string at = plist::childPath(keys.pathOf(group), i);
      const plist::Dictionary* entry = (*entries)[i].dictionary();
      if (entry == nullptr) {
        report.error(at, "must be an object");
        continue;
      }
      const plist::Value* removed = entry->find("_removed");
      if (removed != nullptr && removed->boolean() == true)
        checkShape(*entry, kRemovedKeys, at, report);
      else
        checkShape(*entry, kDeclarationKeys, at, report);
      if (const plist::Value* identifier = entry->find("identifier"); identifier != nullptr && identifier->string() != nullptr)
        if (!seen.insert(*identifier->string()).second) report.error(at, fmt::format("{} is reported twice", shown(*identifier->string())));
    }
  }
  keys.finish();
}

// One level for each dot of an item's name; leaves may be anything.
void checkStatusItems(const plist::Dictionary& items, const std::string& path, Report& report) {
  for (const plist::Entry& entry : items.entries())
    if (entry.value.dictionary() == nullptr)
      report.error(plist::childPath(path, shown(entry.key)), fmt::format("is of the type {}; items nest by the dots of their names", entry.value.typeName()));
  const plist::Value* management = items.find("management");
  if (management == nullptr || management->dictionary() == nullptr) return;
  Keys own(*management->dictionary(), plist::childPath(path, "management"), report);
  if (const plist::Dictionary* declarations = own.dictionary("declarations")) checkDeclarationStates(*declarations, own.pathOf("declarations"), report);
  if (const plist::Dictionary* capabilities = own.dictionary("client-capabilities"))
    checkShape(*capabilities, kCapabilityKeys, own.pathOf("client-capabilities"), report);
}

void checkStatusReport(const plist::Dictionary& document, const std::string& path, Report& report) {
  Keys keys(document, path, report);
  keys.boolean("FullReport");
  if (!keys.has("Errors")) keys.warn("Errors", "is missing: Apple's schema requires it");
  if (const plist::Array* errors = keys.array("Errors"))
    for (size_t i = 0; i < errors->size(); ++i) {
      const std::string at = plist::childPath(keys.pathOf("Errors"), i);
      if (const plist::Dictionary* error = (*errors)[i].dictionary())
        checkShape(*error, kErrorKeys, at, report);
      else
        report.error(at, "must be an object");
    }
  const plist::Dictionary* items = keys.dictionary("StatusItems", Need::Required);
  keys.finish();
  if (items != nullptr) checkStatusItems(*items, keys.pathOf("StatusItems"), report);
}

void checkToken(Keys& keys) {
  if (const std::string* token = keys.string("DeclarationsToken", Need::Required); token != nullptr && token->size() > kLongestToken)
    keys.error("DeclarationsToken", fmt::format("is longer than {} octets", kLongestToken));
}

bool isTimestamp(std::string_view text) {
  constexpr std::string_view kForm = "0000-00-00T00:00:00Z";
  return text.size() == kForm.size() && std::ranges::equal(text, kForm, [](char c, char form) { return form == '0' ? c >= '0' && c <= '9' : c == form; });
}

void checkTokens(const plist::Dictionary& document, const std::string& path, Report& report) {
  Keys keys(document, path, report);
  if (const plist::Dictionary* tokens = keys.dictionary("SyncTokens", Need::Required)) {
    Keys inner(*tokens, keys.pathOf("SyncTokens"), report);
    checkToken(inner);
    if (const std::string* when = inner.string("Timestamp"); when != nullptr && !isTimestamp(*when))
      inner.warn("Timestamp", fmt::format("is \"{}\"", shown(*when)), "2025-06-01T12:00:00Z");
    else if (!inner.has("Timestamp"))
      inner.warn("Timestamp", "is missing: Apple's schema requires it");
    inner.finish();
  }
  keys.finish();
}

void checkItems(const plist::Dictionary& document, const std::string& path, Report& report) {
  Keys keys(document, path, report);
  checkToken(keys);
  const plist::Dictionary* declarations = keys.dictionary("Declarations", Need::Required);
  keys.finish();
  if (declarations == nullptr) return;
  Keys groups(*declarations, keys.pathOf("Declarations"), report);
  std::set<std::string> seen;
  for (const std::string_view group : {"Activations", "Assets", "Configurations", "Management"}) {
    const plist::Array* entries = groups.array(group, Need::Required);
    if (entries == nullptr) continue;
    for (size_t i = 0; i < entries->size(); ++i) {
      const std::string at = plist::childPath(groups.pathOf(group), i);
      const plist::Dictionary* entry = (*entries)[i].dictionary();
      if (entry == nullptr) {
        report.error(at, "must be an object");
        continue;
      }
      Keys item(*entry, at, report);
      for (const std::string_view key : {"Identifier", "ServerToken"})
        if (const std::string* name = item.string(key, Need::Required); name != nullptr && name->size() > kLongestName)
          item.error(key, fmt::format("is longer than {} octets", kLongestName));
      item.finish();
      if (const plist::Value* identifier = entry->find("Identifier"); identifier != nullptr && identifier->string() != nullptr)
        if (!seen.insert(*identifier->string()).second) item.error("Identifier", fmt::format("{} is listed twice", shown(*identifier->string())));
    }
  }
  groups.finish();
}

}  // namespace

std::string_view text(ProtocolDocument document) {
  switch (document) {
    case ProtocolDocument::StatusReport: return "a status report";
    case ProtocolDocument::StatusItems: return "the items of a status report, without the report around them";
    case ProtocolDocument::Tokens: return "a server's answer to `tokens`";
    case ProtocolDocument::DeclarationItems: return "a server's answer to `declaration-items`";
  }
  return "?";
}

std::optional<ProtocolDocument> protocolDocumentOf(const plist::Dictionary& document) {
  if (document.contains("Type") || document.contains("Payload")) return std::nullopt;
  if (document.contains("StatusItems")) return ProtocolDocument::StatusReport;
  if (document.contains("SyncTokens")) return ProtocolDocument::Tokens;
  if (document.contains("DeclarationsToken") || document.contains("Declarations")) return ProtocolDocument::DeclarationItems;
  // The first words of Apple's status items.
  constexpr std::string_view kItems[] = {"account", "app", "device", "diskmanagement", "management", "mdm", "package", "passcode", "screensharing", "security", "services", "softwareupdate", "test"};
  const bool items = !document.empty() && std::ranges::all_of(document.entries(), [&](const plist::Entry& entry) {
    return entry.value.dictionary() != nullptr && std::ranges::find(kItems, entry.key) != std::end(kItems);
  });
  return items ? std::optional(ProtocolDocument::StatusItems) : std::nullopt;
}

void checkProtocolDocument(ProtocolDocument kind, const plist::Dictionary& document, const std::string& path, Report& report) {
  switch (kind) {
    case ProtocolDocument::StatusReport: return checkStatusReport(document, path, report);
    case ProtocolDocument::StatusItems: return checkStatusItems(document, path, report);
    case ProtocolDocument::Tokens: return checkTokens(document, path, report);
    case ProtocolDocument::DeclarationItems: return checkItems(document, path, report);
  }
}

}  // namespace wayleave::management
