#pragma once

// The declarations that say what writeProfile() says as a profile: an activation, the proxy, its identity and the gateway's CAs.

#include <string>
#include <vector>

#include "authoring/new_profile.h"

namespace wayleave::authoring {

struct NewFile {
  std::string name;  // below the folder that is written: "proxy.json", "documents/identity.json"
  std::string text;
  bool isSecret = false;
};

// In the order in which a server should get them: what others refer to comes first. `documentUrl` empty: assets carry their
// content in the declaration, which Wayleave alone reads. Otherwise it is the URL below which the files in documents/ will be
// served, with size and hash in the declaration. The same answers give the same texts: a ServerToken is made of its content.
// Errors: BadInput (an identifier that leaves no room within the 64 octets of a declaration's).
Result<std::vector<NewFile>> writeDeclarations(const NewProfile& profile, const std::string& documentUrl);

}  // namespace wayleave::authoring
