// wayleave-acme-order: one order by our ACME client with a software key made for the occasion, for meeting RFC 8555 servers that
// know nothing of devices (tests/interop/pebble.py). Not installed.

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "enrolment/acme/enrolment.h"
#include "keys/software_key.h"

namespace wayleave::enrolment {
namespace {

// A key in this process in place of identityd; only what an order without attestation asks for.
class OneKey final : public localapi::IdentityAgent {
 public:
  explicit OneKey(std::unique_ptr<keys::SoftwareKey> key) : key_(std::move(key)) {}
  Result<Bytes> signCertificationRequest(std::string_view, std::string_view scheme, ByteView info) override {
    const auto parsed = keys::parseScheme(scheme);
    if (!parsed) return propagate(parsed.error());
    return key_->sign(*parsed, info, std::chrono::steady_clock::now() + std::chrono::seconds{10});
  }
  const Bytes& publicKey() const { return key_->publicKey().spki; }

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
  static std::unexpected<Error> no() { return fail(Reason::Unsupported, "an order without attestation does not need this"); }
  std::unique_ptr<keys::SoftwareKey> key_;
};

class Sleeper final : public Pacer {
 public:
  bool wait(std::chrono::milliseconds time) override {
    std::this_thread::sleep_for(time);
    return true;
  }
};

struct Options {
  std::string directory, trust, state, name, keyIdentifier, hmacKey, type = "dns";
};

Status order(const Options& options) {
  const auto trust = readFile(options.trust, 1024 * 1024);
  if (!trust) return propagate(trust.error());
  auto key = keys::SoftwareKey::generate(keys::KeyType::EcP384);
  if (!key) return propagate(key.error());
  OneKey agent(std::move(*key));
  const auto account = acme::AccountKey::openOrCreate(options.state + "/account");
  if (!account) return propagate(account.error());
  auto journal = Journal::open(options.state + "/journal");
  if (!journal) return propagate(journal.error());
  acme::Parameters parameters;
  parameters.directoryUrl = options.directory;
  parameters.identifier = {options.type, options.name};
  parameters.request.alternativeNames.dnsNames = {options.name};
  if (!options.keyIdentifier.empty()) {
    auto hmacKey = fromBase64Url(options.hmacKey);
    if (!hmacKey) return propagate(hmacKey.error());
    parameters.externalAccount = acme::ExternalAccount{options.keyIdentifier, Secret(std::move(*hmacKey))};
  }
  const auto http = makeHttp({.trustAnchorsPem = {std::string(asText(*trust))}});
  Sleeper sleeper;
  SystemClock clock;
  const auto chain = acme::obtainCertificate({agent, *http, sleeper, clock, *account, *journal, acme::checkBeforeSending}, parameters,
                                             {"software", agent.publicKey()}, {});
  if (!chain) return propagate(chain.error());
  fmt::print("certificates {}\n", chain->size());
  return {};
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("one ACME order with a software key", "wayleave-acme-order");
  app.add_option("--directory", options.directory, "DirectoryURL")->required();
  app.add_option("--trust", options.trust, "PEM of the server's root")->required();
  app.add_option("--state", options.state, "a folder for the account key and the journal")->required();
  app.add_option("--name", options.name, "the identifier's value")->required();
  app.add_option("--type", options.type, "the identifier's type")->capture_default_str();
  app.add_option("--eab-kid", options.keyIdentifier, "external account binding: key identifier");
  app.add_option("--eab-key", options.hmacKey, "external account binding: HMAC key in base64url (test servers only: arguments are public)");
  CLI11_PARSE(app, argc, argv);
  log::start("wayleave-acme-order", log::Level::Warning);
  const Status done = order(options);
  if (done) return 0;
  fmt::print("{}\n", describe(done.error()));
  return 1;
}

}  // namespace
}  // namespace wayleave::enrolment

int main(int argc, char** argv) {
  try {
    return wayleave::enrolment::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print("{}\n", error.what());
    return 1;
  }
}
