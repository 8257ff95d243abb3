// wayleave-identityd: the process that owns keys and has no network. This file names the concrete parts and wires them.
//
// Order matters: the witnesses are forked while there is one thread and while there may be root; then root goes, then the
// sandbox closes; only then are state and grants read and threads made.

#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "broker/hardening.h"
#include "broker/identity_service.h"
#include "broker/witness_pool.h"
#include "keys/sealer.h"
#include "keys/tpm/tpm_device.h"
#include "localapi/server.h"
#include "localapi/service_manager.h"
#include "sandbox/privileges.h"

namespace {

using namespace wayleave;

struct Options {
  std::string stateFolder = "/var/lib/wayleave/identity";
  std::string socket = "/run/wayleave/identity.sock";
  std::string grantsFolder = "/etc/wayleave/grants.d";
  bool grantsFolderGiven = false;
  std::string tcti;
  std::string attestationKey = "p256";
  std::string logLevel = "info";
  std::string user;
  std::string proxyUser = "wayleave-proxy";
  std::string managementUser = "wayleave-management";
  size_t connectionsPerUser = 64;
};

// How many software signatures are worth making at once with one key.
size_t cores() { return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4); }

std::string folderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// The shipped grants name the users that the package creates. Where they do not exist (development, one user for all),
// the other daemons run as this very user.
std::string userNumber(const std::string& name) {
  const Result<uid_t> found = sandbox::findUser(name);
  if (found) return std::to_string(*found);
  log::warn("no such user: grants that name it are for this daemon's own user", {{"user", name}});
  return std::to_string(::geteuid());
}

broker::Variables variables(const Options& options) {
  std::error_code code;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", code);
  return {{"program-dir", self.parent_path().string()},
          {"proxy-user", userNumber(options.proxyUser)},
          {"management-user", userNumber(options.managementUser)}};
}

Status prepareFolders(const Options& options, const std::optional<sandbox::Account>& account) {
  if (Status made = ensureFolder(options.stateFolder, 0700); !made) return made;
  if (Status made = ensureFolder(folderOf(options.socket), 0755); !made) return made;
  if (!account || ::geteuid() != 0) return {};
  for (const std::string& folder : {options.stateFolder, folderOf(options.socket)})
    if (::chown(folder.c_str(), account->uid, account->gid) != 0)
      return std::unexpected(errnoError(errno, "give " + folder + " to " + options.user));
  return {};
}

Status checkStateFolder(const std::string& folder) {
  struct stat info{};
  if (::stat(folder.c_str(), &info) != 0) return std::unexpected(errnoError(errno, folder));
  if ((info.st_mode & 0077) != 0)
    return fail(Reason::Io, fmt::format("{} is open to others (mode {:04o})", folder, info.st_mode & 07777),
                "chmod 700 " + folder);
  return {};
}

// Waits for the signals of a daemon's life. True: end; false: the witnesses are gone.
bool serveUntilTold(const sigset_t& signals, broker::IdentityService& service, const broker::WitnessPool& witnesses) {
  const timespec second{1, 0};
  while (!witnesses.lost()) {
    switch (::sigtimedwait(&signals, nullptr, &second)) {
      case SIGHUP:
        localapi::tellServiceManager("RELOADING=1");
        (void)service.reloadGrants();
        localapi::tellServiceManager("READY=1");
        break;
      case SIGTERM:
      case SIGINT: return true;
      default: break;
    }
  }
  return false;
}

Result<bool> run(const Options& options, std::span<char> title) {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals, number);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(0077);

  std::optional<sandbox::Account> account;
  if (!options.user.empty()) {
    Result<sandbox::Account> found = sandbox::findAccount(options.user, {"tss"});
    if (!found) return propagate(found.error());
    account = std::move(*found);
  }
  const auto witnesses = broker::WitnessPool::start({.account = account, .title = title});
  if (!witnesses) return propagate(witnesses.error());
  if (Status done = prepareFolders(options, account); !done) return propagate(done.error());
  if (Status done = sandbox::becomeUser(account); !done) return propagate(done.error());
  if (Status done = checkStateFolder(options.stateFolder); !done) return propagate(done.error());
  const Status hardened = broker::harden({.stateFolder = options.stateFolder,
                                          .socketFolder = folderOf(options.socket),
                                          .grantsFolder = options.grantsFolder,
                                          .tcti = options.tcti});
  if (!hardened) return propagate(hardened.error());

  const SystemClock clock;
  const auto store = keychain::Store::open(options.stateFolder + "/identities.db");
  if (!store) return propagate(store.error());
  const Result<bool> sealed = (*store)->holdsSealedKeys();
  if (!sealed) return propagate(sealed.error());
  Result<keys::Sealer> sealer = keys::Sealer::open(options.stateFolder + "/machine.key",
                                                   *sealed ? keys::StoreAge::Existing : keys::StoreAge::New);
  if (!sealer) log::failure("software keys cannot be used", sealer.error());
  std::shared_ptr<keys::tpm::TpmDevice> tpm;
  if (!options.tcti.empty()) {
    keys::tpm::TpmOptions tpmOptions;
    tpmOptions.tcti = options.tcti;
    tpmOptions.rsaAttestationKey = options.attestationKey == "rsa2048";
    tpm = std::make_shared<keys::tpm::TpmDevice>(tpmOptions);
  }
  broker::MachineKeys keys(**store, std::move(sealer), std::move(tpm), clock);
  const auto audit = broker::AuditLog::open(options.stateFolder, clock);
  if (!audit) return propagate(audit.error());
  broker::GrantTable grants(options.grantsFolder, variables(options),
                            options.grantsFolderGiven ? "" : broker::shippedGrants());
  (void)grants.reload();  // with a mistake in them nobody gets anything; the log and the status say so
  broker::CallerVerifier callers(**witnesses, clock);
  broker::IdentityService service({.store = **store,
                                   .keys = keys,
                                   .callers = callers,
                                   .grants = grants,
                                   .audit = **audit,
                                   .clock = clock,
                                   .auditFolder = options.stateFolder,
                                   .signing = {.perCaller = options.connectionsPerUser, .softwareThreads = cores()}});
  if (Status recorded = (*audit)->append({.event = "start", .outcome = "OK", .detail = WAYLEAVE_VERSION}); !recorded)
    log::failure("the audit log cannot be written: nothing will be signed", recorded.error());

  localapi::ServerLimits limits;
  limits.bodyBytes = broker::IdentityService::kMostBodyBytes;
  limits.connectionsPerUid = options.connectionsPerUser;
  auto server = localapi::Server::listen(
      options.socket, 0666,
      [&](localapi::Request request, std::shared_ptr<localapi::Responder> responder) {
        service.handle(std::move(request), std::move(responder));
      },
      limits);
  if (!server) return propagate(server.error());
  (*server)->start();
  service.examineTpmKeys();
  log::info("serving", {{"socket", options.socket}, {"tpm", options.tcti.empty() ? "none" : options.tcti}});
  localapi::tellServiceManager("READY=1");

  const bool told = serveUntilTold(signals, service, **witnesses);
  localapi::tellServiceManager("STOPPING=1");
  log::info("stopping", {{"why", told ? "told to" : "a witness is gone: callers cannot be verified"}});
  service.stop();
  server->reset();
  return told;
}

}  // namespace

int main(int count, char** arguments) {
  Options options;
  CLI::App app("Holds this machine's identities, verifies which program asks for them, and signs. Has no network.");
  app.set_version_flag("--version", WAYLEAVE_VERSION);
  app.add_option("--state-dir", options.stateFolder, "keys, certificates, audit log")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("--socket", options.socket, "where callers connect")->type_name("PATH")->capture_default_str();
  CLI::Option* grants = app.add_option("--grants-dir", options.grantsFolder,
                                       "who may use what; the shipped grants while it does not exist")
                            ->type_name("DIR")
                            ->capture_default_str();
  app.add_option("--attestation-key", options.attestationKey, "kind of a new attestation key; released step-ca reads RSA alone")
      ->check(CLI::IsMember({"p256", "rsa2048"}))->capture_default_str();
  app.add_option("--tcti", options.tcti, "the TPM: device:/dev/tpmrm0, swtpm:path=…; none when not given")
      ->type_name("TCTI");
  app.add_option("--log-level", options.logLevel, "debug, info, warning or error")->capture_default_str();
  app.add_option("--user", options.user, "become this user[:group], by name or number, when started as root");
  app.add_option("--proxy-user", options.proxyUser, "the user of wayleave-proxyd, for ${proxy-user} in grants")
      ->capture_default_str();
  app.add_option("--management-user", options.managementUser,
                 "the user of wayleave-managementd, for ${management-user}")
      ->capture_default_str();
  app.add_option("--connections-per-user", options.connectionsPerUser, "at the same time")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  CLI11_PARSE(app, count, arguments);
  options.grantsFolderGiven = grants->count() > 0;

  const Result<log::Level> level = log::parseLevel(options.logLevel);
  log::start("wayleave-identityd", level.value_or(log::Level::Info));
  if (!level) {
    log::failure("bad option", level.error());
    return 2;
  }
  if (options.user.empty() && ::geteuid() == 0) log::warn("running as root: give --user");
  const Result<bool> ended = run(options, {arguments[0], arguments[count - 1] + std::strlen(arguments[count - 1])});
  if (!ended) {
    log::failure("cannot serve", ended.error());
    return 1;
  }
  return *ended ? 0 : 1;
}
