#pragma once

// Messages to the MDM server: mutual TLS with the enrolment's identity, Mdm-Signature where the profile wants it, and what
// each answer means for the enrolment.

#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>

#include "base/clock.h"
#include "enrolment/http.h"
#include "enrolment/mdm/state.h"
#include "localapi/identity_client.h"

namespace wayleave::enrolment::mdm {

enum class Endpoint : uint8_t { CheckIn, Commands };

struct Delivery {
  int status = 0;  // 200..599
  Bytes body;
  // The server ended the enrolment: 401 to anything, or 403 with com.apple.unrecognized.device. What it said.
  std::optional<std::string> unenrol = {};
};

// Thread-safe, like what it is made of.
class Transport {
 public:
  struct Parts {
    localapi::IdentityAgent& agent;
    // The reference of the identity that is installed now; it changes when the profile is installed again.
    std::function<Result<Bytes>()> identity;
    bool allowPlainHttp = false;  // tests
    std::chrono::seconds timeout{30};
    std::stop_token stop = {};
  };
  explicit Transport(Parts parts) : parts_(std::move(parts)) {}

  // The server's answer, whatever its status but a redirect. Errors: those of Http::send and of the identity; ServerError
  // (a redirect: a device follows none, or whoever owns a name once would own its devices).
  Result<Delivery> send(const State& state, Endpoint endpoint, std::string_view contentType, ByteView body);

  // HTTPS with the enrolment's identity, for assets that ask for it (Authentication.Type MDM).
  Result<std::unique_ptr<Http>> httpWithIdentity(const State& state, const std::vector<std::string>& anchors, size_t mostBytes);

 private:
  struct Connection {
    std::unique_ptr<Http> http;
    std::vector<Bytes> chain;  // with which it was made
    std::vector<std::string> trust;
  };
  Result<localapi::IdentityInfo> identity();
  tls::ClientIdentity clientIdentity(const localapi::IdentityInfo& info);

  const Parts parts_;
  std::mutex mutex_;  // one message at a time, as the protocol is one conversation
  Connection connections_[2];
};

}  // namespace wayleave::enrolment::mdm
