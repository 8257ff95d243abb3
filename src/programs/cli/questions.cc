#include "questions.h"

#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include <fmt/format.h>

#include "context.h"

namespace wayleave::cli {
namespace {

std::string bold(std::string_view text) { return styled(STDERR_FILENO, "1", text); }

void complain(std::string_view problem) { fmt::print(stderr, "  {}\n", styled(STDERR_FILENO, "31", printable(problem))); }

}  // namespace

Questions::Questions() : interactive_(isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1) {}

std::string Questions::line(std::string_view prompt) {
  if (ended_) return {};
  fmt::print(stderr, "{} ", prompt);
  std::string out;
  if (!std::getline(std::cin, out)) {
    ended_ = true;
    fmt::print(stderr, "\n");
  }
  while (out.ends_with(' ') || out.ends_with('\r')) out.pop_back();
  out.erase(0, out.find_first_not_of(' ') == std::string::npos ? out.size() : out.find_first_not_of(' '));
  return out;
}

std::string Questions::accepted(const std::string& given, std::string_view option, const Check& check) {
  if (const std::string problem = check ? check(given) : ""; !problem.empty()) mistakes_.push_back(fmt::format("{}: {}", option, problem));
  return given;
}

std::string Questions::text(const std::string& given, std::string_view option, std::string_view question, const std::string& fallback, const Check& check) {
  if (!given.empty()) return accepted(given, option, check);
  if (!interactive_) {
    if (fallback.empty()) missing_.emplace_back(option);
    return fallback;
  }
  while (!ended_) {
    std::string answer = line(bold(question) + (fallback.empty() ? ":" : fmt::format(" [{}]:", fallback)));
    if (answer.empty()) answer = fallback;
    const std::string problem = answer.empty() ? "an answer is needed" : check ? check(answer) : "";
    if (problem.empty()) return answer;
    if (!ended_) complain(problem);
  }
  return {};
}

std::string Questions::optional(const std::string& given, std::string_view option, std::string_view question, const Check& check) {
  if (!given.empty()) return accepted(given, option, check);
  while (interactive_ && !ended_) {
    std::string answer = line(bold(question) + " [none]:");
    const std::string problem = answer.empty() || !check ? "" : check(answer);
    if (problem.empty()) return answer;
    complain(problem);
  }
  return {};
}

std::string Questions::choice(const std::string& given, std::string_view option, std::string_view question, const std::vector<std::string>& words) {
  return text(given, option, fmt::format("{} ({})", question, fmt::join(words, ", ")), interactive_ ? words.front() : "", [&](const std::string& answer) {
    return std::ranges::find(words, answer) == words.end() ? fmt::format("\"{}\" is none of {}", answer, fmt::join(words, ", ")) : "";
  });
}

bool Questions::yes(bool given, std::string_view question, bool fallback) {
  if (given || !interactive_) return given;
  while (!ended_) {
    const std::string answer = line(bold(question) + (fallback ? " [Y/n]:" : " [y/N]:"));
    if (answer.empty()) return fallback;
    if (answer[0] == 'y' || answer[0] == 'Y') return true;
    if (answer[0] == 'n' || answer[0] == 'N') return false;
    complain("y or n");
  }
  return fallback;
}

Secret Questions::secret(std::string_view question) {
  if (!interactive_ || ended_) return {};
  termios before{};
  const bool quiet = ::tcgetattr(STDIN_FILENO, &before) == 0;
  if (quiet) {
    termios silent = before;
    silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
  }
  std::string answer = line(bold(question) + " (not shown):");
  if (quiet) {
    ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
    fmt::print(stderr, "\n");
  }
  Secret out = Secret::copyOf(answer);
  std::ranges::fill(answer, '\0');
  return out;
}

std::vector<std::string> Questions::list(const std::vector<std::string>& given, std::string_view option, std::string_view question, bool atLeastOne, const Check& check) {
  for (const std::string& one : given) accepted(one, option, check);
  if (!given.empty()) return given;
  if (!interactive_) {
    if (atLeastOne) missing_.emplace_back(option);
    return {};
  }
  std::vector<std::string> out;
  while (!ended_) {
    const std::string answer = line(out.empty() ? bold(question) + (atLeastOne ? ":" : " [none]:") : std::string("  another [no more]:"));
    const std::string problem = answer.empty() ? (out.empty() && atLeastOne ? "at least one is needed" : "") : check ? check(answer) : "";
    if (!problem.empty() && !ended_) complain(problem);
    if (!problem.empty()) continue;
    if (answer.empty()) break;
    out.push_back(answer);
  }
  return out;
}

Status Questions::finish() const {
  if (ended_) return fail(Reason::Cancelled, "the answers ended too early; nothing was written");
  std::string message;
  if (!missing_.empty()) message = fmt::format("missing: {}", fmt::join(missing_, ", "));
  for (const std::string& mistake : mistakes_) message += (message.empty() ? "" : "\n") + mistake;
  if (message.empty()) return {};
  return fail(Reason::BadInput, message, missing_.empty() ? "" : "at a terminal the command asks for what is missing");
}

}  // namespace wayleave::cli
