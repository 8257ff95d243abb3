#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "enrolment/scep/enrolment.h"
#include "enrolment/scep/scep_test_support.h"
#include "keys/software_key.h"

namespace wayleave::enrolment::scep {
namespace {

using test::Server;

std::string temporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "wayleave-scep.XXXXXX").string();
  return ::mkdtemp(name.data());
}

// identityd's three calls with one key, as service_scep.cc makes them.
class Agent final : public localapi::IdentityAgent {
 public:
  std::unique_ptr<keys::SoftwareKey> key = keys::SoftwareKey::generate(keys::KeyType::Rsa, 2048).value();
  std::optional<Error> broken;

  Result<Bytes> sign(ByteView what) {
    if (broken) return propagate(*broken);
    return key->sign(keys::SignatureScheme::RsaPkcs1Sha256, what, Steady::max());
  }
  Result<Bytes> signCertificationRequest(std::string_view, std::string_view scheme, ByteView info) override {
    EXPECT_EQ(scheme, "rsa_pkcs1_sha256");
    return sign(info);
  }
  Result<Bytes> makeScepSigner(std::string_view, ByteView subject) override {
    const auto made = RequesterCertificate::make(subject, key->publicKey().spki, std::chrono::system_clock::now());
    if (!made) return propagate(made.error());
    const auto signature = sign(made->info());
    if (!signature) return signature;
    return made->complete(*signature);
  }
  Result<Bytes> signScepMessage(std::string_view, ByteView attributes) override {
    EXPECT_TRUE(checkSignedAttributes(attributes).has_value()) << "identityd would refuse this";
    return sign(attributes);
  }
  Result<localapi::OpenedReply> openScepReply(std::string_view, ByteView envelope) override {
    auto opened = key->openEnvelope(envelope, Steady::max());
    if (!opened) return propagate(opened.error());
    return localapi::OpenedReply{opened->content, opened->cipher, opened->weak};
  }

  Result<std::vector<localapi::IdentityInfo>> list() override { return no(); }
  Result<localapi::IdentityInfo> show(std::string_view) override { return no(); }
  Result<localapi::IdentityInfo> resolve(ByteView) override { return no(); }
  Result<Bytes> signTls(const localapi::TlsSignRequest&, Steady) override { return no(); }
  Result<Bytes> signMessage(ByteView, std::string_view, ByteView, Steady) override { return no(); }
  Status beginInstallation(std::string_view) override { return no(); }
  Result<localapi::IdentityInfo> importPkcs12(localapi::ImportRequest) override { return no(); }
  Result<localapi::KeyInfo> createKey(const localapi::KeyRequest&) override { return no(); }
  Result<localapi::KeyAttestation> attestKey(std::string_view, ByteView) override { return no(); }
  Result<localapi::IdentityInfo> bindCertificate(const localapi::BindRequest&) override { return no(); }
  Result<localapi::IdentityInfo> renewCertificate(std::string_view, const std::vector<Bytes>&) override { return no(); }
  Status commitInstallation(std::string_view, const std::vector<std::string>&) override { return no(); }
  Status abortInstallation(std::string_view) override { return no(); }
  Status removeProfileIdentities(std::string_view) override { return no(); }
  Result<std::vector<std::string>> pendingInstallations() override { return no(); }
  Result<localapi::AkEnrolment> beginAkEnrolment() override { return no(); }
  Result<Bytes> activateCredential(ByteView, ByteView) override { return no(); }
  Status storeAkChain(const std::vector<Bytes>&) override { return no(); }

 private:
  static std::unexpected<Error> no() { return fail(Reason::Internal, "this test does not expect the call"); }
};

class NoWaiting final : public Pacer {
 public:
  explicit NoWaiting(ManualClock& clock) : clock_(clock) {}
  bool wait(std::chrono::milliseconds time) override {
    waits.push_back(time);
    clock_.advance(time);
    return !stopping;
  }
  std::vector<std::chrono::milliseconds> waits;
  bool stopping = false;

 private:
  ManualClock& clock_;
};

class Scep : public ::testing::Test {
 protected:
  Scep() {
    clock.jumpWall(std::chrono::system_clock::now() - clock.wallNow());
    parameters.url = "https://ca/scep";
    parameters.request.subject = {{{"CN", "device"}}};
    parameters.request.challengePassword = Secret::copyOf("secret word");
    server.challenge = "secret word";
  }
  ~Scep() override { std::filesystem::remove_all(folder); }
  Result<std::vector<Bytes>> obtain() {
    return obtainCertificate({*agent, server, pacer, clock, record}, parameters, {"key-1", agent->key->publicKey().spki}, {});
  }
  Result<std::vector<Bytes>> renew(ByteView current, const Progress& first) {
    Record own = Record::open(folder + "/renewal").value();
    parameters.request.challengePassword = {};
    return renewCertificate({*agent, server, pacer, clock, own}, parameters, {"identity-1", agent->key->publicKey().spki}, current, first);
  }
  void restart() { record = Record::open(folder + "/record").value(); }

  static void SetUpTestSuite() { agent = std::make_unique<Agent>(); }
  static void TearDownTestSuite() { agent.reset(); }
  static std::unique_ptr<Agent> agent;
  std::string folder = temporaryFolder();
  ManualClock clock;
  NoWaiting pacer{clock};
  Server server;
  Record record = Record::open(folder + "/record").value();
  Parameters parameters;
};
std::unique_ptr<Agent> Scep::agent;

TEST_F(Scep, ObtainsACertificateForOurKey) {
  const auto chain = obtain();
  ASSERT_TRUE(chain.has_value()) << describe(chain.error());
  EXPECT_EQ(chain->size(), 1u);  // the root is not part of it
  EXPECT_EQ(server.types, std::vector<std::string>{"19"});
  EXPECT_EQ(server.challenges, std::vector<std::string>{"secret word"});
  EXPECT_EQ(server.transactions.front().size(), 64u);
}

TEST_F(Scep, TheChallengeIsNeverOnDisk) {
  ASSERT_TRUE(obtain().has_value());
  const auto stored = readFile(folder + "/record", 1024 * 1024);
  ASSERT_TRUE(stored.has_value());
  EXPECT_EQ(asText(*stored).find("secret word"), std::string_view::npos);
  EXPECT_EQ(asText(*stored).find(toBase64(asBytes("secret word")).substr(0, 12)), std::string_view::npos);
}

TEST_F(Scep, AnEmptyChallengeIsLeftOut) {
  parameters.request.challengePassword = {};
  server.challenge.clear();
  ASSERT_TRUE(obtain().has_value());
  EXPECT_EQ(server.challenges, std::vector<std::string>{""});
}

TEST_F(Scep, EncryptsToTheRaAndBelievesItsSignature) {
  server.withRa = true;
  const auto chain = obtain();
  ASSERT_TRUE(chain.has_value()) << describe(chain.error());
}

TEST_F(Scep, ReadsRepliesInEveryCipherOfRealServers) {
  for (const char* cipher : {"AES-256-CBC", "DES-EDE3-CBC", "DES-CBC"}) {
    server.cipher = cipher;
    ASSERT_TRUE(record.remove().has_value());
    const auto chain = obtain();
    EXPECT_TRUE(chain.has_value()) << cipher << ": " << describe(chain.error());
  }
}

TEST_F(Scep, WithoutCapabilitiesUsesTripleDesAndGet) {
  server.capabilities.clear();
  EXPECT_EQ(server.urls.size(), 0u);
  parameters.request.challengePassword = {};
  // The request stands in the URL; the server of these tests reads bodies, so only the form is looked at.
  Client client(server, pacer, "https://ca/scep?x=1", "My CA");
  const auto capabilities = client.capabilities();
  ASSERT_TRUE(capabilities.has_value());
  EXPECT_FALSE(capabilities->aes || capabilities->post || capabilities->renewal);
  EXPECT_EQ(server.urls.back(), "https://ca/scep?x=1&operation=GetCACaps&message=My%20CA");
}

TEST_F(Scep, EveryFailInfoIsASentenceWithTheServersWords) {
  const std::map<std::string, std::pair<Reason, std::string>> expected{{"0", {Reason::Unsupported, "badAlg"}},
                                                                       {"1", {Reason::SignatureInvalid, "badMessageCheck"}},
                                                                       {"2", {Reason::NotEntitled, "badRequest"}},
                                                                       {"3", {Reason::Conflict, "badTime"}},
                                                                       {"4", {Reason::NotFound, "badCertId"}},
                                                                       {"9", {Reason::ServerError, "RFC 8894"}}};
  for (const auto& [info, sentence] : expected) {
    server.failInfo = info;
    const auto refused = obtain();
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().reason, sentence.first) << info;
    EXPECT_NE(refused.error().message.find(sentence.second), std::string::npos) << refused.error().message;
    EXPECT_NE(refused.error().message.find("as the server puts it"), std::string::npos);
    EXPECT_EQ(refused.error().message.find('\n'), std::string::npos);
    EXPECT_EQ(record.progress().key, "") << "a refused transaction is over";
  }
}

TEST_F(Scep, AWrongChallengeIsRefused) {
  server.challenge = "another";
  EXPECT_EQ(obtain().error().reason, Reason::NotEntitled);
}

TEST_F(Scep, PollsWhilePendingTheFirstTimeAtOnce) {
  server.pendings = 3;
  const auto chain = obtain();
  ASSERT_TRUE(chain.has_value()) << describe(chain.error());
  EXPECT_EQ(server.types, (std::vector<std::string>{"19", "20", "20", "20"}));
  EXPECT_EQ(pacer.waits, (std::vector<std::chrono::milliseconds>{std::chrono::seconds{10}, std::chrono::seconds{10}}));
  for (const std::string& transaction : server.transactions) EXPECT_EQ(transaction, server.transactions.front());
}

TEST_F(Scep, GivesUpAfterTheRetriesOfThePayload) {
  server.pendings = 100;
  parameters.retries = 2;
  EXPECT_EQ(obtain().error().reason, Reason::DeadlineExceeded);
  EXPECT_EQ(server.types.size(), 3u);
  EXPECT_EQ(record.progress().key, "");
}

TEST_F(Scep, ALongDecisionIsLeftPendingAndTakenUpByPollsAlone) {
  server.pendings = 2;
  parameters.retryDelay = std::chrono::hours{1};
  const auto first = obtain();
  ASSERT_FALSE(first.has_value());
  EXPECT_EQ(first.error().reason, Reason::Pending);
  restart();
  const size_t asked = server.urls.size();
  EXPECT_EQ(obtain().error().reason, Reason::Pending);
  EXPECT_EQ(server.urls.size(), asked) << "not yet due: the network is not touched";
  clock.advance(std::chrono::hours{1});
  clock.jumpWall(std::chrono::hours{1});
  parameters.request.challengePassword = {};  // as after a crash
  const auto chain = obtain();
  ASSERT_TRUE(chain.has_value()) << describe(chain.error());
  EXPECT_EQ(server.types, (std::vector<std::string>{"19", "20", "20"}));
}

TEST_F(Scep, ACrashBeforeTheAnswerSendsTheSameRequestInTheSameTransaction) {
  server.wrongNonce = true;  // an answer that is not taken
  ASSERT_FALSE(obtain().has_value());
  server.wrongNonce = false;
  restart();
  parameters.request.challengePassword = {};
  const auto chain = obtain();
  ASSERT_TRUE(chain.has_value()) << describe(chain.error());
  EXPECT_EQ(server.challenges, (std::vector<std::string>{"secret word", "secret word"}));
  EXPECT_EQ(server.transactions[0], server.transactions[1]);
}

TEST_F(Scep, ACrashAfterTheAnswerDoesNotAskAgain) {
  const auto chain = obtain();
  ASSERT_TRUE(chain.has_value());
  restart();
  server.unreachable = true;
  EXPECT_EQ(obtain().value(), *chain);
}

TEST_F(Scep, StoppingWhilePendingKeepsTheTransaction) {
  server.pendings = 2;
  pacer.stopping = true;
  EXPECT_EQ(obtain().error().reason, Reason::Cancelled);
  EXPECT_TRUE(Record::open(folder + "/record").value().progress().pending);
}

TEST_F(Scep, AnswersThatAreNotOursAreRefused) {
  server.wrongTransaction = true;
  EXPECT_EQ(obtain().error().reason, Reason::ServerError);
  server.wrongTransaction = false;
  server.strangerSigns = true;
  const auto stranger = obtain();
  ASSERT_FALSE(stranger.has_value());
  EXPECT_TRUE(stranger.error().reason == Reason::Untrusted || stranger.error().reason == Reason::SignatureInvalid);
  server.strangerSigns = false;
  server.tamper = true;
  EXPECT_EQ(obtain().error().reason, Reason::SignatureInvalid);
}

TEST_F(Scep, ACertificateForAnotherKeyIsRefused) {
  server.otherKey = true;
  EXPECT_EQ(obtain().error().reason, Reason::KeyMismatch);
}

TEST_F(Scep, AServerInTroubleIsAskedThreeTimes) {
  server.status = 503;
  EXPECT_EQ(obtain().error().reason, Reason::ServerError);
  EXPECT_EQ(server.urls.size(), 6u);  // capabilities, then certificates
  server.status = 403;
  EXPECT_EQ(obtain().error().reason, Reason::NotEntitled);
}

TEST_F(Scep, AKeyThatIsGoneIsReportedAsItsDaemonSays) {
  agent->broken = Error{Reason::IdentityUnavailable, "the sealed key cannot be opened", {}, 0};
  EXPECT_EQ(obtain().error().reason, Reason::IdentityUnavailable);
  agent->broken.reset();
}

TEST_F(Scep, RenewsWithTheOldCertificateAndWithoutTheChallenge) {
  const auto first = obtain();
  ASSERT_TRUE(first.has_value());
  const auto renewed = renew(first->front(), record.progress());
  ASSERT_TRUE(renewed.has_value()) << describe(renewed.error());
  EXPECT_EQ(server.types, (std::vector<std::string>{"19", "17"}));
  EXPECT_EQ(server.challenges.back(), "");
  EXPECT_NE(server.transactions[0], server.transactions[1]);
}

TEST_F(Scep, AServerThatWantsItsChallengeAgainGetsTheFirstRequest) {
  server.challengeInRenewals = true;
  const auto first = obtain();
  ASSERT_TRUE(first.has_value());
  const auto renewed = renew(first->front(), record.progress());
  ASSERT_TRUE(renewed.has_value()) << describe(renewed.error());
  EXPECT_EQ(server.types, (std::vector<std::string>{"19", "17", "17"}));
  EXPECT_EQ(server.challenges.back(), "secret word");
}

TEST_F(Scep, AServerThatDoesNotRenewGetsANewRequest) {
  server.capabilities = "AES\nSHA-256\nPOSTPKIOperation\n";
  const auto first = obtain();
  ASSERT_TRUE(first.has_value());
  ASSERT_TRUE(renew(first->front(), record.progress()).has_value());
  EXPECT_EQ(server.types, (std::vector<std::string>{"19", "19"}));
}

TEST(ScepAuthority, TheFingerprintDecides) {
  Server server;
  const Bytes ca = server.caAnswer();
  EXPECT_TRUE(judgeAuthority({ca}, {"http://ca.example/scep", sha256(ca), {}, true}).has_value());
  EXPECT_TRUE(judgeAuthority({ca}, {"http://ca.example/scep", sha1(ca), {}, true}).has_value());
  Bytes wrong = sha256(ca);
  wrong[0] ^= 1;
  EXPECT_EQ(judgeAuthority({ca}, {"https://ca.example/scep", wrong, {}, false}).error().reason, Reason::Untrusted);
}

TEST(ScepAuthority, PlainHttpWithAChallengeNeedsAVoucher) {
  Server server;
  const Bytes ca = server.caAnswer();
  const auto refused = judgeAuthority({ca}, {"http://ca.example/scep", {}, {}, true});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().reason, Reason::Untrusted);
  EXPECT_NE(refused.error().hint.find("CAFingerprint"), std::string::npos);
  const auto careless = judgeAuthority({ca}, {"http://ca.example/scep", {}, {}, false});
  ASSERT_TRUE(careless.has_value());
  EXPECT_EQ(careless->warnings.size(), 1u);
  EXPECT_TRUE(judgeAuthority({ca}, {"https://ca.example/scep", {}, {}, true})->warnings.empty());
  EXPECT_TRUE(judgeAuthority({ca}, {"http://127.0.0.1:8080/scep", {}, {}, true})->warnings.empty());
  EXPECT_FALSE(judgeAuthority({ca}, {"http://127.0.0.1.evil.example/scep", {}, {}, true}).has_value());
  std::string lines;  // PEM lines are short
  const std::string base64 = toBase64(ca);
  for (size_t i = 0; i < base64.size(); i += 64) lines += base64.substr(i, 64) + "\n";
  EXPECT_TRUE(judgeAuthority({ca}, {"http://ca.example/scep", {}, {"-----BEGIN CERTIFICATE-----\n" + lines + "-----END CERTIFICATE-----\n"}, true}).has_value());
}

TEST(ScepAuthority, AnRaMustBeIssuedUnderTheFingerprint) {
  Server server;
  server.withRa = true;
  auto list = readCertificates(server.caAnswer()).value();
  ASSERT_EQ(list.size(), 2u);
  const Bytes ca = test::der(i2d_X509, server.ca.get());
  const auto good = judgeAuthority(list, {"http://ca.example", sha256(ca), {}, true});
  ASSERT_TRUE(good.has_value());
  EXPECT_EQ(X509_check_ca(good->encryptTo()), 0);
  // Another's "RA" slipped into the bundle is not used.
  const auto stranger = test::issue("Evil", test::rsaKey(3), nullptr, test::rsaKey(3), "critical,keyEncipherment,digitalSignature", false);
  const auto slipped = judgeAuthority({test::der(i2d_X509, stranger.get()), ca}, {"http://ca.example", sha256(ca), {}, true});
  ASSERT_TRUE(slipped.has_value());
  EXPECT_EQ(slipped->certificates.size(), 1u);
}

TEST(ScepAuthority, ReadsOnlyCertificates) {
  EXPECT_EQ(readCertificates(asBytes("<html>")).error().reason, Reason::BadInput);
  EXPECT_EQ(readCertificates({}).error().reason, Reason::BadInput);
  EXPECT_TRUE(parseCapabilities("scepstandard\r\nRENEWAL\r\n").aes);
  EXPECT_TRUE(parseCapabilities("scepstandard\r\nRENEWAL\r\n").renewal);
  EXPECT_FALSE(parseCapabilities("AESX\nnonsense").aes);
}

TEST(ScepMessage, OnlyExactlyAClientsAttributesPass) {
  const Attributes good{MessageType::PkcsReq, std::string(64, 'A'), Bytes(16, 1)};
  const Bytes set = signedAttributes(good, asBytes("content"));
  EXPECT_TRUE(checkSignedAttributes(set).has_value());
  for (size_t cut = 0; cut < set.size(); ++cut) EXPECT_FALSE(checkSignedAttributes(ByteView(set).first(cut)).has_value()) << cut;
  Bytes longer = set;
  longer.push_back(0);
  EXPECT_FALSE(checkSignedAttributes(longer).has_value());
  const auto refused = [&](const Attributes& attributes) { return !checkSignedAttributes(signedAttributes(attributes, {})).has_value(); };
  EXPECT_TRUE(refused({MessageType::CertRep, good.transactionId, good.senderNonce}));
  EXPECT_TRUE(refused({MessageType::PkcsReq, "", good.senderNonce}));
  EXPECT_TRUE(refused({MessageType::PkcsReq, std::string(129, 'A'), good.senderNonce}));
  EXPECT_TRUE(refused({MessageType::PkcsReq, good.transactionId, Bytes(15, 1)}));
  EXPECT_FALSE(checkSignedAttributes(sha256(set)).has_value());
}

TEST(ScepMessage, ARequesterCertificateVouchesForItselfAlone) {
  const auto key = keys::SoftwareKey::generate(keys::KeyType::Rsa, 2048).value();
  const Bytes name = test::der(i2d_X509_NAME, X509_get_subject_name(Server().ca.get()));
  const auto made = RequesterCertificate::make(name, key->publicKey().spki, std::chrono::system_clock::now());
  ASSERT_TRUE(made.has_value());
  const Bytes bytes = made->complete(key->sign(keys::SignatureScheme::RsaPkcs1Sha256, made->info(), Steady::max()).value());
  const uint8_t* at = bytes.data();
  const keys::X509Ptr certificate(d2i_X509(nullptr, &at, static_cast<long>(bytes.size())));
  ASSERT_TRUE(certificate != nullptr);
  EXPECT_EQ(X509_verify(certificate.get(), X509_get0_pubkey(certificate.get())), 1);
  EXPECT_EQ(X509_check_ca(certificate.get()), 0);
  EXPECT_FALSE(RequesterCertificate::make(asBytes("no name"), key->publicKey().spki, {}).has_value());
  EXPECT_FALSE(RequesterCertificate::make(name, keys::SoftwareKey::generate(keys::KeyType::EcP256).value()->publicKey().spki, {}).has_value());
}

TEST(ScepRecord, AForeignFileIsReportedAndLeftAlone) {
  const std::string folder = temporaryFolder();
  for (const std::string content : {"not JSON", "[]", "{}", R"({"chain":3})"}) {
    ASSERT_TRUE(writeFileAtomically(folder + "/r", asBytes(content), 0600).has_value());
    EXPECT_EQ(Record::open(folder + "/r").error().reason, Reason::BadInput) << content;
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace wayleave::enrolment::scep
