#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>

#include "localapi/client.h"
#include "localapi/identity_client.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"
#include "localapi/server.h"

namespace wayleave::localapi {
namespace {

using nlohmann::json;

IdentityInfo sampleIdentity() {
  IdentityInfo out;
  out.id = "B7";
  out.label = "Device";
  out.source = "acme";
  out.keychain = "data-protection";
  out.reference = {'c', 'e', 'r', 't', 1, 2};
  out.accessGroup = "com.apple.identities";
  out.keyType = "EC P-384";
  out.keyKind = "tpm";
  out.attested = true;
  out.subject = "CN=device";
  out.schemes = {"ecdsa_secp384r1_sha384"};
  out.chain = {{0x30, 0}, {0x30, 1}};
  out.publicKey = {1, 2, 3};
  out.state = "active";
  return out;
}

// A server that records what it was asked and answers what the test says.
class IdentityClientTest : public ::testing::Test {
 protected:
  IdentityClientTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-idc-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    path_ = folder_ + "/identity.sock";
    start();
  }
  ~IdentityClientTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }
  void start() {
    auto server = Server::listen(path_, 0600, [this](const Request& request, std::shared_ptr<Responder> responder) {
      const std::lock_guard lock(mutex_);
      asked_ = request.method + " " + request.path;
      body_ = request.body;
      if (request.path == "/v1/watch") {
        asked_ += " since " + request.query.at("since");
        stream_ = responder->openStream();
        changed_.notify_all();
        return;
      }
      responder->respond(answer_);
    });
    ASSERT_TRUE(server.has_value()) << server.error().message;
    server_ = std::move(*server);
    server_->start();
  }
  void answer(const json& body) { answer_ = {200, "application/json", dump(body)}; }

  std::string folder_, path_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string asked_, body_;
  Response answer_;
  std::shared_ptr<EventStream> stream_;
  std::unique_ptr<Server> server_;
};

TEST_F(IdentityClientTest, AsksEveryCallAsTheContractSays) {
  const auto agent = makeIdentityClient(path_);
  const Steady deadline = std::chrono::steady_clock::now() + std::chrono::seconds{10};

  answer({{"identities", {toJson(sampleIdentity())}}});
  const auto all = agent->list();
  ASSERT_TRUE(all.has_value()) << all.error().message;
  EXPECT_EQ(all->at(0).label, "Device");
  EXPECT_EQ(asked_, "GET /v1/identities");

  answer(toJson(sampleIdentity()));
  EXPECT_EQ(agent->show("a/b")->chain.size(), 2U);
  EXPECT_EQ(asked_, "GET /v1/identities/a/b");
  EXPECT_EQ(agent->resolve(Bytes{1, 2})->reference, sampleIdentity().reference);
  EXPECT_EQ(asked_, "POST /v1/resolve");
  EXPECT_EQ(bytesFromJson(*parseJson(body_), "reference").value(), (Bytes{1, 2}));

  answer({{"signature", toBase64(Bytes{9})}});
  EXPECT_EQ(agent->signTls({{1}, "rsa_pss_rsae_sha256", false, {7}}, deadline).value(), Bytes{9});
  EXPECT_EQ(asked_, "POST /v1/sign/tls");
  const auto tls = tlsSignBodyFromJson(*parseJson(body_));
  ASSERT_TRUE(tls.has_value()) << tls.error().message;
  EXPECT_FALSE(tls->request.tls13);
  EXPECT_EQ(tls->request.content, Bytes{7});
  EXPECT_GT(tls->deadline, std::chrono::seconds{5});
  EXPECT_EQ(agent->signMessage(Bytes{1}, "ecdsa_sha256", Bytes{2}, deadline).value(), Bytes{9});
  EXPECT_EQ(messageSignBodyFromJson(*parseJson(body_))->message, Bytes{2});
  EXPECT_EQ(agent->signCertificationRequest("K", "ecdsa_sha256", Bytes{3}).value(), Bytes{9});
  EXPECT_EQ(asked_, "POST /v1/keys/K/sign-request");
  EXPECT_EQ(certificationRequestBodyFromJson(*parseJson(body_))->certificationRequestInfo, Bytes{3});

  answer(json::object());
  EXPECT_TRUE(agent->beginInstallation("I"));
  EXPECT_EQ(asked_, "POST /v1/installations/I");
  EXPECT_TRUE(agent->commitInstallation("I", {"old"}));
  EXPECT_EQ(asked_, "POST /v1/installations/I/commit");
  EXPECT_EQ(body_, R"({"replacedProfiles":["old"]})");
  EXPECT_TRUE(agent->abortInstallation("I"));
  EXPECT_EQ(asked_, "DELETE /v1/installations/I");
  EXPECT_TRUE(agent->removeProfileIdentities("p.q"));
  EXPECT_EQ(asked_, "DELETE /v1/profiles/p.q/identities");
  EXPECT_TRUE(agent->storeAkChain({{1}}));
  EXPECT_EQ(asked_, "POST /v1/attestation/chain");
  answer({{"pending", {"I", "J"}}});
  EXPECT_EQ(agent->pendingInstallations().value(), (std::vector<std::string>{"I", "J"}));

  answer(toJson(sampleIdentity()));
  ImportRequest import;
  import.installation = "I";
  import.payloadUuid = "U";
  import.pkcs12 = {5};
  import.password = Secret::copyOf("pässword");
  import.hasPassword = true;
  EXPECT_TRUE(agent->importPkcs12(std::move(import)));
  EXPECT_EQ(asked_, "POST /v1/installations/I/pkcs12");
  const auto imported = importRequestFromJson(*parseJson(body_), "I");
  ASSERT_TRUE(imported.has_value()) << imported.error().message;
  EXPECT_EQ(imported->password.viewText(), "pässword");

  answer(toJson(KeyInfo{"K", "EC P-384", "tpm", {1}, true}));
  EXPECT_TRUE(agent->createKey({"I", "U", "EC P-384", 0, true})->existed);
  EXPECT_TRUE(keyRequestFromJson(*parseJson(body_), "I")->hardwareBound);
  answer(toJson(KeyAttestation{{{1}}, {2}, {3}, {4}, -257}));
  EXPECT_EQ(agent->attestKey("K", Bytes{1})->algorithm, -257);
  answer(toJson(sampleIdentity()));
  EXPECT_TRUE(agent->bindCertificate({"I", "K", "acme", "p", "q", "U", "l", "g", {{1}}, true}));
  EXPECT_EQ(bindRequestFromJson(*parseJson(body_), "I")->chain.size(), 1U);
  EXPECT_TRUE(agent->renewCertificate("B7", {{1}}));
  EXPECT_EQ(asked_, "POST /v1/identities/B7/certificate");

  AkEnrolment enrolment;
  enrolment.model = "swtpm";
  answer(toJson(enrolment));
  EXPECT_EQ(agent->beginAkEnrolment()->model, "swtpm");
  answer({{"secret", toBase64(Bytes{8})}});
  EXPECT_EQ(agent->activateCredential(Bytes{1}, Bytes{2}).value(), Bytes{8});
}

TEST_F(IdentityClientTest, ReturnsTheDaemonsErrorAsItIs) {
  answer_ = errorResponse({Reason::NotFound, "no identity for this reference", "list them", -25300});
  const auto result = makeIdentityClient(path_)->resolve(Bytes{1});
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().reason, Reason::NotFound);
  EXPECT_EQ(result.error().osStatus, -25300);
  EXPECT_EQ(result.error().hint, "list them");
}

TEST_F(IdentityClientTest, NamesAnAnswerOutsideTheContract) {
  answer({{"identities", {{{"id", 7}}}}});
  const auto wrongType = makeIdentityClient(path_)->list();
  ASSERT_FALSE(wrongType.has_value());
  EXPECT_EQ(wrongType.error().reason, Reason::Internal);
  EXPECT_NE(wrongType.error().message.find("identities[0].id"), std::string::npos) << wrongType.error().message;
  answer_ = {200, "text/html", "<html>"};
  EXPECT_EQ(makeIdentityClient(path_)->list().error().reason, Reason::Internal);
}

TEST_F(IdentityClientTest, ToleratesMembersOfANewerDaemonButNotOfACaller) {
  json newer = toJson(sampleIdentity());
  newer["colour"] = "green";
  EXPECT_TRUE(identityInfoFromJson(newer).has_value());
  json request = toJson(KeyRequest{"I", "U", "RSA", 2048, false});
  EXPECT_TRUE(keyRequestFromJson(request, "I").has_value());
  request["colour"] = "green";
  EXPECT_EQ(keyRequestFromJson(request, "I").error().message, "request.colour: is not a member known here");
}

TEST_F(IdentityClientTest, SaysThatNobodyServes) {
  server_.reset();
  const auto result = makeIdentityClient(path_)->list();
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().reason, Reason::Unavailable);
}

TEST_F(IdentityClientTest, WatchReconnectsAfterTheLastSequenceAndSaysSo) {
  std::vector<IdentityEvent> events;
  int reconnects = 0;
  std::stop_source source;
  std::jthread watcher([&] {
    watchIdentities(
        path_, source.get_token(),
        [&](const IdentityEvent& event) {
          const std::lock_guard lock(mutex_);
          events.push_back(event);
          changed_.notify_all();
        },
        [&] {
          const std::lock_guard lock(mutex_);
          ++reconnects;
          changed_.notify_all();
        });
  });
  const auto sendEvent = [&](uint64_t sequence) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stream_ != nullptr; });
    EXPECT_TRUE(stream_->send(dump(toJson(IdentityEvent{sequence, "identity-renewed", "B7", {1}}))));
    changed_.wait(lock, [&] { return !events.empty() && events.back().sequence == sequence; });
  };
  sendEvent(41);
  {
    const std::lock_guard lock(mutex_);
    stream_.reset();
  }
  server_.reset();
  start();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reconnects == 1; });
    EXPECT_EQ(asked_, "GET /v1/watch since 41");
  }
  sendEvent(42);
  source.request_stop();
  watcher.join();
  EXPECT_EQ(events.size(), 2U);
}

}  // namespace
}  // namespace wayleave::localapi
