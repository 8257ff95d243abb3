#pragma once

// An identity with a real key, a machine in memory, and a web server that answers what a test wants.

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/owned.h"
#include "enrolment/mdm/machine.h"
#include "keys/openssl.h"
#include "localapi/identity_client.h"
#include "management/profile.h"

namespace wayleave::enrolment::mdm {

// A P-256 key with a certificate that it signed itself.
class KeyAgent final : public localapi::IdentityAgent {
 public:
  KeyAgent() : key_(EVP_EC_gen("P-256")) {
    const keys::X509Ptr certificate(X509_new());
    X509_set_version(certificate.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 86'400);
    X509_NAME* name = X509_get_subject_name(certificate.get());
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, reinterpret_cast<const uint8_t*>("device"), -1, -1, 0);
    X509_set_issuer_name(certificate.get(), name);
    X509_set_pubkey(certificate.get(), key_.get());
    X509_sign(certificate.get(), key_.get(), EVP_sha256());
    info.id = "identity-1";
    info.reference = toBytes("reference");
    info.profileIdentifier = "com.example.enrolment";
    uint8_t* der = nullptr;
    int length = i2d_X509(certificate.get(), &der);
    info.chain = {Bytes(der, der + length)};
    OPENSSL_free(der);
    der = nullptr;
    length = i2d_PUBKEY(key_.get(), &der);
    info.publicKey.assign(der, der + length);
    OPENSSL_free(der);
  }
  Result<std::vector<localapi::IdentityInfo>> list() override { return std::vector{info}; }
  Result<localapi::IdentityInfo> show(std::string_view) override { return info; }
  Result<localapi::IdentityInfo> resolve(ByteView reference) override {
    if (std::ranges::equal(reference, info.reference)) return info;
    return fail(Reason::NotFound, "no such identity");
  }
  Result<Bytes> signMessage(ByteView, std::string_view, ByteView message, Steady) override {
    if (refuse) return propagate(*refuse);
    const Handle<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
    size_t length = 256;
    Bytes signature(length);
    EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get());
    EVP_DigestSign(context.get(), signature.data(), &length, message.data(), message.size());
    signature.resize(length);
    return signature;
  }
  Result<Bytes> signTls(const localapi::TlsSignRequest&, Steady) override { return unused(); }
  Status beginInstallation(std::string_view) override { return unused(); }
  Result<localapi::IdentityInfo> importPkcs12(localapi::ImportRequest) override { return unused(); }
  Result<localapi::KeyInfo> createKey(const localapi::KeyRequest&) override { return unused(); }
  Result<localapi::KeyAttestation> attestKey(std::string_view, ByteView) override { return unused(); }
  Result<Bytes> signCertificationRequest(std::string_view, std::string_view, ByteView) override { return unused(); }
  Result<localapi::IdentityInfo> bindCertificate(const localapi::BindRequest&) override { return unused(); }
  Result<localapi::IdentityInfo> renewCertificate(std::string_view, const std::vector<Bytes>&) override { return unused(); }
  Status commitInstallation(std::string_view, const std::vector<std::string>&) override { return unused(); }
  Status abortInstallation(std::string_view) override { return unused(); }
  Status removeProfileIdentities(std::string_view) override { return unused(); }
  Result<std::vector<std::string>> pendingInstallations() override { return unused(); }
  Result<localapi::AkEnrolment> beginAkEnrolment() override { return unused(); }
  Result<Bytes> activateCredential(ByteView, ByteView) override { return unused(); }
  Status storeAkChain(const std::vector<Bytes>&) override { return unused(); }

  localapi::IdentityInfo info;
  std::optional<Error> refuse;

 private:
  static std::unexpected<Error> unused() { return fail(Reason::Unsupported, "not in this test"); }
  keys::EvpPkeyPtr key_;
};

// Knows profiles by name. Profiles are the real importer's.
class FakeMachine final : public Machine {
 public:
  Result<management::InstallOutcome> install(Bytes profile, management::Installer::Permit permit) override {
    const management::ImportResult imported = management::importProfile(profile);
    if (!imported.profile) return propagate(management::toError(imported.findings));
    if (Status may = permit(*imported.profile); !may) return propagate(may.error());
    if (failNext) return propagate(*std::exchange(failNext, std::nullopt));
    management::ProfileRecord record;
    record.identifier = imported.profile->identifier;
    record.uuid = imported.profile->uuid;
    record.summary = R"({"payloads":[{"type":"t","identifier":"i","uuid":"u","displayName":"d"}]})";
    for (const management::Payload& payload : imported.profile->payloads)
      if (management::yieldsIdentity(payload.header.type))
        record.identities.push_back({payload.header.uuid, "identity-1", toBytes("reference")});
    installed[record.identifier] = record;
    return management::InstallOutcome{record, false, 1};
  }
  Status remove(const std::string& identifier) override {
    if (failNext) return propagate(*std::exchange(failNext, std::nullopt));
    if (installed.erase(identifier) == 0) return fail(Reason::NotFound, "no such profile");
    return {};
  }
  Result<std::vector<management::ProfileRecord>> profiles() override {
    std::vector<management::ProfileRecord> out;
    for (const auto& [identifier, record] : installed) out.push_back(record);
    return out;
  }
  Result<std::vector<management::ProfileRecord>> unfinished() override { return pending; }
  bool busy() override { return isBusy; }
  Status synchronise(management::DeclarationServer& server, ByteView tokens) override {
    ++synchronised;
    lastTokens = toBytes(tokens);
    for (const char* endpoint : {"tokens", "declaration-items", "declaration/configuration/com.example.a"}) {
      const Result<Bytes> body = server.fetch(endpoint);
      fetched[endpoint] = body ? std::string(asText(*body)) : std::string(text(body.error().reason));
    }
    return server.report(asBytes("{}"));
  }
  Status report(management::DeclarationServer&) override {
    ++reported;
    return {};
  }
  Status withdrawDeclarations() override {
    ++withdrawn;
    return {};
  }

  std::map<std::string, management::ProfileRecord> installed;
  std::vector<management::ProfileRecord> pending;
  std::optional<Error> failNext;
  bool isBusy = false;
  int synchronised = 0, reported = 0, withdrawn = 0;
  Bytes lastTokens;
  std::map<std::string, std::string> fetched;
};

struct Asked {
  std::string method, contentType, signature, body;
};
struct Reply {
  int status = 200;
  std::string body = {};
  std::string headers = {};  // further lines, each with CRLF
};

// HTTP/1.1, one connection at a time, on the loopback.
class WebServer {
 public:
  explicit WebServer(std::function<Reply(const Asked&)> answer) : answer_(std::move(answer)), socket_(Fd::adopt(::socket(AF_INET, SOCK_STREAM, 0))) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    if (::bind(socket_.borrow(), reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(socket_.borrow(), 16) != 0 ||
        ::getsockname(socket_.borrow(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
      std::abort();
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~WebServer() {
    ::shutdown(socket_.borrow(), SHUT_RDWR);
    thread_.join();
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/mdm"; }
  std::vector<Asked> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  void run() {
    for (;;) {
      const Fd connection = Fd::adopt(::accept(socket_.borrow(), nullptr, nullptr));
      if (!connection) return;
      serve(connection.borrow());
    }
  }
  static std::string header(const std::string& head, const std::string& name) {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return {};
    const size_t from = at + name.size() + 4;
    return head.substr(from, head.find("\r\n", from) - from);
  }
  // One request a connection: the answer closes it.
  void serve(int connection) {
    std::string input;
    std::array<char, 4096> buffer{};
    size_t end = std::string::npos, length = 0;
    while (end == std::string::npos || input.size() < end + 4 + length) {
      const ssize_t got = ::recv(connection, buffer.data(), buffer.size(), 0);
      if (got <= 0) return;
      input.append(buffer.data(), static_cast<size_t>(got));
      end = input.find("\r\n\r\n");
      if (end != std::string::npos) length = std::strtoul(header(input.substr(0, end + 2), "Content-Length").c_str(), nullptr, 10);
    }
    const std::string head = input.substr(0, end + 2);
    const Asked asked{head.substr(0, head.find(' ')), header(head, "Content-Type"), header(head, "Mdm-Signature"), input.substr(end + 4)};
    {
      const std::lock_guard lock(mutex_);
      asked_.push_back(asked);
    }
    const Reply reply = answer_(asked);
    const std::string out = "HTTP/1.1 " + std::to_string(reply.status) + " X\r\nConnection: close\r\n" + reply.headers + "Content-Length: " +
                            std::to_string(reply.body.size()) + "\r\n\r\n" + reply.body;
    for (size_t sent = 0; sent < out.size();) {
      const ssize_t now = ::send(connection, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
      if (now <= 0) return;
      sent += static_cast<size_t>(now);
    }
  }

  std::function<Reply(const Asked&)> answer_;
  Fd socket_;
  uint16_t port_ = 0;
  mutable std::mutex mutex_;
  std::vector<Asked> asked_;
  std::thread thread_;
};

}  // namespace wayleave::enrolment::mdm
