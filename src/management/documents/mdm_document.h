#pragma once

// The property lists of the MDM protocol, as logs and captures hold them: check-in messages of a device, commands of a server,
// and a device's answers. They are judged by Apple's schema (mdm/checkin, mdm/commands): what a server could not take is an
// error, what real devices leave out or add a warning.

#include <optional>
#include <string>

#include "base/clock.h"
#include "management/profile_report.h"
#include "plist/value.h"

namespace wayleave::management {

enum class MdmBody : uint8_t { CheckIn, Command, Response };

struct MdmDocument {
  MdmBody body = MdmBody::CheckIn;
  std::string type;  // MessageType, RequestType, or the Status of an answer; may be empty

  std::string description() const;  // "a check-in message: TokenUpdate"
};

// nullopt: no body of the protocol.
std::optional<MdmDocument> mdmDocumentOf(const plist::Dictionary& root);
void checkMdmDocument(const MdmDocument& document, const plist::Dictionary& root, Report& report, Wall now);

}  // namespace wayleave::management
