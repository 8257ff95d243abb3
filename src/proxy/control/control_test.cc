// The controller between daemons that come, go and change their minds: real local APIs, a capture that only remembers.

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "proxy/control/api.h"
#include "proxy/control/memory_keeper.h"
#include "proxy/proxy_test_support.h"
#include "tls/pki_test_support.h"

namespace wayleave::proxy::control {
namespace {

using namespace std::chrono_literals;
using namespace proxy::testing;
using localapi::ProxyConfiguration;

bool eventually(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + 10s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

// identityd as far as a proxy asks it.
class FakeAgent final : public localapi::IdentityAgent {
 public:
  Result<localapi::IdentityInfo> resolve(ByteView) override {
    const std::lock_guard lock(mutex);
    return answer;
  }
  void set(Result<localapi::IdentityInfo> next) {
    const std::lock_guard lock(mutex);
    answer = std::move(next);
  }
  Result<std::vector<localapi::IdentityInfo>> list() override { return none(); }
  Result<localapi::IdentityInfo> show(std::string_view) override { return none(); }
  Result<Bytes> signTls(const localapi::TlsSignRequest&, Steady) override { return none(); }
  Result<Bytes> signMessage(ByteView, std::string_view, ByteView, Steady) override { return none(); }
  Status beginInstallation(std::string_view) override { return none(); }
  Result<localapi::IdentityInfo> importPkcs12(localapi::ImportRequest) override { return none(); }
  Result<localapi::KeyInfo> createKey(const localapi::KeyRequest&) override { return none(); }
  Result<localapi::KeyAttestation> attestKey(std::string_view, ByteView) override { return none(); }
  Result<Bytes> signCertificationRequest(std::string_view, std::string_view, ByteView) override { return none(); }
  Result<localapi::IdentityInfo> bindCertificate(const localapi::BindRequest&) override { return none(); }
  Result<localapi::IdentityInfo> renewCertificate(std::string_view, const std::vector<Bytes>&) override { return none(); }
  Status commitInstallation(std::string_view, const std::vector<std::string>&) override { return none(); }
  Status abortInstallation(std::string_view) override { return none(); }
  Status removeProfileIdentities(std::string_view) override { return none(); }
  Result<std::vector<std::string>> pendingInstallations() override { return none(); }
  Result<localapi::AkEnrolment> beginAkEnrolment() override { return none(); }
  Result<Bytes> activateCredential(ByteView, ByteView) override { return none(); }
  Status storeAkChain(const std::vector<Bytes>&) override { return none(); }

 private:
  static std::unexpected<Error> none() { return fail(Reason::Unsupported, "not in this test"); }
  std::mutex mutex;
  Result<localapi::IdentityInfo> answer = fail(Reason::Unavailable, "identityd does not run");
};

class FakeCapture final : public capture::Capture {
 public:
  Result<std::unique_ptr<capture::FlowSource>> makeSource(boost::asio::io_context&) override { return fail(Reason::Internal, ""); }
  Status apply(const capture::CapturePlan& plan) override {
    const std::lock_guard lock(mutex);
    if (refusals > 0) {
      --refusals;
      return fail(Reason::Conflict, "another process owns the table");
    }
    last = plan;
    return {};
  }
  Status drain() override { return {}; }
  Status remove() override { return {}; }
  bool installed() const override { return !plan().ruleSets.empty(); }
  std::vector<capture::Endpoint> listeners() const override { return {}; }
  capture::CapturePlan plan() const {
    const std::lock_guard lock(mutex);
    return last;
  }
  int refusals = 0;

 private:
  mutable std::mutex mutex;
  capture::CapturePlan last;
};

// managementd and identityd: one answer, one stream.
class FakeDaemon {
 public:
  FakeDaemon(std::string path, std::string answer) : answer_(std::move(answer)) {
    server_ = localapi::Server::listen(std::move(path), 0600, [this](localapi::Request request, std::shared_ptr<localapi::Responder> responder) {
      const std::lock_guard lock(mutex_);
      if (request.path == "/v1/watch" && refusal_) responder->respond(localapi::errorResponse(*refusal_));
      else if (request.path == "/v1/watch") streams_.push_back(responder->openStream());
      else responder->respond({.body = answer_});
    }).value();
    server_->start();
  }
  void set(std::string answer) {
    const std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
  }
  void tell(const std::string& line) {
    const std::lock_guard lock(mutex_);
    for (const auto& stream : streams_) stream->send(line);
  }
  // As after a reload of grants: streams end, and whoever comes back is judged anew.
  void judgeAnew(std::optional<Error> refusal) {
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(refusal);
    streams_.clear();
  }
  bool watched() {
    const std::lock_guard lock(mutex_);
    return !streams_.empty();
  }

 private:
  std::mutex mutex_;
  std::string answer_;
  std::optional<Error> refusal_;
  std::vector<std::shared_ptr<localapi::EventStream>> streams_;
  std::unique_ptr<localapi::Server> server_;  // last: its thread uses what stands above
};

ProxyConfiguration configuration() {
  ProxyConfiguration c;
  c.id = "c1";
  c.profileIdentifier = "com.example.profile";
  c.name = "Test";
  c.identityReference = toBytes("ssui-reference");
  c.gatewayHost = "gateway.test";
  c.gatewayAddresses = {"127.0.0.1"};
  c.gatewayPort = 1;  // nobody listens there
  c.includedRules = {{.protocol = "tcp"}};
  c.excludedRules = {{.network = "10.0.0.0", .prefix = 8}};
  return c;
}
std::string answerWith(const std::vector<ProxyConfiguration>& all) {
  std::string body = R"({"sequence":1,"configurations":[)";
  for (const auto& each : all) body += (body.back() == '[' ? "" : ",") + toJson(each);
  return body + "]}";
}

// Before there are threads that log, as in a program.
const ::testing::Environment* const kLogging = ::testing::AddGlobalTestEnvironment([] {
  struct Logging final : ::testing::Environment {
    void SetUp() override { log::start("proxy-test", log::Level::Error); }
  };
  return new Logging;
}());

struct Rig {
  Rig() {
    char name[] = "/tmp/wayleave-control-XXXXXX";
    folder = ::mkdtemp(name);
    listenLocally(&where).reset();
    ProxyOptions options{.workers = 1};
    options.worker.protect = nullptr;
    proxy = Proxy::make(options, journal, [this](boost::asio::io_context& loop) {
              return capture::listenPlain(loop, where, proxy::testing::at("198.51.100.1", 443));
            }).value();
    proxy->start({});
    identity.id = "identity-1";
    identity.subject = "CN=device";
    identity.chain = {tls::test::der(authority.issue("device", keys::KeyType::EcP256, "clientAuth", nullptr).certificate.get())};
    handshakes = std::make_unique<tls::HandshakePool>(tls::HandshakePool::Options{});
    controller = std::make_unique<Controller>(
        ControllerOptions{.managementSocket = folder + "/m.sock", .identitySocket = folder + "/i.sock", .markSockets = false},
        *proxy, &capture, agent, *handshakes);
    controller->start();
  }
  ~Rig() {
    controller.reset();
    handshakes.reset();
    proxy.reset();
    management.reset();
    identities.reset();
    ::rmdir(folder.c_str());
  }
  void startManagement(const std::vector<ProxyConfiguration>& all) {
    management = std::make_unique<FakeDaemon>(folder + "/m.sock", answerWith(all));
  }
  void change(const std::vector<ProxyConfiguration>& all) {
    management->set(answerWith(all));
    management->tell(R"({"sequence":2,"event":"configuration-changed"})");
  }
  void identityEvent(std::string_view kind) {
    identities->tell(nlohmann::json{{"sequence", 1}, {"event", kind}, {"identity", "identity-1"}, {"reference", toBase64(configuration().identityReference)}}.dump());
  }
  nlohmann::json status() const { return nlohmann::json::parse(controller->statusJson(R"("version":"x")")); }
  std::string identityState() const {
    const auto all = status()["configurations"];
    return all.empty() ? "" : all[0]["identity"]["state"];
  }
  // The rules come last: with them in place everything before them is.
  bool ready() {
    return eventually([&] { return capture.installed() && identityState() == "ready"; });
  }
  // How a new flow ends.
  Reason flowOutcome() {
    const size_t before = journal.latest(1000).size();
    Fd socket = Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage address;
    const socklen_t length = capture::toSockaddr(where, address);
    EXPECT_EQ(::connect(socket.borrow(), reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_TRUE(eventually([&] { return journal.latest(1000).size() > before; }));
    return journal.latest(1)[0].outcome;
  }

  std::string folder;
  Endpoint where;
  tls::test::Authority authority;
  localapi::IdentityInfo identity;
  observe::FlowJournal journal{{.log = [](const observe::FlowRecord&) {}}};
  FakeAgent agent;
  FakeCapture capture;
  std::unique_ptr<Proxy> proxy;
  std::unique_ptr<tls::HandshakePool> handshakes;
  std::unique_ptr<Controller> controller;
  std::unique_ptr<FakeDaemon> management, identities;
};

TEST(Controller, StartsWithNobodyThereAndCatchesUp) {
  Rig rig;
  EXPECT_EQ(rig.status()["management"], "unreachable");
  EXPECT_TRUE(rig.status()["configurations"].empty());
  rig.startManagement({configuration()});
  ASSERT_TRUE(eventually([&] { return rig.capture.installed(); }));
  EXPECT_EQ(rig.capture.plan().untouched, std::vector{proxy::testing::at("127.0.0.1", 1)});
  EXPECT_EQ(rig.capture.plan().ruleSets[0].excluded().size(), 1u);
  // The rules are in force although the identity cannot be had: flows are blocked, not leaked.
  EXPECT_EQ(rig.identityState(), "unavailable");
  EXPECT_EQ(rig.flowOutcome(), Reason::IdentityUnavailable);
  rig.agent.set(rig.identity);
  EXPECT_TRUE(eventually([&] { return rig.identityState() == "ready"; }));
  EXPECT_EQ(rig.flowOutcome(), Reason::GatewayUnreachable);
  EXPECT_EQ(rig.status()["management"], "reachable");
}

TEST(Controller, LastConfigurationGoneRemovesTheRules) {
  Rig rig;
  rig.agent.set(rig.identity);
  rig.startManagement({configuration()});
  ASSERT_TRUE(eventually([&] { return rig.capture.installed(); }));
  ProxyConfiguration disabled = configuration();
  disabled.enabled = false;
  rig.change({disabled});
  EXPECT_TRUE(eventually([&] { return !rig.capture.installed(); }));
  EXPECT_TRUE(eventually([&] { return rig.status()["configurations"].empty(); }));
}

TEST(Controller, KnownConfigurationsStayWhileManagementIsAway) {
  Rig rig;
  rig.agent.set(rig.identity);
  rig.startManagement({configuration()});
  ASSERT_TRUE(eventually([&] { return rig.capture.installed(); }));
  rig.management.reset();
  ASSERT_TRUE(eventually([&] { return rig.status()["management"] == "unreachable"; }));
  EXPECT_TRUE(rig.capture.installed());
  rig.startManagement({});
  EXPECT_TRUE(eventually([&] { return !rig.capture.installed(); })) << "a change that nobody told us was missed";
}

TEST(Controller, UnusableAnswerChangesNothing) {
  Rig rig;
  rig.startManagement({configuration()});
  ASSERT_TRUE(eventually([&] { return rig.capture.installed(); }));
  for (const std::string& bad : {std::string("nonsense"), std::string("[]"), std::string(R"({"configurations":[{"id":7}]})")}) {
    rig.management->set(bad);
    rig.management->tell(R"({"sequence":2,"event":"configuration-changed"})");
  }
  ProxyConfiguration badRule = configuration();
  badRule.id = "c2";
  badRule.includedRules = {{.network = "0.0.0.0"}};  // a wildcard without a port
  rig.change({configuration(), badRule});
  EXPECT_TRUE(eventually([&] { return rig.status()["configurations"].size() == 1; }));
  EXPECT_TRUE(rig.capture.installed());
}

TEST(Controller, LostIdentityFailsFlowsWithItsReasonUntilItIsBack) {
  Rig rig;
  rig.agent.set(rig.identity);
  rig.identities = std::make_unique<FakeDaemon>(rig.folder + "/i.sock", "{}");
  rig.startManagement({configuration()});
  ASSERT_TRUE(rig.ready() && eventually([&] { return rig.identities->watched(); }));
  EXPECT_EQ(rig.flowOutcome(), Reason::GatewayUnreachable);
  rig.agent.set(fail(Reason::NotFound, "no such identity"));
  rig.identityEvent("identity-removed");
  ASSERT_TRUE(eventually([&] { return rig.identityState() == "unavailable"; }));
  EXPECT_EQ(rig.flowOutcome(), Reason::IdentityUnavailable);
  EXPECT_TRUE(rig.capture.installed());
  rig.agent.set(rig.identity);
  rig.identityEvent("identity-added");
  EXPECT_TRUE(eventually([&] { return rig.identityState() == "ready"; }));
}

TEST(Controller, WithdrawnGrantFailsFlowsWithItsReasonUntilItIsBack) {
  Rig rig;
  rig.agent.set(rig.identity);
  rig.identities = std::make_unique<FakeDaemon>(rig.folder + "/i.sock", "{}");
  rig.startManagement({configuration()});
  ASSERT_TRUE(rig.ready() && eventually([&] { return rig.identities->watched(); }));
  const Error refusal{Reason::NotEntitled, "no grant names this program", {}};
  rig.agent.set(std::unexpected(refusal));
  rig.identities->judgeAnew(refusal);
  ASSERT_TRUE(eventually([&] { return rig.identityState() == "unavailable"; })) << "nobody may go on under a grant that is gone";
  EXPECT_EQ(rig.flowOutcome(), Reason::NotEntitled);
  EXPECT_TRUE(rig.capture.installed());
  rig.agent.set(rig.identity);
  rig.identities->judgeAnew(std::nullopt);
  EXPECT_TRUE(eventually([&] { return rig.identityState() == "ready"; }));
}

TEST(Controller, CaptureThatFailsIsTriedAgain) {
  Rig rig;
  rig.capture.refusals = 2;
  rig.agent.set(rig.identity);
  rig.startManagement({configuration()});
  EXPECT_TRUE(eventually([&] { return rig.capture.installed() && rig.status()["capture"]["error"] == ""; }));
}

TEST(GatewayIdentity, RenewalIsToldFromSilence) {
  tls::test::Authority authority;
  FakeAgent agent;
  GatewayIdentity identity(configuration(), agent);
  EXPECT_EQ(identity.context().error().reason, Reason::IdentityUnavailable);
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::None);
  EXPECT_TRUE(identity.needsRetry());
  localapi::IdentityInfo info;
  info.id = "identity-1";
  const auto renew = [&] {
    info.chain = {tls::test::der(authority.issue("device", keys::KeyType::EcP256, "clientAuth", nullptr).certificate.get())};
    agent.set(info);
  };
  renew();
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::Ready);
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::None);
  const auto before = identity.context().value();
  renew();
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::Renewed);
  EXPECT_NE(identity.context().value(), before);
  agent.set(fail(Reason::Unavailable, "identityd restarts"));
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::None);
  EXPECT_TRUE(identity.context());
  agent.set(fail(Reason::NotEntitled, "no grant"));
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::Lost);
  EXPECT_EQ(identity.context().error().reason, Reason::NotEntitled);
  renew();
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::Ready);
  info.state = "lost";
  agent.set(info);
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::Lost);
  EXPECT_EQ(identity.context().error().reason, Reason::IdentityLost);
  info.state = "active";
  agent.set(info);
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::Ready);
  info.chain = {toBytes("not a certificate")};
  agent.set(info);
  EXPECT_EQ(identity.refresh(), GatewayIdentity::Change::Lost);
  EXPECT_FALSE(identity.context());
}

TEST(Api, AnswersReadersAndRefusesTheRest) {
  Rig rig;
  Api api(*rig.proxy, rig.journal, *rig.controller, std::nullopt);
  struct Answer final : localapi::Responder {
    void respond(localapi::Response response) override { got = std::move(response); }
    std::shared_ptr<localapi::EventStream> openStream() override { return nullptr; }
    localapi::Response got;
  };
  const auto ask = [&](std::string method, std::string path, std::map<std::string, std::string> query = {}) {
    Answer answer;
    localapi::Request request;
    request.peer = std::make_shared<localapi::Peer>();  // root
    request.method = std::move(method);
    request.path = std::move(path);
    request.query = std::move(query);
    api.handle(request, answer);
    return answer.got;
  };
  rig.agent.set(rig.identity);
  rig.startManagement({configuration()});
  ASSERT_TRUE(rig.ready());
  (void)rig.flowOutcome();
  (void)rig.flowOutcome();
  const auto flows = nlohmann::json::parse(ask("GET", "/v1/flows").body)["flows"];
  ASSERT_EQ(flows.size(), 2u);
  EXPECT_EQ(flows[0]["outcome"], "GATEWAY_UNREACHABLE");
  EXPECT_EQ(nlohmann::json::parse(ask("GET", "/v1/flows", {{"limit", "1"}}).body)["flows"].size(), 1u);
  const auto status = nlohmann::json::parse(ask("GET", "/v1/status").body);
  EXPECT_EQ(status["flows"]["total"], 2);
  EXPECT_EQ(status["configurations"][0]["gateway"], "gateway.test:1");
  EXPECT_TRUE(ask("GET", "/metrics").body.contains("wayleave_flows_opened_total 2\n"));
  for (const char* limit : {"0", "-1", "x", "99999", ""}) EXPECT_EQ(ask("GET", "/v1/flows", {{"limit", limit}}).status, 400) << limit;
  EXPECT_EQ(ask("GET", "/v1/nothing").status, 404);
  EXPECT_EQ(ask("POST", "/v1/flows").status, 400);
}

TEST(Api, ShowsAUserHisOwnFlowsAndAdministratorsAll) {
  Rig rig;
  Api api(*rig.proxy, rig.journal, *rig.controller, gid_t{4711});
  rig.startManagement({});
  for (const std::optional<uint32_t> user : {std::optional<uint32_t>{1000}, {1001}, {1000}, {std::nullopt}})
    rig.journal.add(0, {.id = 1, .host = user ? fmt::format("of-{}.example", *user) : "of-nobody-known.example", .user = user});
  ASSERT_TRUE(eventually([&] { return rig.journal.latest(10).size() == 4; }));
  struct Stream final : localapi::EventStream {
    bool send(std::string line) override {
      const std::lock_guard lock(mutex);
      lines.push_back(std::move(line));
      return true;
    }
    size_t count() {
      const std::lock_guard lock(mutex);
      return lines.size();
    }
    std::mutex mutex;
    std::vector<std::string> lines;
  };
  struct Answer final : localapi::Responder {
    void respond(localapi::Response response) override { got = std::move(response); }
    std::shared_ptr<localapi::EventStream> openStream() override { return stream; }
    localapi::Response got;
    std::shared_ptr<Stream> stream = std::make_shared<Stream>();
  };
  const auto ask = [&](std::string path, std::shared_ptr<const localapi::Peer> peer) {
    Answer answer;
    localapi::Request request;
    request.method = "GET";
    request.path = std::move(path);
    request.peer = std::move(peer);
    api.handle(request, answer);
    return answer;
  };
  const auto peer = [](uid_t uid, std::vector<gid_t> groups = {}) {
    auto made = std::make_shared<localapi::Peer>();
    made->uid = uid;
    made->gid = uid;
    made->groups = std::move(groups);
    return made;
  };
  const auto hosts = [&](std::shared_ptr<const localapi::Peer> who) {
    std::vector<std::string> found;
    const auto answer = nlohmann::json::parse(ask("/v1/flows", std::move(who)).got.body);
    for (const auto& flow : answer["flows"]) found.push_back(flow["host"]);
    return found;
  };
  EXPECT_EQ(hosts(peer(1000)), (std::vector<std::string>{"of-1000.example", "of-1000.example"}));
  EXPECT_EQ(hosts(peer(1001)), (std::vector<std::string>{"of-1001.example"}));
  EXPECT_TRUE(hosts(peer(1002)).empty());
  EXPECT_TRUE(hosts(nullptr).empty());
  EXPECT_EQ(hosts(peer(1002, {27, 4711})).size(), 4u);
  EXPECT_EQ(hosts(peer(0)).size(), 4u);
  EXPECT_EQ(ask("/v1/status", peer(1002)).got.status, 200);
  EXPECT_EQ(ask("/metrics", peer(1002)).got.status, 200);

  const auto own = ask("/v1/watch", peer(1001)).stream, all = ask("/v1/watch", peer(0)).stream;
  rig.journal.add(0, {.id = 2, .host = "secret.example", .user = 1000});
  rig.journal.add(0, {.id = 3, .host = "own.example", .user = 1001});
  ASSERT_TRUE(eventually([&] { return all->count() == 2 && own->count() >= 1; }));
  ASSERT_EQ(own->lines.size(), 1u);
  EXPECT_EQ(nlohmann::json::parse(own->lines[0])["host"], "own.example");
}

TEST(MemoryKeeper, GivesBackOnceAfterManyFlowsWhenItIsQuiet) {
  observe::FlowJournal journal({.log = [](const observe::FlowRecord&) {}});
  std::atomic<int> given = 0;
  MemoryKeeper keeper(journal, {.flows = 100, .span = 1ms, .spans = 3, .busy = 50, .giveBack = [&] { ++given; }});
  const auto end = [&](int flows) {
    for (int i = 0; i < flows; ++i) journal.add(0, {.id = 1});
  };
  end(99);
  ASSERT_TRUE(eventually([&] { return journal.latest(1000).size() == 99; }));
  EXPECT_EQ(given, 0) << "too few";
  end(1);
  EXPECT_TRUE(eventually([&] { return given == 1; }));
  end(1000);
  EXPECT_TRUE(eventually([&] { return given == 2; }));
}

}  // namespace
}  // namespace wayleave::proxy::control
