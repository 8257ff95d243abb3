#pragma once

// The identity of one configuration, as TLS contexts: resolved at the broker, renewed, lost. Control threads change it;
// workers ask for the current context when they dial.

#include <memory>
#include <mutex>
#include <string>

#include "localapi/identity_client.h"
#include "localapi/proxy_configuration.h"
#include "tls/client_tls.h"

namespace wayleave::proxy::control {

class GatewayIdentity {
 public:
  // `agent` outlives every context that was given out.
  GatewayIdentity(localapi::ProxyConfiguration configuration, localapi::IdentityAgent& agent);

  // From any thread. Errors: IdentityUnavailable and the like, with why.
  Result<std::shared_ptr<tls::ClientContext>> context() const;

  enum class Change : uint8_t { None, Ready, Renewed, Lost };
  // Asks the broker again; blocks for its answer. A broker that does not answer changes nothing about an identity that is
  // known: its signatures may still come.
  Change refresh();
  bool isMeant(const localapi::IdentityEvent& event) const;
  // The broker said that it is gone.
  void lose(Error why);

  struct View {
    bool ready = false;
    std::string id, subject, notAfter, keyKind;
    std::string error;
  };
  View view() const;
  bool needsRetry() const;

 private:
  Result<std::shared_ptr<tls::ClientContext>> makeContext(const localapi::IdentityInfo* identity) const;

  const localapi::ProxyConfiguration configuration_;
  localapi::IdentityAgent& agent_;
  mutable std::mutex mutex_;  // held for copies only, once per new connection
  Result<std::shared_ptr<tls::ClientContext>> context_;
  localapi::IdentityInfo identity_;
  bool retry_ = true;
};

}  // namespace wayleave::proxy::control
