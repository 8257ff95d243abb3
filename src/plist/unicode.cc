#include "plist/unicode.h"

#include <algorithm>
#include <cstdint>

namespace wayleave::plist {

void appendUtf8(std::string& out, char32_t c) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6);
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3f));
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

std::optional<char32_t> nextCodePoint(std::string_view utf8, size_t& offset) {
  const auto byteAt = [&](size_t i) { return static_cast<uint8_t>(utf8[i]); };
  const uint8_t first = byteAt(offset);
  size_t length = 1;
  char32_t c = first;
  char32_t least = 0;
  if (first >= 0x80) {
    if (first >= 0xc2 && first <= 0xdf) {
      length = 2, c = first & 0x1fu, least = 0x80;
    } else if (first >= 0xe0 && first <= 0xef) {
      length = 3, c = first & 0x0fu, least = 0x800;
    } else if (first >= 0xf0 && first <= 0xf4) {
      length = 4, c = first & 0x07u, least = 0x10000;
    } else {
      return std::nullopt;
    }
  }
  if (utf8.size() - offset < length) return std::nullopt;
  for (size_t i = 1; i < length; ++i) {
    const uint8_t next = byteAt(offset + i);
    if ((next & 0xc0) != 0x80) return std::nullopt;
    c = c << 6 | (next & 0x3fu);
  }
  if (c < least || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return std::nullopt;
  offset += length;
  return c;
}

bool isAscii(std::string_view bytes) {
  return std::ranges::all_of(bytes, [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

bool isUtf8(std::string_view bytes) {
  for (size_t offset = 0; offset < bytes.size();)
    if (!nextCodePoint(bytes, offset)) return false;
  return true;
}

bool isXmlCharacter(char32_t c) {
  return c == 0x9 || c == 0xa || c == 0xd || (c >= 0x20 && c <= 0xd7ff) || (c >= 0xe000 && c <= 0xfffd) ||
         (c >= 0x10000 && c <= 0x10ffff);
}

}  // namespace wayleave::plist
