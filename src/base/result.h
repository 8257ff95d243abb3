#pragma once

// Errors are values. A fallible call returns Result<T>; context is added on the way up, so that what reaches a person
// names the cause, what was being tried, and the next step.

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include "base/reason.h"

namespace wayleave {

// An OSStatus of Apple's Security framework; see base/osstatus.h for the names.
using OSStatus = int32_t;

struct [[nodiscard]] Error {
  Reason reason = Reason::Internal;
  std::string message;    // one sentence: what was tried, on what, what came back
  std::string hint;       // what a person can do next; empty when there is nothing honest to say
  OSStatus osStatus = 0;  // where one of Apple's statuses fits, else 0
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

// `return fail(Reason::BadInput, "…")`
inline std::unexpected<Error> fail(Reason reason, std::string message, std::string hint = {}, OSStatus osStatus = 0) {
  return std::unexpected(Error{reason, std::move(message), std::move(hint), osStatus});
}

// Puts "what: " before the message; reason and hint stay those of the cause.
inline std::unexpected<Error> withContext(Error error, std::string_view what) {
  error.message.insert(0, std::string(what) + ": ");
  return std::unexpected(std::move(error));
}
inline std::unexpected<Error> propagate(Error error) { return std::unexpected(std::move(error)); }

// errno as an Error: "open /x: Permission denied".
Error errnoError(int number, std::string_view what, Reason reason = Reason::Io);

// "message (hint)" for a log line or a terminal.
std::string describe(const Error& error);

}  // namespace wayleave
