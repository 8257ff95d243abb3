#pragma once

// The Machine that managementd is: everything on management::Service's change thread.

#include <functional>

#include "enrolment/mdm/machine.h"
#include "management/service.h"

namespace wayleave::enrolment::mdm {

class ServiceMachine final : public Machine {
 public:
  // Both outlive it.
  ServiceMachine(management::Service& service, management::ManagementStore& store) : service_(service), store_(store) {}

  Result<management::InstallOutcome> install(Bytes profile, management::Installer::Permit permit) override {
    return service_.install(std::move(profile), std::move(permit));
  }
  Status remove(const std::string& identifier) override { return service_.remove(identifier); }
  Result<std::vector<management::ProfileRecord>> profiles() override { return store_.profiles(); }
  Result<std::vector<management::ProfileRecord>> unfinished() override { return store_.unfinished(); }
  bool busy() override { return service_.busy(); }
  Status synchronise(management::DeclarationServer& server, ByteView tokens) override {
    return service_.synchroniseDeclarations(server, tokens);
  }
  Status report(management::DeclarationServer& server) override { return service_.reportDeclarations(server); }
  Status withdrawDeclarations() override { return service_.withdrawDeclarations(); }

 private:
  management::Service& service_;
  management::ManagementStore& store_;
};

}  // namespace wayleave::enrolment::mdm
