// The whole of identityd in one process, over its real socket, by the typed client: install, resolve, sign, renew,
// remove; and what a compromised caller tries.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <future>
#include <thread>

#include "base/osstatus.h"
#include "broker/certificate_view.h"
#include "broker/service_test_support.h"
#include "enrolment/certification_request.h"
#include "keychain/reference.h"
#include "keys/software_key.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"
#include "localapi/unix_socket.h"

namespace wayleave::broker {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(ServiceTest, InstallsResolvesSignsAndRemoves) {
  ASSERT_TRUE(client->beginInstallation("i1"));
  const Result<IdentityInfo> staged = client->importPkcs12(importRequest());
  ASSERT_TRUE(staged) << staged.error().message;
  EXPECT_EQ("staged", staged->state);
  EXPECT_EQ(Reason::NotFound, client->resolve(staged->reference).error().reason) << "staged resolves for nobody";
  EXPECT_THAT(client->list().value(), IsEmpty());
  EXPECT_EQ(std::vector<std::string>{"i1"}, client->pendingInstallations().value());
  ASSERT_TRUE(client->commitInstallation("i1", {}));
  ASSERT_TRUE(client->commitInstallation("i1", {})) << "idempotent";

  const Result<IdentityInfo> resolved = client->resolve(staged->reference);
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ("active", resolved->state);
  EXPECT_EQ("friendly", resolved->label);
  EXPECT_EQ("EC P-384", resolved->keyType);
  EXPECT_EQ("software", resolved->keyKind);
  EXPECT_EQ("file", resolved->keychain);
  EXPECT_EQ("CN=device", resolved->subject);
  EXPECT_EQ(1u, resolved->chain.size());
  EXPECT_EQ("ssui", asText(ByteView(resolved->reference).first(4)));

  const Result<Bytes> signature = signTls(staged->reference, clientContent());
  ASSERT_TRUE(signature) << signature.error().message;
  const keys::PublicKey key = keys::PublicKey::fromSpki(resolved->publicKey).value();
  Bytes digest(48);
  const Bytes content = clientContent();
  ASSERT_EQ(1, EVP_Digest(content.data(), content.size(), digest.data(), nullptr, EVP_sha384(), nullptr));
  EXPECT_TRUE(keys::verifyDigest(key, keys::SignatureScheme::EcdsaSecp384r1Sha384, digest, *signature).value());
  EXPECT_TRUE(client->signMessage(staged->reference, "ecdsa_secp384r1_sha384", asBytes("hello"),
                                  std::chrono::steady_clock::now() + 20s));

  ASSERT_TRUE(client->removeProfileIdentities("profile"));
  EXPECT_EQ(Reason::NotFound, client->resolve(staged->reference).error().reason);
  const AuditReport report = verifyAudit(folder.path()).value();
  EXPECT_TRUE(report.findings.empty());
  EXPECT_THAT(auditLines(),
              testing::Contains(testing::AllOf(HasSubstr("\"event\":\"sign\""), HasSubstr("\"outcome\":\"OK\""),
                                               HasSubstr("tls-client"), HasSubstr(staged->id))));
}

TEST_F(ServiceTest, ASecondProfileReplacesTheFirst) {
  const IdentityInfo first = install();
  ASSERT_TRUE(client->beginInstallation("i2"));
  localapi::ImportRequest request = importRequest();
  request.installation = "i2";
  request.pkcs12 = pkcs12("secret", 8);
  const IdentityInfo second = client->importPkcs12(std::move(request)).value();
  ASSERT_TRUE(client->commitInstallation("i2", {"profile"}));
  EXPECT_EQ(Reason::NotFound, client->resolve(first.reference).error().reason);
  EXPECT_EQ("active", client->resolve(second.reference)->state);
}

TEST_F(ServiceTest, AbortLeavesNothing) {
  ASSERT_TRUE(client->beginInstallation("i1"));
  const IdentityInfo staged = client->importPkcs12(importRequest()).value();
  ASSERT_TRUE(client->abortInstallation("i1"));
  ASSERT_TRUE(client->abortInstallation("i1")) << "idempotent";
  EXPECT_EQ(Reason::NotFound, client->show(staged.id).error().reason);
  EXPECT_EQ(Reason::Conflict, client->importPkcs12(importRequest()).error().reason);
}

TEST_F(ServiceTest, AWrongPasswordInstallsNothing) {
  ASSERT_TRUE(client->beginInstallation("i1"));
  EXPECT_EQ(Reason::WrongPassword, client->importPkcs12(importRequest("wrong")).error().reason);
  EXPECT_TRUE(client->importPkcs12(importRequest())) << "and the right one still works";
}

TEST_F(ServiceTest, EnrolsAnAcmeIdentityWithASoftwareKey) {
  ASSERT_TRUE(client->beginInstallation("i1"));
  const localapi::KeyRequest wanted{.installation = "i1", .payloadUuid = "A1", .keyType = "EC P-384"};
  const localapi::KeyInfo key = client->createKey(wanted).value();
  EXPECT_FALSE(key.existed);
  const localapi::KeyInfo again = client->createKey(wanted).value();
  EXPECT_TRUE(again.existed);
  EXPECT_EQ(key.key, again.key);

  enrolment::RequestParameters parameters;
  parameters.subject = {{{"CN", "device"}}};
  const auto request = enrolment::CertificationRequest::make(parameters, key.publicKey).value();
  EXPECT_TRUE(client->signCertificationRequest(key.key, "ecdsa_secp384r1_sha384", request.info()));
  const auto other = keys::SoftwareKey::generate(keys::KeyType::EcP384).value();
  const auto foreign = enrolment::CertificationRequest::make(parameters, other->publicKey().spki).value();
  EXPECT_EQ(Reason::KeyMismatch,
            client->signCertificationRequest(key.key, "ecdsa_secp384r1_sha384", foreign.info()).error().reason);
  EXPECT_EQ(Reason::BadInput,
            client->signCertificationRequest(key.key, "ecdsa_secp384r1_sha384", clientContent()).error().reason);

  localapi::BindRequest bind{.installation = "i1",
                             .key = key.key,
                             .source = "acme",
                             .profileIdentifier = "p",
                             .payloadIdentifier = "p.acme",
                             .payloadUuid = "A1",
                             .label = "ACME",
                             .accessGroup = std::string(kGroup),
                             .chain = {certificateForSpki(key.publicKey, 1)},
                             .attested = true};
  EXPECT_EQ(Reason::BadInput, client->bindCertificate(bind).error().reason) << "a software key was never attested";
  bind.attested = false;
  bind.chain = {certificateForSpki(other->publicKey().spki, 1)};
  EXPECT_EQ(Reason::KeyMismatch, client->bindCertificate(bind).error().reason);
  bind.chain = {certificateForSpki(key.publicKey, 1)};
  const Result<IdentityInfo> bound = client->bindCertificate(bind);
  ASSERT_TRUE(bound) << bound.error().message;
  EXPECT_EQ(20u, bound->reference.size());
  EXPECT_EQ("cert", asText(ByteView(bound->reference).first(4)));
  EXPECT_FALSE(bound->renewAfter.empty());
  ASSERT_TRUE(client->commitInstallation("i1", {}));
  EXPECT_TRUE(signTls(bound->reference, clientContent()));

  // Renewal: same key, same reference, a new certificate.
  const Bytes renewed = certificateForSpki(key.publicKey, 2);
  EXPECT_EQ(Reason::KeyMismatch,
            client->renewCertificate(bound->id, {certificateForSpki(other->publicKey().spki, 2)}).error().reason);
  const Result<IdentityInfo> after = client->renewCertificate(bound->id, {renewed});
  ASSERT_TRUE(after) << after.error().message;
  EXPECT_EQ(bound->reference, after->reference);
  EXPECT_EQ("02", after->serial);
  EXPECT_FALSE(store->identity(bound->id)->previousChain.empty());
  EXPECT_TRUE(signTls(bound->reference, clientContent()));
  // Confirmation follows the answer.
  for (int attempt = 0; attempt < 1000 && !store->identity(bound->id)->previousChain.empty(); ++attempt)
    std::this_thread::yield();
}

TEST_F(ServiceTest, HardwareBoundWithoutATpmIsARefusalNeverASoftwareKey) {
  ASSERT_TRUE(client->beginInstallation("i1"));
  const Result<localapi::KeyInfo> key =
      client->createKey({.installation = "i1", .payloadUuid = "A1", .keyType = "EC P-384", .hardwareBound = true});
  ASSERT_FALSE(key);
  EXPECT_EQ(Reason::Unsupported, key.error().reason);
  EXPECT_THAT(key.error().message, HasSubstr("without a TPM"));
  EXPECT_FALSE(store->keyFor("i1", "A1").value().has_value());
  EXPECT_EQ(Reason::Unsupported, client->beginAkEnrolment().error().reason);
}

// The compromised caller: it has `tls-client`, and nothing else.
TEST_F(ServiceTest, ATlsClientCanSignNothingButItsHandshake) {
  const IdentityInfo identity = install();
  grant(R"(usages = ["tls-client"])");
  EXPECT_TRUE(signTls(identity.reference, clientContent()));
  Bytes asServer(64, 0x20);
  append(asServer, asBytes("TLS 1.3, server CertificateVerify"));
  asServer.push_back(0);
  asServer.insert(asServer.end(), 48, 0x42);
  EXPECT_EQ(Reason::NotEntitled, signTls(identity.reference, asServer).error().reason);
  EXPECT_EQ(Reason::BadInput, signTls(identity.reference, toBytes("pay mallory")).error().reason);
  EXPECT_EQ(Reason::BadInput,
            signTls(identity.reference, toBytes("eyJhbGciOiJFUzM4NCJ9.eyJzdWIiOiJyb290In0")).error().reason);
  enrolment::RequestParameters parameters;
  parameters.subject = {{{"CN", "evil"}}};
  const auto request = enrolment::CertificationRequest::make(parameters, identity.publicKey).value();
  EXPECT_EQ(Reason::BadInput, signTls(identity.reference, request.info()).error().reason);
  EXPECT_EQ(Reason::NotEntitled, signTls(identity.reference, Bytes(48, 1), false).error().reason)
      << "TLS 1.2 needs 'digest'";
  EXPECT_EQ(Reason::NotEntitled, client
                                     ->signMessage(identity.reference, "ecdsa_secp384r1_sha384", asBytes("x"),
                                                   std::chrono::steady_clock::now() + 5s)
                                     .error()
                                     .reason);
  EXPECT_EQ(Reason::NotEntitled, client->list().error().reason);
  EXPECT_EQ(Reason::NotEntitled, client->beginInstallation("evil").error().reason);
  EXPECT_EQ(Reason::NotEntitled, client->removeProfileIdentities("profile").error().reason);
  EXPECT_EQ(403, raw.call("GET", "/v1/audit")->status);
  // All of it stands in the log.
  size_t refusals = 0;
  for (const std::string& line : auditLines())
    if (line.find("\"event\":\"sign\"") != std::string::npos && line.find("\"outcome\":\"OK\"") == std::string::npos)
      ++refusals;
  EXPECT_EQ(6u, refusals);
}

TEST_F(ServiceTest, DigestsAreSignedUnderTheirOwnUsageOnly) {
  const IdentityInfo identity = install();
  grant(R"(usages = ["digest"])");
  EXPECT_TRUE(signTls(identity.reference, Bytes(48, 1), false));
  EXPECT_EQ(Reason::BadInput, signTls(identity.reference, Bytes(32, 1), false).error().reason);
  EXPECT_EQ(Reason::NotEntitled, signTls(identity.reference, clientContent()).error().reason);
}

TEST_F(ServiceTest, WithoutAGrantNotEvenANameIsTold) {
  const IdentityInfo identity = install();
  ASSERT_TRUE(writeFileAtomically(
      grantsFolder / "10-test.toml",
      asBytes("[[grant]]\nname='x'\nexecutable='/bin/other'\naccess-groups='*'\nusages='list'\n"), 0644));
  ASSERT_TRUE(service.reloadGrants().empty());
  for (const Error& error :
       {client->list().error(), client->show(identity.id).error(), client->resolve(identity.reference).error(),
        signTls(identity.reference, clientContent()).error(), client->resolve(asBytes("nonsense")).error()}) {
    EXPECT_EQ(Reason::NotEntitled, error.reason) << error.message;
    EXPECT_EQ(errSecMissingEntitlement, error.osStatus);
    EXPECT_THAT(error.message, testing::Not(HasSubstr("friendly")));
  }
  const localapi::ClientResponse status = raw.call("GET", "/v1/status").value();
  EXPECT_EQ(200, status.status);
  EXPECT_THAT(status.body, testing::Not(HasSubstr("identities")));
}

TEST_F(ServiceTest, IdentitiesOfOtherAccessGroupsDoNotExistInLists) {
  const IdentityInfo identity = install();
  grant(R"(usages = ["tls-client", "list"])", R"(["another.group"])");
  EXPECT_THAT(client->list().value(), IsEmpty());
  EXPECT_EQ(Reason::NotFound, client->show(identity.id).error().reason);
  const Error refused = client->resolve(identity.reference).error();
  EXPECT_EQ(Reason::NotEntitled, refused.reason);
  EXPECT_THAT(refused.message, testing::Not(HasSubstr("friendly")));
}

TEST_F(ServiceTest, RefusalsCarryTheCallersConditions) {
  grant("user = 64999\nusages = ['list']");
  const localapi::ClientResponse response = raw.call("GET", "/v1/identities").value();
  EXPECT_EQ(403, response.status);
  EXPECT_THAT(response.body, HasSubstr("CALLER_UNVERIFIED"));
  EXPECT_THAT(response.body, HasSubstr("the grant is for user 64999"));
  EXPECT_THAT(response.body, HasSubstr("\"name\":\"not-traced\""));
}

TEST_F(ServiceTest, LimitsSignaturesPerGrant) {
  const IdentityInfo identity = install();
  grant("usages = ['tls-client']\nsignatures-per-minute = 1\nsignature-burst = 2");
  EXPECT_TRUE(signTls(identity.reference, clientContent()));
  EXPECT_TRUE(signTls(identity.reference, clientContent()));
  const Result<Bytes> third = signTls(identity.reference, clientContent());
  ASSERT_FALSE(third);
  EXPECT_EQ(Reason::RateLimited, third.error().reason);
}

TEST_F(ServiceTest, SignsNothingThatCannotBeRecorded) {
  const IdentityInfo identity = install();
  const off_t size = static_cast<off_t>(std::filesystem::file_size(folder / "audit.log"));
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto previous = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{static_cast<rlim_t>(size) + 10, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &tight);
  const Result<Bytes> refused = signTls(identity.reference, clientContent());
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, previous);
  ASSERT_FALSE(refused);
  EXPECT_EQ(Reason::Io, refused.error().reason);
  EXPECT_TRUE(signTls(identity.reference, clientContent()));
}

TEST_F(ServiceTest, AKeyThatIsLostMakesALostIdentityAndHurtsNoOther) {
  const IdentityInfo identity = install();
  ring.fault = [] { return fail(Reason::IdentityLost, "the blob belongs to another TPM"); };
  EXPECT_EQ(Reason::IdentityLost, signTls(identity.reference, clientContent()).error().reason);
  ring.fault = nullptr;
  const IdentityInfo lost = client->resolve(identity.reference).value();
  EXPECT_EQ("lost", lost.state);
  EXPECT_THAT(lost.stateDetail, HasSubstr("another TPM"));
  EXPECT_EQ(Reason::IdentityLost, signTls(identity.reference, clientContent()).error().reason) << "and stays so";
}

// Review of issue 5, number 4: the signature that proves a lost key to be back was in no log.
TEST_F(ServiceTest, RecordsTheSignatureThatShowsALostTpmKeyToBeBack) {
  const MadeKey made = ring.create("k1", keys::KeyType::EcP256, 0, false).value();
  ASSERT_TRUE(store->beginInstallation("i1"));
  keychain::KeyRecord key{.id = "k1", .installation = "i1", .payloadUuid = "P1", .kind = keys::KeyKind::Tpm,
                          .spki = made.spki, .blob = made.blob};
  ASSERT_TRUE(store->addKey(key));
  keychain::IdentityRecord identity;
  identity.id = "identity-1";
  identity.keyId = "k1";
  identity.installation = "i1";
  identity.keychain = keychain::KeychainKind::DataProtection;
  identity.reference = keychain::mintDataProtectionReference(keychain::ItemClass::Certificate, identity.uuid);
  identity.source = "acme";
  identity.accessGroup = kGroup;
  identity.profileIdentifier = "profile";
  identity.payloadUuid = "P1";
  identity.chain = {certificateForSpki(made.spki, 5)};
  const Status added = store->addIdentity(identity);
  ASSERT_TRUE(added) << added.error().message;
  ASSERT_TRUE(store->commit("i1", {}));
  ASSERT_TRUE(store->setState(identity.id, keychain::IdentityState::Lost, "another TPM"));
  ring.tpmIsSoftware = true;
  const auto probe = [&] {
    service.examineTpmKeys();
    EXPECT_FALSE(raw.callJson("GET", "/v1/tpm"));  // there is none; but it is asked for after the probe, on its thread
    return auditLines().back();
  };
  ring.fault = [] { return fail(Reason::IdentityLost, "still another TPM"); };
  EXPECT_THAT(probe(), AllOf(HasSubstr("\"event\":\"probe\""), HasSubstr("IDENTITY_LOST"), HasSubstr("identity-1")));
  EXPECT_EQ(keychain::IdentityState::Lost, store->identity("identity-1").value().state);
  ring.fault = nullptr;
  EXPECT_THAT(probe(), AllOf(HasSubstr("\"event\":\"probe\""), HasSubstr("\"outcome\":\"OK\""), HasSubstr("identity-1")));
  EXPECT_EQ(keychain::IdentityState::Active, store->identity("identity-1").value().state);
}

TEST_F(ServiceTest, AKeyThatNeverAnswersIsAnsweredForAtTheDeadline) {
  const IdentityInfo identity = install();
  std::promise<void> release;
  ring.fault = [future = release.get_future().share()]() -> Status {
    future.wait();
    return {};
  };
  EXPECT_EQ(
      Reason::DeadlineExceeded,
      signTls(identity.reference, clientContent(), true, std::chrono::steady_clock::now() + 200ms).error().reason);
  EXPECT_TRUE(client->list()) << "everything else goes on";
  release.set_value();
}

TEST_F(ServiceTest, ACallerThatHangsUpIsNotSignedFor) {
  const IdentityInfo identity = install();
  std::atomic<int> signatures = 0;
  std::promise<void> release, entered;
  ring.fault = [&, future = release.get_future().share()]() -> Status {
    if (++signatures == 1) entered.set_value();
    future.wait();
    return {};
  };
  auto first = std::async(std::launch::async, [&] { return signTls(identity.reference, clientContent()); });
  entered.get_future().wait();

  const std::string body = localapi::dump(localapi::toJson(
      localapi::TlsSignBody{{identity.reference, "ecdsa_secp384r1_sha384", true, clientContent()}, 20s}));
  const std::string request =
      fmt::format("POST /v1/sign/tls HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                  body.size(), body);
  Fd socket = localapi::connectTo(folder / "identity.sock", std::chrono::steady_clock::now() + 5s).value();
  ASSERT_EQ(static_cast<ssize_t>(request.size()), ::send(socket.borrow(), request.data(), request.size(), 0));
  const auto statusSays = [&](const char* what) {
    return raw.callJson("GET", "/v1/status").value().find(what) != std::string::npos;
  };
  for (int attempt = 0; attempt < 10'000 && !statusSays("\"queued\":1"); ++attempt) std::this_thread::yield();
  socket = Fd{};
  EXPECT_TRUE(statusSays("\"queued\":1")) << "and a call behind it has the server look at everything before";
  release.set_value();
  EXPECT_TRUE(first.get());
  for (int attempt = 0; attempt < 10'000 && !statusSays("\"abandoned\":1"); ++attempt) std::this_thread::yield();
  EXPECT_TRUE(statusSays("\"abandoned\":1"));
  EXPECT_EQ(1, signatures);
}

TEST_F(ServiceTest, WatchersHearWhatTheyMaySee) {
  std::promise<void> opened;
  std::promise<std::vector<std::string>> heard;
  std::stop_source stop;
  std::jthread watcher([&] {
    std::vector<std::string> lines;
    (void)raw.follow(
        "/v1/watch?since=0",
        [&](std::string_view line) {
          lines.emplace_back(line);
          return lines.size() < 2;
        },
        stop.get_token(), [&] { opened.set_value(); });
    heard.set_value(lines);
  });
  opened.get_future().wait();
  const IdentityInfo identity = install();
  ASSERT_TRUE(client->removeProfileIdentities("profile"));
  const std::vector<std::string> lines = heard.get_future().get();
  ASSERT_EQ(2u, lines.size());
  EXPECT_THAT(lines[0], HasSubstr("identity-added"));
  EXPECT_THAT(lines[0], HasSubstr(identity.id));
  EXPECT_THAT(lines[1], HasSubstr("identity-removed"));
}

TEST_F(ServiceTest, RefusesMalformedRequests) {
  const auto status = [&](std::string_view method, std::string_view path, std::string_view body = {},
                          std::string_view type = "application/json") {
    return raw.call(method, path, body, type)->status;
  };
  EXPECT_EQ(404, status("GET", "/v1/nothing"));
  EXPECT_EQ(404, status("GET", "/"));
  EXPECT_EQ(400, status("POST", "/v1/status", "{}"));
  EXPECT_EQ(400, status("POST", "/v1/resolve", "{"));
  EXPECT_EQ(400, status("POST", "/v1/resolve", "{}"));
  EXPECT_EQ(400, status("POST", "/v1/resolve", R"({"reference":"AAAA","extra":1})"));
  EXPECT_EQ(400, status("POST", "/v1/resolve", R"({"reference":5})"));
  EXPECT_EQ(400, status("POST", "/v1/resolve", R"({"reference":"AAAA"})"));
  EXPECT_EQ(400, status("POST", "/v1/resolve", R"({"reference":"AAAA"})", "text/plain"));
  EXPECT_EQ(400, status("POST", "/v1/resolve", std::string(100'000, '[')));
  EXPECT_EQ(400, status("POST", "/v1/installations/" + std::string(300, 'x'), "{}"));
  EXPECT_EQ(400, status("GET", "/v1/watch?since=x"));
  EXPECT_EQ(400, status("GET", "/v1/audit?limit=9999"));
  EXPECT_EQ(404, status("POST", "/v1/keys/none/attest", R"({"qualifyingData":"AAAA"})"));
  EXPECT_EQ(200, status("GET", "/v1/status"));
}

TEST_F(ServiceTest, ShowsAdministratorsCallersAuditAndGrants) {
  EXPECT_THAT(raw.callJson("GET", "/v1/caller").value(), HasSubstr("\"grants\":[\"test\"]"));
  const std::string check =
      raw.callJson("POST", "/v1/callers/check", R"({"pid":)" + std::to_string(::getpid()) + "}").value();
  EXPECT_THAT(check, HasSubstr("[[grant]]"));
  EXPECT_THAT(raw.callJson("POST", "/v1/callers/check", R"({"path":"/usr/bin/env"})").value(), HasSubstr("SHA-256"));
  EXPECT_EQ(400, raw.call("POST", "/v1/callers/check", "{}")->status);
  install();
  EXPECT_THAT(raw.callJson("GET", "/v1/audit?limit=5").value(), HasSubstr("\"event\":\"commit\""));
  EXPECT_THAT(raw.callJson("POST", "/v1/audit/verify").value(), HasSubstr("\"intact\":true"));
  ASSERT_TRUE(writeFileAtomically(grantsFolder / "20-bad.toml", asBytes("[[grant]]\ncolour=1\n"), 0644));
  const std::string reload = raw.callJson("POST", "/v1/grants/reload").value();
  EXPECT_THAT(reload, HasSubstr("\"reloaded\":false"));
  EXPECT_THAT(reload, HasSubstr("grant[0].colour"));
  EXPECT_TRUE(client->list()) << "the old grants stay";
}

TEST_F(ServiceTest, RefusalsCannotPushTheLogOut) {
  grant("usages = ['list']");
  for (int index = 0; index < 60; ++index) EXPECT_FALSE(client->beginInstallation("x"));
  size_t lines = 0;
  for (const std::string& line : auditLines())
    if (line.find("NOT_ENTITLED") != std::string::npos) ++lines;
  EXPECT_LE(lines, 25u);
}

TEST_F(ServiceTest, ManyCallersAtOnceAllGetAnswers) {
  const IdentityInfo identity = install();
  grant("usages = ['tls-client']\nsignatures-per-minute = 100000\nsignature-burst = 1000");
  std::atomic<int> good = 0, busy = 0, other = 0;
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 32; ++thread)
      threads.emplace_back([&] {
        const auto own = localapi::makeIdentityClient(folder / "identity.sock");
        for (int index = 0; index < 5; ++index) {
          const Result<Bytes> signature = own->signTls({.reference = identity.reference,
                                                        .scheme = "ecdsa_secp384r1_sha384",
                                                        .tls13 = true,
                                                        .content = clientContent()},
                                                       std::chrono::steady_clock::now() + 30s);
          ++(signature ? good : signature.error().reason == Reason::Busy ? busy : other);
        }
      });
  }
  EXPECT_EQ(160, good + busy);
  EXPECT_GT(good, 0);
  EXPECT_EQ(0, other);
}

}  // namespace
}  // namespace wayleave::broker
