#pragma once

// Each command adds itself to the program; one file per command.

#include <CLI/CLI.hpp>

#include "context.h"

namespace wayleave::cli {

void addProfileCommand(CLI::App& app, Context& context);
void addProfileNewCommand(CLI::App& profile, Context& context);
void addIdentityCommand(CLI::App& app, Context& context);
void addStatusCommand(CLI::App& app, Context& context);
void addFlowsCommand(CLI::App& app, Context& context);
void addSignCommand(CLI::App& app, Context& context);
void addEnrollCommand(CLI::App& app, Context& context);  // enroll, unenroll, wake
void addRenewCommand(CLI::App& app, Context& context);
void addCallerCommand(CLI::App& app, Context& context);  // caller, grants
void addApplicationCommand(CLI::App& app, Context& context);
void addDeclarationsCommand(CLI::App& app, Context& context);
void addAuditCommand(CLI::App& app, Context& context);
void addDoctorCommand(CLI::App& app, Context& context);
void addProbeCommand(CLI::App& app, Context& context);
void addRunCommand(CLI::App& app, Context& context);
void addCompletionCommand(CLI::App& app, Context& context);
void addLintCommand(CLI::App& app, Context& context);

// A subcommand that also takes the program's own options after itself: `wayleave profile list --json`.
inline CLI::App* addCommand(CLI::App& parent, const std::string& name, const std::string& line) {
  return parent.add_subcommand(name, line)->fallthrough();
}

struct Example {
  const char* what;  // "a folder, in a pipeline"
  const char* line;  // "wayleave lint --strict profiles/"
};
// Examples and exit statuses for --help and the man page. `statuses` where they differ from the program's usual ones.
void describeCommand(CLI::App* command, const std::vector<Example>& examples, const std::string& statuses = {});

}  // namespace wayleave::cli
