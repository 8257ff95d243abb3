#pragma once

// What a server may have done to this machine. The seam between the MDM protocol and management::Service, whose change
// thread carries it out; tests satisfy it in memory. Every call waits for its end and is safe from any thread.

#include <string>
#include <vector>

#include "management/declarations/server.h"
#include "management/installer.h"
#include "management/management_store.h"

namespace wayleave::enrolment::mdm {

class Machine {
 public:
  virtual ~Machine() = default;

  // Errors: those of Installer, Busy, Cancelled.
  virtual Result<management::InstallOutcome> install(Bytes profile, management::Installer::Permit permit) = 0;
  virtual Status remove(const std::string& identifier) = 0;
  virtual Result<std::vector<management::ProfileRecord>> profiles() = 0;
  // Profiles that are being installed or removed, also from before a restart.
  virtual Result<std::vector<management::ProfileRecord>> unfinished() = 0;
  virtual bool busy() = 0;

  // Declarative management. `tokens` may be empty. Errors: those of DeclarationEngine; Unsupported in a build without it.
  virtual Status synchronise(management::DeclarationServer& server, ByteView tokens) = 0;
  virtual Status report(management::DeclarationServer& server) = 0;
  virtual Status withdrawDeclarations() = 0;
};

}  // namespace wayleave::enrolment::mdm
