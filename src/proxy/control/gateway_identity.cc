#include "proxy/control/gateway_identity.h"

#include "base/log.h"

namespace wayleave::proxy::control {
namespace {

std::vector<std::string> alpnFor(localapi::GatewayProtocol protocol) {
  switch (protocol) {
    case localapi::GatewayProtocol::Automatic: return {"h2", "http/1.1"};
    case localapi::GatewayProtocol::Http1: return {"http/1.1"};
    case localapi::GatewayProtocol::Http2: return {"h2"};
  }
  return {};
}

// The broker's silence is not a verdict about the identity.
bool brokerSilent(const Error& error) {
  return error.reason == Reason::Unavailable || error.reason == Reason::DeadlineExceeded || error.reason == Reason::Busy ||
         error.reason == Reason::Io;
}

// What flows say: an identity that cannot be had, whatever the broker's word for it was.
Error forFlows(Error error) {
  if (error.reason == Reason::NotFound || brokerSilent(error)) error.reason = Reason::IdentityUnavailable;
  error.message.insert(0, "the device's identity: ");
  return error;
}

tls::SignCallback signer(localapi::IdentityAgent& agent, Bytes reference) {
  return [&agent, reference = std::move(reference)](const tls::SignInput& input) {
    return agent.signTls({.reference = reference,
                          .scheme = std::string(keys::text(input.scheme)),
                          .tls13 = input.tls13,
                          .content = toBytes(input.input)},
                         input.deadline);
  };
}

}  // namespace

GatewayIdentity::GatewayIdentity(localapi::ProxyConfiguration configuration, localapi::IdentityAgent& agent)
    : configuration_(std::move(configuration)),
      agent_(agent),
      context_(fail(Reason::IdentityUnavailable, "the device's identity was not resolved yet")) {}

Result<std::shared_ptr<tls::ClientContext>> GatewayIdentity::context() const {
  const std::lock_guard lock(mutex_);
  return context_;
}

Result<std::shared_ptr<tls::ClientContext>> GatewayIdentity::makeContext(const localapi::IdentityInfo* identity) const {
  tls::ClientContextOptions options;
  if (identity != nullptr)
    options.identity = tls::ClientIdentity{identity->chain, signer(agent_, configuration_.identityReference)};
  options.trustAnchorsPem = configuration_.trustAnchors;
  options.serverName = configuration_.gatewayServerName.empty() ? configuration_.gatewayHost : configuration_.gatewayServerName;
  options.alpn = alpnFor(configuration_.protocol);
  return tls::ClientContext::make(std::move(options));
}

GatewayIdentity::Change GatewayIdentity::refresh() {
  const bool wanted = !configuration_.identityReference.empty();
  Result<localapi::IdentityInfo> found = wanted ? agent_.resolve(configuration_.identityReference) : localapi::IdentityInfo{};
  // The broker still knows it and no one can ever sign with it: the event that said so may have been missed.
  if (found && found->state == "lost") found = fail(Reason::IdentityLost, "its key can never be used again", found->stateDetail);
  const std::lock_guard lock(mutex_);
  if (!found) {
    retry_ = true;
    if (context_ && brokerSilent(found.error())) return Change::None;
    const bool wasReady = context_.has_value();
    context_ = std::unexpected(forFlows(found.error()));
    return wasReady ? Change::Lost : Change::None;
  }
  retry_ = false;
  if (context_ && found->chain == identity_.chain) return Change::None;
  auto made = makeContext(wanted ? &*found : nullptr);
  if (!made) {
    log::failure("no TLS context for the gateway", made.error(), {{"configuration", configuration_.id}});
    const bool wasReady = context_.has_value();
    context_ = std::unexpected(forFlows(made.error()));
    retry_ = true;
    return wasReady ? Change::Lost : Change::None;
  }
  const Change change = context_ ? Change::Renewed : Change::Ready;
  if (context_) (*context_)->forgetSessions();
  context_ = std::move(*made);
  identity_ = std::move(*found);
  return change;
}

bool GatewayIdentity::isMeant(const localapi::IdentityEvent& event) const {
  const std::lock_guard lock(mutex_);
  return event.reference == configuration_.identityReference || (!identity_.id.empty() && event.identity == identity_.id) ||
         !context_;
}

void GatewayIdentity::lose(Error why) {
  const std::lock_guard lock(mutex_);
  if (context_) (*context_)->forgetSessions();
  context_ = std::unexpected(std::move(why));
  retry_ = true;
}

GatewayIdentity::View GatewayIdentity::view() const {
  const std::lock_guard lock(mutex_);
  return {.ready = context_.has_value(),
          .id = identity_.id,
          .subject = identity_.subject,
          .notAfter = identity_.notAfter,
          .keyKind = identity_.keyKind,
          .error = context_ ? std::string() : describe(context_.error())};
}

bool GatewayIdentity::needsRetry() const {
  const std::lock_guard lock(mutex_);
  return retry_;
}

}  // namespace wayleave::proxy::control
