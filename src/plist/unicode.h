#pragma once

// The little Unicode that property lists need: UTF-8 in memory, UTF-16 in binary files, and what XML may carry.

#include <optional>
#include <string>
#include <string_view>

namespace wayleave::plist {

// Appends one code point, which must be a Unicode scalar value.
void appendUtf8(std::string& out, char32_t codePoint);

// The code point at `offset`, which then moves past it; nullopt for an invalid, overlong or surrogate encoding.
std::optional<char32_t> nextCodePoint(std::string_view utf8, size_t& offset);

bool isAscii(std::string_view bytes);
bool isUtf8(std::string_view bytes);
// XML 1.0 section 2.2, production Char.
bool isXmlCharacter(char32_t codePoint);

}  // namespace wayleave::plist
