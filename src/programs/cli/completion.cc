#include "completion.h"

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>

#include "help.h"
#include "localapi/json_reader.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

// A person waits with a finger on the key.
constexpr std::chrono::milliseconds kPatience{500};

class Candidates {
 public:
  explicit Candidates(std::string typed) : typed_(std::move(typed)) {}
  void add(std::string_view value, std::string_view description) {
    if (!value.starts_with(typed_)) return;
    out_ += printable(value);
    if (!description.empty()) out_ += "\t" + printable(description);
    out_ += "\n";
  }
  std::string finish(std::string_view directive) { return out_ + std::string(directive) + "\n"; }

 private:
  const std::string typed_;
  std::string out_;
};

// Options of a command and of all above it, which it takes as well.
const CLI::Option* optionNamed(const CLI::App& app, const std::string& word) {
  const std::string name = word.substr(0, word.find('='));
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent())
    for (const CLI::Option* option : at->get_options())
      if (!option->get_positional() && option->check_name(name)) return option;
  return nullptr;
}

bool takesValue(const CLI::Option& option) { return !valueName(option).empty(); }

void addNamed(const Context& context, Candidates& out, std::string_view daemon, const char* path, const char* list, const char* name, const char* description) {
  const Result<std::string> answer = context.client(daemon, kPatience).callJson("GET", path);
  if (!answer) return;  // without the daemon there are no names to offer
  if (const Result<json> document = localapi::parseJson(*answer))
    for (const json& entry : arrayOf(*document, list)) out.add(textOf(entry, name), textOf(entry, description));
}

// The values of an option, or of a positional; returns what the shell is to add.
std::string_view addValues(const Context& context, const CLI::App& command, const CLI::Option& option, Candidates& out) {
  if (const auto values = allowedValues(option); !values.empty()) {
    for (const std::string& value : values) out.add(value, "");
    return ":none";
  }
  const std::string name = option.get_positional() ? option.get_name(true) : valueName(option);
  if (name == "DIR") return ":folders";
  if (name == "FILE" || name == "INPUT" || name == "PID|PATH") return ":files";
  if (name == "IDENTIFIER") addNamed(context, out, "management", "/v1/profiles", "profiles", "identifier", "displayName");
  if (name == "ID" || (command.get_name() == "sign" && option.check_lname("identity")))
    addNamed(context, out, "identity", "/v1/identities", "identities", "id", "subject");
  return ":none";
}

void addOptions(const CLI::App& command, Candidates& out) {
  for (const CLI::App* at = &command; at != nullptr; at = at->get_parent())
    for (const CLI::Option* option : at->get_options()) {
      if (option->get_positional() || option->get_group().empty()) continue;
      // Help exists at every level; once is enough.
      if (at != &command && (option->check_lname("help") || option->check_lname("version"))) continue;
      for (const std::string& name : option->get_lnames()) out.add("--" + name, option->get_description());
      for (const std::string& name : option->get_snames()) out.add("-" + name, option->get_description());
    }
}

}  // namespace

std::string complete(const CLI::App& app, Context& context, std::vector<std::string> words) {
  if (words.empty()) words.emplace_back();
  // Nothing was parsed, so the environment was not looked at either.
  if (const char* folder = std::getenv("WAYLEAVE_RUNTIME_DIR"); folder != nullptr && *folder != '\0') context.runtimeDir = folder;
  // bash hands "--key=value" over as three words.
  std::string current = words.back() == "=" ? "" : words.back();
  words.pop_back();
  std::erase(words, "=");

  const CLI::App* command = &app;
  const CLI::Option* awaiting = nullptr;  // an option whose value comes next
  size_t positionals = 0;
  bool onlyPositionals = false;
  for (const std::string& word : words) {
    if (awaiting != nullptr) {
      if (awaiting->check_lname("runtime-dir")) context.runtimeDir = word;
      awaiting = nullptr;
    } else if (word == "--") {
      onlyPositionals = true;
    } else if (word.starts_with('-') && word.size() > 1 && !onlyPositionals) {
      const CLI::Option* option = optionNamed(*command, word);
      if (option != nullptr && takesValue(*option) && !word.contains('=')) awaiting = option;
    } else {
      const auto below = commandsOf(*command);
      const auto found = std::ranges::find_if(below, [&](const CLI::App* one) { return one->get_name() == word; });
      if (found != below.end() && positionals == 0)
        command = *found;
      else
        ++positionals;
    }
  }

  std::string prefix;  // "--key=" stays before each value
  if (awaiting == nullptr && current.starts_with("--") && current.contains('=') && !onlyPositionals) {
    awaiting = optionNamed(*command, current);
    prefix = current.substr(0, current.find('=') + 1);
    if (awaiting != nullptr) {
      Candidates values(current.substr(prefix.size()));
      (void)addValues(context, *command, *awaiting, values);
      std::string out;
      const std::string plain = values.finish("");
      for (size_t at = 0, end = 0; (end = plain.find('\n', at)) != std::string::npos; at = end + 1)
        if (end > at) out += prefix + plain.substr(at, end - at) + "\n";
      return out + ":none\n";
    }
  }
  Candidates out(current);
  if (awaiting != nullptr) return out.finish(addValues(context, *command, *awaiting, out));
  if (current.starts_with('-') && !onlyPositionals) {
    addOptions(*command, out);
    return out.finish(":none");
  }
  for (const CLI::App* below : commandsOf(*command)) out.add(below->get_name(), below->get_description());
  std::vector<const CLI::Option*> places;
  for (const CLI::Option* option : command->get_options())
    if (option->get_positional() && !option->get_group().empty()) places.push_back(option);
  if (places.empty()) return out.finish(":none");
  const bool repeats = places.back()->get_expected_max() > 1;
  if (positionals >= places.size() && !repeats) return out.finish(":none");
  return out.finish(addValues(context, *command, *places[std::min(positionals, places.size() - 1)], out));
}

}  // namespace wayleave::cli
