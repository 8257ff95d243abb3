// identity list, show: what identityd grants this caller to see.

#include <fmt/format.h>

#include "base/bytes.h"
#include "commands.h"
#include "localapi/url.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

void list(Context& context) {
  const auto answer = context.ask("identity", "GET", "/v1/identities");
  if (!answer) return;
  if (context.json) return printJson(*answer);
  Table table({"ID", "SUBJECT", "KEY", "ATTESTED", "VALID UNTIL", "STATE", "PROFILE"});
  for (const json& identity : arrayOf(*answer, "identities"))
    table.add({textOf(identity, "id"), textOf(identity, "subject"),
               textOf(identity, "keyType") + ", " + textOf(identity, "keyKind"), textOf(identity, "attested"),
               textOf(identity, "notAfter"), textOf(identity, "state"), textOf(identity, "profileIdentifier")});
  if (table.empty()) return fmt::print("No identity is granted to this program.\n");
  table.print();
}

void show(Context& context, const std::string& id) {
  const auto answer = context.ask("identity", "GET", "/v1/identities/" + localapi::percentEncode(id));
  if (!answer) return;
  if (context.json) return printJson(*answer);
  const json& identity = *answer;
  std::string schemes;
  for (const json& scheme : arrayOf(identity, "schemes"))
    if (scheme.is_string()) schemes += (schemes.empty() ? "" : " ") + printable(scheme.get<std::string>());
  printFields({{"id", textOf(identity, "id")},
               {"label", textOf(identity, "label")},
               {"subject", textOf(identity, "subject")},
               {"issuer", textOf(identity, "issuer")},
               {"serial", textOf(identity, "serial")},
               {"valid from", textOf(identity, "notBefore")},
               {"valid until", textOf(identity, "notAfter")},
               {"renewed after", textOf(identity, "renewAfter")},
               {"sha256", textOf(identity, "sha256")},
               {"key", textOf(identity, "keyType") + ", " + textOf(identity, "keyKind")},
               {"attested", textOf(identity, "attested")},
               {"schemes", schemes},
               {"source", textOf(identity, "source")},
               {"keychain", textOf(identity, "keychain")},
               {"access group", textOf(identity, "accessGroup")},
               {"profile", textOf(identity, "profileIdentifier")},
               {"chain", fmt::format("{} certificates", arrayOf(identity, "chain").size())},
               {"state", textOf(identity, "state")},
               {"because", textOf(identity, "stateDetail")},
               {"reference", textOf(identity, "reference")}});
}

}  // namespace

void addIdentityCommand(CLI::App& app, Context& context) {
  CLI::App* identity = addCommand(app, "identity", "identities that management delivered");
  identity->require_subcommand(1);
  CLI::App* command = addCommand(*identity, "list", "the identities this program is granted");
  describeCommand(command, {{"their ids alone", "wayleave identity list --json | jq -r '.identities[].id'"}});
  command->callback([&context] { list(context); });
  auto id = std::make_shared<std::string>();
  command = addCommand(*identity, "show", "one identity with its reference and certificate");
  command->add_option("ID", *id, "as `identity list` prints it")->required();
  describeCommand(command, {{"its persistent reference", "wayleave identity show ID --json | jq -r .reference"}});
  command->callback([&context, id] { show(context, *id); });
}

}  // namespace wayleave::cli
