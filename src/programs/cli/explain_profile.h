#pragma once

// The identities that a profile or a declaration would deliver: where each ends up and who can use it there; and what is
// wrong with the file.

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "keychain/explain/render.h"

namespace wayleave::cli {

struct ProfileExplanation {
  std::string text;
  nlohmann::ordered_json json;
  bool mistaken = false;  // something in it is an error
};

// Whether the bytes look like something of management: a property list, signed or not, or JSON.
bool looksManaged(ByteView bytes);

// A profile, a declaration, the document of an asset, a report, a message of the MDM protocol. The findings, and with them the
// verdict, are those of `wayleave lint` for the file alone.
ProfileExplanation explainManaged(const std::string& file, const Bytes& bytes, const keychain::explain::Style& style);

}  // namespace wayleave::cli
