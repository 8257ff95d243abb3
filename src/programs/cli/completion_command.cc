// completion: the few lines with which a shell asks `wayleave __complete` (completion.h).

#include <fmt/format.h>

#include "commands.h"

namespace wayleave::cli {
namespace {

constexpr const char* kBash = R"(# bash completion for wayleave: source <(wayleave completion bash)
_wayleave() {
  local line current="${COMP_WORDS[COMP_CWORD]}"
  [ "$current" = "=" ] && current=""
  COMPREPLY=()
  while IFS= read -r line; do
    case "$line" in
      :none) ;;
      :files) compopt -o filenames 2>/dev/null; while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current") ;;
      :folders) compopt -o filenames 2>/dev/null; while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$current") ;;
      *) COMPREPLY+=("${line%%$'\t'*}") ;;
    esac
  done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _wayleave wayleave
)";

constexpr const char* kZsh = R"(#compdef wayleave
# zsh completion for wayleave: save as _wayleave in a folder of $fpath, or source <(wayleave completion zsh)
_wayleave() {
  local line value added=1
  local -a candidates
  local directive=:none
  while IFS= read -r line; do
    case $line in
      :none|:files|:folders) directive=$line ;;
      *)
        value=${line%%$'\t'*}
        if [[ $line == *$'\t'* ]]; then candidates+=("${value//:/\\:}:${line#*$'\t'}"); else candidates+=("${value//:/\\:}"); fi ;;
    esac
  done < <("${(Q)words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
  if (( $#candidates )); then _describe -t values value candidates && added=0; fi
  case $directive in
    :files) _files && added=0 ;;
    :folders) _files -/ && added=0 ;;
  esac
  return added
}
if [ "$funcstack[1]" = _wayleave ]; then _wayleave "$@"; else compdef _wayleave wayleave; fi
)";

constexpr const char* kFish = R"(# fish completion for wayleave: wayleave completion fish | source
function __wayleave_complete
  set -l words (commandline -opc)
  set -l current (commandline -ct)
  set -l program $words[1]
  set -e words[1]
  for line in ($program __complete $words "$current" 2>/dev/null)
    switch $line
      case :none
      case :files
        __fish_complete_path "$current"
      case :folders
        __fish_complete_directories "$current" ''
      case '*'
        echo $line
    end
  end
end
complete -c wayleave -f -a '(__wayleave_complete)'
)";

}  // namespace

void addCompletionCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "completion", "completion for bash, zsh or fish, to be sourced");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  describeCommand(command, {{"in this shell", "source <(wayleave completion bash)"},
                            {"in every fish to come", "wayleave completion fish > ~/.config/fish/completions/wayleave.fish"}});
  command->callback([&context, shell] {
    const char* script = *shell == "bash" ? kBash : *shell == "zsh" ? kZsh : kFish;
    if (context.json) return printJson({{"shell", *shell}, {"script", script}});
    fmt::print("{}", script);
  });
}

}  // namespace wayleave::cli
