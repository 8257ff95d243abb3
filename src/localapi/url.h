#pragma once

// The request targets of the local APIs: RFC 3986 percent-encoding, origin form only.

#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace wayleave::localapi {

// Everything but RFC 3986's unreserved characters is escaped, '/' too: one path segment or query value.
std::string percentEncode(std::string_view segment);
// Errors: BadInput (a stray %, a NUL or another control character).
Result<std::string> percentDecode(std::string_view encoded);

struct Target {
  std::string path;  // decoded
  std::map<std::string, std::string> query;
};
// Errors: BadInput (not origin form, bad escapes, a query parameter given twice or more than 32 of them).
Result<Target> parseTarget(std::string_view target);

}  // namespace wayleave::localapi
