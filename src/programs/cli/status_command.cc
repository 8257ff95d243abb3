// status: the three daemons on one screen. A daemon that does not answer is part of the picture, not the end of it.

#include <unistd.h>

#include <fmt/format.h>

#include "commands.h"
#include "localapi/json_reader.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

// A daemon on the same machine that needs longer for a status is as good as down.
constexpr std::chrono::seconds kStatusTimeout{5};

Result<json> statusOf(const Context& context, std::string_view daemon) {
  Result<std::string> answer = context.client(daemon, kStatusTimeout).callJson("GET", "/v1/status");
  if (!answer) return propagate(answer.error());
  return localapi::parseJson(*answer);
}

// Scalars as they come, nested objects indented: a daemon may learn to say more without this program changing.
void printObject(const json& object, size_t indent) {
  std::vector<std::pair<std::string, std::string>> fields;
  for (const auto& [name, value] : object.items())
    if (value.is_primitive()) fields.emplace_back(printable(name), textOf(object, name.c_str()));
  printFields(fields, indent);
  for (const auto& [name, value] : object.items()) {
    if (value.is_object() && !value.empty()) {
      fmt::print("{}{}\n", std::string(indent, ' '), printable(name));
      printObject(value, indent + 2);
    } else if (value.is_array()) {
      for (const json& entry : value) {
        fmt::print("{}{}\n", std::string(indent, ' '), printable(name));
        if (entry.is_object()) printObject(entry, indent + 2);
        else fmt::print("{}{}\n", std::string(indent + 2, ' '), printable(entry.is_string() ? entry.get<std::string>() : entry.dump()));
      }
    }
  }
}

void status(Context& context) {
  json all = json::object();
  for (const std::string daemon : {"identity", "management", "proxy"}) {
    const Result<json> answer = statusOf(context, daemon);
    if (!answer) context.exit = Exit::Unavailable;
    if (context.json) {
      all[daemon] = answer ? *answer
                           : json{{"error", {{"reason", text(answer.error().reason)}, {"message", answer.error().message}}}};
      continue;
    }
    fmt::print("{}\n", styled(STDOUT_FILENO, "1", fmt::format("wayleave-{}d", daemon)));
    if (answer)
      printObject(*answer, 2);
    else
      fmt::print("  {}\n", styled(STDOUT_FILENO, "31", describe(answer.error())));
  }
  if (context.json) printJson(all);
}

}  // namespace

void addStatusCommand(CLI::App& app, Context& context) {
  addCommand(app, "status", "the three daemons, identities and proxies on one screen")->callback([&context] {
    status(context);
  });
}

}  // namespace wayleave::cli
