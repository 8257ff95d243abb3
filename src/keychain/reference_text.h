#pragma once

// A reference as people paste it into a terminal, a ticket or a chat.

#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keychain {

// Accepts hex in either case, with or without `0x`, spaces, newlines, colons and `<…>` (NSData's old description),
// NSData's new description `{length = 20, bytes = 0x…}`, and base64 (either alphabet, padding optional, white space
// ignored). Text that reads as hex is hex: no reference is so short that the two are confused. Errors: BadInput with
// the offset in the text, with a hint when a description was shortened by the system ("...").
Result<Bytes> referenceFromText(std::string_view text);

}  // namespace wayleave::keychain
