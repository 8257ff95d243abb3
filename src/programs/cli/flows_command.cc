// flows: what proxyd carried, refused and let pass.

#include <unistd.h>

#include <csignal>
#include <thread>

#include <fmt/format.h>

#include "commands.h"
#include "localapi/json_reader.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

std::vector<std::string> row(const json& flow) {
  const std::string host = textOf(flow, "host");
  const std::string destination = textOf(flow, "destination");
  return {textOf(flow, "ended").empty() ? textOf(flow, "started") : textOf(flow, "ended"),
          textOf(flow, "decision"),
          textOf(flow, "outcome"),
          host.empty() ? destination : fmt::format("{} ({})", host, destination),
          bytesText(numberOf(flow, "bytesUp")),
          bytesText(numberOf(flow, "bytesDown")),
          textOf(flow, "error")};
}

void list(Context& context, int limit) {
  const auto answer = context.ask("proxy", "GET", fmt::format("/v1/flows?limit={}", limit));
  if (!answer) return;
  if (context.json) return printJson(*answer);
  Table table({"TIME", "DECISION", "OUTCOME", "DESTINATION", "UP", "DOWN", "ERROR"});
  for (const json& flow : arrayOf(*answer, "flows")) table.add(row(flow));
  if (table.empty())
    fmt::print("No flow yet.\n");
  else
    table.print();
  if (textOf(*answer, "of") == "caller") fmt::print("These are your own. Root and members of wayleave-admin see every user's.\n");
}

// Until interrupted. The signals are taken by a thread of their own, so that the stream ends in order.
void follow(Context& context) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::stop_source stop;
  std::jthread([set, stop]() mutable {
    int number = 0;
    sigwait(&set, &number);
    stop.request_stop();
  }).detach();

  const auto onLine = [&](std::string_view line) {
    if (context.json) {
      fmt::print("{}\n", line);
    } else if (const Result<json> flow = localapi::parseJson(line)) {
      std::string out;
      for (const std::string& cell : row(*flow))
        if (!cell.empty()) out += (out.empty() ? "" : "  ") + cell;
      fmt::print("{}\n", out);
    }
    return std::fflush(stdout) == 0;
  };
  if (const Status ended = context.client("proxy").follow("/v1/watch", onLine, stop.get_token()); !ended)
    context.fail(ended.error());
}

}  // namespace

void addFlowsCommand(CLI::App& app, Context& context) {
  CLI::App* flows = addCommand(app, "flows", "your latest flows, or all as they end; an administrator sees every user's");
  auto limit = std::make_shared<int>(50);
  auto following = std::make_shared<bool>(false);
  flows->add_option("--limit", *limit, "how many")->check(CLI::Range(1, 10'000))->capture_default_str();
  flows->add_flag("--follow,-f", *following, "print flows as they end");
  describeCommand(flows, {{"what is refused or fails, as it happens", "wayleave flows --follow"},
                          {"which names went to the gateway", "wayleave flows --json --limit 1000 | jq -r '.flows[] | select(.decision == \"proxy\") | .host'"}});
  flows->callback([&context, limit, following] { *following ? follow(context) : list(context, *limit); });
}

}  // namespace wayleave::cli
