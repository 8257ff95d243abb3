// lint: profiles and declarations before deployment. No daemon is asked.

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "authoring/lint.h"
#include "commands.h"

namespace wayleave::cli {
namespace {

using authoring::LintFinding;
using authoring::Severity;
using nlohmann::json;

struct LintArguments {
  std::vector<std::string> paths;
  std::vector<std::string> ignored;
  bool strict = false, quiet = false, sarif = false;
};

const char* colour(Severity severity) {
  switch (severity) {
    case Severity::Note: return "1;36";
    case Severity::Warning: return "1;33";
    case Severity::Error: return "1;31";
  }
  return "0";
}

void print(const LintFinding& finding) {
  std::string place = printable(finding.file);
  if (finding.line != 0) place += fmt::format(":{}", finding.line);
  if (finding.column != 0) place += fmt::format(":{}", finding.column);
  fmt::print("{} {} {}{} {}\n", styled(STDOUT_FILENO, "1", place + ":"),
             styled(STDOUT_FILENO, colour(finding.severity), fmt::format("{}:", text(finding.severity))),
             finding.where.empty() ? "" : printable(finding.where) + ": ", printable(finding.message),
             styled(STDOUT_FILENO, "2", fmt::format("[{}]", finding.rule)));
  if (!finding.hint.empty()) fmt::print("    {}\n", printable(finding.hint));
}

json toJson(const LintFinding& finding) {
  return {{"severity", text(finding.severity)}, {"file", finding.file},   {"line", finding.line},       {"column", finding.column},
          {"rule", finding.rule},               {"where", finding.where}, {"message", finding.message}, {"hint", finding.hint}};
}

std::string plural(size_t count, std::string_view word) { return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s"); }

void lint(Context& context, const LintArguments& arguments) {
  const authoring::CollectedFiles files = authoring::collectFiles(arguments.paths);
  authoring::LintOptions options;
  options.ignoredRules = arguments.ignored;
  std::vector<LintFinding> findings = authoring::lint(files.inputs, options);
  const authoring::LintCounts counts = authoring::count(findings);
  if (arguments.quiet) std::erase_if(findings, [](const LintFinding& finding) { return finding.severity == Severity::Note; });

  if (counts.errors > 0 || (arguments.strict && counts.warnings > 0)) context.exit = Exit::Failure;
  if (!files.unreadable.empty()) context.exit = Exit::Usage;
  for (const Error& error : files.unreadable)
    fmt::print(stderr, "{} {}\n", styled(STDERR_FILENO, "1;31", "wayleave lint:"), printable(error.message) + (error.hint.empty() ? "" : " (" + error.hint + ")"));
  if (arguments.sarif) return fmt::print("{}\n", authoring::toSarif(findings));
  if (context.json) {
    json out{{"files", files.inputs.size()}, {"errors", counts.errors}, {"warnings", counts.warnings}, {"notes", counts.notes},
             {"unreadable", json::array()},  {"findings", json::array()}};
    for (const Error& error : files.unreadable) out["unreadable"].push_back(error.message);
    for (const LintFinding& finding : findings) out["findings"].push_back(toJson(finding));
    return printJson(out);
  }
  for (const LintFinding& finding : findings) print(finding);
  fmt::print("{}: {}, {}, {}\n", plural(files.inputs.size(), "file"), plural(counts.errors, "error"), plural(counts.warnings, "warning"),
             plural(counts.notes, "note"));
}

}  // namespace

void addLintCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "lint", "check profiles and declarations before deployment");
  auto arguments = std::make_shared<LintArguments>();
  command->add_option("FILE", arguments->paths, "profiles, declarations, folders of them, or - for standard input")->required();
  command->add_flag("--strict", arguments->strict, "warnings count as errors in the exit status");
  command->add_flag("--quiet,-q", arguments->quiet, "print no notes");
  command->add_option("--ignore", arguments->ignored, "leave out the warnings and notes of a rule (may be repeated)")
      ->type_name("RULE")
      ->allow_extra_args(false);
  command->add_flag("--sarif", arguments->sarif, "print SARIF 2.1.0 for code review tools");
  describeCommand(command, {{"a folder, in a pipeline: warnings fail it", "wayleave lint --strict profiles/"},
                            {"what a server is about to send", "curl -s https://mdm.example/profile | wayleave lint -"}},
                  "0 clean, 1 findings that are errors (with --strict also warnings), 2 usage or an unreadable file");
  command->callback([&context, arguments] { lint(context, *arguments); });
}

}  // namespace wayleave::cli
