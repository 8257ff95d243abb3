#pragma once

// The inside of ClientContext, for client_tls.cc alone.

#include <openssl/ssl.h>

#include <optional>

#include "tls/client_tls.h"
#include "tls/session_store.h"

namespace wayleave::tls {

using SslCtxPtr = Handle<SSL_CTX, SSL_CTX_free>;
using SslPtr = Handle<SSL, SSL_free>;

// What the step running on this thread may do. The callbacks of OpenSSL carry no such argument, and one SSL_CTX serves many
// steps at a time, so it travels in a thread-local.
struct StepPermit {
  bool maySign = false;
  Steady deadline;
};

class ContextImpl final : public ClientContext {
 public:
  ContextImpl(ClientContextOptions given, SslCtxPtr made) : options(std::move(given)), context(std::move(made)) {}
  bool hasSession() const override { return !sessions.empty(); }
  void forgetSessions() override { sessions.clear(); }
  void resumptionFailed() override { sessions.countFailure(); }

  // A connection with server name, name check and ALPN set.
  Result<SslPtr> newConnection() const;

  const ClientContextOptions options;
  const SslCtxPtr context;
  SessionStore sessions;
};

// Gives a context the identity's certificate, chain and callback key. Errors: as ClientContext::make.
Status useIdentity(SSL_CTX* context, const ClientIdentity& identity);

// What steps on this thread may do from now on.
void setPermit(StepPermit permit);

// Sets the permit of this thread for its lifetime.
class PermitScope {
 public:
  explicit PermitScope(StepPermit permit);
  ~PermitScope();
  PermitScope(const PermitScope&) = delete;
  PermitScope& operator=(const PermitScope&) = delete;
};

}  // namespace wayleave::tls
