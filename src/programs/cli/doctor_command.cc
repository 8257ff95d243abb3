// doctor: can this machine hold hardware-bound identities, and what stands in the way? And: does every declared
// application have a program here?

#include <fmt/format.h>

#include "commands.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

void doctor(Context& context) {
  const std::optional<json> tpm = context.ask("identity", "GET", "/v1/tpm");
  if (!tpm) return;
  const bool usable = tpm->contains("usable") && (*tpm)["usable"] == true;
  if (!usable) context.exit = Exit::Failure;
  const std::optional<json> applications = context.ask("identity", "GET", "/v1/applications");
  if (!applications) return;
  if (context.json) {
    json all = *tpm;
    all["applications"] = *applications;
    return printJson(all);
  }
  std::vector<std::pair<std::string, std::string>> fields;
  for (const auto& [name, value] : tpm->items())
    if (value.is_primitive() && name != "usable") fields.emplace_back(printable(name), textOf(*tpm, name.c_str()));
  printFields(fields);
  for (const json& problem : arrayOf(*tpm, "problems"))
    fmt::print("{} {}\n", styled(1, "31", "problem:"), printable(problem.is_string() ? problem.get<std::string>() : problem.dump()));
  fmt::print("{}\n", usable ? styled(1, "32", "The TPM can hold hardware-bound identities.") : styled(1, "31", "The TPM cannot be used now."));
  for (const json& name : arrayOf(*applications, "unmatched"))
    if (name.is_string())
      fmt::print("{} '{}' is declared, and no [[application]] entry in grants.d says which program it is: nobody gets its identities\n",
                 styled(1, "31", "problem:"), printable(name.get<std::string>()));
}

}  // namespace

void addDoctorCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "doctor", "what the TPM can do, its keys' certificates, lockout, the time of one signature");
  describeCommand(command, {{"can this machine hold keys that never leave it?", "wayleave doctor"}},
                  "0 the TPM is usable, 1 it is not, 4 no grant to ask, 5 wayleave-identityd does not answer");
  command->callback([&context] { doctor(context); });
}

}  // namespace wayleave::cli
