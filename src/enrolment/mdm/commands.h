#pragma once

// Carries out the commands of an MDM server.

#include <set>
#include <string>

#include "enrolment/mdm/machine.h"
#include "enrolment/mdm/messages.h"
#include "localapi/identity_client.h"

namespace wayleave::enrolment::mdm {

// The bits of AccessRights that our commands need.
inline constexpr int64_t kInspectProfiles = 1, kChangeProfiles = 2, kQueryDevice = 16;

// Whom a profile belongs to: decides what the server may replace and remove, and is written down before it happens.
class Ownership {
 public:
  virtual ~Ownership() = default;
  virtual bool manages(const std::string& identifier) const = 0;
  virtual const std::string& enrolmentProfile() const = 0;
  // Before an installation begins, and after it failed or the profile went.
  virtual Status claim(const std::string& identifier) = 0;
  virtual Status disclaim(const std::string& identifier) = 0;
  // A new version of the enrolment profile itself. Errors: Conflict (another server, another topic).
  virtual Status mayReplaceEnrolment(const management::Profile& profile) = 0;
};

struct CommandContext {
  const Device& device;
  int64_t accessRights = 0;  // 0: not limited
  Machine& machine;
  localapi::IdentityAgent& agent;
  Ownership& ownership;
};

// What else a command asks for, to be done when its answer is away.
struct Aftermath {
  bool leave = false;        // the server removed the enrolment profile
  bool synchronise = false;  // declarations
  Bytes tokens;
  bool renewedEnrolment = false;
};

// Blocks while profiles are installed.
Answer carryOut(const CommandContext& context, const Command& command, Aftermath& aftermath);

}  // namespace wayleave::enrolment::mdm
