#include "base/result.h"

#include <system_error>

namespace wayleave {

Error errnoError(int number, std::string_view what, Reason reason) {
  return Error{reason, std::string(what) + ": " + std::generic_category().message(number), {}, 0};
}

std::string describe(const Error& error) {
  std::string out = std::string(text(error.reason)) + ": " + error.message;
  if (!error.hint.empty()) out += " (" + error.hint + ")";
  return out;
}

}  // namespace wayleave
