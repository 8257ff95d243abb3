#include "help.h"

#include <fmt/format.h>

#include "commands.h"

namespace wayleave::cli {
namespace {

constexpr size_t kColumn = 30;  // where descriptions begin

void list(const CLI::App& app, const std::string& prefix, std::string& out) {
  for (const CLI::App* command : commandsOf(app)) {
    std::string name = prefix + command->get_name();
    if (!commandsOf(*command).empty()) {
      list(*command, name + " ", out);
      continue;
    }
    for (const CLI::Option* option : command->get_options())
      if (option->get_positional() && !option->get_group().empty()) name += " " + option->get_name(true) + (option->get_expected_max() > 1 ? "…" : "");
    out += fmt::format("  {:<34} {}\n", name, command->get_description());
  }
}

}  // namespace

HelpFormatter::HelpFormatter() { column_width(kColumn); }

std::string HelpFormatter::make_subcommands(const CLI::App* app, CLI::AppFormatMode) const {
  if (commandsOf(*app).empty()) return "";
  std::string out = "\nCommands:\n", prefix;
  for (const CLI::App* parent = app; parent->get_parent() != nullptr; parent = parent->get_parent())
    prefix = parent->get_name() + " " + prefix;
  list(*app, prefix, out);
  return out;
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  std::string out;
  const std::string value = valueName(*option);
  if (!option->get_positional() && !value.empty()) out += " " + value;
  if (!option->get_default_str().empty() && !value.empty()) out += " (" + option->get_default_str() + ")";
  if (!option->get_envname().empty()) out += ", $" + option->get_envname();
  if (option->get_required() && !option->get_positional()) out += ", required";
  return out;
}

std::string HelpFormatter::make_usage(const CLI::App* app, std::string name) const {
  // The tree knows the full name; what the shell called the program is of no interest.
  (void)name;
  std::string full;
  for (const CLI::App* part = app; part != nullptr; part = part->get_parent())
    full = (part->get_parent() == nullptr ? std::string("wayleave") : part->get_name()) + (full.empty() ? "" : " " + full);
  std::string out = "Usage: " + full;
  for (const CLI::Option* option : app->get_options())
    if (option->get_positional() && !option->get_group().empty()) {
      const std::string word = option->get_name(true) + (option->get_expected_max() > 1 ? "…" : "");
      out += option->get_required() ? " " + word : " [" + word + "]";
    }
  if (!commandsOf(*app).empty()) out += " COMMAND";
  return out + " [OPTIONS]\n";
}

std::vector<std::string> allowedValues(const CLI::Option& option) {
  // CLI11 keeps the members of a set only in the type's text: "TEXT:{a,b}".
  const std::string type = option.get_type_name();
  const size_t open = type.find('{');
  const size_t close = type.rfind('}');
  std::vector<std::string> out;
  if (open == std::string::npos || close == std::string::npos || close < open) return out;
  std::string word;
  for (const char c : type.substr(open + 1, close - open - 1) + ",")
    if (c == ',') {
      if (!word.empty()) out.push_back(word);
      word.clear();
    } else {
      word += c;
    }
  return out;
}

std::string valueName(const CLI::Option& option) {
  if (option.get_type_size() == 0 || option.get_expected_max() == 0) return "";
  if (const auto values = allowedValues(option); !values.empty()) return fmt::format("{}", fmt::join(values, "|"));
  const std::string type = option.get_type_name();
  if (type.starts_with("INT") || type.starts_with("UINT")) return "N";
  if (type.starts_with("TEXT") || type.empty()) return "VALUE";
  return type.substr(0, type.find(':'));
}

std::vector<const CLI::App*> commandsOf(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_group().empty(); });
}

void describeCommand(CLI::App* command, const std::vector<Example>& examples, const std::string& statuses) {
  std::string footer;
  if (!examples.empty()) footer += "\nExamples:\n";
  for (const Example& example : examples) footer += fmt::format("  # {}\n  {}\n", example.what, example.line);
  footer += statuses.empty() ? kExitStatuses : fmt::format("\nExit status: {}.\n", statuses);
  command->footer(footer);
}

}  // namespace wayleave::cli
