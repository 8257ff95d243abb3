#pragma once

// How --help looks, and where examples and exit statuses of commands are kept.

#include <CLI/CLI.hpp>

namespace wayleave::cli {

inline constexpr const char* kExitStatuses =
    "\nExit status: 0 done, 1 failure, 2 usage, 3 not found, 4 denied, 5 a daemon does not answer,\n"
    "6 input refused, 7 timed out.\n";

// The front page lists every command on one line, nested ones with their full name; options are shown without the noise of
// types that say nothing.
class HelpFormatter final : public CLI::Formatter {
 public:
  HelpFormatter();
  std::string make_subcommands(const CLI::App* app, CLI::AppFormatMode mode) const override;
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_usage(const CLI::App* app, std::string name) const override;
};

// What stands for an option's value: "FILE", "pkcs12|scep|acme", "N"; "" for a flag.
std::string valueName(const CLI::Option& option);
// The closed list of values that an option takes; empty when it takes anything.
std::vector<std::string> allowedValues(const CLI::Option& option);
// Visible commands below `app`, in the order in which they were added.
std::vector<const CLI::App*> commandsOf(const CLI::App& app);

}  // namespace wayleave::cli
