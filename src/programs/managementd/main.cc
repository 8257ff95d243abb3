// wayleave-managementd: profiles in, configurations out. The composition root: options, rights, parts, signals.

#include <unistd.h>

#include <csignal>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/log.h"
#include "enrolment/mdm/client.h"
#include "enrolment/mdm/service_machine.h"
#include "enrolment/mdm/declaration_support.h"
#include "enrolment/payload_enroller.h"
#include "enrolment/renewal_service.h"
#include "localapi/identity_client.h"
#include "localapi/server.h"
#include "localapi/service_manager.h"
#include "management/management_store.h"
#include "management/service.h"
#include "sandbox/daemons.h"
#include "sandbox/privileges.h"

namespace wayleave {
namespace {

struct Options {
  std::string stateDir = "/var/lib/wayleave/management";
  std::string socket = "/run/wayleave/management.sock";
  std::string identitySocket = "/run/wayleave/identity.sock";
  std::string adminGroup = "wayleave-admin";
  std::string logLevel = "info";
  // How often due renewals are looked for. A certificate that lives an hour is renewed after half of it.
  int renewalInterval = 60;
  // How often an MDM server is asked for commands: there is no push.
  int mdmPollInterval = 300;
};

std::string folderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// After everything that needs opening by path was opened. Names are resolved and CA certificates read later, by enrolments.
Status restrictOurselves(const Options& options) {
  if (Status done = sandbox::becomeUser(std::nullopt); !done) return done;
  if (Status done = sandbox::noNewPrivileges(); !done) return done;
  if (Status done = sandbox::noCoreDumps(); !done) return done;
  return sandbox::confine(sandbox::managementdConfinement(options.stateDir, folderOf(options.socket)));
}

Status serve(const Options& options, const sigset_t& signals) {
  std::optional<gid_t> administrators;
  if (const Result<gid_t> group = sandbox::findGroup(options.adminGroup))
    administrators = *group;
  else
    log::info("no group of administrators: changes need root", {{"group", options.adminGroup}});

  SystemClock clock;
  Result<std::unique_ptr<management::ManagementStore>> store =
      management::ManagementStore::open(options.stateDir + "/management.db", clock);
  if (!store) return propagate(store.error());
  const auto agent = localapi::makeIdentityClient(options.identitySocket);

  Result<std::unique_ptr<enrolment::PayloadEnroller>> enroller =
      enrolment::PayloadEnroller::make(*agent, options.stateDir + "/enrolment");
  if (!enroller) return propagate(enroller.error());
  // Declared before the server, whose handler calls into it: destruction runs backwards.
  management::Service service(**store, *agent, enroller->get(), clock, {.administrators = administrators});
  enrolment::mdm::ServiceMachine machine(service, **store);
  // Here, where DMI and the machine-id can still be read.
  Result<enrolment::mdm::Device> device = enrolment::mdm::readDevice();
  Result<std::unique_ptr<enrolment::mdm::Client>> mdm =
      device ? enrolment::mdm::Client::open({machine, *agent, clock, *device, options.stateDir + "/mdm.json"},
                                            {.pollEvery = std::chrono::seconds{options.mdmPollInterval}})
             : propagate(device.error());
  if (mdm)
    service.onEnrolment((*mdm)->hooks());
  else
    log::failure("this machine cannot be enrolled with an MDM server", mdm.error());
  Result<std::unique_ptr<management::DeclarationStore>> declarations =
      management::DeclarationStore::open(options.stateDir + "/declarations.json");
  if (!declarations) return propagate(declarations.error());
  service.useDeclarations({.store = **declarations,
                           .fetch = enrolment::mdm::assetFetcher(mdm ? mdm->get() : nullptr),
                           .deviceItems = [&device] {
                             return device ? enrolment::mdm::statusItems(*device) : std::map<std::string, nlohmann::json>{};
                           }});
  Result<std::unique_ptr<localapi::Server>> server = localapi::Server::listen(
      options.socket, 0666,
      [&service](localapi::Request request, std::shared_ptr<localapi::Responder> responder) {
        service.handle(std::move(request), std::move(responder));
      });
  if (!server) return propagate(server.error());
  if (const Status restricted = restrictOurselves(options); !restricted) return restricted;

  enrolment::RenewalService renewals(
      *agent, **enroller,
      {.profile = [&service](const std::string& identifier) { return service.enrolmentProfile(identifier); },
       .reinstall = [&service](const std::string& identifier) { return service.reinstall(identifier); }},
      std::chrono::seconds{options.renewalInterval});
  service.onRenew([&renewals] { return renewals.renewNow(true); });
  service.start();
  if (mdm) (*mdm)->start();
  (*server)->start();
  log::info("serving", {{"socket", options.socket}, {"version", WAYLEAVE_VERSION}});
  localapi::tellServiceManager("READY=1");

  int number = 0;
  sigwait(&signals, &number);
  log::info("stopping", {{"signal", std::to_string(number)}});
  localapi::tellServiceManager("STOPPING=1");
  // First the renewals are told, then what they wait for in the service is let go, and the service waits for both.
  renewals.requestStop();
  if (mdm) (*mdm)->requestStop();
  service.stop();
  return {};
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("wayleave-managementd: configuration profiles, enrolment and configurations", "wayleave-managementd");
  app.set_version_flag("--version", "wayleave-managementd " WAYLEAVE_VERSION);
  app.add_option("--state-dir", options.stateDir, "where the database is")->capture_default_str();
  app.add_option("--socket", options.socket, "the socket to serve")->capture_default_str();
  app.add_option("--identity-socket", options.identitySocket, "the socket of wayleave-identityd")->capture_default_str();
  app.add_option("--admin-group", options.adminGroup, "whose members may change profiles")->capture_default_str();
  app.add_option("--renewal-interval", options.renewalInterval, "seconds between looks for identities that are due for renewal")
      ->check(CLI::Range(1, 86'400))->capture_default_str();
  app.add_option("--mdm-poll-interval", options.mdmPollInterval, "seconds between asking an MDM server for commands")
      ->check(CLI::Range(1, 86'400))->capture_default_str();
  app.add_option("--log-level", options.logLevel, "debug, info, warning or error")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const Result<log::Level> level = log::parseLevel(options.logLevel);
  if (!level) {
    fmt::print(stderr, "{}\n", describe(level.error()));
    return 2;
  }
  log::start("wayleave-managementd", *level);

  // Blocked before there is a thread, so that every thread inherits it and sigwait is the one place that sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  if (const Status served = serve(options, signals); !served) {
    log::failure("cannot serve", served.error());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace wayleave

int main(int argc, char** argv) {
  try {
    return wayleave::run(argc, argv);
  } catch (const std::exception& error) {
    wayleave::log::error("stopped by an exception", {{"what", error.what()}});
    return 1;
  }
}
