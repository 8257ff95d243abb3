#pragma once

// The JSON of declarative management that is no declaration: what a device reports, and what a server answers to `tokens` and
// `declaration-items`.

#include <optional>
#include <string_view>

#include "management/profile_report.h"
#include "plist/value.h"

namespace wayleave::management {

enum class ProtocolDocument : uint8_t {
  StatusReport,
  StatusItems,  // what stands in a report's StatusItems, alone, as in examples and in stores of servers
  Tokens,
  DeclarationItems,
};
std::string_view text(ProtocolDocument document);  // "a status report", …

// By its keys; nullopt: something else.
std::optional<ProtocolDocument> protocolDocumentOf(const plist::Dictionary& document);
// `path` is where the document stands in what is reported, "" for a file of its own.
void checkProtocolDocument(ProtocolDocument kind, const plist::Dictionary& document, const std::string& path, Report& report);

}  // namespace wayleave::management
