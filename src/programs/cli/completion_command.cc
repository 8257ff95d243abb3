// completion: shell completion made from the program's own command tree, so that it cannot lag behind it.

#include <fmt/format.h>

#include "commands.h"

namespace wayleave::cli {
namespace {

const auto kEvery = [](const CLI::App*) { return true; };

struct Node {
  std::string path;  // "profile install"; "" for the program itself
  std::vector<const CLI::App*> commands;
  std::vector<std::string> options;
  bool takesFile = false;
};

std::string optionNames(const CLI::Option& option, std::vector<std::string>& out) {
  for (const std::string& name : option.get_lnames()) out.push_back("--" + name);
  for (const std::string& name : option.get_snames()) out.push_back("-" + name);
  return out.empty() ? std::string{} : out.back();
}

void collect(const CLI::App& app, const std::string& path, const std::vector<std::string>& inherited,
             std::vector<Node>& out) {
  Node node{path, {}, inherited, false};
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) node.takesFile = node.takesFile || option->get_name(true) == "FILE";
    else optionNames(*option, node.options);
  }
  for (const CLI::App* command : app.get_subcommands(kEvery)) node.commands.push_back(command);
  const std::vector<std::string> passedOn = path.empty() ? node.options : inherited;
  out.push_back(node);
  for (const CLI::App* command : node.commands)
    collect(*command, path.empty() ? command->get_name() : path + " " + command->get_name(), passedOn, out);
}

std::string words(const Node& node) {
  std::string out;
  for (const CLI::App* command : node.commands) out += command->get_name() + " ";
  for (const std::string& option : node.options) out += option + " ";
  if (!out.empty()) out.pop_back();
  return out;
}

// The path of commands typed so far selects the candidates; shared by bash and zsh, which both have `case`.
std::string cases(const std::vector<Node>& nodes) {
  std::string out;
  for (const Node& node : nodes)
    out += fmt::format("    \"{}\") words=\"{}\"; files={} ;;\n", node.path, words(node), node.takesFile ? 1 : 0);
  return out;
}

std::string known(const std::vector<Node>& nodes) {
  std::string out;
  for (const Node& node : nodes)
    if (!node.path.empty()) out += (out.empty() ? "\"" : "|\"") + node.path + "\"";
  return out;
}

std::string bash(const std::vector<Node>& nodes) {
  return fmt::format(R"(# bash completion for wayleave: source <(wayleave completion bash)
_wayleave() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" path="" candidate words="" files=0 i
  for ((i = 1; i < COMP_CWORD; i++)); do
    candidate="${{path:+$path }}${{COMP_WORDS[i]}}"
    case "$candidate" in {}) path="$candidate" ;; esac
  done
  case "$path" in
{}  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ "$files" = 1 ]; then COMPREPLY+=($(compgen -f -- "$current")); fi
}}
complete -o filenames -F _wayleave wayleave
)",
                     known(nodes), cases(nodes));
}

std::string zsh(const std::vector<Node>& nodes) {
  return fmt::format(R"(#compdef wayleave
# zsh completion for wayleave: save as _wayleave in a folder of $fpath
_wayleave() {{
  local path_="" candidate words="" files=0 i
  for ((i = 2; i < CURRENT; i++)); do
    candidate="${{path_:+$path_ }}${{(Q)${{(z)BUFFER}}[i]}}"
    case "$candidate" in {}) path_="$candidate" ;; esac
  done
  case "$path_" in
{}  esac
  compadd -- ${{=words}}
  if [[ $files == 1 ]]; then _files; fi
}}
compdef _wayleave wayleave
)",
                     known(nodes), cases(nodes));
}

std::string shellQuoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("\\'") : std::string(1, c);
  return out + "'";
}

std::string fish(const std::vector<Node>& nodes) {
  std::string out = "# fish completion for wayleave: wayleave completion fish | source\ncomplete -c wayleave -f\n";
  for (const Node& node : nodes) {
    std::string condition = "__fish_use_subcommand";
    if (!node.path.empty()) {
      condition = "__fish_seen_subcommand_from " + node.path.substr(0, node.path.find(' '));
      if (const size_t space = node.path.find(' '); space != std::string::npos)
        condition += "; and __fish_seen_subcommand_from " + node.path.substr(space + 1);
    }
    for (const CLI::App* command : node.commands)
      out += fmt::format("complete -c wayleave -n {} -a {} -d {}\n", shellQuoted(condition), command->get_name(),
                         shellQuoted(command->get_description()));
    for (const std::string& option : node.options)
      out += fmt::format("complete -c wayleave -n {} {} {}\n", shellQuoted(condition), option.starts_with("--") ? "-l" : "-s",
                         option.substr(option.starts_with("--") ? 2 : 1));
    if (node.takesFile) out += fmt::format("complete -c wayleave -n {} -F\n", shellQuoted(condition));
  }
  return out;
}

}  // namespace

void addCompletionCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "completion", "completion for bash, zsh or fish, to be sourced");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, &context, shell] {
    std::vector<Node> nodes;
    collect(app, "", {}, nodes);
    const std::string script = *shell == "bash" ? bash(nodes) : *shell == "zsh" ? zsh(nodes) : fish(nodes);
    if (context.json) return printJson({{"shell", *shell}, {"script", script}});
    fmt::print("{}", script);
  });
}

}  // namespace wayleave::cli
