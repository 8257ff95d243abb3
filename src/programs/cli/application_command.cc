// application list, watch, show: what declarations give to applications. `list` is the administrator's view of all;
// `watch` and `show` are the ManagedApp contract, for the program that runs them.

#include <fmt/format.h>

#include "commands.h"
#include "localapi/application_client.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

constexpr std::string_view kEntryHint =
    "an [[application]] entry in grants.d must say which program it is (wayleave caller check PID)";

void list(Context& context) {
  const auto answer = context.ask("identity", "GET", "/v1/applications");
  if (!answer) return;
  if (context.json) return printJson(*answer);
  Table table({"APPLICATION", "NAME", "STATE", "IDENTITY", "PROGRAM"});
  for (const json& application : arrayOf(*answer, "applications")) {
    std::string programs;
    for (const json& entry : arrayOf(application, "entries"))
      programs += (programs.empty() ? "" : ", ") + textOf(entry, "where");
    if (programs.empty()) programs = "none";
    for (const json& item : arrayOf(application, "identities")) {
      const std::string problem = textOf(item, "problem");
      table.add({textOf(application, "composedIdentifier"), textOf(item, "identifier"),
                 problem.empty() ? textOf(item, "state") : problem, textOf(item, "identity"), programs});
    }
  }
  if (table.empty()) return fmt::print("No declaration gives an identity to an application.\n");
  table.print();
  for (const json& name : arrayOf(*answer, "unmatched"))
    if (name.is_string()) fmt::print("\n{}: nobody gets its identities: {}\n", printable(name.get<std::string>()), kEntryHint);
}

void watch(Context& context, bool once) {
  localapi::followApplicationIdentities(
      context.socket("identity"), {},
      [&](const localapi::ApplicationIdentities& identities) {
        if (context.json) {
          fmt::print("{}\n", localapi::dump({{"identifiers", identities.identifiers}, {"changed", identities.changed}}));
        } else {
          std::string names;
          for (const std::string& name : identities.identifiers) names += (names.empty() ? "" : "  ") + printable(name);
          fmt::print("{}\n", names.empty() ? "(none)" : names);
        }
        std::fflush(stdout);
        return !once;
      },
      [&](const Error& error) {
        const bool wait = !once && error.reason == Reason::Unavailable;  // a restart; all else only a person can mend
        if (!wait) context.fail(error);
        return wait;
      });
}

void show(Context& context, const std::string& name) {
  const Result<localapi::IdentityInfo> identity = localapi::applicationIdentity(context.socket("identity"), name);
  if (!identity) {
    Error error = identity.error();
    error.message = fmt::format("{}: {}", localapi::text(localapi::managedAppError(error)), error.message);
    return context.fail(error);
  }
  if (context.json) return printJson(localapi::toJson(*identity));
  printFields({{"name", printable(name)},
               {"id", printable(identity->id)},
               {"subject", printable(identity->subject)},
               {"issuer", printable(identity->issuer)},
               {"serial", printable(identity->serial)},
               {"valid until", printable(identity->notAfter)},
               {"key", printable(identity->keyType + ", " + identity->keyKind)},
               {"sha256", printable(identity->sha256)},
               {"state", printable(identity->state)},
               {"reference", toBase64(identity->reference)}});
}

}  // namespace

void addApplicationCommand(CLI::App& app, Context& context) {
  CLI::App* application = addCommand(app, "application", "identities that declarations give to programs");
  application->require_subcommand(1);
  CLI::App* command = addCommand(*application, "list", "all that is declared, and the programs it is for");
  describeCommand(command, {{"is every declared program here?", "wayleave application list"}});
  command->callback([&context] { list(context); });
  auto once = std::make_shared<bool>(false);
  command = addCommand(*application, "watch", "the names provisioned for this very program, again at every change");
  command->add_flag("--once", *once, "print the list and end");
  describeCommand(command, {{"what is there now", "wayleave application watch --once"}});
  command->callback([&context, once] { watch(context, *once); });
  auto name = std::make_shared<std::string>();
  command = addCommand(*application, "show", "the identity behind a name, for this very program");
  command->add_option("NAME", *name, "as the declaration names it")->required();
  describeCommand(command, {{"its certificate and reference", "wayleave application show client"}});
  command->callback([&context, name] { show(context, *name); });
}

}  // namespace wayleave::cli
