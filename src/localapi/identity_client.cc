#include "localapi/identity_client.h"

#include <fmt/format.h>

#include "base/log.h"
#include "localapi/client.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"
#include "localapi/pause.h"
#include "localapi/url.h"

namespace wayleave::localapi {
namespace {

using nlohmann::json;

// A TPM 2.0 may need most of a minute for an RSA-2048 key; the call must outwait it.
constexpr std::chrono::milliseconds kKeyCreationTimeout = std::chrono::minutes{3};
// identityd restarting is back within a second; one that is down for long must not be hammered.
constexpr std::chrono::milliseconds kFirstRetry{100};
constexpr std::chrono::milliseconds kLastRetry{5'000};

// The broker was reached and said no: what was resolved before may be gone as well, and no event will say so.
bool isVerdict(const Error& error) { return error.reason == Reason::NotEntitled || error.reason == Reason::CallerUnverified; }

// An answer, decoded by `decode`, or the error it was. A daemon that answers outside its own contract is broken or of
// another version: that is not the caller's bad input.
template <typename Decode>
auto then(Result<json> answer, Decode decode) -> decltype(decode(*answer)) {
  if (!answer) return propagate(answer.error());
  auto decoded = decode(*answer);
  if (!decoded)
    return fail(Reason::Internal, "answer of wayleave-identityd: " + decoded.error().message,
                "wayleave-identityd and this program may be of different versions");
  return decoded;
}

class IdentityClient final : public IdentityAgent {
 public:
  IdentityClient(std::string socketPath, std::chrono::milliseconds timeout)
      : client_(std::move(socketPath), timeout, std::make_shared<KeptConnections>(kMostConnections)),
        timeout_(timeout) {}

  Result<std::vector<IdentityInfo>> list() override { return then(look("GET", "/v1/identities"), identitiesFromJson); }

  Result<IdentityInfo> show(std::string_view id) override {
    return then(look("GET", "/v1/identities/" + percentEncode(id)), identityInfoFromJson);
  }

  Result<IdentityInfo> resolve(ByteView reference) override {
    return then(look("POST", "/v1/resolve", dump(bytesJson("reference", reference))), identityInfoFromJson);
  }

  Result<Bytes> signTls(const TlsSignRequest& request, Steady deadline) override {
    return signatureOf(keptExchange(deadline, "POST", "/v1/sign/tls", dump(toJson(TlsSignBody{request, left(deadline)}))));
  }

  Result<Bytes> signMessage(ByteView reference, std::string_view scheme, ByteView message, Steady deadline) override {
    const json body =
        toJson(MessageSignBody{toBytes(reference), std::string(scheme), toBytes(message), left(deadline)});
    return signatureOf(keptExchange(deadline, "POST", "/v1/sign/message", dump(body)));
  }

  Status beginInstallation(std::string_view installation) override {
    return done(post(installationPath(installation), json::object()));
  }

  Result<IdentityInfo> importPkcs12(ImportRequest request) override {
    json document = toJson(request);
    std::string body = dump(document);
    Result<json> answer = exchange(within(timeout_), "POST", installationPath(request.installation) + "/pkcs12", body);
    wipeText(body);
    wipeText(document["password"].get_ref<std::string&>());
    return then(std::move(answer), identityInfoFromJson);
  }

  Result<KeyInfo> createKey(const KeyRequest& request) override {
    return then(exchange(within(std::max(timeout_, kKeyCreationTimeout)), "POST",
                         installationPath(request.installation) + "/keys", dump(toJson(request))),
                keyInfoFromJson);
  }

  Result<KeyAttestation> attestKey(std::string_view key, ByteView qualifyingData) override {
    return then(post(keyPath(key) + "/attest", bytesJson("qualifyingData", qualifyingData)), keyAttestationFromJson);
  }

  Result<Bytes> signCertificationRequest(std::string_view key, std::string_view scheme,
                                         ByteView certificationRequestInfo) override {
    return signature(within(timeout_), keyPath(key) + "/sign-request",
                     toJson(CertificationRequestBody{std::string(scheme), toBytes(certificationRequestInfo)}));
  }

  Result<Bytes> makeScepSigner(std::string_view key, ByteView subject) override {
    return then(post(keyPath(key) + "/scep-signer", bytesJson("subject", subject)),
                [](const json& answer) { return bytesFromJson(answer, "certificate"); });
  }

  Result<Bytes> signScepMessage(std::string_view key, ByteView attributes) override {
    return signature(within(timeout_), keyPath(key) + "/sign-scep", bytesJson("attributes", attributes));
  }

  Result<OpenedReply> openScepReply(std::string_view key, ByteView envelope) override {
    return then(post(keyPath(key) + "/open-scep", bytesJson("envelope", envelope)), openedReplyFromJson);
  }

  Result<IdentityInfo> bindCertificate(const BindRequest& request) override {
    return then(post(installationPath(request.installation) + "/certificates", toJson(request)), identityInfoFromJson);
  }

  Result<IdentityInfo> renewCertificate(std::string_view identity, const std::vector<Bytes>& chain) override {
    return then(post("/v1/identities/" + percentEncode(identity) + "/certificate", bytesListJson("chain", chain)),
                identityInfoFromJson);
  }

  Status commitInstallation(std::string_view installation, const std::vector<std::string>& replacedProfiles) override {
    return done(post(installationPath(installation) + "/commit", textsJson("replacedProfiles", replacedProfiles)));
  }

  Status abortInstallation(std::string_view installation) override {
    return done(exchange(within(timeout_), "DELETE", installationPath(installation), {}));
  }

  Status removeProfileIdentities(std::string_view profileIdentifier) override {
    return done(exchange(within(timeout_), "DELETE", "/v1/profiles/" + percentEncode(profileIdentifier) + "/identities",
                         {}));
  }

  Result<std::vector<std::string>> pendingInstallations() override {
    return then(look("GET", "/v1/installations"), [](const json& body) { return textsFromJson(body, "pending"); });
  }

  Status declareApplications(const std::vector<DeclaredApplication>& all) override {
    return done(exchange(within(timeout_), "PUT", "/v1/applications", dump(toJson(all))));
  }

  Result<AkEnrolment> beginAkEnrolment() override {
    return then(exchange(within(std::max(timeout_, kKeyCreationTimeout)), "POST", "/v1/attestation/begin", "{}"),
                akEnrolmentFromJson);
  }

  Result<Bytes> activateCredential(ByteView credential, ByteView secret) override {
    return then(post("/v1/attestation/activate", toJson(CredentialBody{toBytes(credential), toBytes(secret)})),
                [](const json& body) { return bytesFromJson(body, "secret"); });
  }

  Status storeAkChain(const std::vector<Bytes>& chain) override {
    return done(post("/v1/attestation/chain", bytesListJson("chain", chain)));
  }

 private:
  static Steady within(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
  static std::chrono::milliseconds left(Steady deadline) {
    const auto time = std::chrono::floor<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    return std::clamp(time, std::chrono::milliseconds{0}, std::chrono::milliseconds{600'000});
  }
  static std::string installationPath(std::string_view installation) {
    return "/v1/installations/" + percentEncode(installation);
  }
  static std::string keyPath(std::string_view key) { return "/v1/keys/" + percentEncode(key); }
  static Status done(const Result<json>& answer) {
    if (!answer) return propagate(answer.error());
    return {};
  }

  Result<json> exchange(Steady deadline, std::string_view method, const std::string& path, std::string_view body) const {
    return documentOf(client_.callBy(deadline, method, path, body));
  }
  Result<json> keptExchange(Steady deadline, std::string_view method, const std::string& path,
                            std::string_view body) const {
    return documentOf(client_.callKept(deadline, method, path, body));
  }
  static Result<json> documentOf(Result<ClientResponse> response) {
    if (!response) return propagate(response.error());
    if (response->status < 200 || response->status > 299) return std::unexpected(errorFromResponse(*response));
    if (response->body.empty()) return json::object();
    Result<json> document = parseJson(response->body);
    if (!document) return fail(Reason::Internal, "answer of wayleave-identityd: " + document.error().message);
    return document;
  }
  Result<json> look(std::string_view method, const std::string& path, std::string_view body = {}) const {
    return keptExchange(within(timeout_), method, path, body);
  }
  Result<json> post(const std::string& path, const json& body) const {
    return exchange(within(timeout_), "POST", path, dump(body));
  }
  Result<Bytes> signature(Steady deadline, const std::string& path, const json& body) const {
    return signatureOf(exchange(deadline, "POST", path, dump(body)));
  }
  static Result<Bytes> signatureOf(Result<json> answer) {
    return then(std::move(answer), [](const json& body) { return bytesFromJson(body, "signature"); });
  }

  const Client client_;
  const std::chrono::milliseconds timeout_;
};

}  // namespace

Status IdentityAgent::declareApplications(const std::vector<DeclaredApplication>&) {
  return fail(Reason::Unsupported, "this agent takes no declared applications");
}

Result<Bytes> IdentityAgent::makeScepSigner(std::string_view, ByteView) { return fail(Reason::Unsupported, "this agent does not enrol by SCEP"); }
Result<Bytes> IdentityAgent::signScepMessage(std::string_view, ByteView) { return fail(Reason::Unsupported, "this agent does not enrol by SCEP"); }
Result<OpenedReply> IdentityAgent::openScepReply(std::string_view, ByteView) { return fail(Reason::Unsupported, "this agent does not enrol by SCEP"); }

std::unique_ptr<IdentityAgent> makeIdentityClient(std::string socketPath, std::chrono::milliseconds timeout) {
  return std::make_unique<IdentityClient>(std::move(socketPath), timeout);
}

void watchIdentities(const std::string& socketPath, std::stop_token stop,
                     const std::function<void(const IdentityEvent&)>& onEvent,
                     const std::function<void()>& onReconnect) {
  const Client client(socketPath);
  uint64_t last = 0;
  std::chrono::milliseconds pause = kFirstRetry;
  bool first = true, refused = false;
  const auto onOpen = [&] {
    pause = kFirstRetry;
    refused = false;
    if (!std::exchange(first, false)) onReconnect();
  };
  const auto onLine = [&](std::string_view line) {
    Result<json> document = parseJson(line);
    Result<IdentityEvent> event = document ? identityEventFromJson(*document) : propagate(document.error());
    if (!event) {
      log::failure("identity watch: event skipped", event.error());
      return true;
    }
    last = event->sequence;
    onEvent(*event);
    return true;
  };
  while (!stop.stop_requested()) {
    const Status ended = client.follow(fmt::format("/v1/watch?since={}", last), onLine, stop, onOpen);
    if (stop.stop_requested()) return;
    if (!ended) log::failure("identity watch interrupted", ended.error());
    first = false;  // what happened before identityd could be reached was missed as well
    if (!ended && isVerdict(ended.error()) && !std::exchange(refused, true)) onReconnect();
    if (stoppedWithin(pause, stop)) return;
    pause = std::min(pause * 2, kLastRetry);
  }
}

}  // namespace wayleave::localapi
