#pragma once

// Logging: one line per event to standard error, `key=value` pairs after the message, no secret ever. spdlog beneath;
// only base/log.cc includes it, to keep its headers out of ours.
//
//   log::info("profile installed", {{"identifier", id}, {"payloads", std::to_string(n)}});
//
// Safe from any thread. Values with spaces or quotes are quoted; control characters are escaped, so that no outside
// text can forge a line.

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/result.h"

namespace wayleave::log {

enum class Level : uint8_t { Debug, Info, Warning, Error };

struct Field {
  std::string_view key;
  std::string value;
};
using Fields = std::initializer_list<Field>;

// `program` prefixes each line. Call once, first thing in main.
void start(std::string_view program, Level level);
// "debug", "info", "warning", "error".
Result<Level> parseLevel(std::string_view name);

void write(Level level, std::string_view message, Fields fields);
inline void debug(std::string_view message, Fields fields = {}) { write(Level::Debug, message, fields); }
inline void info(std::string_view message, Fields fields = {}) { write(Level::Info, message, fields); }
inline void warn(std::string_view message, Fields fields = {}) { write(Level::Warning, message, fields); }
inline void error(std::string_view message, Fields fields = {}) { write(Level::Error, message, fields); }

// reason=… error="…" hint="…" appended to the fields: the usual way to log an Error.
void failure(std::string_view message, const Error& error, Fields fields = {});

// One value as it stands in a line: quoted and escaped when it must be.
std::string quoteValue(std::string_view value);

}  // namespace wayleave::log
