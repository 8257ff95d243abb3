// enroll, unenroll, wake: the enrolment with an MDM server, over managementd's API.

#include <unistd.h>

#include <fmt/format.h>

#include "base/file.h"
#include "commands.h"
#include "localapi/json_reader.h"
#include "progress.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

// What managementd takes at most.
constexpr size_t kMostProfileBytes = 8 * 1024 * 1024;
// Obtaining the identity from a slow CA; managementd itself gives up earlier and says why.
constexpr std::chrono::minutes kEnrolTimeout{20};

void enroll(Context& context, const std::string& file) {
  const Result<Bytes> profile = file == "-" ? readAll(STDIN_FILENO, kMostProfileBytes) : readFile(file, kMostProfileBytes);
  if (!profile) return context.fail(profile.error());
  Result<std::string> answer;
  {
    const Progress progress(context);
    answer = context.client("management", kEnrolTimeout).callJson("POST", "/v1/enrolment", asText(*profile), "application/x-apple-aspen-config");
  }
  if (!answer) return context.fail(answer.error());
  const Result<json> state = localapi::parseJson(*answer);
  if (!state) return context.fail(state.error());
  if (context.json) return printJson(*state);
  fmt::print("Enrolled with {}\n  profile {}\n  this machine is {}\n", textOf(*state, "server"), textOf(*state, "profile"), textOf(*state, "udid"));
}

void unenroll(Context& context) {
  Result<std::string> answer;
  {
    const Progress progress(context);
    answer = context.client("management", kEnrolTimeout).callJson("DELETE", "/v1/enrolment");
  }
  if (!answer) return context.fail(answer.error());
  if (context.json) return printJson({{"unenrolled", true}});
  fmt::print("This machine is no longer enrolled; what the server brought is gone\n");
}

void wake(Context& context) {
  const auto answer = context.ask("management", "POST", "/v1/wake");
  if (!answer) return;
  if (context.json) return printJson(*answer);
  fmt::print("The server is being asked for commands\n");
}

}  // namespace

void addEnrollCommand(CLI::App& app, Context& context) {
  auto file = std::make_shared<std::string>();
  CLI::App* command = addCommand(app, "enroll", "enrol this machine with an MDM server");
  command->add_option("PROFILE", *file, "the server's enrolment profile, or - for standard input")->required();
  command->callback([&context, file] { enroll(context, *file); });
  describeCommand(command, {{"with the profile that the server gave", "wayleave enroll enrolment.mobileconfig"}});

  command = addCommand(app, "unenroll", "leave the MDM server; all that it brought goes");
  command->callback([&context] { unenroll(context); });
  describeCommand(command, {{"identities, profiles and declarations of the server are gone afterwards", "wayleave unenroll"}});

  command = addCommand(app, "wake", "ask the MDM server for commands now");
  command->callback([&context] { wake(context); });
  describeCommand(command, {{"without waiting for the next poll", "wayleave wake"}});
}

}  // namespace wayleave::cli
