#include "enrolment/scep/enrolment.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>

#include "base/log.h"
#include "enrolment/acme/enrolment.h"
#include "enrolment/scep/reply.h"

namespace wayleave::enrolment::scep {
namespace {

using keys::X509Ptr;

constexpr std::string_view kScheme = "rsa_pkcs1_sha256";
// After the first poll, whatever the payload says: nobody's CA is to be asked in a loop.
constexpr std::chrono::seconds kLeastDelay{1};

std::string transactionFor(ByteView publicKey, ByteView previous) {
  Bytes all = toBytes(publicKey);
  append(all, previous);
  std::string out = toHex(sha256(all));
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'a' && c <= 'f' ? static_cast<char>(c - 32) : c; });
  return out;
}

Bytes spkiOf(X509* certificate) {
  uint8_t* bytes = nullptr;
  const int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &bytes);
  Bytes out(bytes, bytes + std::max(length, 0));
  OPENSSL_free(bytes);
  return out;
}

class Run {
 public:
  Run(const Tools& tools, const Parameters& parameters, const SubjectKey& key, const Step& step)
      : tools_(tools), parameters_(parameters), key_(key), step_(step), client_(tools.http, tools.pacer, parameters.url, parameters.caIdentifier) {}

  // What the record has of this very enrolment; else an empty one.
  Progress known() const {
    const Progress& progress = tools_.record.progress();
    return progress.key == key_.id && progress.url == parameters_.url ? progress : Progress{};
  }

  Status look() {
    step("asking the CA");
    auto capabilities = client_.capabilities();
    if (!capabilities) return propagate(capabilities.error());
    capabilities_ = *capabilities;
    auto certificates = client_.certificates();
    if (!certificates) return propagate(certificates.error());
    auto authority = judgeAuthority(*certificates, {parameters_.url, parameters_.fingerprint, parameters_.trustAnchorsPem,
                                                    !parameters_.request.challengePassword.empty()});
    if (!authority) return propagate(authority.error());
    authority_ = std::move(*authority);
    for (const std::string& warning : authority_.warnings) warn(warning);
    if (!capabilities_.aes) warn("the CA does not offer AES: the request is encrypted with 3DES");
    if (!capabilities_.sha256) warn("the CA does not offer SHA-256: the request is signed with it all the same");
    return {};
  }

  bool canRenew() const { return capabilities_.renewal; }

  // A request with (or without) the challenge, encrypted for the CA. Fills request, recipient, subject, issuer.
  Status prepare(Progress& progress, bool withChallenge) {
    step("certification request");
    RequestParameters wanted;
    wanted.subject = parameters_.request.subject;
    wanted.alternativeNames = parameters_.request.alternativeNames;
    wanted.signing = parameters_.request.signing;
    wanted.encrypting = parameters_.request.encrypting;
    if (withChallenge) wanted.challengePassword = parameters_.request.challengePassword.clone();
    const auto request = CertificationRequest::make(wanted, key_.publicKey);
    if (!request) return withContext(request.error(), "the certification request");
    const auto signature = tools_.agent.signCertificationRequest(key_.id, kScheme, request->info());
    if (!signature) return withContext(signature.error(), "sign the certification request");
    auto complete = request->complete(keys::SignatureScheme::RsaPkcs1Sha256, *signature);
    if (!complete) return propagate(complete.error());
    const Secret csr(std::move(*complete));  // the challenge stands in it
    auto sealed = sealFor(authority_.encryptTo(), csr.view(), capabilities_.aes);
    if (!sealed) return propagate(sealed.error());
    progress.key = key_.id;
    progress.publicKey = key_.publicKey;
    progress.url = parameters_.url;
    progress.request = std::move(*sealed);
    progress.recipient = authority_.recipientDigest();
    progress.hasChallenge = !wanted.challengePassword.empty();
    progress.subject = request->subjectName();
    progress.issuer = authority_.issuerName;
    return {};
  }

  Result<Bytes> requesterCertificate(const Progress& progress) {
    auto made = tools_.agent.makeScepSigner(key_.id, progress.subject);
    if (!made) return withContext(made.error(), "a certificate to sign the request with");
    return made;
  }

  bool stillFor(const Progress& progress) const { return !progress.request.empty() && progress.recipient == authority_.recipientDigest(); }

  // Sends what `progress` has prepared, or goes on polling, until the CA has decided or patience ends.
  Result<std::vector<Bytes>> finish(Progress progress) {
    if (Status written = tools_.record.write(progress); !written) return propagate(written.error());
    const Steady deadline = tools_.clock.now() + kPatience;
    for (;;) {
      if (progress.pending) {
        if (Status waited = waitForPoll(progress, deadline); !waited) return propagate(waited.error());
        ++progress.polls;
      }
      step(progress.pending ? "asking the CA for its decision" : "sending the request");
      auto reply = exchange(progress);
      if (!reply) return propagate(reply.error());  // kept: the same request, in the same transaction, next time
      for (const std::string& warning : reply->warnings) warn(warning);
      switch (reply->status) {
        case Reply::Status::Success: return accept(progress, reply->envelope);
        case Reply::Status::Failure:
          if (Status over = tools_.record.remove(); !over) return propagate(over.error());
          return propagate(*reply->failure);
        case Reply::Status::Pending: break;
      }
      if (progress.polls >= parameters_.retries) {
        if (Status over = tools_.record.remove(); !over) return propagate(over.error());
        return fail(Reason::DeadlineExceeded, fmt::format("the CA still says PENDING after {} polls", progress.polls),
                    "approve the request at the CA sooner, or raise Retries and RetryDelay in the SCEP payload");
      }
      const auto delay = progress.polls == 0 ? std::chrono::seconds{0} : std::max(parameters_.retryDelay, kLeastDelay);
      progress.pending = true;
      progress.nextPoll = wallSeconds() + delay.count();
      if (Status written = tools_.record.write(progress); !written) return propagate(written.error());
    }
  }

  Result<std::vector<Bytes>> checked(std::vector<Bytes> chain) const {
    if (Status good = acme::checkIssuedChain(chain, key_.publicKey, tools_.clock.wallNow()); !good) return propagate(good.error());
    return chain;
  }

  // PENDING, and not yet time to ask again within one call's patience: the network need not be touched.
  Status dueAgain(const Progress& progress) const {
    if (!progress.pending || progress.nextPoll - wallSeconds() <= kPatience.count()) return {};
    return undecided();
  }

 private:
  void step(std::string_view name) const {
    if (step_) step_(name);
  }
  void warn(const std::string& sentence) const { log::warn("SCEP", {{"url", parameters_.url}, {"warning", sentence}}); }
  int64_t wallSeconds() const { return std::chrono::system_clock::to_time_t(tools_.clock.wallNow()); }
  static std::unexpected<Error> undecided() {
    return fail(Reason::Pending, "the CA has not decided yet", "somebody approves the request at the CA; it is asked again by itself");
  }

  Status waitForPoll(const Progress& progress, Steady deadline) const {
    // A clock that was set back must not make a poll wait longer than the payload says.
    const auto delay = std::clamp(std::chrono::seconds{progress.nextPoll - wallSeconds()}, std::chrono::seconds{0}, std::max(parameters_.retryDelay, kLeastDelay));
    if (delay.count() == 0) return {};
    if (tools_.clock.now() + delay > deadline) return undecided();
    step("the CA has to decide");
    if (!tools_.pacer.wait(delay)) return fail(Reason::Cancelled, "stopping");
    return {};
  }

  Result<Reply> exchange(const Progress& progress) {
    Bytes content = progress.request;
    Attributes attributes{progress.type, progress.transactionId, randomBytes(kNonceBytes)};
    if (progress.pending) {
      attributes.type = MessageType::CertPoll;
      auto sealed = sealFor(authority_.encryptTo(), issuerAndSubject(progress.issuer, progress.subject), capabilities_.aes);
      if (!sealed) return propagate(sealed.error());
      content = std::move(*sealed);
    }
    const Bytes toSign = signedAttributes(attributes, content);
    const auto signature = tools_.agent.signScepMessage(key_.id, toSign);
    if (!signature) return withContext(signature.error(), "sign the SCEP message");
    const auto message = assembleMessage(content, progress.signer, toSign, *signature);
    if (!message) return propagate(message.error());
    const auto answer = client_.operate(*message, capabilities_);
    if (!answer) return propagate(answer.error());
    return readReply(*answer, authority_, attributes);
  }

  Result<std::vector<Bytes>> accept(Progress& progress, ByteView envelope) {
    const auto opened = tools_.agent.openScepReply(key_.id, envelope);
    if (!opened) return withContext(opened.error(), "open the CA's answer");
    if (opened->weak) warn("the CA encrypts its answers with " + opened->cipher + ", which is broken; the certificate is public, so nothing is lost by it");
    const auto certificates = readCertificates(opened->content);
    if (!certificates) return withContext(certificates.error(), "the CA's answer");
    auto chain = chainFrom(*certificates);
    if (!chain) return propagate(chain.error());
    progress.chain = *chain;
    if (Status written = tools_.record.write(progress); !written) return propagate(written.error());
    return checked(std::move(*chain));
  }

  // Our certificate and its issuers, as far as the answer and the CA's own certificates have them; no root.
  Result<std::vector<Bytes>> chainFrom(const std::vector<Bytes>& certificates) const {
    std::vector<X509Ptr> pool;
    for (const Bytes& der : certificates) {
      const uint8_t* at = der.data();
      if (X509Ptr one(d2i_X509(nullptr, &at, static_cast<long>(der.size()))); one) pool.push_back(std::move(one));
    }
    const auto leaf = std::ranges::find_if(pool, [&](const X509Ptr& one) { return spkiOf(one.get()) == key_.publicKey; });
    ERR_clear_error();
    if (leaf == pool.end())
      return fail(Reason::KeyMismatch, "the CA issued a certificate for another key than the one it was asked for", "this is the CA's fault");
    std::vector<X509*> candidates, chain{leaf->get()};
    for (const X509Ptr& one : pool) candidates.push_back(one.get());
    for (const X509Ptr& one : authority_.certificates) candidates.push_back(one.get());
    for (size_t depth = 0; depth < 8; ++depth) {
      X509* last = chain.back();
      const auto issuer = std::ranges::find_if(candidates, [&](X509* one) {
        return X509_check_issued(one, last) == X509_V_OK && X509_verify(last, X509_get0_pubkey(one)) == 1 &&
               X509_NAME_cmp(X509_get_subject_name(one), X509_get_issuer_name(one)) != 0;
      });
      ERR_clear_error();
      if (issuer == candidates.end()) break;
      chain.push_back(*issuer);
    }
    std::vector<Bytes> out;
    for (X509* one : chain) {
      uint8_t* der = nullptr;
      const int length = i2d_X509(one, &der);
      out.emplace_back(der, der + std::max(length, 0));
      OPENSSL_free(der);
    }
    return out;
  }

  const Tools& tools_;
  const Parameters& parameters_;
  const SubjectKey& key_;
  const Step& step_;
  Client client_;
  Capabilities capabilities_;
  Authority authority_;
};

}  // namespace

Result<std::vector<Bytes>> obtainCertificate(const Tools& tools, const Parameters& parameters, const SubjectKey& key, const Step& step) {
  Run run(tools, parameters, key, step);
  Progress progress = run.known();
  if (!progress.chain.empty()) return run.checked(progress.chain);
  if (Status due = run.dueAgain(progress); !due) return propagate(due.error());
  if (Status looked = run.look(); !looked) return propagate(looked.error());
  // Another CA certificate than the request was encrypted to: it is made again (without the challenge, if that is gone).
  if (!progress.pending && !run.stillFor(progress)) {
    progress = {};
    if (Status prepared = run.prepare(progress, true); !prepared) return propagate(prepared.error());
    auto signer = run.requesterCertificate(progress);
    if (!signer) return propagate(signer.error());
    progress.signer = std::move(*signer);
    progress.transactionId = transactionFor(key.publicKey, {});
  }
  return run.finish(std::move(progress));
}

Result<std::vector<Bytes>> renewCertificate(const Tools& tools, const Parameters& parameters, const SubjectKey& key, ByteView current,
                                            const Progress& first) {
  const Step silent;
  Run run(tools, parameters, key, silent);
  const Progress known = run.known();
  if (!known.chain.empty()) return run.checked(known.chain);
  if (Status due = run.dueAgain(known); !due) return propagate(due.error());
  if (Status looked = run.look(); !looked) return propagate(looked.error());
  if (known.pending) return run.finish(known);

  Progress progress;
  if (Status prepared = run.prepare(progress, false); !prepared) return propagate(prepared.error());
  const auto refused = [](const Result<std::vector<Bytes>>& result) {
    return !result && (result.error().reason == Reason::NotEntitled || result.error().reason == Reason::SignatureInvalid);
  };
  Result<std::vector<Bytes>> outcome = fail(Reason::NotEntitled, "the CA does not renew");
  int turn = 0;
  const auto attempt = [&](MessageType type, bool firstRequest) -> Status {
    Progress next = progress;
    next.type = type;
    if (firstRequest) next.request = first.request;
    if (type == MessageType::RenewalReq) {
      next.signer = toBytes(current);
    } else {
      auto signer = run.requesterCertificate(next);
      if (!signer) return propagate(signer.error());
      next.signer = std::move(*signer);
    }
    // A transaction of its own each time, and the same one after a crash.
    Bytes previous = toBytes(current);
    previous.push_back(static_cast<uint8_t>(turn++));
    next.transactionId = transactionFor(key.publicKey, previous);
    outcome = run.finish(std::move(next));
    return {};
  };
  const bool withChallenge = first.hasChallenge && run.stillFor(first);
  if (run.canRenew()) {
    if (Status done = attempt(MessageType::RenewalReq, false); !done) return propagate(done.error());
    if (refused(outcome) && withChallenge)
      if (Status done = attempt(MessageType::RenewalReq, true); !done) return propagate(done.error());
  }
  if (refused(outcome))
    if (Status done = attempt(MessageType::PkcsReq, withChallenge); !done) return propagate(done.error());
  return outcome;
}

}  // namespace wayleave::enrolment::scep
