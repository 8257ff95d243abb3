#include "management/service.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <thread>

#include "localapi/client.h"
#include "localapi/json_reader.h"
#include "localapi/peer.h"
#include "management/installer_test_support.h"

namespace wayleave::management {
namespace {

using nlohmann::json;

constexpr const char* kIdentifier = "com.wayleave.example.pkcs12";

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() : enroller_(agent_) {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-sv-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    store_ = ManagementStore::open(folder_ + "/management.db", clock_).value();
    start(enroller_);
  }
  ~ServiceTest() override {
    server_.reset();
    service_.reset();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void start(Enroller& enroller) {
    server_.reset();
    ServiceOptions options;
    options.removalSettle = std::chrono::milliseconds{1};
    service_ = std::make_unique<Service>(*store_, agent_, &enroller, clock_, options);
    server_ = localapi::Server::listen(folder_ + "/management.sock", 0666,
                                       [this](localapi::Request request, std::shared_ptr<localapi::Responder> responder) {
                                         service_->handle(std::move(request), std::move(responder));
                                       })
                  .value();
    service_->start();
    server_->start();
  }
  localapi::Client client() const { return localapi::Client(folder_ + "/management.sock"); }
  Result<json> ask(std::string_view method, std::string_view path, std::string_view body = {}) {
    const Result<std::string> answer = client().callJson(method, path, body);
    if (!answer) return propagate(answer.error());
    return localapi::parseJson(*answer);
  }

  SystemClock clock_;
  FakeAgent agent_;
  FakeEnroller enroller_;
  std::string folder_;
  std::unique_ptr<ManagementStore> store_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<localapi::Server> server_;
};

TEST_F(ServiceTest, InstallsShowsListsAndRemoves) {
  const Bytes profile = bytesOf(example("pkcs12.mobileconfig"));
  const auto installed = ask("POST", "/v1/profiles", asText(profile));
  ASSERT_TRUE(installed.has_value()) << installed.error().message;
  EXPECT_EQ((*installed)["identifier"], kIdentifier);
  EXPECT_EQ((*installed)["replaced"], false);

  const auto list = ask("GET", "/v1/profiles");
  EXPECT_EQ((*list)["profiles"][0]["displayName"], "Wayleave example: PKCS#12 identity");
  const auto shown = ask("GET", std::string("/v1/profiles/") + kIdentifier);
  EXPECT_EQ((*shown)["payloads"].size(), 3U);
  EXPECT_EQ((*shown)["identities"].size(), 1U);
  EXPECT_EQ(shown->dump().find("wayleave-lab"), std::string::npos);
  const auto configurations = ask("GET", "/v1/configurations");
  ASSERT_EQ((*configurations)["configurations"].size(), 1U);
  EXPECT_TRUE(localapi::proxyConfigurationFromJson((*configurations)["configurations"][0].dump()).has_value());
  EXPECT_EQ((*ask("GET", "/v1/status"))["sequence"], (*configurations)["sequence"]);

  EXPECT_TRUE(ask("DELETE", std::string("/v1/profiles/") + kIdentifier).has_value());
  EXPECT_EQ(ask("GET", std::string("/v1/profiles/") + kIdentifier).error().reason, Reason::NotFound);
  EXPECT_EQ(ask("DELETE", std::string("/v1/profiles/") + kIdentifier).error().reason, Reason::NotFound);
}

TEST_F(ServiceTest, RemovesAProfileWhenItsTimeHasComeAndSaysWhenBefore) {
  plist::Value profile = example("pkcs12.mobileconfig");
  profile.dictionary()->set("DurationUntilRemoval", 1);
  const auto installed = ask("POST", "/v1/profiles", asText(bytesOf(profile)));
  ASSERT_TRUE(installed) << installed.error().message;
  EXPECT_TRUE((*installed)["removedAt"].is_string());
  const uint64_t sequence = (*installed)["sequence"];
  // Every change of configurations is told, a later one at once.
  EXPECT_TRUE(client().follow("/v1/watch?since=" + std::to_string(sequence), [](std::string_view) { return false; }, {}));
  server_.reset();
  service_.reset();  // waits for what is under way
  EXPECT_TRUE(agent_.active().empty());
  EXPECT_TRUE(store_->profiles()->empty());
}

TEST_F(ServiceTest, RefusesUnknownCallsAndBadInput) {
  EXPECT_EQ(client().call("GET", "/v2/status")->status, 404);
  EXPECT_EQ(client().call("POST", "/v1/status")->status, 405);
  EXPECT_EQ(client().call("GET", "/v1/watch?since=x")->status, 400);
  EXPECT_EQ(ask("POST", "/v1/profiles", "{\"not\": \"a profile\"}").error().reason, Reason::BadInput);
  EXPECT_EQ(client().call("POST", "/v1/profiles", std::string(9 * 1024 * 1024, 'x'))->status, 413);
}

TEST_F(ServiceTest, KnowsAnAdministratorByTheKernelsWord) {
  localapi::Peer peer;
  peer.uid = 4711;
  peer.gid = 4711;
  EXPECT_FALSE(isAdministrator(peer, std::nullopt));
  EXPECT_FALSE(isAdministrator(peer, 815));
  EXPECT_TRUE(isAdministrator(peer, 4711));
  peer.groups = {1, 815};
  EXPECT_TRUE(isAdministrator(peer, 815));
  peer.groups.clear();
  peer.uid = 0;
  EXPECT_TRUE(isAdministrator(peer, std::nullopt));
  peer.uid = geteuid();
  EXPECT_TRUE(isAdministrator(peer, std::nullopt));
}

TEST_F(ServiceTest, RefusesChangesByOthersAndLetsThemRead) {
  struct Captured final : localapi::Responder {
    void respond(localapi::Response given) override {
      const std::lock_guard lock(mutex);
      response = std::move(given);
      changed.notify_all();
    }
    std::shared_ptr<localapi::EventStream> openStream() override { return nullptr; }
    int status() {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return response.has_value(); });
      return response->status;
    }
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<localapi::Response> response;
  };
  auto stranger = std::make_shared<localapi::Peer>();
  stranger->uid = geteuid() + 1;
  const auto asked = [&](const char* method, const char* path) {
    const auto captured = std::make_shared<Captured>();
    service_->handle({method, path, {}, {}, {}, stranger}, captured);
    return captured->status();
  };
  EXPECT_EQ(asked("POST", "/v1/profiles"), 403);
  EXPECT_EQ(asked("DELETE", "/v1/profiles/x"), 403);
  EXPECT_EQ(asked("GET", "/v1/profiles"), 200);
}

TEST_F(ServiceTest, TellsWatchersOfProgressAndChanges) {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> events;
  bool open = false;
  std::jthread watcher([&](const std::stop_token& stop) {
    (void)client().follow(
        "/v1/watch",
        [&](std::string_view line) {
          const std::lock_guard lock(mutex);
          events.push_back((*localapi::parseJson(line))["event"]);
          changed.notify_all();
          return true;
        },
        stop, [&] {
          const std::lock_guard lock(mutex);
          open = true;
          changed.notify_all();
        });
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return open; });
  lock.unlock();
  ASSERT_TRUE(ask("POST", "/v1/profiles", asText(bytesOf(example("acme.mobileconfig")))).has_value());
  lock.lock();
  changed.wait(lock, [&] { return !events.empty() && events.back() == "configuration-changed"; });
  EXPECT_EQ(events, (std::vector<std::string>{"install-progress", "profile-installed", "configuration-changed"}));
}

TEST_F(ServiceTest, TellsALateWatcherAtOnce) {
  ASSERT_TRUE(ask("POST", "/v1/profiles", asText(bytesOf(example("pkcs12.mobileconfig")))).has_value());
  uint64_t sequence = 0;
  EXPECT_TRUE(client().follow(
      "/v1/watch?since=0",
      [&](std::string_view line) {
        sequence = (*localapi::parseJson(line))["sequence"];
        return false;
      },
      {}));
  EXPECT_EQ(sequence, *store_->sequence());
}

TEST_F(ServiceTest, RenewsOnRequestAndReinstallsForTheRenewer) {
  EXPECT_EQ(ask("POST", "/v1/renew").error().reason, Reason::Unsupported);
  service_->onRenew([this]() -> std::map<std::string, Error> {
    EXPECT_TRUE(service_->reinstall("com.wayleave.example.acme"));
    return {{"identity-9", Error{Reason::RateLimited, "too many orders", {}, 0}}};
  });
  ASSERT_TRUE(ask("POST", "/v1/profiles", asText(bytesOf(example("acme.mobileconfig")))).has_value());
  const auto renewed = ask("POST", "/v1/renew");
  ASSERT_TRUE(renewed.has_value()) << renewed.error().message;
  EXPECT_EQ((*renewed)["failed"][0]["reason"], "RATE_LIMITED");
  EXPECT_EQ(agent_.active(), std::vector<std::string>{"identity-2"});
  EXPECT_EQ(service_->enrolmentProfile("com.wayleave.example.acme")->payloads.size(), 2U);  // without the VPN
  EXPECT_EQ(service_->enrolmentProfile("nobody").error().reason, Reason::NotFound);
  service_->stop();
  EXPECT_EQ(service_->reinstall("com.wayleave.example.acme").error().reason, Reason::Busy);
}

TEST_F(ServiceTest, AnswersReadersWhileAnEnrolmentWaitsAndBoundsTheQueue) {
  struct Waiting final : Enroller {
    Result<localapi::IdentityInfo> enroll(const EnrolmentRequest&, const EnrolmentProgress&, std::stop_token stop) override {
      std::mutex mutex;
      std::condition_variable_any never;
      std::unique_lock lock(mutex);
      never.wait(lock, stop, [] { return false; });
      return fail(Reason::Cancelled, "stopping");
    }
    void settled(std::string_view, bool) override {}
  } waiting;
  start(waiting);
  const Bytes profile = bytesOf(example("acme.mobileconfig"));
  std::mutex mutex;
  std::condition_variable changed;
  int busy = 0;
  std::vector<std::jthread> callers;
  for (int i = 0; i < 20; ++i)
    callers.emplace_back([&] {
      const auto answer = client().call("POST", "/v1/profiles", asText(profile));
      const std::lock_guard lock(mutex);
      busy += answer && answer->status == 429;
      changed.notify_all();
    });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return busy >= 20 - 9; });  // one under way, eight in the queue
  }
  EXPECT_TRUE(ask("GET", "/v1/status").has_value());
  service_->stop();
  server_.reset();
  callers.clear();
  EXPECT_EQ(store_->unfinished()->at(0).state, InstallState::Preparing);
}

}  // namespace
}  // namespace wayleave::management
