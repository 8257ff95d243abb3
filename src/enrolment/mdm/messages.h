#pragma once

// The bodies of the MDM protocol, as property lists (Apple, "Device Management": Check-in, Commands and Queries).

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "enrolment/mdm/device.h"
#include "plist/plist.h"

namespace wayleave::enrolment::mdm {

// The largest answer of a server: an InstallProfile command with a profile of the largest size that importing takes (8 MiB,
// a third more as base64), and its envelope.
inline constexpr size_t kMostAnswerBytes = 12 * 1024 * 1024;

std::string authenticateMessage(const Device& device, const std::string& topic);
// `token` and `pushMagic` are made up: nobody can push to this machine, but servers demand them.
std::string tokenUpdateMessage(const Device& device, const std::string& topic, ByteView token, const std::string& pushMagic);
std::string checkOutMessage(const Device& device, const std::string& topic);
std::string declarativeManagementMessage(const Device& device, std::string_view endpoint, ByteView data);

struct Command {
  std::string uuid;
  std::string requestType;
  plist::Dictionary parameters;  // the dictionary `Command`
};
// nullopt for an empty body: nothing to do. A command that has a CommandUUID but is otherwise wrong comes with an empty
// requestType, since it can be answered. Errors: BadInput (not a command, nobody to answer to).
Result<std::optional<Command>> parseCommand(ByteView body);

// One element of ErrorChain.
struct ChainError {
  std::string domain;  // as Apple's devices name it where the error is one of theirs, else "WayleaveErrorDomain"
  int code = 0;
  std::string description;
};

struct Answer {
  std::string status = "Acknowledged";  // Acknowledged, Error, CommandFormatError, NotNow, Idle
  plist::Dictionary results = {};       // further keys, by command
  std::vector<ChainError> errors = {};
};
std::string answerMessage(const Device& device, const std::string& commandUuid, const Answer& answer);

// Whether a 403's body and Content-Type say that the server does not know the device (ErrorUnrecognizedDevice). The
// description for the log when it does.
std::optional<std::string> unrecognizedDevice(const std::string& contentType, ByteView body);

}  // namespace wayleave::enrolment::mdm
