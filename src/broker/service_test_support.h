#pragma once

// The whole of identityd in one process, over its real socket, by the typed client.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pkcs12.h>
#include <openssl/x509.h>

#include <functional>

#include "broker/broker_test_support.h"
#include "broker/certificate_test_support.h"
#include "broker/identity_service.h"
#include "keys/software_key.h"
#include "localapi/client.h"
#include "localapi/identity_client.h"

namespace wayleave::broker {

using localapi::IdentityInfo;

inline constexpr std::string_view kGroup = "com.apple.managed.vpn.shared";

inline Bytes pkcs12(const char* password, int serial = 7) {
  const keys::EvpPkeyPtr key(EVP_EC_gen("P-384"));
  const Bytes der = certificateFor(key.get(), serial);
  const uint8_t* cursor = der.data();
  const keys::X509Ptr certificate(d2i_X509(nullptr, &cursor, static_cast<long>(der.size())));
  const Handle<PKCS12, PKCS12_free> file(
      PKCS12_create(password, "friendly", key.get(), certificate.get(), nullptr, 0, 0, 2048, 1, 0));
  uint8_t* bytes = nullptr;
  const int length = i2d_PKCS12(file.get(), &bytes);
  Bytes out(bytes, bytes + length);
  OPENSSL_free(bytes);
  return out;
}

inline Bytes clientContent() {
  Bytes out(64, 0x20);
  append(out, asBytes("TLS 1.3, client CertificateVerify"));
  out.push_back(0);
  out.insert(out.end(), 48, 0x42);
  return out;
}

// Keys whose signatures can be held up, or lost.
class TestKeys final : public KeyRing {
 public:
  explicit TestKeys(MachineKeys& real) : real_(real) {}
  Result<std::shared_ptr<keys::PrivateKey>> open(const keychain::KeyRecord& record) override {
    keychain::KeyRecord stored = record;
    if (tpmIsSoftware) stored.kind = keys::KeyKind::Software;
    Result<std::shared_ptr<keys::PrivateKey>> key = real_.open(stored);
    if (key && fault) return std::make_shared<Faulty>(*key, fault);
    return key;
  }
  void forget(std::string_view id) override { real_.forget(id); }
  Result<MadeKey> create(std::string_view id, keys::KeyType type, int bits, bool hardware) override {
    return real_.create(id, type, bits, hardware);
  }
  Result<MadeKey> import(std::string_view id, const Secret& pkcs8) override { return real_.import(id, pkcs8); }
  Result<localapi::KeyAttestation> attest(const keychain::KeyRecord& record, ByteView data) override {
    return real_.attest(record, data);
  }
  Result<localapi::AkEnrolment> beginAkEnrolment() override { return real_.beginAkEnrolment(); }
  Result<Bytes> activateCredential(ByteView a, ByteView b) override { return real_.activateCredential(a, b); }
  Status storeAkChain(const std::vector<Bytes>& chain) override { return real_.storeAkChain(chain); }
  Status checkStorageRoot() override { return real_.checkStorageRoot(); }
  TpmState tpmState() override { return real_.tpmState(); }
  Result<keys::tpm::TpmDescription> describeTpm() override { return real_.describeTpm(); }

  std::function<Status()> fault;
  bool tpmIsSoftware = false;  // keys that the store has as a TPM's are software keys

 private:
  struct Faulty final : keys::PrivateKey {
    Faulty(std::shared_ptr<keys::PrivateKey> key, std::function<Status()> f)
        : inner(std::move(key)), fault(std::move(f)) {}
    const keys::PublicKey& publicKey() const override { return inner->publicKey(); }
    keys::KeyKind kind() const override { return inner->kind(); }
    std::vector<keys::SignatureScheme> supportedSchemes() const override { return inner->supportedSchemes(); }
    Result<Bytes> signDigest(keys::SignatureScheme scheme, ByteView digest, Steady deadline) override {
      if (const Status status = fault(); !status) return propagate(status.error());
      return inner->signDigest(scheme, digest, deadline);
    }
    std::shared_ptr<keys::PrivateKey> inner;
    std::function<Status()> fault;
  };
  MachineKeys& real_;
};

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() { grant(R"(usages = ["tls-client", "sign", "list", "manage", "inspect"])"); }
  ~ServiceTest() override {
    service.stop();
    server.reset();
  }

  // One grant for this very test program.
  void grant(const std::string& rest, std::string groups = R"(["com.apple.managed.vpn.shared"])") {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string toml = "[[grant]]\nname = 'test'\nexecutable = '" + self +
                             "'\naccept = ['path', 'mapped-code', 'loader-variables']\naccess-groups = " + groups +
                             "\n" + rest + "\n";
    ASSERT_TRUE(writeFileAtomically(grantsFolder / "10-test.toml", asBytes(toml), 0644));
    for (const GrantProblem& problem : service.reloadGrants()) ADD_FAILURE() << describe(problem);
  }

  localapi::ImportRequest importRequest(const char* password = "secret", std::string payload = "P1") {
    localapi::ImportRequest request;
    request.installation = "i1";
    request.profileIdentifier = "profile";
    request.payloadIdentifier = "profile.p12";
    request.payloadUuid = std::move(payload);
    request.accessGroup = kGroup;
    request.pkcs12 = pkcs12("secret");
    request.password = Secret::copyOf(password);
    request.hasPassword = true;
    return request;
  }
  IdentityInfo install() {
    EXPECT_TRUE(client->beginInstallation("i1"));
    Result<IdentityInfo> imported = client->importPkcs12(importRequest());
    EXPECT_TRUE(imported) << imported.error().message;
    const Status committed = client->commitInstallation("i1", {});
    EXPECT_TRUE(committed) << committed.error().message;
    return imported ? *imported : IdentityInfo{};
  }
  Result<Bytes> signTls(const Bytes& reference, Bytes content, bool tls13 = true,
                        Steady deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20)) {
    return client->signTls(
        {.reference = reference, .scheme = "ecdsa_secp384r1_sha384", .tls13 = tls13, .content = std::move(content)},
        deadline);
  }
  std::vector<std::string> auditLines() { return audit->tail(100).value(); }

  SystemClock clock;
  TemporaryFolder folder;
  TemporaryFolder grantsFolder;
  std::unique_ptr<keychain::Store> store = keychain::Store::open(folder / "identities.db").value();
  MachineKeys machineKeys{*store, keys::Sealer::withKey(Secret(randomBytes(32))), nullptr, clock};
  TestKeys ring{machineKeys};
  DirectWitness witness;
  CallerVerifier callers{witness, clock};
  GrantTable grants{grantsFolder.path(), {}};
  std::unique_ptr<AuditLog> audit = AuditLog::open(folder.path(), clock).value();
  IdentityService service{{*store, ring, callers, grants, *audit, clock, folder.path()}};
  std::unique_ptr<localapi::Server> server = [this] {
    auto made =
        localapi::Server::listen(folder / "identity.sock", 0666,
                                 [this](localapi::Request request, std::shared_ptr<localapi::Responder> responder) {
                                   service.handle(std::move(request), std::move(responder));
                                 })
            .value();
    made->start();
    return made;
  }();
  std::unique_ptr<localapi::IdentityAgent> client = localapi::makeIdentityClient(folder / "identity.sock");
  localapi::Client raw{folder / "identity.sock"};
};

}  // namespace wayleave::broker
