// The client against a server in process that keeps RFC 8555's rules about nonces and states, and breaks the others on demand.
// Real servers are met in tests/interop and in the lab.

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <deque>
#include <set>

#include <nlohmann/json.hpp>

#include "enrolment/acme/enrolment.h"
#include "keys/openssl.h"
#include "keys/software_key.h"

namespace wayleave::enrolment::acme {
namespace {

using nlohmann::json;
using keys::SoftwareKey;

std::string temporaryFolder() {
  std::string path = ::testing::TempDir() + "acme.XXXXXX";
  EXPECT_NE(::mkdtemp(path.data()), nullptr);
  return path;
}

keys::EvpPkeyPtr publicOf(ByteView spki) {
  const unsigned char* at = spki.data();
  return keys::EvpPkeyPtr(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
}

// A certificate for `spki`, signed by `signer`.
std::string issue(ByteView spki, EVP_PKEY* signer, const char* name, long seconds) {
  const keys::X509Ptr certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 7);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -60);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), seconds);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
  X509_NAME_add_entry_by_txt(X509_get_issuer_name(certificate.get()), "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>("ca"), -1, -1, 0);
  X509_set_pubkey(certificate.get(), publicOf(spki).get());
  X509_sign(certificate.get(), signer, EVP_sha256());
  const Handle<BIO, BIO_free_all> out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(out.get(), certificate.get());
  char* data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  return {data, static_cast<size_t>(length)};
}

Bytes spkiOf(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int length = i2d_PUBKEY(key, &der);
  Bytes out(der, der + length);
  OPENSSL_free(der);
  return out;
}

class FakeServer : public Http {
 public:
  std::deque<HttpResponse> next;   // answers given before anything else, one per POST
  std::set<int> refuseNonceOf;     // numbers of the POSTs that get badNonce
  bool refuseEveryNonce = false, wrongKey = false, brokenChain = false, expired = false, unreachable = false;
  int processingPolls = 0;
  std::string challengeProblem;    // ends the challenge
  int posts = 0, orders = 0, accounts = 0;
  std::string lastChallengePayload;

  FakeServer() : ca_(EVP_EC_gen("P-256")), other_(EVP_EC_gen("P-256")) {}

  Result<HttpResponse> send(const HttpRequest& request) override {
    if (unreachable) return fail(Reason::Unavailable, "connection refused");
    if (request.url == "https://ca/dir")
      return reply(200, {{"newNonce", "https://ca/nonce"}, {"newAccount", "https://ca/account"}, {"newOrder", "https://ca/order"}});
    if (request.method == "HEAD") return reply(200, nullptr);
    if (request.method == "GET") return reply(200, json::object());
    ++posts;
    const json jws = json::parse(request.body.begin(), request.body.end());
    const json header = json::parse(asText(fromBase64Url(jws["protected"].get<std::string>()).value()));
    const std::string payloadText(asText(fromBase64Url(jws["payload"].get<std::string>()).value()));
    EXPECT_EQ(header["url"], request.url);
    const bool fresh = nonces_.erase(header["nonce"].get<std::string>()) == 1;
    if (!fresh || refuseEveryNonce || refuseNonceOf.contains(posts)) return problem(400, "badNonce", "stale");
    if (!next.empty()) {
      HttpResponse answer = next.front();
      next.pop_front();
      answer.headers.emplace("replay-nonce", nonce());
      return answer;
    }
    const json payload = payloadText.empty() ? json() : json::parse(payloadText);
    if (request.url == "https://ca/account") {
      ++accounts;
      return reply(accounts == 1 ? 201 : 200, {{"status", "valid"}}, {{"location", "https://ca/account/1"}});
    }
    EXPECT_EQ(header.value("kid", ""), "https://ca/account/1");
    if (request.url == "https://ca/order") {
      ++orders;
      status_ = "pending";
      return reply(201, order(), {{"location", orderUrl()}});
    }
    if (request.url == orderUrl()) {
      if (status_ == "processing" && --processingPolls <= 0) status_ = "valid";
      return reply(200, order());
    }
    if (request.url == "https://ca/authorization") return reply(200, authorization());
    if (request.url == "https://ca/challenge") {
      lastChallengePayload = payloadText;
      status_ = challengeProblem.empty() ? "ready" : "invalid";
      return reply(200, challenge());
    }
    if (request.url == "https://ca/finalize") {
      finalized_ = fromBase64Url(payload["csr"].get<std::string>()).value();
      status_ = processingPolls > 0 ? "processing" : "valid";
      return reply(200, order());
    }
    if (request.url == "https://ca/certificate") {
      const unsigned char* at = finalized_.data();
      const Handle<X509_REQ, X509_REQ_free> csr(d2i_X509_REQ(nullptr, &at, static_cast<long>(finalized_.size())));
      EXPECT_EQ(X509_REQ_verify(csr.get(), X509_REQ_get0_pubkey(csr.get())), 1);
      const Bytes spki = spkiOf(wrongKey ? other_.get() : X509_REQ_get0_pubkey(csr.get()));
      const std::string chain = issue(spki, brokenChain ? other_.get() : ca_.get(), "leaf", expired ? -10 : 3600) + issue(spkiOf(ca_.get()), ca_.get(), "ca", 3600);
      HttpResponse answer{200, {{"replay-nonce", nonce()}}, toBytes(chain)};
      return answer;
    }
    return problem(404, "malformed", "no such resource");
  }

  std::string orderUrl() const { return "https://ca/order/" + std::to_string(orders); }
  void setStatus(std::string status) { status_ = std::move(status); }

 private:
  std::string nonce() {
    std::string value = "n" + std::to_string(++nonceNumber_);
    nonces_.insert(value);
    return value;
  }
  HttpResponse reply(int status, const json& body, std::multimap<std::string, std::string> headers = {}) {
    headers.emplace("replay-nonce", nonce());
    return {status, std::move(headers), body.is_null() ? Bytes{} : toBytes(body.dump())};
  }
  HttpResponse problem(int status, const std::string& type, const std::string& detail) {
    return reply(status, {{"type", "urn:ietf:params:acme:error:" + type}, {"detail", detail}});
  }
  json challenge() const {
    json out = {{"type", "device-attest-01"}, {"url", "https://ca/challenge"}, {"token", "token"}, {"status", status_ == "pending" ? "pending" : status_ == "invalid" ? "invalid" : "valid"}};
    if (!challengeProblem.empty() && status_ == "invalid") out["error"] = {{"type", "urn:ietf:params:acme:error:badAttestationStatement"}, {"detail", challengeProblem}};
    return out;
  }
  json authorization() const { return {{"status", status_ == "pending" ? "pending" : status_ == "invalid" ? "invalid" : "valid"}, {"challenges", json::array({challenge()})}}; }
  json order() const {
    json out = {{"status", status_}, {"authorizations", {"https://ca/authorization"}}, {"finalize", "https://ca/finalize"}};
    if (status_ == "valid") out["certificate"] = "https://ca/certificate";
    return out;
  }

  keys::EvpPkeyPtr ca_, other_;
  std::set<std::string> nonces_;
  int nonceNumber_ = 0;
  std::string status_ = "pending";
  Bytes finalized_;
};

// Holds one software key; anything that would need a TPM is made up, as no server here looks into it.
class Agent : public localapi::IdentityAgent {
 public:
  Agent() : key(SoftwareKey::generate(keys::KeyType::EcP384).value()) {}
  std::unique_ptr<SoftwareKey> key;
  Bytes attestedData;
  bool keyLost = false;

  Result<localapi::KeyAttestation> attestKey(std::string_view, ByteView data) override {
    if (keyLost) return fail(Reason::IdentityLost, "the TPM was cleared");
    attestedData = toBytes(data);
    return localapi::KeyAttestation{{Bytes{1}}, Bytes{2}, Bytes{3}, Bytes{4}, -7};
  }
  Result<Bytes> signCertificationRequest(std::string_view, std::string_view scheme, ByteView info) override {
    return key->sign(keys::parseScheme(scheme).value(), info, std::chrono::steady_clock::now() + std::chrono::seconds{5});
  }
  Result<localapi::AkEnrolment> beginAkEnrolment() override {
    localapi::AkEnrolment out;
    out.chainValid = true;
    return out;
  }

  Result<std::vector<localapi::IdentityInfo>> list() override { return unexpectedCall(); }
  Result<localapi::IdentityInfo> show(std::string_view) override { return unexpectedCall(); }
  Result<localapi::IdentityInfo> resolve(ByteView) override { return unexpectedCall(); }
  Result<Bytes> signTls(const localapi::TlsSignRequest&, Steady) override { return unexpectedCall(); }
  Result<Bytes> signMessage(ByteView, std::string_view, ByteView, Steady) override { return unexpectedCall(); }
  Status beginInstallation(std::string_view) override { return unexpectedCall(); }
  Result<localapi::IdentityInfo> importPkcs12(localapi::ImportRequest) override { return unexpectedCall(); }
  Result<localapi::KeyInfo> createKey(const localapi::KeyRequest&) override { return unexpectedCall(); }
  Result<localapi::IdentityInfo> bindCertificate(const localapi::BindRequest&) override { return unexpectedCall(); }
  Result<localapi::IdentityInfo> renewCertificate(std::string_view, const std::vector<Bytes>&) override { return unexpectedCall(); }
  Status commitInstallation(std::string_view, const std::vector<std::string>&) override { return unexpectedCall(); }
  Status abortInstallation(std::string_view) override { return unexpectedCall(); }
  Status removeProfileIdentities(std::string_view) override { return unexpectedCall(); }
  Result<std::vector<std::string>> pendingInstallations() override { return unexpectedCall(); }
  Result<Bytes> activateCredential(ByteView, ByteView) override { return unexpectedCall(); }
  Status storeAkChain(const std::vector<Bytes>&) override { return unexpectedCall(); }

 private:
  static std::unexpected<Error> unexpectedCall() { return fail(Reason::Internal, "this test does not expect the call"); }
};

class NoWaiting : public Pacer {
 public:
  explicit NoWaiting(ManualClock& clock) : clock_(clock) {}
  bool wait(std::chrono::milliseconds time) override {
    waited += time;
    clock_.advance(time);
    return !stopping;
  }
  std::chrono::milliseconds waited{0};
  bool stopping = false;

 private:
  ManualClock& clock_;
};

class Acme : public ::testing::Test {
 protected:
  Acme() : account(AccountKey::openOrCreate(folder + "/account").value()), journal(Journal::open(folder + "/journal").value()) {
    clock.jumpWall(std::chrono::system_clock::now() - clock.wallNow());
    parameters.directoryUrl = "https://ca/dir";
    parameters.identifier.value = "device-1";
    parameters.request.subject = {{{"CN", "device-1"}}};
    parameters.attest = true;
    parameters.attestationUrl = "https://ca/attestation";
  }
  Result<std::vector<Bytes>> obtain() {
    return obtainCertificate({agent, server, pacer, clock, account, journal, [this](const auto&, ByteView, const auto&) { return checked; }}, parameters, {"key-1", agent.key->publicKey().spki}, {});
  }

  std::string folder = temporaryFolder();
  ManualClock clock;
  NoWaiting pacer{clock};
  FakeServer server;
  Agent agent;
  AccountKey account;
  Journal journal;
  Parameters parameters;
  Status checked;
};

TEST_F(Acme, ObtainsAChainForOurKeyAndAttestsTheKeyAuthorization) {
  const auto chain = obtain();
  ASSERT_TRUE(chain.has_value()) << describe(chain.error());
  EXPECT_EQ(chain->size(), 2u);
  EXPECT_EQ(agent.attestedData, sha256(asBytes("token." + account.thumbprint())));
  const json payload = json::parse(server.lastChallengePayload);
  EXPECT_EQ(payload["attObj"], toBase64Url(fromHex("a263666d746374706d6761747453746d74a663616c6726637369674102637665726332"
                                                   "2e3063783563814101677075624172656141046863657274496e666f4103").value()));
}

TEST_F(Acme, AnAttestationThatWouldBeRefusedIsNotSent) {
  checked = fail(Reason::AttestationRefused, "the key is restricted");
  EXPECT_EQ(obtain().error().reason, Reason::AttestationRefused);
  EXPECT_EQ(server.lastChallengePayload, "");
}

TEST_F(Acme, RetriesRefusedNonces) {
  server.refuseNonceOf = {1, 3, 4};
  EXPECT_TRUE(obtain().has_value());
}

TEST_F(Acme, GivesUpWhenEveryNonceIsRefused) {
  server.refuseEveryNonce = true;
  EXPECT_FALSE(obtain().has_value());
  EXPECT_LE(server.posts, 25);
}

TEST_F(Acme, WaitsAsLongAsARateLimitAsksThenSucceeds) {
  server.next.push_back({429, {{"retry-after", "7"}}, toBytes(R"({"type":"urn:ietf:params:acme:error:rateLimited","detail":"slow down"})")});
  EXPECT_TRUE(obtain().has_value());
  EXPECT_GE(pacer.waited, std::chrono::seconds{7});
}

TEST_F(Acme, ReportsARateLimitBeyondItsPatience) {
  server.next.push_back({429, {{"retry-after", "4000"}}, toBytes(R"({"type":"urn:ietf:params:acme:error:rateLimited","detail":"slow down"})")});
  const auto result = obtain();
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().reason, Reason::RateLimited);
  EXPECT_NE(result.error().hint.find("4000"), std::string::npos);
}

TEST_F(Acme, RidesOutAFewServerErrors) {
  server.next.push_back({500, {}, toBytes("<html>")});
  server.next.push_back({503, {}, {}});
  EXPECT_TRUE(obtain().has_value());
}

TEST_F(Acme, MalformedJsonIsTheServersError) {
  server.next.push_back({201, {{"location", "https://ca/account/1"}}, toBytes(R"({"status":"valid"})")});
  server.next.push_back({201, {{"location", "https://ca/order/1"}}, toBytes("{\"status\":")});
  EXPECT_EQ(obtain().error().reason, Reason::ServerError);
}

TEST_F(Acme, ARefusedAttestationShowsTheServersReasonAndTheNextAttemptOrdersAnew) {
  server.challengeProblem = "key authorization invalid";
  const auto refused = obtain();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().reason, Reason::AttestationRefused);
  EXPECT_NE(refused.error().message.find("key authorization invalid"), std::string::npos);
  EXPECT_EQ(journal.entry().order, "");
  server.challengeProblem.clear();
  EXPECT_TRUE(obtain().has_value());
  EXPECT_EQ(server.orders, 2);
}

TEST_F(Acme, ACrashAfterTheOrderTakesTheSameOrderUpAgain) {
  pacer.stopping = true;  // the daemon stops while the order is processing
  server.processingPolls = 3;
  const auto interrupted = obtain();
  ASSERT_FALSE(interrupted.has_value());
  EXPECT_EQ(interrupted.error().reason, Reason::Cancelled);
  pacer.stopping = false;
  journal = Journal::open(folder + "/journal").value();  // as the restarted daemon reads it
  EXPECT_TRUE(obtain().has_value());
  EXPECT_EQ(server.orders, 1);
}

TEST_F(Acme, TheNetworkGoneInTheMiddleKeepsTheOrder) {
  server.processingPolls = 2;
  ASSERT_TRUE(obtain().has_value());
  server.unreachable = true;
  const auto offline = obtain();
  EXPECT_EQ(offline.error().reason, Reason::Unavailable);
  EXPECT_NE(journal.entry().order, "");
}

TEST_F(Acme, AnOrderTheServerForgotIsReplaced) {
  ASSERT_TRUE(journal.record({"key-1", "https://ca/dir", "https://ca/order/99", false}).has_value());
  EXPECT_TRUE(obtain().has_value());
  EXPECT_EQ(server.orders, 1);
}

TEST_F(Acme, AnOrderForAnotherKeyIsNotTakenUp) {
  server.orders = 5;
  server.setStatus("ready");
  ASSERT_TRUE(journal.record({"another-key", "https://ca/dir", "https://ca/order/5", false}).has_value());
  EXPECT_TRUE(obtain().has_value());
  EXPECT_EQ(server.orders, 6);
}

TEST_F(Acme, ACertificateForAnotherKeyIsRefused) {
  server.wrongKey = true;
  EXPECT_EQ(obtain().error().reason, Reason::KeyMismatch);
  EXPECT_EQ(journal.entry().order, "");
}

TEST_F(Acme, AChainThatDoesNotVerifyIsRefused) {
  server.brokenChain = true;
  EXPECT_EQ(obtain().error().reason, Reason::Untrusted);
}

TEST_F(Acme, AnExpiredCertificateIsRefused) {
  server.expired = true;
  EXPECT_EQ(obtain().error().reason, Reason::IdentityExpired);
}

TEST_F(Acme, ALostKeyIsReportedAsLost) {
  agent.keyLost = true;
  EXPECT_EQ(obtain().error().reason, Reason::IdentityLost);
}

TEST_F(Acme, AttestWithoutAnAuthorityIsRefusedBeforeAnythingIsSent) {
  parameters.attestationUrl.clear();
  EXPECT_EQ(obtain().error().reason, Reason::Unsupported);
  EXPECT_EQ(server.posts, 0);
}

TEST_F(Acme, ADirectoryThatIsNoneIsNamed) {
  parameters.directoryUrl = "https://ca/order";
  EXPECT_FALSE(obtain().has_value());
}

}  // namespace
}  // namespace wayleave::enrolment::acme
