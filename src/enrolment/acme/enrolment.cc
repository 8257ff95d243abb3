#include "enrolment/acme/enrolment.h"

#include <fmt/format.h>
#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "enrolment/attestation_authority.h"
#include "enrolment/attestation_object.h"
#include "base/log.h"
#include "keys/openssl.h"
#include "keys/tpm/attestation_check.h"

namespace wayleave::enrolment::acme {
namespace {

// Servers that validate later (not step-ca, which answers at once) are asked again at this pace unless they say when.
constexpr std::chrono::seconds kPollInterval{2};

// After these an order may still succeed: it is kept.
constexpr std::array kTransient = {Reason::Unavailable, Reason::DeadlineExceeded, Reason::Cancelled,
                                   Reason::RateLimited, Reason::Busy, Reason::ServerError};

std::chrono::seconds pollDelay(std::chrono::seconds retryAfter) { return retryAfter.count() > 0 ? retryAfter : kPollInterval; }

class Run {
 public:
  Run(const Tools& tools, const Parameters& parameters, const SubjectKey& key, const Progress& progress)
      : tools_(tools),
        parameters_(parameters),
        key_(key),
        progress_(progress),
        client_(tools.http, tools.pacer, tools.clock, tools.account,
                ClientOptions{parameters.directoryUrl, copy(parameters.externalAccount), {}, std::chrono::seconds{120}}) {}

  Result<std::vector<Bytes>> go() {
    if (parameters_.attest) {
      step("attestation key");
      if (Status ready = enrolAttestationKey(tools_.agent, tools_.http, parameters_.attestationUrl); !ready) return propagate(ready.error());
    }
    step("account");
    if (Status opened = client_.open(); !opened) return propagate(opened.error());
    Result<Order> order = takeUpOrPlace();
    if (!order) return propagate(order.error());
    if (order->status == OrderStatus::Pending) {
      if (Status authorized = authorize(*order); !authorized) return ended(authorized.error());
      order = client_.order(order->url);
      if (!order) return propagate(order.error());
    }
    if (order->status == OrderStatus::Ready || order->status == OrderStatus::Pending) {
      order = finalize(*order);
      if (!order) return ended(order.error());
    }
    while (order->status == OrderStatus::Processing) {
      step("waiting for the certificate");
      if (Status paused = client_.pause(pollDelay(order->retryAfter)); !paused) return propagate(paused.error());
      order = client_.order(order->url);
      if (!order) return propagate(order.error());
    }
    if (order->status != OrderStatus::Valid || order->certificateUrl.empty())
      return ended(order->problem.value_or(Error{Reason::OrderInvalid, "the ACME order ended without a certificate", "a new order will be placed", 0}));
    step("certificate");
    auto chain = client_.certificate(order->certificateUrl);
    if (!chain) return propagate(chain.error());
    if (Status checked = checkIssuedChain(*chain, key_.publicKey, tools_.clock.wallNow()); !checked) return ended(checked.error());
    return chain;
  }

 private:
  static std::optional<ExternalAccount> copy(const std::optional<ExternalAccount>& account) {
    if (!account) return std::nullopt;
    return ExternalAccount{account->keyIdentifier, account->hmacKey.clone()};
  }

  void step(std::string_view name) {
    if (progress_) progress_(name);
  }

  // The server will not go on with this order: forget it, so that the next attempt places a new one with the same key.
  std::unexpected<Error> ended(const Error& error) {
    if (std::ranges::find(kTransient, error.reason) != kTransient.end()) return propagate(error);
    JournalEntry entry = tools_.journal.entry();
    entry.order.clear();
    entry.answered = false;
    if (Status recorded = tools_.journal.record(std::move(entry)); !recorded) return propagate(recorded.error());
    return propagate(error);
  }

  Result<Order> takeUpOrPlace() {
    JournalEntry entry = tools_.journal.entry();
    if (!entry.order.empty() && entry.directory == parameters_.directoryUrl && entry.key == key_.id) {
      step("taking the order up again");
      auto order = client_.order(entry.order);
      if (order && order->status != OrderStatus::Invalid) return order;
      // Gone (an order lives a day) or ended: a new one. Anything else is the server's trouble, not the order's.
      if (!order && order.error().reason != Reason::BadInput && order.error().reason != Reason::NotEntitled) return order;
    }
    step("order");
    auto order = client_.newOrder(parameters_.identifier);
    if (!order) return order;
    entry = {key_.id, parameters_.directoryUrl, order->url, false};
    if (Status recorded = tools_.journal.record(std::move(entry)); !recorded) return propagate(recorded.error());
    return order;
  }

  Status authorize(const Order& order) {
    for (const std::string& url : order.authorizations) {
      auto authorization = client_.authorization(url);
      if (!authorization) return propagate(authorization.error());
      if (authorization->status == "pending") {
        if (Status answered = answerOne(*authorization); !answered) return answered;
        authorization = client_.authorization(url);
        if (!authorization) return propagate(authorization.error());
      }
      while (authorization->status == "pending") {
        step("waiting for the server's verdict");
        if (Status paused = client_.pause(pollDelay(authorization->retryAfter)); !paused) return paused;
        authorization = client_.authorization(url);
        if (!authorization) return propagate(authorization.error());
      }
      if (authorization->status != "valid") return propagate(refusal(*authorization));
    }
    return {};
  }

  static Error refusal(const Authorization& authorization) {
    for (const Challenge& challenge : authorization.challenges)
      if (challenge.problem) return *challenge.problem;
    return {Reason::OrderInvalid, "the ACME authorization is " + authorization.status, "a new order will be placed", 0};
  }

  Status answerOne(const Authorization& authorization) {
    const auto find = [&](std::string_view type) { return std::ranges::find(authorization.challenges, type, &Challenge::type); };
    if (const auto device = find("device-attest-01"); device != authorization.challenges.end()) return attest(*device);
    // Beside a DNS identifier (not what a device profile orders) any challenge that somebody else satisfies will do.
    if (const auto web = find("http-01"); web != authorization.challenges.end() && parameters_.identifier.type == "dns") return post(*web, "{}");
    std::string offered;
    for (const Challenge& challenge : authorization.challenges) offered += (offered.empty() ? "" : ", ") + challenge.type;
    return fail(Reason::Unsupported, "the ACME server offers no device-attest-01 challenge, only: " + offered,
                "enable device-attest-01 at the CA's ACME provisioner");
  }

  Status attest(const Challenge& challenge) {
    if (challenge.status != "pending") return {};
    if (!parameters_.attest) {
      // What Apple's client sends here is unknown; an empty statement is what at least one server expects from a device
      // without attestation, and we never invent one.
      return post(challenge, nlohmann::json{{"attObj", toBase64Url(asBytes("{}"))}}.dump());
    }
    step("attestation");
    const std::string keyAuthorization = challenge.token + "." + tools_.account.thumbprint();
    const Bytes qualifyingData = sha256(asBytes(keyAuthorization));
    auto attestation = tools_.agent.attestKey(key_.id, qualifyingData);
    if (!attestation) return withContext(attestation.error(), "attest the key");
    if (Status checked = tools_.checkAttestation(*attestation, qualifyingData, parameters_.identifier.value); !checked)
      return withContext(checked.error(), "not sent to the CA, it would refuse it");
    return post(challenge, nlohmann::json{{"attObj", toBase64Url(tpmAttestationObject(*attestation))}}.dump());
  }

  Status post(const Challenge& challenge, const std::string& payload) {
    JournalEntry entry = tools_.journal.entry();
    entry.answered = true;
    if (Status recorded = tools_.journal.record(std::move(entry)); !recorded) return recorded;
    const auto answered = client_.answer(challenge.url, payload);
    if (!answered) return propagate(answered.error());
    if (answered->status == "invalid") {
      if (answered->problem) return propagate(*answered->problem);
      return fail(Reason::AttestationRefused, "the ACME server refused the challenge without a reason");
    }
    return {};
  }

  Result<Order> finalize(const Order& order) {
    step("certification request");
    const auto publicKey = keys::PublicKey::fromSpki(key_.publicKey);
    if (!publicKey) return propagate(publicKey.error());
    const auto request = CertificationRequest::make(parameters_.request, key_.publicKey);
    if (!request) return withContext(request.error(), "the certification request");
    const keys::SignatureScheme scheme = requestScheme(publicKey->type);
    const auto signature = tools_.agent.signCertificationRequest(key_.id, text(scheme), request->info());
    if (!signature) return withContext(signature.error(), "sign the certification request");
    const auto csr = request->complete(scheme, *signature);
    if (!csr) return propagate(csr.error());
    return client_.finalize(order, *csr);
  }

  const Tools tools_;
  const Parameters& parameters_;
  const SubjectKey& key_;
  const Progress& progress_;
  Client client_;
};

}  // namespace

Result<std::vector<Bytes>> obtainCertificate(const Tools& tools, const Parameters& parameters, const SubjectKey& key, const Progress& progress) {
  if (parameters.attest && parameters.attestationUrl.empty()) {
    return fail(Reason::Unsupported, "Attest is true, but the payload names no attestation authority for this device's TPM",
                "add the key AttestationURL to the ACME payload (docs/profile.md)");
  }
  return Run(tools, parameters, key, progress).go();
}

Status checkBeforeSending(const localapi::KeyAttestation& attestation, ByteView qualifyingData, const std::string& identifier) {
  const keys::tpm::AttestationStatement statement{attestation.akChain, attestation.certifyInfo, attestation.signature,
                                                  attestation.publicArea, attestation.algorithm};
  const auto verdict = keys::tpm::validateAttestation(statement, {toBytes(qualifyingData), identifier, std::chrono::system_clock::now()});
  if (!verdict) return propagate(verdict.error());
  for (const std::string& warning : verdict->warnings) log::warn("attestation", {{"warning", warning}});
  return {};
}

Status checkIssuedChain(const std::vector<Bytes>& chain, ByteView publicKey, Wall now) {
  if (chain.empty()) return fail(Reason::BadInput, "the CA sent an empty chain");
  std::vector<keys::X509Ptr> certificates;
  for (const Bytes& der : chain) {
    const unsigned char* at = der.data();
    certificates.emplace_back(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
    if (!certificates.back() || at != der.data() + der.size())
      return std::unexpected(keys::opensslError(Reason::BadInput, fmt::format("certificate {} of the issued chain", certificates.size())));
  }
  unsigned char* spki = nullptr;
  const int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificates.front().get()), &spki);
  const bool same = length > 0 && std::ranges::equal(ByteView(spki, static_cast<size_t>(length)), publicKey);
  OPENSSL_free(spki);
  if (!same)
    return fail(Reason::KeyMismatch, "the CA issued a certificate for another key than the one it was asked for",
                "this is the CA's fault; the key is kept and a new order will be placed");
  std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  if (X509_cmp_time(X509_get0_notAfter(certificates.front().get()), &seconds) <= 0)
    return fail(Reason::IdentityExpired, "the CA issued a certificate that has expired already", "compare this machine's clock with the CA's");
  for (size_t i = 0; i + 1 < certificates.size(); ++i) {
    EVP_PKEY* issuer = X509_get0_pubkey(certificates[i + 1].get());
    if (issuer == nullptr || X509_verify(certificates[i].get(), issuer) != 1) {
      ERR_clear_error();
      return fail(Reason::Untrusted, fmt::format("certificate {} of the issued chain is not signed by the next one", i + 1),
                  "this is the CA's fault; the key is kept and a new order will be placed");
    }
  }
  return {};
}

}  // namespace wayleave::enrolment::acme
