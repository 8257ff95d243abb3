#pragma once

// The ACME protocol (RFC 8555): signed requests with nonces, resources as they are, problems as errors. No policy: what to
// order and when is acme/order.h's.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/clock.h"
#include "base/result.h"
#include "enrolment/acme/jose.h"
#include "enrolment/http.h"
#include "enrolment/pacer.h"

namespace wayleave::enrolment::acme {

struct Identifier {
  std::string type = "permanent-identifier";
  std::string value;
};

enum class OrderStatus : uint8_t { Pending, Ready, Processing, Valid, Invalid };

struct Order {
  std::string url;
  OrderStatus status = OrderStatus::Pending;
  std::vector<std::string> authorizations;
  std::string finalizeUrl, certificateUrl;
  std::optional<Error> problem;
  std::chrono::seconds retryAfter{0};
};

struct Challenge {
  std::string type, url, token, status;
  std::optional<Error> problem;
};
struct Authorization {
  std::string url, status;
  std::vector<Challenge> challenges;
  std::chrono::seconds retryAfter{0};
};

struct ClientOptions {
  std::string directoryUrl;
  std::optional<ExternalAccount> externalAccount;
  std::string contact;  // mailto:…, optional
  // A whole enrolment: a CA that keeps us waiting longer is asked again later, the order is kept.
  std::chrono::seconds patience{120};
};

// Not thread-safe.
class Client {
 public:
  Client(Http& http, Pacer& pacer, const Clock& clock, const AccountKey& key, ClientOptions options);

  // Fetches the directory and finds or makes the account. Errors (of every call): Unavailable, Untrusted, ServerError (5xx,
  // or an answer that is not ACME), RateLimited (hint says when), BadInput (the server calls our request malformed), NotEntitled
  // (unauthorized, externalAccountRequired, rejectedIdentifier), OrderInvalid, AttestationRefused, Cancelled.
  Status open();

  Result<Order> newOrder(const Identifier& identifier);
  Result<Order> order(const std::string& url);
  Result<Authorization> authorization(const std::string& url);
  Result<Challenge> answer(const std::string& challengeUrl, const std::string& payload);
  Result<Order> finalize(const Order& order, ByteView csr);
  // PEM → DER, leaf first. Errors: also BadInput (not a PEM chain).
  Result<std::vector<Bytes>> certificate(const std::string& url);

  const AccountKey& key() const { return key_; }
  Steady deadline() const { return deadline_; }
  // Waits `time` (a server's Retry-After), if patience allows. Errors: DeadlineExceeded, Cancelled.
  Status pause(std::chrono::seconds time);

 private:
  struct Answer;
  Result<Answer> post(const std::string& url, const std::string& payload, bool withJwk = false);
  Result<std::string> freshNonce();
  Result<Order> readOrder(const Answer& answer, const std::string& url);

  Http& http_;
  Pacer& pacer_;
  const Clock& clock_;
  const AccountKey& key_;
  ClientOptions options_;
  Steady deadline_;
  std::string newNonceUrl_, newAccountUrl_, newOrderUrl_, accountUrl_;
  std::string nonce_;  // from the last answer, unused
};

// An ACME problem document (RFC 7807, RFC 8555 section 6.7) as our Error: detail and every subproblem in the message.
Error problemError(int httpStatus, std::string_view contentType, std::string_view body, std::string_view retryAfter, Wall now);
// Retry-After in seconds (delta or HTTP date), bounded to a day; 0 when absent or unreadable.
std::chrono::seconds parseRetryAfter(std::string_view value, Wall now);

}  // namespace wayleave::enrolment::acme
