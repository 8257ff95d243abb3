#pragma once

// Strict JSON into the values of a property list, with the line of every value, so that declarations and the documents of
// their assets are read by the same code as profiles (profile_keys.h).
//
// RFC 8259, and stricter where two readers could disagree: a name that occurs twice in an object, bytes that are not UTF-8,
// an unpaired surrogate, a number that no int64 or finite double holds, and anything after the value are refused. null is
// refused too unless asked for: no key of a declaration takes it. Data stays what it is in JSON, a base64 string.

#include "plist/plist.h"

namespace wayleave::management {

struct JsonLimits {
  size_t bytes = 1024 * 1024;  // Apple's own limit for the data of an app's configuration; declarations are far smaller
  int depth = 64;              // open objects and arrays; no declaration nests deeper than a dozen
  size_t items = 100'000;
  bool nulls = false;  // null reads as an empty string: status reports may hold it
};

struct JsonDocument {
  plist::Value root;
  plist::Lines lines;
};

// Errors: BadInput with line and column.
Result<JsonDocument> readJson(ByteView bytes, const JsonLimits& limits = {});

}  // namespace wayleave::management
