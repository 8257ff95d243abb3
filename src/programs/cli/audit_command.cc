// audit show, audit verify: every signature, by whom, and whether the record is whole.

#include <unistd.h>

#include <fmt/format.h>

#include "commands.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

void show(Context& context, int limit) {
  const auto answer = context.ask("identity", "GET", fmt::format("/v1/audit?limit={}", limit));
  if (!answer) return;
  if (context.json) return printJson(*answer);
  Table table({"SEQ", "TIME", "EVENT", "OUTCOME", "UID", "EXECUTABLE", "IDENTITY", "SCHEME", "DETAIL"});
  for (const json& line : arrayOf(*answer, "lines"))
    table.add({textOf(line, "seq"), textOf(line, "time"), textOf(line, "event"), textOf(line, "outcome"), textOf(line, "uid"),
               textOf(line, "executable"), textOf(line, "label"), textOf(line, "scheme"),
               line.contains("damaged") ? "(damaged)" : textOf(line, "detail")});
  if (table.empty()) return fmt::print("The audit log is empty.\n");
  table.print();
}

void verify(Context& context) {
  const auto answer = context.ask("identity", "POST", "/v1/audit/verify", "{}");
  if (!answer) return;
  const bool intact = textOf(*answer, "intact") == "yes";
  if (!intact) context.exit = Exit::Failure;
  if (context.json) return printJson(*answer);
  for (const json& finding : arrayOf(*answer, "findings"))
    fmt::print("{} {}:{}: {}\n", styled(STDOUT_FILENO, "31", "broken"), textOf(finding, "file"), textOf(finding, "line"),
               textOf(finding, "message"));
  fmt::print("{} lines, {} to {}: {}\n", textOf(*answer, "lines"), textOf(*answer, "first"), textOf(*answer, "last"),
             intact ? "the chain is intact" : "the chain is broken");
}

}  // namespace

void addAuditCommand(CLI::App& app, Context& context) {
  CLI::App* audit = addCommand(app, "audit", "the record of what was asked of the identities");
  audit->require_subcommand(1);
  auto limit = std::make_shared<int>(50);
  CLI::App* command = addCommand(*audit, "show", "the newest lines of the audit log");
  command->add_option("--limit", *limit, "how many")->check(CLI::Range(1, 1000))->capture_default_str();
  describeCommand(command, {{"who was refused", "wayleave audit show --limit 1000 --json | jq '.lines[] | select(.outcome != \"OK\")'"}});
  command->callback([&context, limit] { show(context, *limit); });
  command = addCommand(*audit, "verify", "check that no line was removed, altered or moved");
  describeCommand(command, {{"nightly, by a timer", "wayleave audit verify || mail -s 'audit log broken' root < /dev/null"}}, "0 the chain is intact, 1 it is broken, 4 no grant to ask, 5 wayleave-identityd does not answer");
  command->callback([&context] { verify(context); });
}

}  // namespace wayleave::cli
