// caller check, caller show, grants reload: what identityd sees of a program, and which grants follow from it. The tool
// with which an administrator writes a grant.

#include <unistd.h>

#include <charconv>
#include <filesystem>

#include <fmt/format.h>

#include "commands.h"
#include "localapi/json_reader.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

void printVerdict(const json& answer) {
  const auto found = answer.find("caller");
  const json& caller = found != answer.end() ? *found : answer;
  printFields({{"executable", textOf(caller, "executable")},
               {"sha256", textOf(caller, "sha256")},
               {"pid", textOf(caller, "pid")},
               {"uid", textOf(caller, "uid")},
               {"gid", textOf(caller, "gid")},
               {"unit", textOf(caller, "unit")},
               {"cgroup", textOf(caller, "cgroup")}});
  fmt::print("\n");
  for (const json& condition : arrayOf(caller, "conditions")) {
    const bool held = textOf(condition, "held") == "yes";
    fmt::print("  {} {:<17} {}\n", held ? styled(STDOUT_FILENO, "32", "held") : styled(STDOUT_FILENO, "31", "NOT "),
               textOf(condition, "name"), textOf(condition, "sentence"));
    if (const std::string hint = textOf(condition, "hint"); !hint.empty()) fmt::print("       {}\n", hint);
  }
  std::string grants;
  for (const json& grant : arrayOf(answer, "grants"))
    if (grant.is_string()) grants += (grants.empty() ? "" : ", ") + printable(grant.get<std::string>());
  if (answer.contains("grants")) fmt::print("\ngrants in force: {}\n", grants.empty() ? "none" : grants);
  for (const json& miss : arrayOf(answer, "nearMisses")) {
    fmt::print("grant \"{}\" nearly fits:\n", textOf(miss, "grant"));
    for (const json& failure : arrayOf(miss, "failures"))
      if (failure.is_string()) fmt::print("  {}\n", printable(failure.get<std::string>()));
    if (const std::string hint = textOf(miss, "hint"); !hint.empty()) fmt::print("  {}\n", hint);
  }
  if (const auto suggestion = answer.find("suggestion"); suggestion != answer.end() && suggestion->is_string())
    fmt::print("\na grant for it, for a file in grants.d:\n\n{}\n", suggestion->get<std::string>());
}

void check(Context& context, const std::string& subject) {
  int pid = 0;
  const auto [end, code] = std::from_chars(subject.data(), subject.data() + subject.size(), pid);
  json body;
  if (code == std::errc{} && end == subject.data() + subject.size()) {
    body["pid"] = pid;
  } else {
    // identityd has its own working directory.
    std::error_code ignored;
    body["path"] = std::filesystem::absolute(subject, ignored).lexically_normal().string();
  }
  const auto answer = context.ask("identity", "POST", "/v1/callers/check", localapi::dump(body));
  if (!answer) return;
  context.json ? printJson(*answer) : printVerdict(*answer);
}

void showOwn(Context& context) {
  const auto answer = context.ask("identity", "GET", "/v1/caller");
  if (!answer) return;
  context.json ? printJson(*answer) : printVerdict(*answer);
}

void reload(Context& context) {
  const auto answer = context.ask("identity", "POST", "/v1/grants/reload", "{}");
  if (!answer) return;
  const bool taken = textOf(*answer, "reloaded") == "yes";
  if (!taken) context.exit = Exit::BadInput;
  if (context.json) return printJson(*answer);
  for (const json& problem : arrayOf(*answer, "problems"))
    fmt::print("{}:{}: {} {}\n", textOf(problem, "file"), textOf(problem, "line"), textOf(problem, "key"),
               textOf(problem, "message"));
  fmt::print("{}; {} grants are in force\n", taken ? "Reloaded" : "Nothing changed: the old grants stay",
             textOf(*answer, "count"));
}

}  // namespace

void addCallerCommand(CLI::App& app, Context& context) {
  CLI::App* caller = addCommand(app, "caller", "what identityd sees of a program");
  caller->require_subcommand(1);
  auto subject = std::make_shared<std::string>();
  CLI::App* command = addCommand(*caller, "check", "verify a process or a program file, and suggest a grant");
  command->add_option("PID|PATH", *subject, "a running process, or a program file")->required();
  describeCommand(command, {{"why is this process refused?", "wayleave caller check $(pidof curl)"}, {"a grant for a program that does not run yet", "wayleave caller check /usr/bin/curl"}});
  command->callback([&context, subject] { check(context, *subject); });
  command = addCommand(*caller, "show", "what identityd sees of this very program");
  describeCommand(command, {{"which grants are in force for this shell's wayleave", "wayleave caller show"}});
  command->callback([&context] { showOwn(context); });

  CLI::App* grants = addCommand(app, "grants", "which program may use which identities");
  grants->require_subcommand(1);
  command = addCommand(*grants, "reload", "read the grants again; a mistake keeps the old ones");
  describeCommand(command, {{"after a change in /etc/wayleave/grants.d", "wayleave grants reload"}});
  command->callback([&context] { reload(context); });
}

}  // namespace wayleave::cli
