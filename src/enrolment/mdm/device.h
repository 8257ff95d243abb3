#pragma once

// What this machine tells an MDM server about itself: Authenticate, and DeviceInformation's answers.
//
// A server learns what an administrator needs to tell machines apart and to support them. It never learns who uses the
// machine, where it is, its network addresses or hardware addresses: those queries are left unanswered, as an Apple device
// leaves unanswered what it does not have.

#include <string>
#include <vector>

#include "base/result.h"
#include "plist/value.h"

namespace wayleave::enrolment::mdm {

struct Device {
  // A UUID made of a hash of /etc/machine-id: stable, and it does not reveal the machine-id (machine-id(5) asks for that).
  std::string udid;
  std::string hostName;
  std::string osName;        // "Debian GNU/Linux"
  std::string osVersion;     // VERSION_ID of os-release, else the kernel's release
  std::string buildVersion;  // the kernel's release
  std::string model;         // DMI product name, else "Linux"
  std::string modelName;     // with the manufacturer
  std::string productName;   // "Linux x86_64"
  // DMI's serial number where it is readable (root alone, usually) and says something; else one derived from the UDID.
  std::string serialNumber;
};

// `root`: "" for this machine, a folder in tests. Errors: NotFound when there is no machine-id, since a machine that cannot
// be recognised again must not be enrolled.
Result<Device> readDevice(const std::string& root = {});

// QueryResponses of DeviceInformation for the asked keys; all known ones when none is asked. Unknown keys are left out.
plist::Dictionary queryResponses(const Device& device, const std::vector<std::string>& queries);

}  // namespace wayleave::enrolment::mdm
