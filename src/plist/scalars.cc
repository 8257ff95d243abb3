#include "plist/scalars.h"

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cmath>

namespace wayleave::plist {
namespace {

bool isSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && isSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && isSpace(text.back())) text.remove_suffix(1);
  return text;
}

// Quoted for a message: short, and nothing that could disturb a terminal.
std::string shown(std::string_view text) {
  constexpr size_t kLongest = 40;
  std::string out;
  for (const char c : text.substr(0, kLongest)) out.push_back(c >= ' ' && c < 0x7f ? c : '?');
  return text.size() > kLongest ? "\"" + out + "…\"" : "\"" + out + "\"";
}

constexpr std::chrono::sys_days kEpoch{std::chrono::year{2001} / 1 / 1};
// Seconds from 2001 to the first and past the last moment that a four-digit year can name.
constexpr double kFirst =
    std::chrono::duration<double>(std::chrono::sys_days{std::chrono::year{1} / 1 / 1} - kEpoch).count();
constexpr double kPast =
    std::chrono::duration<double>(std::chrono::sys_days{std::chrono::year{10000} / 1 / 1} - kEpoch).count();

}  // namespace

Result<Value> parseInteger(std::string_view text) {
  const auto bad = [&] { return fail(Reason::BadInput, shown(text) + " is not an integer of 64 bits"); };
  std::string_view digits = trimmed(text);
  bool negative = false;
  if (!digits.empty() && (digits.front() == '-' || digits.front() == '+')) {
    negative = digits.front() == '-';
    digits.remove_prefix(1);
  }
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    base = 16;
    digits.remove_prefix(2);
  }
  uint64_t magnitude = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, code] = std::from_chars(digits.data(), end, magnitude, base);
  if (code != std::errc{} || stop != end) return bad();  // also catches an empty text and a second sign
  if (!negative) return Value(magnitude);
  if (magnitude > uint64_t{1} << 63) return bad();
  return Value(static_cast<int64_t>(-magnitude));  // modulo 2^64: exact, also for -2^63
}

Result<double> parseReal(std::string_view text) {
  std::string_view digits = trimmed(text);
  bool negative = false;
  if (!digits.empty() && (digits.front() == '-' || digits.front() == '+')) {
    negative = digits.front() == '-';
    digits.remove_prefix(1);
  }
  if (digits == "nan") return std::nan("");
  if (digits == "inf" || digits == "infinity") return negative ? -HUGE_VAL : HUGE_VAL;
  double value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, code] = std::from_chars(digits.data(), end, value);
  const bool startsWell =
      !digits.empty() && ((digits.front() >= '0' && digits.front() <= '9') || digits.front() == '.');
  if (!startsWell || code != std::errc{} || stop != end)
    return fail(Reason::BadInput, shown(text) + " is not a real number");
  return negative ? -value : value;
}

Result<Date> parseDate(std::string_view text) {
  const auto bad = [&] {
    return fail(Reason::BadInput, shown(text) + " is not a date of the form YYYY-MM-DDThh:mm:ssZ");
  };
  const std::string_view in = trimmed(text);
  constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:ddZ";
  if (in.size() != kForm.size()) return bad();
  for (size_t i = 0; i < in.size(); ++i) {
    const bool digit = in[i] >= '0' && in[i] <= '9';
    if (kForm[i] == 'd' ? !digit : in[i] != kForm[i]) return bad();
  }
  const auto number = [&](size_t at, size_t count) {
    int value = 0;
    for (const char c : in.substr(at, count)) value = value * 10 + (c - '0');
    return value;
  };
  const std::chrono::year_month_day day{std::chrono::year{number(0, 4)},
                                        std::chrono::month{static_cast<unsigned>(number(5, 2))},
                                        std::chrono::day{static_cast<unsigned>(number(8, 2))}};
  const int hour = number(11, 2), minute = number(14, 2), second = number(17, 2);
  if (!day.ok() || number(0, 4) < 1 || hour > 23 || minute > 59 || second > 59) return bad();
  const auto days = std::chrono::sys_days{day} - kEpoch;
  return Date{std::chrono::duration<double>(days).count() + hour * 3600.0 + minute * 60.0 + second};
}

Result<Bytes> parseData(std::string_view text) {
  std::string packed;
  packed.reserve(text.size());
  for (const char c : text)
    if (!isSpace(c)) packed.push_back(c);
  Result<Bytes> bytes = fromBase64(packed);
  if (bytes) return bytes;
  Error error = bytes.error();
  error.message.insert(0, "<data> is not base64: ");
  if (packed.find_first_of("$%{") != std::string::npos)
    error.hint = "it looks like a template variable that was not filled in; replace it before installing";
  return std::unexpected(std::move(error));
}

std::string formatReal(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "+infinity" : "-infinity";
  return fmt::format("{}", value);
}

bool isWritableDate(Date date) { return date.secondsSince2001 >= kFirst && date.secondsSince2001 < kPast; }

std::optional<std::string> formatDate(Date date) {
  if (!isWritableDate(date)) return std::nullopt;
  const std::chrono::sys_seconds moment{kEpoch +
                                        std::chrono::seconds(static_cast<int64_t>(std::floor(date.secondsSince2001)))};
  const auto midnight = std::chrono::floor<std::chrono::days>(moment);
  const std::chrono::year_month_day day{midnight};
  const std::chrono::hh_mm_ss clock{moment - midnight};
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", static_cast<int>(day.year()),
                     static_cast<unsigned>(day.month()), static_cast<unsigned>(day.day()), clock.hours().count(),
                     clock.minutes().count(), clock.seconds().count());
}

}  // namespace wayleave::plist
