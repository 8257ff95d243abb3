#include "localapi/url.h"

namespace wayleave::localapi {
namespace {

// No call of the local APIs takes more than three.
constexpr size_t kMostParameters = 32;

int hexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool isUnreserved(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
         c == '_' || c == '~';
}

}  // namespace

std::string percentEncode(std::string_view segment) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string out;
  out.reserve(segment.size());
  for (const char c : segment) {
    if (isUnreserved(c)) {
      out += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out += '%';
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

Result<std::string> percentDecode(std::string_view encoded) {
  std::string out;
  out.reserve(encoded.size());
  for (size_t i = 0; i < encoded.size(); ++i) {
    char c = encoded[i];
    if (c == '%') {
      const int high = i + 1 < encoded.size() ? hexDigit(encoded[i + 1]) : -1;
      const int low = i + 2 < encoded.size() ? hexDigit(encoded[i + 2]) : -1;
      if (high < 0 || low < 0)
        return fail(Reason::BadInput, "request target: stray % at offset " + std::to_string(i));
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return fail(Reason::BadInput, "request target: control character at offset " + std::to_string(i));
    out += c;
  }
  return out;
}

Result<Target> parseTarget(std::string_view target) {
  if (target.empty() || target.front() != '/') return fail(Reason::BadInput, "request target does not start with /");
  const size_t mark = target.find('?');
  Result<std::string> path = percentDecode(target.substr(0, mark));
  if (!path) return propagate(path.error());
  Target out{std::move(*path), {}};
  std::string_view rest = mark == std::string_view::npos ? std::string_view{} : target.substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    const size_t equals = pair.find('=');
    Result<std::string> name = percentDecode(pair.substr(0, equals));
    Result<std::string> value =
        percentDecode(equals == std::string_view::npos ? std::string_view{} : pair.substr(equals + 1));
    if (!name) return propagate(name.error());
    if (!value) return propagate(value.error());
    if (out.query.size() == kMostParameters) return fail(Reason::BadInput, "request target: too many parameters");
    if (!out.query.emplace(std::move(*name), std::move(*value)).second)
      return fail(Reason::BadInput, "request target: a parameter is given twice");
  }
  return out;
}

}  // namespace wayleave::localapi
