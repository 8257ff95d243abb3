#include "enrolment/acme/client.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <charconv>

#include <nlohmann/json.hpp>

namespace wayleave::enrolment::acme {
namespace {

using nlohmann::json;

// A server that refuses nonces on purpose (pebble: up to 30 %) needs a few; one that refuses them all must not hold us.
constexpr int kMaxNonceTries = 20;
constexpr int kMaxServerTries = 4;
constexpr std::chrono::seconds kMaxRetryAfter{24 * 3600};
// Chains are two to four certificates of 1 to 2 kB.
constexpr size_t kMaxChain = 10;

json parsed(ByteView body) { return json::parse(body.begin(), body.end(), nullptr, false); }

std::string textMember(const json& object, const char* name) {
  if (!object.is_object()) return {};
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string problemText(const json& problem) {
  std::string out = textMember(problem, "detail");
  std::string type = textMember(problem, "type");
  if (const size_t colon = type.rfind(':'); colon != std::string::npos) type = type.substr(colon + 1);
  if (out.empty()) out = type.empty() ? "no detail given" : type;
  if (!type.empty() && out != type) out = type + ": " + out;
  if (!problem.is_object()) return out;
  const auto parts = problem.find("subproblems");
  if (parts == problem.end() || !parts->is_array()) return out;
  for (const json& part : *parts) {
    out += "; " + problemText(part);
    if (const std::string value = textMember(part.is_object() && part.contains("identifier") ? part["identifier"] : json(), "value"); !value.empty())
      out += " (for " + value + ")";
  }
  return out;
}

Error classified(const json& problem, int httpStatus, std::chrono::seconds retryAfter) {
  const std::string type = textMember(problem, "type");
  const auto is = [&](std::string_view name) { return type.ends_with(std::string(":") + std::string(name)); };
  Error error{Reason::ServerError, "the ACME server says " + problemText(problem), {}, 0};
  if (is("rateLimited") || httpStatus == 429) {
    error.reason = Reason::RateLimited;
    error.hint = retryAfter.count() > 0 ? fmt::format("it will be tried again in {} s", retryAfter.count()) : "it will be tried again later";
  } else if (is("badAttestationStatement")) {
    error.reason = Reason::AttestationRefused;
    error.hint = "check the attestation authority's root at the CA, and that the ClientIdentifier is this device's";
  } else if (is("externalAccountRequired")) {
    error.reason = Reason::NotEntitled;
    error.hint = "the profile needs ExternalAccountBinding with the key that the CA's administrator hands out";
  } else if (is("unauthorized") || is("rejectedIdentifier") || is("accountDoesNotExist") || is("unsupportedIdentifier")) {
    error.reason = Reason::NotEntitled;
    error.hint = "the CA's administrator decides which devices and identifiers it serves";
  } else if (is("badCSR") || is("orderNotReady")) {
    error.reason = Reason::OrderInvalid;
    error.hint = is("badCSR") ? "compare Subject and SubjectAltName of the payload with what the CA allows" : "";
  } else if (httpStatus >= 400 && httpStatus < 500) {
    error.reason = Reason::BadInput;
  }
  return error;
}

OrderStatus orderStatus(const std::string& text, bool& known) {
  known = true;
  if (text == "pending") return OrderStatus::Pending;
  if (text == "ready") return OrderStatus::Ready;
  if (text == "processing") return OrderStatus::Processing;
  if (text == "valid") return OrderStatus::Valid;
  if (text == "invalid") return OrderStatus::Invalid;
  known = false;
  return OrderStatus::Invalid;
}

std::optional<Error> problemIn(const json& object) {
  if (!object.is_object()) return std::nullopt;
  const auto found = object.find("error");
  if (found == object.end() || !found->is_object()) return std::nullopt;
  return classified(*found, 0, {});
}

Challenge readChallenge(const json& value) {
  return {textMember(value, "type"), textMember(value, "url"), textMember(value, "token"), textMember(value, "status"), problemIn(value)};
}

}  // namespace

std::chrono::seconds parseRetryAfter(std::string_view value, Wall now) {
  long seconds = 0;
  const auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), seconds);
  if (code == std::errc{} && end == value.data() + value.size())
    return std::clamp(std::chrono::seconds{seconds}, std::chrono::seconds{0}, kMaxRetryAfter);
  const time_t date = curl_getdate(std::string(value).c_str(), nullptr);
  if (date == -1) return {};
  return std::clamp(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::from_time_t(date) - now),
                    std::chrono::seconds{0}, kMaxRetryAfter);
}

Error problemError(int httpStatus, std::string_view contentType, std::string_view body, std::string_view retryAfter, Wall now) {
  const json problem = json::parse(body, nullptr, false);
  if (problem.is_object() && (problem.contains("type") || problem.contains("detail")))
    return classified(problem, httpStatus, parseRetryAfter(retryAfter, now));
  Error error{Reason::ServerError, fmt::format("the ACME server answers HTTP {} with {} bytes of {}", httpStatus, body.size(),
                                               contentType.empty() ? "no type" : contentType), {}, 0};
  if (httpStatus == 429) error.reason = Reason::RateLimited;
  error.hint = "this is no ACME answer: check DirectoryURL, and what stands between this machine and the server";
  return error;
}

struct Client::Answer {
  HttpResponse response;
  json body;
};

Client::Client(Http& http, Pacer& pacer, const Clock& clock, const AccountKey& key, ClientOptions options)
    : http_(http), pacer_(pacer), clock_(clock), key_(key), options_(std::move(options)), deadline_(clock.now() + options_.patience) {}

Status Client::pause(std::chrono::seconds time) {
  if (clock_.now() + time > deadline_)
    return fail(Reason::DeadlineExceeded, fmt::format("the ACME server asks to wait {} s", time.count()),
                "the order is kept and taken up again");
  if (!pacer_.wait(time)) return fail(Reason::Cancelled, "the daemon is stopping", "the order is kept and taken up again");
  return {};
}

Result<std::string> Client::freshNonce() {
  if (!nonce_.empty()) return std::exchange(nonce_, {});
  const auto answer = http_.send({"HEAD", newNonceUrl_, {}, {}, {}});
  if (!answer) return withContext(answer.error(), "newNonce");
  std::string nonce = answer->header("replay-nonce");
  if (nonce.empty()) return fail(Reason::ServerError, "the ACME server's newNonce gave no Replay-Nonce");
  return nonce;
}

Result<Client::Answer> Client::post(const std::string& url, const std::string& payload, bool withJwk) {
  int nonceTries = 0, serverTries = 0;
  for (;;) {
    const auto nonce = freshNonce();
    if (!nonce) return propagate(nonce.error());
    const auto jws = key_.sign(url, *nonce, withJwk ? std::string_view{} : std::string_view{accountUrl_}, payload);
    if (!jws) return propagate(jws.error());
    auto response = http_.send({"POST", url, toBytes(*jws), "application/jose+json", {"Accept: application/json, application/pem-certificate-chain"}});
    if (!response) return propagate(response.error());
    nonce_ = response->header("replay-nonce");
    if (response->status >= 200 && response->status < 300) {
      json body = parsed(response->body);
      return Answer{std::move(*response), std::move(body)};
    }
    const std::string retryAfter = response->header("retry-after");
    const json problem = parsed(response->body);
    if (textMember(problem, "type").ends_with(":badNonce") && ++nonceTries < kMaxNonceTries) continue;
    const Error error = problemError(response->status, response->header("content-type"), asText(response->body), retryAfter, clock_.wallNow());
    // 5xx passes by itself more often than not; a rate limit is honoured to the second.
    const bool worthRetrying = response->status >= 500 || error.reason == Reason::RateLimited;
    if (!worthRetrying || ++serverTries >= kMaxServerTries) return propagate(error);
    auto wait = parseRetryAfter(retryAfter, clock_.wallNow());
    if (wait.count() == 0) wait = std::chrono::seconds{1 << (serverTries - 1)};
    if (Status paused = pause(wait); !paused) {
      if (paused.error().reason == Reason::Cancelled) return propagate(paused.error());
      return propagate(error);  // the server's own words say more than our deadline
    }
  }
}

Status Client::open() {
  const auto answer = http_.send({"GET", options_.directoryUrl, {}, {}, {}});
  if (!answer) return withContext(answer.error(), "the ACME directory");
  if (answer->status != 200) {
    return withContext(problemError(answer->status, answer->header("content-type"), asText(answer->body),
                                    answer->header("retry-after"), clock_.wallNow()), "the ACME directory");
  }
  const json directory = parsed(answer->body);
  newNonceUrl_ = textMember(directory, "newNonce");
  newAccountUrl_ = textMember(directory, "newAccount");
  newOrderUrl_ = textMember(directory, "newOrder");
  if (newNonceUrl_.empty() || newAccountUrl_.empty() || newOrderUrl_.empty())
    return fail(Reason::ServerError, options_.directoryUrl + " is not an ACME directory", "check DirectoryURL");

  json request = {{"termsOfServiceAgreed", true}};
  if (!options_.contact.empty()) request["contact"] = json::array({options_.contact});
  if (options_.externalAccount) {
    const auto binding = key_.bindExternalAccount(*options_.externalAccount, newAccountUrl_);
    if (!binding) return propagate(binding.error());
    request["externalAccountBinding"] = json::parse(*binding);
  }
  const auto account = post(newAccountUrl_, request.dump(), true);
  if (!account) return withContext(account.error(), "newAccount");
  accountUrl_ = account->response.header("location");
  if (accountUrl_.empty()) return fail(Reason::ServerError, "the ACME server made an account without a Location");
  const std::string status = textMember(account->body, "status");
  if (!status.empty() && status != "valid")
    return fail(Reason::NotEntitled, "the ACME account is " + status, "ask the CA's administrator; a new account needs a new account key");
  return {};
}

Result<Order> Client::readOrder(const Answer& answer, const std::string& url) {
  bool known = false;
  Order order;
  order.url = url;
  order.status = orderStatus(textMember(answer.body, "status"), known);
  order.finalizeUrl = textMember(answer.body, "finalize");
  order.certificateUrl = textMember(answer.body, "certificate");
  order.problem = problemIn(answer.body);
  order.retryAfter = parseRetryAfter(answer.response.header("retry-after"), clock_.wallNow());
  if (answer.body.is_object() && answer.body.contains("authorizations") && answer.body["authorizations"].is_array())
    for (const json& entry : answer.body["authorizations"])
      if (entry.is_string()) order.authorizations.push_back(entry.get<std::string>());
  if (!known || url.empty() || (order.status != OrderStatus::Invalid && (order.finalizeUrl.empty() || order.authorizations.empty())))
    return fail(Reason::ServerError, "the ACME server's order is not one: " + std::string(asText(answer.response.body).substr(0, 200)));
  return order;
}

Result<Order> Client::newOrder(const Identifier& identifier) {
  const json request = {{"identifiers", json::array({{{"type", identifier.type}, {"value", identifier.value}}})}};
  const auto answer = post(newOrderUrl_, request.dump());
  if (!answer) return withContext(answer.error(), "newOrder");
  return readOrder(*answer, answer->response.header("location"));
}

Result<Order> Client::order(const std::string& url) {
  const auto answer = post(url, "");
  if (!answer) return withContext(answer.error(), "the order");
  return readOrder(*answer, url);
}

Result<Authorization> Client::authorization(const std::string& url) {
  const auto answer = post(url, "");
  if (!answer) return withContext(answer.error(), "the authorization");
  Authorization out{url, textMember(answer->body, "status"), {}, parseRetryAfter(answer->response.header("retry-after"), clock_.wallNow())};
  if (answer->body.is_object() && answer->body.contains("challenges") && answer->body["challenges"].is_array())
    for (const json& entry : answer->body["challenges"]) out.challenges.push_back(readChallenge(entry));
  if (out.status.empty()) return fail(Reason::ServerError, "the ACME server's authorization has no status");
  return out;
}

Result<Challenge> Client::answer(const std::string& challengeUrl, const std::string& payload) {
  const auto answered = post(challengeUrl, payload);
  if (!answered) return withContext(answered.error(), "the challenge");
  return readChallenge(answered->body);
}

Result<Order> Client::finalize(const Order& order, ByteView csr) {
  const auto answer = post(order.finalizeUrl, json{{"csr", toBase64Url(csr)}}.dump());
  if (!answer) return withContext(answer.error(), "finalize");
  return readOrder(*answer, order.url);
}

Result<std::vector<Bytes>> Client::certificate(const std::string& url) {
  const auto answer = post(url, "");
  if (!answer) return withContext(answer.error(), "the certificate");
  const Handle<BIO, BIO_free_all> bio(BIO_new_mem_buf(answer->response.body.data(), static_cast<int>(answer->response.body.size())));
  std::vector<Bytes> chain;
  while (bio && chain.size() <= kMaxChain) {
    const keys::X509Ptr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (!certificate) break;
    unsigned char* der = nullptr;
    const int length = i2d_X509(certificate.get(), &der);
    if (length <= 0) return std::unexpected(keys::opensslError(Reason::BadInput, "the certificate chain"));
    chain.emplace_back(der, der + length);
    OPENSSL_free(der);
  }
  ERR_clear_error();
  if (chain.empty() || chain.size() > kMaxChain)
    return fail(Reason::ServerError, "the ACME server's certificate resource is not a PEM chain");
  return chain;
}

}  // namespace wayleave::enrolment::acme
