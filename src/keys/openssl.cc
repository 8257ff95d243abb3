#include "keys/openssl.h"

#include <fmt/format.h>
#include <openssl/err.h>

#include <array>

namespace wayleave::keys {

Error opensslError(Reason reason, std::string_view what) {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (code == 0) return Error{reason, std::string(what)};
  std::array<char, 256> words{};
  // The reason alone reads better than the packed "error:1E08010C:DECODER routines::unsupported".
  const char* because = ERR_reason_error_string(code);
  if (because == nullptr) ERR_error_string_n(code, words.data(), words.size());
  return Error{reason, fmt::format("{}: {}", what, because != nullptr ? because : words.data())};
}

}  // namespace wayleave::keys
