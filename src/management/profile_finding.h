#pragma once

// What the importer has to say about a profile. All findings of a file are collected before anything is refused, so
// that a person sees every mistake in one run.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace wayleave::management {

enum class Severity : uint8_t {
  Note,     // accepted as it is; worth knowing
  Warning,  // accepted, but probably not what was meant, or not done by Wayleave
  Error,    // the profile is refused
};
std::string_view text(Severity severity);  // "note", "warning", "error"

struct Finding {
  Severity severity = Severity::Error;
  std::string payload;  // "com.example.vpn (com.apple.vpn.managed)"; empty for the top level
  std::string keyPath;  // from the root: "PayloadContent[0].TransparentProxy.Order"; may be empty
  std::string message;  // one sentence; never a secret
  std::string hint;     // what to do; may be empty
  Reason reason = Reason::BadInput;
  uint32_t line = 0;  // in the (unwrapped) XML; 0 = unknown
};

bool hasErrors(const std::vector<Finding>& findings);

// "line 12: PayloadContent[0].KeySize in com.example.acme (com.apple.security.acme): … (hint)"
std::string describe(const Finding& finding);

// Folds all errors into one, whose message lists them one per line. The reason is that of the first error.
// Call only when there is one; otherwise the result is Internal.
Error toError(const std::vector<Finding>& findings);

}  // namespace wayleave::management
