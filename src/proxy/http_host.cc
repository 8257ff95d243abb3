#include "proxy/http_host.h"

#include <algorithm>
#include <charconv>

namespace wayleave::proxy {
namespace {

constexpr size_t kMaxMethodBytes = 32;  // the longest registered one has 17 (RFC 9110 section 16.1)

bool isTokenCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("!#$%&'*+-.^_`|~").contains(c);
}

bool equalsIgnoringCase(std::string_view a, std::string_view lower) {
  return std::equal(a.begin(), a.end(), lower.begin(), lower.end(),
                    [](char x, char y) { return (x >= 'A' && x <= 'Z' ? x - 'A' + 'a' : x) == y; });
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool isRequestLine(std::string_view line) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || last == first || last == first + 1) return false;
  const std::string_view version = line.substr(last + 1);
  return std::all_of(line.begin(), line.begin() + static_cast<ptrdiff_t>(first), isTokenCharacter) &&
         (version == "HTTP/1.1" || version == "HTTP/1.0");
}

// uri-host [ ":" port ]
std::string hostPart(std::string_view value) {
  const size_t colon = value.find(':');
  if (colon == std::string_view::npos) return normalisedHost(value);
  const std::string_view port = value.substr(colon + 1);
  uint16_t number = 0;
  const auto [stop, code] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (!port.empty() && (code != std::errc{} || stop != port.data() + port.size())) return {};
  return normalisedHost(value.substr(0, colon));
}

}  // namespace

PeekResult httpHostOf(ByteView firstBytes) {
  std::string_view text = asText(firstBytes);
  const size_t space = text.find(' ');
  const std::string_view method = text.substr(0, space);
  if (method.size() > kMaxMethodBytes || !std::all_of(method.begin(), method.end(), isTokenCharacter)) return {};
  const size_t end = text.find("\r\n\r\n");
  const size_t lineEnd = text.find("\r\n");
  if (lineEnd != std::string_view::npos && !isRequestLine(text.substr(0, lineEnd))) return {};
  if (end == std::string_view::npos) return {Peek::NeedMore, {}};

  std::string host;
  bool seen = false;
  text = text.substr(0, end + 2);
  for (size_t at = lineEnd + 2; at < text.size();) {
    const size_t stop = text.find("\r\n", at);
    const std::string_view line = text.substr(at, stop - at);
    at = stop + 2;
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0) return {};
    if (!equalsIgnoringCase(line.substr(0, colon), "host")) continue;
    if (seen) return {};
    seen = true;
    host = hostPart(trimmed(line.substr(colon + 1)));
  }
  if (host.empty()) return {};
  return {Peek::Found, std::move(host)};
}

PeekResult hostOf(ByteView firstBytes) {
  if (firstBytes.empty()) return {Peek::NeedMore, {}};
  return firstBytes[0] == 22 ? serverNameOf(firstBytes) : httpHostOf(firstBytes);
}

}  // namespace wayleave::proxy
