#pragma once

// What a command still needs to know: from a flag, or from the person at the terminal.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::cli {

// Why an answer will not do, or "".
using Check = std::function<std::string(const std::string&)>;

class Questions {
 public:
  Questions();  // asks only where both standard input and standard error are terminals

  bool interactive() const { return interactive_; }
  // `given` if it is not empty, else the person's answer, else `fallback`. Without a terminal and a fallback, `option` is
  // remembered as missing. A `given` that the check refuses is remembered as a mistake.
  std::string text(const std::string& given, std::string_view option, std::string_view question, const std::string& fallback = {}, const Check& check = {});
  // An answer may be empty here: nothing is missing.
  std::string optional(const std::string& given, std::string_view option, std::string_view question, const Check& check = {});
  // One of `words`; the first is the fallback at a terminal, and nothing is without one.
  std::string choice(const std::string& given, std::string_view option, std::string_view question, const std::vector<std::string>& words);
  bool yes(bool given, std::string_view question, bool fallback);
  // Not echoed; empty without a terminal.
  Secret secret(std::string_view question);
  // A list, until an empty line; only when `given` is empty.
  std::vector<std::string> list(const std::vector<std::string>& given, std::string_view option, std::string_view question, bool atLeastOne, const Check& check = {});

  // What was missing or wrong, all at once. Errors: BadInput; Cancelled when the input ended.
  Status finish() const;

 private:
  std::string line(std::string_view prompt);
  std::string accepted(const std::string& given, std::string_view option, const Check& check);

  const bool interactive_;
  bool ended_ = false;
  std::vector<std::string> missing_, mistakes_;
};

}  // namespace wayleave::cli
