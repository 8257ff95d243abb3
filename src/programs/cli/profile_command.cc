// profile install, remove, list, show: over managementd's API.

#include <unistd.h>

#include <fmt/format.h>

#include "base/file.h"
#include "commands.h"
#include "localapi/json_reader.h"
#include "localapi/url.h"
#include "progress.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

// A profile with icons; what managementd takes at most.
constexpr size_t kMostProfileBytes = 8 * 1024 * 1024;
// An ACME enrolment against a slow CA with a slow TPM; managementd itself gives up earlier and says why.
constexpr std::chrono::minutes kInstallTimeout{20};

Result<Bytes> readProfile(const std::string& file) {
  return file == "-" ? readAll(STDIN_FILENO, kMostProfileBytes) : readFile(file, kMostProfileBytes);
}

void printFinding(const json& finding) {
  const std::string severity = textOf(finding, "severity");
  std::string where = textOf(finding, "payload");
  if (const std::string path = textOf(finding, "keyPath"); !path.empty()) where += (where.empty() ? "" : ": ") + path;
  fmt::print("  {} {}{}{}\n", styled(STDOUT_FILENO, severity == "warning" ? "33" : "2", severity + ":"), where,
             where.empty() ? "" : ": ", textOf(finding, "message"));
  if (const std::string hint = textOf(finding, "hint"); !hint.empty()) fmt::print("    {}\n", hint);
}

void printProfile(const json& profile) {
  printFields({{"identifier", textOf(profile, "identifier")},
               {"name", textOf(profile, "displayName")},
               {"organisation", textOf(profile, "organization")},
               {"uuid", textOf(profile, "uuid")},
               {"installed", textOf(profile, "installedAt")},
               {"removed at", textOf(profile, "removedAt")},
               {"signed by", textOf(profile, "signer")},
               {"trust", textOf(profile, "signerTrust")}});
  Table payloads({"PAYLOAD", "TYPE", "NAME"});
  for (const json& payload : arrayOf(profile, "payloads"))
    payloads.add({textOf(payload, "identifier"), textOf(payload, "type"), textOf(payload, "displayName")});
  if (!payloads.empty()) {
    fmt::print("\n");
    payloads.print();
  }
  for (const json& identity : arrayOf(profile, "identities"))
    fmt::print("\nidentity {}\n  reference {}\n", textOf(identity, "id"), textOf(identity, "reference"));
  for (const json& configuration : arrayOf(profile, "configurations"))
    fmt::print("\nproxy \"{}\" through {}:{}\n", textOf(configuration, "name"), textOf(configuration, "gatewayHost"),
               textOf(configuration, "gatewayPort"));
  if (!arrayOf(profile, "findings").empty()) {
    fmt::print("\n");
    for (const json& finding : arrayOf(profile, "findings")) printFinding(finding);
  }
}

void install(Context& context, const std::string& file) {
  Result<Bytes> profile = readProfile(file);
  if (!profile) return context.fail(profile.error());
  Result<std::string> answer;
  {
    const Progress progress(context);
    answer = context.client("management", kInstallTimeout)
                 .callJson("POST", "/v1/profiles", asText(*profile), "application/x-apple-aspen-config");
  }
  if (!answer) return context.fail(answer.error());
  const Result<json> installed = localapi::parseJson(*answer);
  if (!installed) return context.fail(installed.error());
  if (context.json) return printJson(*installed);
  for (const json& finding : arrayOf(*installed, "findings")) printFinding(finding);
  for (const json& identity : arrayOf(*installed, "identities"))
    fmt::print("  identity {} {}\n", textOf(identity, "id"), textOf(identity, "reference"));
  if (const std::string signer = textOf(*installed, "signer"); !signer.empty())
    fmt::print("  signed by {} ({})\n", signer, textOf(*installed, "signerTrust"));
  if (const std::string removed = textOf(*installed, "removedAt"); !removed.empty()) fmt::print("  goes by itself at {}\n", removed);
  fmt::print("{} {} ({})\n", textOf(*installed, "replaced") == "yes" ? "Replaced" : "Installed",
             textOf(*installed, "identifier"), textOf(*installed, "displayName"));
}

void remove(Context& context, const std::string& identifier) {
  const auto answer = context.ask("management", "DELETE", "/v1/profiles/" + localapi::percentEncode(identifier));
  if (!answer) return;
  if (context.json) return printJson(*answer);
  fmt::print("Removed {}\n", identifier);
}

void list(Context& context) {
  const auto answer = context.ask("management", "GET", "/v1/profiles");
  if (!answer) return;
  if (context.json) return printJson(*answer);
  Table table({"IDENTIFIER", "NAME", "INSTALLED", "STATE"});
  for (const json& profile : arrayOf(*answer, "profiles"))
    table.add({textOf(profile, "identifier"), textOf(profile, "displayName"), textOf(profile, "installedAt"),
               textOf(profile, "state")});
  for (const json& profile : arrayOf(*answer, "unfinished"))
    table.add({textOf(profile, "identifier"), textOf(profile, "displayName"), "", textOf(profile, "state")});
  if (table.empty()) return fmt::print("No profile is installed.\n");
  table.print();
}

void show(Context& context, const std::string& identifier) {
  const auto answer = context.ask("management", "GET", "/v1/profiles/" + localapi::percentEncode(identifier));
  if (!answer) return;
  if (context.json) return printJson(*answer);
  printProfile(*answer);
}

}  // namespace

void addProfileCommand(CLI::App& app, Context& context) {
  CLI::App* profile = addCommand(app, "profile", "configuration profiles");
  profile->require_subcommand(1);
  auto argument = std::make_shared<std::string>();

  addProfileNewCommand(*profile, context);
  CLI::App* command = addCommand(*profile, "install", "install or replace a configuration profile");
  command->add_option("FILE", *argument, "a .mobileconfig file, or - for standard input")->required()->type_name("FILE");
  describeCommand(command, {{"install it, or replace the one with the same PayloadIdentifier", "wayleave profile install device.mobileconfig"}});
  command->callback([&context, argument] { install(context, *argument); });

  command = addCommand(*profile, "remove", "remove a profile and all it brought");
  command->add_option("IDENTIFIER", *argument, "its PayloadIdentifier")->required();
  describeCommand(command, {{"the profile, its identities and its proxies", "wayleave profile remove com.example.wayleave"}});
  command->callback([&context, argument] { remove(context, *argument); });

  command = addCommand(*profile, "list", "the installed profiles");
  describeCommand(command, {{"their identifiers alone", "wayleave profile list --json | jq -r '.profiles[].identifier'"}});
  command->callback([&context] { list(context); });

  command = addCommand(*profile, "show", "one profile: payloads, identities, what was noticed");
  command->add_option("IDENTIFIER", *argument, "its PayloadIdentifier")->required();
  describeCommand(command, {{"what it brought and what was noticed", "wayleave profile show com.example.wayleave"}});
  command->callback([&context, argument] { show(context, *argument); });
}

}  // namespace wayleave::cli
