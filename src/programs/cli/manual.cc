// mdoc(7): lines that begin with a dot are macros, a backslash begins an escape. Whatever comes from a description is text
// and is escaped; what stands in macros is ours.

#include "manual.h"

#include <fmt/format.h>

#include "help.h"

namespace wayleave::cli {
namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') out += "\\e";
    else out += c;
  }
  if (out.starts_with('.') || out.starts_with('\'')) out.insert(0, "\\&");
  return out;
}

// An argument of a macro: words of a few letters would be taken for macros, punctuation would be set apart.
std::string argument(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') out += "\\e";
    else if (c == '"') out += "\"\"";
    else out += c;
  }
  return "\"\\&" + out + "\"";
}

void option(const CLI::Option& one, std::string& out) {
  std::string names;
  for (const std::string& name : one.get_snames()) names += (names.empty() ? "" : " , ") + std::string("Fl ") + name;
  for (const std::string& name : one.get_lnames()) names += (names.empty() ? "" : " , ") + std::string("Fl Fl ") + name;
  const std::string value = valueName(one);
  out += ".It " + names + (value.empty() ? "" : " Ar " + argument(value)) + "\n";
  out += escaped(one.get_description());
  if (!one.get_default_str().empty() && !value.empty()) out += fmt::format(" (default: {})", one.get_default_str());
  if (one.get_required()) out += "; required";
  out += ".\n";
}

void options(const CLI::App& app, std::string& out) {
  std::string list;
  for (const CLI::Option* one : app.get_options())
    if (!one->get_positional() && !one->get_group().empty() && !one->check_lname("help")) option(*one, list);
  if (!list.empty()) out += ".Bl -tag -width Ds\n" + list + ".El\n";
}

// "Examples:" of a command's footer, up to the exit statuses.
std::string examples(const CLI::App& app) {
  const std::string footer = app.get_footer();
  const size_t begin = footer.find("\nExamples:\n");
  if (begin == std::string::npos) return {};
  const size_t from = begin + std::string_view("\nExamples:\n").size();
  return footer.substr(from, footer.find("\nExit status:") - from);
}

std::string exitStatus(const CLI::App& app) {
  const std::string footer = app.get_footer();
  const size_t begin = footer.find("\nExit status:");
  if (begin == std::string::npos || footer.substr(begin) == kExitStatuses) return {};
  std::string out = footer.substr(begin + 1);
  while (out.ends_with('\n')) out.pop_back();
  return out;
}

void command(const CLI::App& app, const std::string& name, std::string& out) {
  if (const auto below = commandsOf(app); !below.empty()) {
    for (const CLI::App* one : below) command(*one, name + " " + one->get_name(), out);
    return;
  }
  out += ".Ss " + escaped(name) + "\n";
  std::string synopsis;
  for (const CLI::Option* one : app.get_options())
    if (one->get_positional() && !one->get_group().empty())
      synopsis += fmt::format(" {}Ar {}{}", one->get_required() ? "" : "Op ", argument(one->get_name(true)), one->get_expected_max() > 1 ? " ..." : "");
  out += fmt::format(".Nm Cm {} Op Ar options{}\n.Pp\n", argument(name), synopsis);
  std::string description = app.get_description();
  if (!description.empty() && description[0] >= 'a' && description[0] <= 'z') description[0] = static_cast<char>(description[0] - 32);
  out += escaped(description) + ".\n";
  for (const CLI::Option* one : app.get_options())
    if (one->get_positional() && !one->get_group().empty() && !one->get_description().empty())
      out += fmt::format(".Ar {} :\n{}.\n", argument(one->get_name(true)), escaped(one->get_description()));
  options(app, out);
  if (const std::string shown = examples(app); !shown.empty()) {
    out += ".Bd -literal -offset indent\n";
    for (size_t at = 0; at < shown.size();) {
      const size_t end = std::min(shown.find('\n', at), shown.size());
      const std::string_view line = std::string_view(shown).substr(at, end - at);
      out += escaped(line.substr(std::min<size_t>(2, line.size()))) + "\n";
      at = end + 1;
    }
    out += ".Ed\n";
  }
  if (const std::string statuses = exitStatus(app); !statuses.empty()) out += (examples(app).empty() ? ".Pp\n" : "") + escaped(statuses) + "\n";
}

}  // namespace

std::string manualPage(const CLI::App& app, const std::string& date) {
  std::string out = fmt::format(
      ".Dd {}\n.Dt WAYLEAVE 1\n.Os Wayleave\n.Sh NAME\n.Nm wayleave\n.Nd managed device identities and the flows they carry\n"
      ".Sh SYNOPSIS\n.Nm\n.Op Ar options\n.Ar command\n.Op Ar arguments\n.Sh DESCRIPTION\n.Nm\nis the command line of Wayleave: "
      "it installs configuration profiles, shows what they brought, checks them before deployment, and shows what the daemons do.\n"
      "It holds no right of its own: each daemon judges who runs it.\n.Pp\nThese options stand before or behind any command:\n",
      date);
  options(app, out);
  out += ".Sh COMMANDS\n";
  for (const CLI::App* one : commandsOf(app)) command(*one, one->get_name(), out);
  out +=
      ".Sh ENVIRONMENT\n.Bl -tag -width Ds\n.It Ev WAYLEAVE_RUNTIME_DIR\nwhere the daemons' sockets are, as\n.Fl Fl runtime-dir .\n"
      ".It Ev NO_COLOR\nprint without colours; they appear on terminals only.\n.El\n"
      ".Sh FILES\n.Bl -tag -width Ds\n.It Pa /run/wayleave/\nthe daemons' sockets.\n.It Pa /etc/wayleave/grants.d/\nwhich programs may use "
      "which identities.\n.El\n"
      ".Sh EXIT STATUS\nUnless a command says otherwise:\n.Bl -tag -width Ds\n.It 0\ndone.\n.It 1\nfailure.\n.It 2\nusage.\n.It 3\nnot "
      "found.\n.It 4\ndenied: no grant, or no right to change anything.\n.It 5\na daemon does not answer.\n.It 6\na profile, a reference or "
      "a file was refused.\n.It 7\ntimed out.\n.El\n"
      ".Sh SEE ALSO\n.Xr wayleave-identityd 8 ,\n.Xr wayleave-managementd 8 ,\n.Xr wayleave-proxyd 8\n";
  return out;
}

}  // namespace wayleave::cli
