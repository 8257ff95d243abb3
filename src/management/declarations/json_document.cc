// A recursive reader: its depth is the nesting, which is bounded before it descends.

#include "management/declarations/json_document.h"

#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "management/profile_report.h"
#include "plist/unicode.h"

namespace wayleave::management {
namespace {

constexpr size_t kMostRecordedLines = 50'000;
constexpr size_t kLongestRecordedPath = 256;

class Reader {
 public:
  Reader(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  Result<JsonDocument> document() {
    if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;
    Result<plist::Value> root = value("", 0);
    if (!root) return propagate(root.error());
    skipBlanks();
    if (at_ != text_.size()) return bad("there is something after the end of the value");
    return JsonDocument{std::move(*root), std::move(lines_)};
  }

 private:
  std::unexpected<Error> bad(std::string_view what) const {
    const std::string_view before = text_.substr(0, at_);
    const size_t newline = before.rfind('\n');
    const size_t column = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
    return fail(Reason::BadInput, fmt::format("not JSON: line {}, column {}: {}", line_, column, what));
  }
  bool atEnd() const { return at_ >= text_.size(); }
  char peek() const { return atEnd() ? '\0' : text_[at_]; }
  void skipBlanks() {
    for (; !atEnd(); ++at_) {
      if (text_[at_] == '\n')
        ++line_;
      else if (text_[at_] != ' ' && text_[at_] != '\t' && text_[at_] != '\r')
        return;
    }
  }
  bool take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  Result<plist::Value> value(const std::string& path, int depth) {
    skipBlanks();
    if (++items_ > limits_.items) return bad(fmt::format("more than {} values", limits_.items));
    if (lines_.size() < kMostRecordedLines && path.size() <= kLongestRecordedPath) lines_.emplace(path, line_);
    switch (peek()) {
      case '{': return object(path, depth);
      case '[': return array(path, depth);
      case '"': {
        Result<std::string> read = string();
        if (!read) return propagate(read.error());
        return plist::Value(std::move(*read));
      }
      default: break;
    }
    if (take("true")) return plist::Value(true);
    if (take("false")) return plist::Value(false);
    if (limits_.nulls && take("null")) return plist::Value("");
    if (take("null")) return bad("null is not a value that a declaration has");
    return number();
  }

  Result<plist::Value> object(const std::string& path, int depth) {
    if (depth >= limits_.depth) return bad(fmt::format("nested deeper than {}", limits_.depth));
    ++at_;
    plist::Dictionary out;
    skipBlanks();
    if (peek() == '}') return ++at_, plist::Value(std::move(out));
    for (;;) {
      skipBlanks();
      if (peek() != '"') return bad("a member's name in double quotes belongs here");
      Result<std::string> name = string();
      if (!name) return propagate(name.error());
      if (out.contains(*name)) return bad(fmt::format("the object has \"{}\" twice", shown(*name)));
      skipBlanks();
      if (peek() != ':') return bad("a colon belongs here");
      ++at_;
      Result<plist::Value> member = value(plist::childPath(path, shown(*name)), depth + 1);
      if (!member) return member;
      out.add(std::move(*name), std::move(*member));
      skipBlanks();
      if (peek() == '}') return ++at_, plist::Value(std::move(out));
      if (peek() != ',') return bad("a comma or the end of the object belongs here");
      ++at_;
    }
  }

  Result<plist::Value> array(const std::string& path, int depth) {
    if (depth >= limits_.depth) return bad(fmt::format("nested deeper than {}", limits_.depth));
    ++at_;
    plist::Array out;
    skipBlanks();
    if (peek() == ']') return ++at_, plist::Value(std::move(out));
    for (;;) {
      Result<plist::Value> element = value(plist::childPath(path, out.size()), depth + 1);
      if (!element) return element;
      out.push_back(std::move(*element));
      skipBlanks();
      if (peek() == ']') return ++at_, plist::Value(std::move(out));
      if (peek() != ',') return bad("a comma or the end of the array belongs here");
      ++at_;
    }
  }

  Result<uint32_t> fourHex() {
    uint32_t unit = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [stop, code] = std::from_chars(digits.data(), digits.data() + digits.size(), unit, 16);
    if (code != std::errc{} || digits.size() != 4 || stop != digits.data() + 4) return bad("\\u needs four hex digits");
    at_ += 4;
    return unit;
  }

  Status escape(std::string& out) {
    ++at_;
    const char kind = peek();
    ++at_;
    switch (kind) {
      case '"': case '\\': case '/': out.push_back(kind); return {};
      case 'b': out.push_back('\b'); return {};
      case 'f': out.push_back('\f'); return {};
      case 'n': out.push_back('\n'); return {};
      case 'r': out.push_back('\r'); return {};
      case 't': out.push_back('\t'); return {};
      case 'u': break;
      default: return bad("an unknown escape");
    }
    Result<uint32_t> unit = fourHex();
    if (!unit) return propagate(unit.error());
    char32_t point = *unit;
    if (point >= 0xDC00 && point <= 0xDFFF) return bad("an unpaired surrogate");
    if (point >= 0xD800 && point <= 0xDBFF) {
      if (!take("\\u")) return bad("an unpaired surrogate");
      const Result<uint32_t> low = fourHex();
      if (!low) return propagate(low.error());
      if (*low < 0xDC00 || *low > 0xDFFF) return bad("an unpaired surrogate");
      point = 0x10000 + ((point - 0xD800) << 10) + (*low - 0xDC00);
    }
    plist::appendUtf8(out, point);
    return {};
  }

  Result<std::string> string() {
    ++at_;
    std::string out;
    while (!atEnd()) {
      const char c = text_[at_];
      if (c == '"') return ++at_, out;
      if (c == '\\') {
        if (Status read = escape(out); !read) return propagate(read.error());
        continue;
      }
      if (static_cast<uint8_t>(c) < 0x20) return bad("a control character in a string");
      const size_t start = at_;
      if (!plist::nextCodePoint(text_, at_)) return bad("bytes that are not UTF-8");
      out.append(text_.substr(start, at_ - start));
    }
    return bad("a string without an end");
  }

  // RFC 8259 section 6: no plus sign, no leading zero, digits on both sides of the point.
  Result<plist::Value> number() {
    const size_t start = at_;
    const auto digits = [this] {
      const size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      return at_ - first;
    };
    bool whole = true;
    if (peek() == '-') ++at_;
    const bool zero = peek() == '0';
    const size_t integer = digits();
    if (integer == 0) return at_ = start, bad("a value belongs here");
    if (zero && integer > 1) return bad("a number with a leading zero");
    if (peek() == '.') {
      ++at_;
      whole = false;
      if (digits() == 0) return bad("digits belong behind the point");
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      whole = false;
      if (peek() == '+' || peek() == '-') ++at_;
      if (digits() == 0) return bad("digits belong into the exponent");
    }
    const std::string_view text = text_.substr(start, at_ - start);
    if (int64_t number = 0; whole && std::from_chars(text.data(), text.data() + text.size(), number).ec == std::errc{})
      return plist::Value(number);
    double real = 0;
    const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), real);
    if (whole || code != std::errc{} || !std::isfinite(real)) return bad("a number out of range");
    return plist::Value(real);
  }

  const std::string_view text_;
  const JsonLimits& limits_;
  size_t at_ = 0;
  uint32_t line_ = 1;
  size_t items_ = 0;
  plist::Lines lines_;
};

}  // namespace

Result<JsonDocument> readJson(ByteView bytes, const JsonLimits& limits) {
  if (bytes.size() > limits.bytes)
    return fail(Reason::BadInput, fmt::format("{} bytes, more than the limit of {}", bytes.size(), limits.bytes));
  return Reader(asText(bytes), limits).document();
}

}  // namespace wayleave::management
