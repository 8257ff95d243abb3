// wayleave-proxyd: flows in, tunnels out, no key anywhere. The composition root: options, rights, parts, signals.

#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>

#include <fmt/format.h>

#include "base/log.h"
#include "localapi/service_manager.h"
#include "proxy/control/api.h"
#include "proxy/control/memory_keeper.h"
#include "sandbox/daemons.h"
#include "sandbox/privileges.h"

namespace wayleave::proxy {
namespace {

struct Options {
  std::string socket = "/run/wayleave/proxy.sock";
  std::string managementSocket = "/run/wayleave/management.sock";
  std::string identitySocket = "/run/wayleave/identity.sock";
  std::string user;
  std::string logLevel = "info";
  size_t workers = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4);
  capture::CaptureOptions capture;
  std::vector<std::string> exemptUsers;
  std::string adminGroup = "wayleave-admin";
  bool noOwner = false;
  bool noCapture = false;
  std::string listen, target;
  int idleSeconds = 0;
  int drainSeconds = 5;
  bool cleanup = false;
};

std::string folderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

Result<capture::Endpoint> parseEndpoint(std::string_view text) {
  const size_t colon = text.rfind(':');
  const auto bad = [&] { return fail(Reason::BadInput, fmt::format("'{}' is not ADDRESS:PORT or [ADDRESS]:PORT", text)); };
  if (colon == std::string_view::npos) return bad();
  std::string_view host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  auto address = rules::parseAddress(host);
  capture::Endpoint endpoint;
  const auto [stop, code] = std::from_chars(text.data() + colon + 1, text.data() + text.size(), endpoint.port);
  if (!address || code != std::errc{} || stop != text.data() + text.size()) return bad();
  endpoint.address = *address;
  return endpoint;
}

// Two descriptors per flow at most: take what the system allows.
void raiseDescriptorLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

// Before there is a thread. What is left of root, if it was root, may not even read the other daemons' state: no
// capability overrides modes, and Landlock shows nothing but what a resolver and TLS need.
Status giveUpRights(const Options& options) {
  std::optional<sandbox::Account> account;
  if (!options.user.empty()) {
    auto found = sandbox::findAccount(options.user);
    if (!found) return propagate(found.error());
    account = std::move(*found);
  }
  if (auto done = sandbox::becomeUser(account, {CAP_NET_ADMIN, CAP_NET_BIND_SERVICE}); !done) return done;
  if (auto done = sandbox::noNewPrivileges(); !done) return done;
  return sandbox::noCoreDumps();
}

Status closeSandbox(const Options& options) {
  return sandbox::confine(sandbox::proxydConfinement(
      folderOf(options.socket), {folderOf(options.managementSocket), folderOf(options.identitySocket)}));
}

Result<std::vector<uint32_t>> exemptUsers(const Options& options) {
  std::vector<uint32_t> users;
  for (const std::string& name : options.exemptUsers) {
    auto user = sandbox::findUser(name);
    if (!user) return propagate(user.error());
    users.push_back(*user);
  }
  return users;
}

Status serve(Options options, const sigset_t& signals) {
  raiseDescriptorLimit();
  auto exempt = exemptUsers(options);
  if (!exempt) return propagate(exempt.error());
  std::optional<gid_t> administrators;
  if (const Result<gid_t> group = sandbox::findGroup(options.adminGroup))
    administrators = *group;
  else
    log::info("no group of administrators: all flows are shown to root only", {{"group", options.adminGroup}});
  if (auto done = giveUpRights(options); !done) return done;

  capture::Endpoint listen, target;
  std::unique_ptr<capture::Capture> capture;
  if (options.noCapture) {
    for (const auto& [text, endpoint] : {std::pair{&options.listen, &listen}, std::pair{&options.target, &target}}) {
      auto parsed = parseEndpoint(*text);
      if (!parsed) return propagate(parsed.error());
      *endpoint = *parsed;
    }
  } else {
    // What a crash of everything at once, supervisor included, left behind: traffic must not depend on a profile being there.
    if (auto cleaned = capture::cleanUp(); !cleaned && cleaned.error().reason != Reason::Conflict) return propagate(cleaned.error());
    if (options.noOwner) options.capture.owner = capture::OwnerDetail::None;
    auto opened = capture::Capture::open(options.capture);
    if (!opened) return propagate(opened.error());
    capture = std::move(*opened);
  }
  if (auto done = closeSandbox(options); !done) return done;

  // Destruction runs backwards: whoever gives orders before the proxy, and the pool, whose threads post to the workers'
  // loops, before the loops; the broker's client last, because handshakes ask it.
  const auto agent = localapi::makeIdentityClient(options.identitySocket, std::chrono::seconds{10});
  observe::FlowJournal journal({.workers = options.workers});
  ProxyOptions proxyOptions{.workers = options.workers};
  proxyOptions.worker.idleDeadline = std::chrono::seconds{options.idleSeconds};
  if (options.noCapture) proxyOptions.worker.protect = nullptr;
  auto proxy = Proxy::make(proxyOptions, journal, [&](boost::asio::io_context& loop) {
    return capture ? capture->makeSource(loop) : capture::listenPlain(loop, listen, target);
  });
  if (!proxy) return propagate(proxy.error());
  (*proxy)->start(capture ? capture->listeners() : std::vector<capture::Endpoint>{});
  tls::HandshakePool handshakes({});
  control::Controller controller({.managementSocket = options.managementSocket,
                         .identitySocket = options.identitySocket,
                         .exemptUsers = std::move(*exempt),
                         .markSockets = capture != nullptr},
                        **proxy, capture.get(), *agent, handshakes);
  const control::MemoryKeeper memory(journal, {});
  control::Api api(**proxy, journal, controller, administrators);
  auto server = localapi::Server::listen(options.socket, 0666,
                                         [&api](const localapi::Request& request, const std::shared_ptr<localapi::Responder>& responder) {
                                           api.handle(request, *responder);
                                         });
  if (!server) return propagate(server.error());
  (*server)->start();
  controller.start();
  log::info("serving", {{"socket", options.socket}, {"workers", std::to_string(options.workers)}, {"version", WAYLEAVE_VERSION}});
  localapi::tellServiceManager("READY=1");

  int number = 0;
  sigwait(&signals, &number);
  log::info("stopping", {{"signal", std::to_string(number)}});
  localapi::tellServiceManager("STOPPING=1");
  controller.stop();
  // New flows go their own way from here on; those that live have the grace.
  if (capture)
    if (auto drained = capture->drain(); !drained) log::failure("new flows are still captured", drained.error());
  if (!(*proxy)->stop(std::chrono::seconds{options.drainSeconds})) log::info("flows were ended by the stop");
  if (capture)
    if (auto removed = capture->remove(); !removed) return propagate(removed.error());
  return {};
}

int cleanUp() {
  const auto removed = capture::cleanUp();
  if (removed) {
    log::info("cleaned up", {{"removed", std::to_string(*removed)}});
    return 0;
  }
  // A proxy that runs keeps what it needs: nothing to clean, no failure.
  if (removed.error().reason == Reason::Conflict) {
    log::info("nothing cleaned: a proxy is running");
    return 0;
  }
  log::failure("cleaning up failed", removed.error());
  return 1;
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("wayleave-proxyd: captures flows and carries them through the gateway over mutual TLS", "wayleave-proxyd");
  app.set_version_flag("--version", "wayleave-proxyd " WAYLEAVE_VERSION);
  app.add_option("--socket", options.socket, "the socket to serve")->capture_default_str();
  app.add_option("--management-socket", options.managementSocket, "the socket of wayleave-managementd")->capture_default_str();
  app.add_option("--identity-socket", options.identitySocket, "the socket of wayleave-identityd")->capture_default_str();
  app.add_option("--workers", options.workers, "threads that carry flows")->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--user", options.user, "become this user[:group] after the start (needs root)");
  app.add_option("--exempt-user", options.exemptUsers, "never capture this user's traffic (may be repeated)");
  app.add_option("--admin-group", options.adminGroup, "whose members may see every user's flows")->capture_default_str();
  app.add_option("--listen-port", options.capture.listenPort, "port of the transparent listeners; 0: any")->capture_default_str();
  app.add_flag("--fallback-route", options.capture.fallbackRoute, "capture flows even while there is no default route");
  app.add_flag("--no-owner", options.noOwner, "do not look up which user opened a flow");
  app.add_option("--idle-timeout", options.idleSeconds, "end flows on which nothing moved for so many seconds; 0: never")
      ->check(CLI::Range(0, 1'000'000))->capture_default_str();
  app.add_option("--drain-timeout", options.drainSeconds, "seconds that live flows have to end when stopping")
      ->check(CLI::Range(0, 3600))->capture_default_str();
  auto* noCapture = app.add_flag("--no-capture", options.noCapture, "touch no rules: take connections at --listen for --target");
  auto* listen = app.add_option("--listen", options.listen, "ADDRESS:PORT to listen on without capture")->needs(noCapture);
  auto* target = app.add_option("--target", options.target, "ADDRESS:PORT that flows then lead to")->needs(noCapture);
  noCapture->needs(listen)->needs(target);
  app.add_flag("--cleanup", options.cleanup, "remove what a crashed proxy left in the kernel, and exit");
  app.add_option("--log-level", options.logLevel, "debug, info, warning or error")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const Result<log::Level> level = log::parseLevel(options.logLevel);
  if (!level) {
    fmt::print(stderr, "{}\n", describe(level.error()));
    return 2;
  }
  log::start("wayleave-proxyd", *level);
  if (options.cleanup) return cleanUp();

  // Blocked before there is a thread, so that every thread inherits it and sigwait is the one place that sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  if (const Status served = serve(std::move(options), signals); !served) {
    log::failure("cannot serve", served.error());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace wayleave::proxy

int main(int argc, char** argv) {
  try {
    return wayleave::proxy::run(argc, argv);
  } catch (const std::exception& error) {
    wayleave::log::error("stopped by an exception", {{"what", error.what()}});
    return 1;
  }
}
