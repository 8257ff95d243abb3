// run: all three daemons in the foreground, each with its own user, its own folders, and no right beyond its task.
// What systemd does on an installed machine, this does for a lab, a container or a developer.
//
// Every daemon has a folder of its own for its socket: with one common folder that all three may write to, a broken
// proxyd could put a socket in identityd's place and be handed keys to import. The well-known paths
// (RUNTIME/identity.sock) are symbolic links made here.

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "commands.h"
#include "supervisor.h"

namespace wayleave::cli {
namespace {

struct RunOptions {
  std::string stateDir = "/var/lib/wayleave";
  std::string identityUser, managementUser, proxyUser;
  std::string grantsDir;
  std::vector<std::string> identityArguments, managementArguments, proxyArguments;
  std::string logLevel = "info";
  int stopTimeout = 30;
};

// Who a daemon runs as: the option; else, for real root, the user that the Debian package makes; else whoever we are.
Result<std::optional<sandbox::Account>> accountFor(const std::string& option, std::string_view usual,
                                                   std::initializer_list<std::string_view> groups = {}) {
  if (option.empty() && geteuid() != 0) return std::nullopt;
  if (option.empty()) {
    Result<sandbox::Account> account = sandbox::findAccount(usual, groups);
    if (account) return std::move(*account);
    // Root inside a user namespace that maps nobody else cannot become anybody else; a full map ends at 2^32 - 1.
    const Result<Bytes> map = readFile("/proc/self/uid_map", 65536);
    const bool realRoot = map && asText(*map).find("4294967295") != std::string_view::npos;
    if (!realRoot) return std::nullopt;
    Error error = account.error();
    error.hint = fmt::format("create it (the Debian package does), or name another with --{}-user",
                             usual.substr(std::string_view("wayleave-").size()));
    return std::unexpected(std::move(error));
  }
  Result<sandbox::Account> account = sandbox::findAccount(option, groups);
  if (!account) return propagate(account.error());
  return std::move(*account);
}

// Creates `path` (its parents too, 0755) and hands it to the account.
Status prepareFolder(const std::string& path, mode_t mode, const std::optional<sandbox::Account>& account) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  if (Status made = ensureFolder(path, mode); !made) return made;
  if (account && lchown(path.c_str(), account->uid, account->gid) != 0)
    return std::unexpected(errnoError(errno, "give " + path + " to its daemon"));
  if (chmod(path.c_str(), mode) != 0) return std::unexpected(errnoError(errno, "set the mode of " + path));
  return {};
}

Status linkSocket(const std::string& runtimeDir, const std::string& name) {
  const std::string link = fmt::format("{}/{}.sock", runtimeDir, name);
  const std::string target = fmt::format("{}/{}.sock", name, name);
  std::error_code error;
  if (std::filesystem::is_symlink(link, error) && std::filesystem::read_symlink(link, error) == target) return {};
  if (std::filesystem::exists(std::filesystem::symlink_status(link, error)))
    return fail(Reason::Conflict, link + " exists and is not ours", "another instance may be running; choose another --runtime-dir");
  std::filesystem::create_symlink(target, link, error);
  if (error) return fail(Reason::Io, "link " + link + ": " + error.message());
  return {};
}

// Beside this program, as in build/bin; else where the Debian package puts daemons.
Result<std::string> programPath(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const std::filesystem::path& folder : {self.parent_path(), std::filesystem::path("/usr/lib/wayleave"),
                                              std::filesystem::path("/usr/sbin")}) {
    const std::string path = (folder / name).string();
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return fail(Reason::NotFound, name + " is not installed", "it is looked for beside this program, in /usr/lib/wayleave and in /usr/sbin");
}

// The machine's, or those of the source tree that this program was built in.
std::string grantsFolder(const std::string& option) {
  constexpr const char* kInstalled = "/etc/wayleave/grants.d";
  std::error_code error;
  if (!option.empty()) return std::filesystem::absolute(option, error).string();
  if (std::filesystem::is_directory(kInstalled, error)) return kInstalled;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  for (std::filesystem::path folder = self.parent_path(); folder.has_relative_path(); folder = folder.parent_path())
    if (const auto candidate = folder / "packaging" / "grants.d"; std::filesystem::is_directory(candidate, error))
      return candidate.string();
  return kInstalled;
}

std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

Result<std::vector<DaemonSpec>> plan(const Context& context, const RunOptions& options) {
  const auto identity = accountFor(options.identityUser, "wayleave-identity", {"tss"});
  const auto management = accountFor(options.managementUser, "wayleave-management");
  const auto proxy = accountFor(options.proxyUser, "wayleave-proxy");
  for (const auto* account : {&identity, &management, &proxy})
    if (!*account) return propagate(account->error());

  const std::string& runtime = context.runtimeDir;
  struct Folder {
    std::string path;
    mode_t mode;
    const std::optional<sandbox::Account>& account;
  };
  const std::optional<sandbox::Account> us;
  for (const Folder& folder :
       {Folder{runtime, 0755, us}, Folder{runtime + "/identity", 0755, *identity},
        Folder{runtime + "/management", 0755, *management}, Folder{runtime + "/proxy", 0755, *proxy},
        Folder{options.stateDir, 0755, us}, Folder{options.stateDir + "/identity", 0700, *identity},
        Folder{options.stateDir + "/management", 0700, *management}})
    if (const Status made = prepareFolder(folder.path, folder.mode, folder.account); !made)
      return propagate(made.error());
  for (const char* name : {"identity", "management", "proxy"})
    if (const Status linked = linkSocket(runtime, name); !linked) return propagate(linked.error());

  const auto socket = [&](const char* name) { return fmt::format("{}/{}/{}.sock", runtime, name, name); };
  // Grants name the other daemons' users (packaging/grants.d).
  const auto userOf = [](const std::optional<sandbox::Account>& account) {
    return std::to_string(account ? account->uid : geteuid());
  };
  const std::string grants = grantsFolder(options.grantsDir);
  std::vector<DaemonSpec> specs(3);
  specs[0] = {.name = "identityd",
              .arguments = joined({"--state-dir", options.stateDir + "/identity", "--socket", socket("identity"),
                                   "--grants-dir", grants, "--management-user", userOf(*management), "--proxy-user",
                                   userOf(*proxy), "--log-level", options.logLevel},
                                  options.identityArguments),
              .account = *identity,
              .rights = Rights::Observe};
  specs[1] = {.name = "managementd",
              .arguments = joined({"--state-dir", options.stateDir + "/management", "--socket", socket("management"),
                                   "--identity-socket", socket("identity"), "--log-level", options.logLevel},
                                  options.managementArguments),
              .account = *management};
  specs[2] = {.name = "proxyd",
              .arguments = joined({"--socket", socket("proxy"), "--identity-socket", socket("identity"),
                                   "--management-socket", socket("management"), "--log-level", options.logLevel},
                                  options.proxyArguments),
              .account = *proxy,
              .rights = Rights::Network,
              .cleanup = {"--cleanup"},
              .stopTimeout = std::chrono::seconds{options.stopTimeout}};
  for (DaemonSpec& spec : specs) {
    Result<std::string> program = programPath("wayleave-" + spec.name);
    if (!program) return propagate(program.error());
    spec.program = std::move(*program);
  }
  return specs;
}

void runAll(Context& context, const RunOptions& options) {
  const Result<log::Level> level = log::parseLevel(options.logLevel);
  if (!level) return context.fail(level.error());
  log::start("wayleave", *level);
  Result<std::vector<DaemonSpec>> specs = plan(context, options);
  if (!specs) return context.fail(specs.error());
  if (const Status ended = Supervisor(std::move(*specs)).run(); !ended) context.fail(ended.error());
}

}  // namespace

void addRunCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "run", "all three daemons in the foreground, each with its own rights");
  auto options = std::make_shared<RunOptions>();
  command->add_option("--state-dir", options->stateDir, "what survives a restart")
      ->type_name("DIR")
      ->capture_default_str();
  command->add_option("--identity-user", options->identityUser, "user[:group] of identityd, by name or number");
  command->add_option("--management-user", options->managementUser, "user[:group] of managementd");
  command->add_option("--proxy-user", options->proxyUser, "user[:group] of proxyd");
  command->add_option("--grants-dir", options->grantsDir, "grants for identityd (default: the machine's)")->type_name("DIR");
  command->add_option("--identity-arg", options->identityArguments, "a further argument for identityd")->allow_extra_args(false);
  command->add_option("--management-arg", options->managementArguments, "a further argument for managementd")->allow_extra_args(false);
  command->add_option("--proxy-arg", options->proxyArguments, "a further argument for proxyd")->allow_extra_args(false);
  command->add_option("--log-level", options->logLevel, "debug, info, warning or error")->capture_default_str();
  command->add_option("--stop-timeout", options->stopTimeout, "seconds for running flows to end at a stop")
      ->check(CLI::Range(0, 3600))
      ->capture_default_str();
  describeCommand(command, {{"in a terminal, with state of its own", "sudo wayleave run --state-dir /tmp/wayleave"}});
  command->callback([&context, options] { runAll(context, *options); });
}

}  // namespace wayleave::cli
