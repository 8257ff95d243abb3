#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace wayleave::log {
namespace {

spdlog::level::level_enum toSpdlog(Level level) {
  switch (level) {
    case Level::Debug: return spdlog::level::debug;
    case Level::Info: return spdlog::level::info;
    case Level::Warning: return spdlog::level::warn;
    case Level::Error: return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void start(std::string_view program, Level level) {
  auto logger = spdlog::stderr_color_mt(std::string(program));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %n %^%l%$ %v", spdlog::pattern_time_type::utc);
  logger->set_level(toSpdlog(level));
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

Result<Level> parseLevel(std::string_view name) {
  if (name == "debug") return Level::Debug;
  if (name == "info") return Level::Info;
  if (name == "warning") return Level::Warning;
  if (name == "error") return Level::Error;
  return fail(Reason::BadInput, fmt::format("'{}' is not a log level", name), "use debug, info, warning or error");
}

std::string quoteValue(std::string_view value) {
  const bool plain = !value.empty() && std::ranges::all_of(value, [](char c) {
    return c > ' ' && c != '"' && c != '=' && c != '\\' && c != 0x7f;
  });
  if (plain) return std::string(value);
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

void write(Level level, std::string_view message, Fields fields) {
  if (!spdlog::default_logger_raw()->should_log(toSpdlog(level))) return;
  std::string line(message);
  for (const Field& field : fields) line += fmt::format(" {}={}", field.key, quoteValue(field.value));
  spdlog::default_logger_raw()->log(toSpdlog(level), "{}", line);
}

void failure(std::string_view message, const Error& error, Fields fields) {
  std::string line(message);
  for (const Field& field : fields) line += fmt::format(" {}={}", field.key, quoteValue(field.value));
  line += fmt::format(" reason={} error={}", text(error.reason), quoteValue(error.message));
  if (!error.hint.empty()) line += fmt::format(" hint={}", quoteValue(error.hint));
  spdlog::default_logger_raw()->log(spdlog::level::err, "{}", line);
}

}  // namespace wayleave::log
