#include "keychain/reference_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "keychain/reference.h"

namespace wayleave::keychain {
namespace {

// Hex of the largest reference with a separator after every byte, and room for the frame around it.
constexpr size_t kMaxTextBytes = kMaxReferenceBytes * 3 + 256;

bool isSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool isHexDigit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && isSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && isSpace(text.back())) text.remove_suffix(1);
  return text;
}

struct Framed {
  std::string_view body;
  std::optional<size_t> statedLength;
};

// Takes off `<…>` or `{length = N, bytes = 0x…}`.
Result<Framed> unframed(std::string_view text) {
  text = trimmed(text);
  if (text.find("...") != std::string_view::npos || text.find("…") != std::string_view::npos)
    return fail(Reason::BadInput, "the text holds an ellipsis: bytes are missing",
                "NSData's description is shortened for long data; print base64EncodedStringWithOptions: instead");
  if (text.starts_with('<') && text.ends_with('>')) return Framed{trimmed(text.substr(1, text.size() - 2)), {}};
  if (!text.starts_with('{') || !text.ends_with('}')) return Framed{text, {}};
  constexpr std::string_view kLength = "length = ";
  constexpr std::string_view kBytes = "bytes = ";
  const size_t bytesAt = text.find(kBytes);
  const size_t lengthAt = text.find(kLength);
  if (bytesAt == std::string_view::npos || lengthAt == std::string_view::npos)
    return fail(Reason::BadInput, "braces without `length = ` and `bytes = `");
  size_t length = 0;
  const char* const from = text.data() + lengthAt + kLength.size();
  if (std::from_chars(from, text.data() + text.size(), length).ec != std::errc{})
    return fail(Reason::BadInput, fmt::format("no number after `length = ` at offset {}", lengthAt));
  const size_t bodyAt = bytesAt + kBytes.size();
  return Framed{trimmed(text.substr(bodyAt, text.size() - 1 - bodyAt)), length};
}

}  // namespace

Result<Bytes> referenceFromText(std::string_view text) {
  if (text.size() > kMaxTextBytes)
    return fail(Reason::BadInput, fmt::format("{} characters are no reference", text.size()));
  const Result<Framed> framed = unframed(text);
  if (!framed) return propagate(framed.error());
  std::string_view body = framed->body;
  if (body.starts_with("0x") || body.starts_with("0X")) body.remove_prefix(2);
  if (body.empty()) return fail(Reason::BadInput, "no text");

  std::string digits, letters;
  std::optional<size_t> notHex;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (isSpace(c)) continue;
    letters.push_back(c == '-' ? '+' : c == '_' ? '/' : c);
    if (c == ':') continue;
    if (!isHexDigit(c) && !notHex) notHex = static_cast<size_t>(body.data() - text.data()) + i;
    digits.push_back(c);
  }
  Result<Bytes> bytes;
  if (!notHex) {
    bytes = fromHex(digits);
    if (!bytes) return withContext(bytes.error(), "reference text");
  } else {
    while (letters.size() % 4 != 0) letters.push_back('=');
    bytes = fromBase64(letters);
    if (!bytes)
      return fail(Reason::BadInput, fmt::format("reference text is neither hex (offset {}) nor base64 ({})", *notHex,
                                                bytes.error().message));
  }
  if (framed->statedLength && bytes->size() != *framed->statedLength)
    return fail(Reason::BadInput,
                fmt::format("the text says {} bytes and holds {}", *framed->statedLength, bytes->size()));
  return bytes;
}

}  // namespace wayleave::keychain
