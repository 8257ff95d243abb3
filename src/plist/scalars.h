#pragma once

// The text forms of single values in an XML property list. Each parser takes the element's whole text; white space
// around a number or a date is allowed, as Apple's reader allows it, and nothing else is.

#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "plist/value.h"

namespace wayleave::plist {

// Decimal or 0x hexadecimal with an optional sign, -2^63 to 2^64-1. Errors: BadInput
Result<Value> parseInteger(std::string_view text);
// Decimal with an optional exponent, or infinity or nan in the spellings of Apple's writer. Errors: BadInput
Result<double> parseReal(std::string_view text);
// YYYY-MM-DDThh:mm:ssZ and nothing else; a real calendar date. Errors: BadInput
Result<Date> parseDate(std::string_view text);
// Base64 with white space anywhere between its characters. Errors: BadInput; the hint names a template variable that
// was never filled in when that is what it looks like.
Result<Bytes> parseData(std::string_view text);

std::string formatReal(double value);
// Whole seconds, rounded down. nullopt outside the years 1 to 9999.
std::optional<std::string> formatDate(Date date);
bool isWritableDate(Date date);

}  // namespace wayleave::plist
