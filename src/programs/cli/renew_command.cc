// renew: every enrolled identity now, due or not.

#include <fmt/format.h>

#include "commands.h"
#include "localapi/json_reader.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

constexpr std::chrono::minutes kRenewTimeout{20};  // as long as an installation may take

void renew(Context& context) {
  const Result<std::string> answer = context.client("management", kRenewTimeout).callJson("POST", "/v1/renew", "{}");
  if (!answer) return context.fail(answer.error());
  const Result<json> document = localapi::parseJson(*answer);
  if (!document) return context.fail(document.error());
  const json& failed = arrayOf(*document, "failed");
  if (!failed.empty()) context.exit = Exit::Failure;
  if (context.json) return printJson(*document);
  for (const json& entry : failed) {
    fmt::print("identity {}: {}: {}\n", textOf(entry, "identity"), textOf(entry, "reason"), textOf(entry, "message"));
    if (const std::string hint = textOf(entry, "hint"); !hint.empty()) fmt::print("  {}\n", hint);
  }
  fmt::print("{}\n", failed.empty() ? "Every enrolled identity is renewed" : "The others are renewed");
}

}  // namespace

void addRenewCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "renew", "renew every enrolled identity now");
  describeCommand(command, {{"due or not", "wayleave renew"}}, "0 all are renewed, 1 some are not, 4 no right to, 5 wayleave-managementd does not answer");
  command->callback([&context] { renew(context); });
}

}  // namespace wayleave::cli
