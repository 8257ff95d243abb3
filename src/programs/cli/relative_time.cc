#include "relative_time.h"

#include <array>
#include <cstdio>

#include <fmt/format.h>

namespace wayleave::cli {

std::optional<Wall> parseTime(std::string_view text) {
  int year = 0, length = 0;
  unsigned month = 0, day = 0, hour = 0, minute = 0, second = 0;
  const std::string copy(text);
  if (std::sscanf(copy.c_str(), "%4d-%2u-%2uT%2u:%2u:%2u%n", &year, &month, &day, &hour, &minute, &second, &length) != 6) return std::nullopt;
  if (copy.back() != 'Z') return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month), std::chrono::day(day)};
  // Beyond what the clock's type can hold there is nothing to count.
  if (!date.ok() || hour > 23 || minute > 59 || second > 60 || year < 1970 || year > 2250) return std::nullopt;
  return std::chrono::sys_days(date) + std::chrono::hours(hour) + std::chrono::minutes(minute) + std::chrono::seconds(second);
}

std::string relative(Wall time, Wall now) {
  const int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(time - now).count();
  const int64_t distance = seconds < 0 ? -seconds : seconds;
  struct Unit {
    int64_t seconds;
    const char* name;
    bool plural;
  };
  // Two of the smaller unit still say more than one of the larger: "36 h", "13 days".
  constexpr std::array kUnits{Unit{365 * 86400, "year", true}, Unit{86400, "day", true}, Unit{3600, "h", false}, Unit{60, "min", false}, Unit{1, "s", false}};
  if (distance < 2) return "now";
  for (const Unit& unit : kUnits) {
    if (distance < 2 * unit.seconds) continue;
    const std::string amount = fmt::format("{} {}{}", distance / unit.seconds, unit.name, unit.plural ? "s" : "");
    return seconds > 0 ? "in " + amount : amount + " ago";
  }
  return "now";
}

std::string relative(std::string_view text, Wall now) {
  const auto time = parseTime(text);
  return time ? relative(*time, now) : std::string(text);
}

}  // namespace wayleave::cli
