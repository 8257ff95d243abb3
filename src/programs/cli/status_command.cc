// status: the three daemons on one screen. A daemon that does not answer is part of the picture, not the end of it.

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>

#include <fmt/format.h>

#include "commands.h"
#include "localapi/json_reader.h"
#include "status_screen.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

// A daemon on the same machine that needs longer for a status is as good as down.
constexpr std::chrono::seconds kStatusTimeout{5};

struct StatusOptions {
  bool watch = false;
  int interval = 2;
};

json answerOf(const Context& context, std::string_view daemon, std::string_view path) {
  const auto refused = [](const Error& error) {
    return json{{"error", {{"reason", text(error.reason)}, {"message", error.message}, {"hint", error.hint}}}};
  };
  const Result<std::string> answer = context.client(daemon, kStatusTimeout).callJson("GET", path);
  if (!answer) return refused(answer.error());
  Result<json> document = localapi::parseJson(*answer);
  return document && document->is_object() ? std::move(*document) : refused({Reason::Internal, "the answer is no JSON object", {}, 0});
}

json askAll(Context& context) {
  json all = json::object();
  context.exit = Exit::Ok;
  for (const std::string daemon : {"identity", "management", "proxy"}) {
    all[daemon] = answerOf(context, daemon, "/v1/status");
    if (all[daemon].contains("error")) context.exit = Exit::Unavailable;
  }
  all["identities"] = answerOf(context, "identity", "/v1/identities");
  return all;
}

ScreenStyle terminal() {
  winsize size{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  constexpr size_t kNarrowest = 40, kWidest = 120;  // longer lines are hard to read
  return {.width = known ? std::clamp<size_t>(size.ws_col, kNarrowest, kWidest) : 80, .colour = colourful(STDOUT_FILENO)};
}

// The screen as text, or one JSON document; a single line of it when they follow each other.
std::string rendered(Context& context, bool oneLine) {
  const Wall now = std::chrono::system_clock::now();
  json all = askAll(context);
  const std::vector<Problem> problems = problemsOf(all, now);
  if (!context.json) return statusScreen(all, problems, now, terminal());
  json list = json::array();
  for (const Problem& problem : problems)
    list.push_back({{"severity", problem.grave ? "error" : "warning"}, {"message", problem.what}, {"action", problem.action}});
  all["problems"] = std::move(list);
  // As before it was on the screen: the identities themselves, or why not.
  if (all["identities"].contains("identities")) all["identities"] = all["identities"]["identities"];
  return all.dump(oneLine ? -1 : 2, ' ', false, json::error_handler_t::replace) + "\n";
}

// Until interrupted. A terminal shows the newest screen alone; a pipe gets a screen whenever it changed.
void watch(Context& context, const StatusOptions& options) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  const bool screen = isatty(STDOUT_FILENO) == 1 && !context.json;
  std::string last;
  const timespec pause{options.interval, 0};
  do {
    const std::string now = rendered(context, true);
    if (screen)
      fmt::print("\033[H\033[2J{}\n{}\n", now, styled(STDOUT_FILENO, "2", fmt::format("every {} s; end with Ctrl-C", options.interval)));
    else if (now != last)
      fmt::print("{}{}", now, context.json ? "" : "\n");
    last = now;
    if (std::fflush(stdout) != 0) return;  // the reader is gone
  } while (::sigtimedwait(&set, nullptr, &pause) < 0);
}

}  // namespace

void addStatusCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "status", "what is wrong and what to do, enrolment, identities, gateways: one screen");
  auto options = std::make_shared<StatusOptions>();
  command->add_flag("--watch,-w", options->watch, "again and again, until interrupted");
  command->add_option("--interval", options->interval, "seconds between two looks with --watch")->check(CLI::Range(1, 3600))->capture_default_str();
  describeCommand(command, {{"one look", "wayleave status"},
                            {"for a monitoring system: what is wrong", "wayleave status --json | jq .problems"}},
                  "0 the three daemons answer, 5 one of them does not; what else is wrong is on the screen");
  command->callback([&context, options] {
    if (options->watch) return watch(context, *options);
    fmt::print("{}", rendered(context, false));
  });
}

}  // namespace wayleave::cli
