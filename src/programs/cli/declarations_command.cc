// declarations: what the MDM server and installed profiles declare, what is in force, and why the rest is not.

#include <fmt/format.h>

#include "commands.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

std::string stateOf(const json& declaration) {
  if (textOf(declaration, "valid") == "invalid") return "invalid";
  const bool active = declaration.value("active", false);
  return textOf(declaration, "kind") == "management" ? "known" : active ? "active" : "inactive";
}

void list(Context& context) {
  const auto answer = context.ask("management", "GET", "/v1/declarations");
  if (!answer) return;
  const json& declarations = arrayOf(*answer, "declarations");
  for (const json& declaration : declarations)
    if (textOf(declaration, "valid") == "invalid") context.exit = Exit::Failure;
  if (context.json) return printJson(*answer);
  if (declarations.empty()) return fmt::print("Nothing is declared.\n");
  Table table({"IDENTIFIER", "TYPE", "STATE", "FROM"});
  for (const json& declaration : declarations)
    table.add({printable(textOf(declaration, "identifier")), printable(textOf(declaration, "type")), stateOf(declaration),
               textOf(declaration, "source") == "mdm" ? "MDM server" : printable(textOf(declaration, "source"))});
  table.print();
  for (const json& declaration : declarations)
    for (const json& reason : arrayOf(declaration, "reasons"))
      fmt::print("\n{}: {}\n  {}\n", printable(textOf(declaration, "identifier")), printable(textOf(reason, "code")),
                 printable(textOf(reason, "description")));
}

}  // namespace

void addDeclarationsCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "declarations", "what is declared for this machine, and what is in force");
  describeCommand(command, {{"what is declared, with the reasons for what is not in force", "wayleave declarations"}},
                  "0 all are valid, 1 one is invalid, 5 wayleave-managementd does not answer");
  command->callback([&context] { list(context); });
}

}  // namespace wayleave::cli
