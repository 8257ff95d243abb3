// wayleave: the command line over the three local APIs. It holds no right of its own: every daemon judges the caller.

#include <cstdlib>
#include <ctime>
#include <exception>

#include <fmt/format.h>

#include "commands.h"
#include "completion.h"
#include "explain_command.h"
#include "help.h"
#include "manual.h"

namespace wayleave::cli {
namespace {

// A package is the same whenever it is built (https://reproducible-builds.org/specs/source-date-epoch/).
std::string manualDate() {
  const char* epoch = std::getenv("SOURCE_DATE_EPOCH");
  const std::time_t time = epoch != nullptr ? static_cast<std::time_t>(std::strtoll(epoch, nullptr, 10)) : std::time(nullptr);
  std::tm day{};
  char month[32] = "";
  if (::gmtime_r(&time, &day) == nullptr || std::strftime(month, sizeof month, "%B", &day) == 0) return "January 1, 1970";
  return fmt::format("{} {}, {}", month, day.tm_mday, day.tm_year + 1900);
}

int run(int argc, char** argv) {
  CLI::App app("Wayleave: this machine's managed identities, and the flows they carry", "wayleave");
  Context context;
  app.formatter(std::make_shared<HelpFormatter>());
  app.footer(kExitStatuses);
  app.set_version_flag("--version", "wayleave " WAYLEAVE_VERSION);
  app.add_flag("--json", context.json, "print JSON, as the local APIs give it");
  context.runtimeDir = "/run/wayleave";
  app.add_option("--runtime-dir", context.runtimeDir, "where the daemons' sockets are")
      ->envname("WAYLEAVE_RUNTIME_DIR")
      ->type_name("DIR")
      ->capture_default_str();
  app.require_subcommand(1);

  addProfileCommand(app, context);
  addLintCommand(app, context);
  addIdentityCommand(app, context);
  addStatusCommand(app, context);
  addFlowsCommand(app, context);
  addSignCommand(app, context);
  addEnrollCommand(app, context);
  addRenewCommand(app, context);
  int explained = 0;
  addExplainCommand(app, explained);
  addCallerCommand(app, context);
  addApplicationCommand(app, context);
  addDeclarationsCommand(app, context);
  addAuditCommand(app, context);
  addDoctorCommand(app, context);
  addProbeCommand(app, context);
  addRunCommand(app, context);
  addCompletionCommand(app, context);

  // Not commands of their own: what shells and the package's build ask of the command tree.
  if (argc >= 2 && std::string_view(argv[1]) == "__complete") {
    fmt::print("{}", complete(app, context, {argv + 2, argv + argc}));
    return 0;
  }
  if (argc == 2 && std::string_view(argv[1]) == "__manual") {
    fmt::print("{}", manualPage(app, manualDate()));
    return 0;
  }

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);  // prints help, version or the mistake
    return status == 0 ? 0 : static_cast<int>(Exit::Usage);
  }
  if (context.exit == Exit::Ok && explained != 0) return explained;
  return static_cast<int>(context.exit);
}

}  // namespace
}  // namespace wayleave::cli

int main(int argc, char** argv) {
  try {
    return wayleave::cli::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "wayleave: {}\n", error.what());
    return 1;
  }
}
