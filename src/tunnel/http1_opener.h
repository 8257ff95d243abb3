#pragma once

// CONNECT over HTTP/1.1 (RFC 9110 section 9.3.6): a TLS connection for each tunnel, resumed by ticket whenever one is at
// hand. For gateways that know no HTTP/2, like Squid.

#include <deque>
#include <functional>
#include <memory>
#include <unordered_set>

#include "tunnel/gateway_addresses.h"
#include "tunnel/link.h"
#include "tunnel/open_request.h"
#include "tunnel/opener.h"
#include "tunnel/stream.h"

namespace wayleave::tunnel {

class Http1Flow;

class Http1Opener final : public Opener {
 public:
  // `options.buffers` is set.
  Http1Opener(boost::asio::io_context& io, OpenerOptions options);
  ~Http1Opener() override;

  std::unique_ptr<Pending> open(const Target& target, StreamEvents& events, std::chrono::steady_clock::time_point deadline,
                                OpenDone done) override;
  void drain() override {}  // every tunnel has its own connection: new ones ask for the current context anyway
  void closeAll(const Error& why) override;

  void carry(std::shared_ptr<OpenRequest> request);
  // On a connection that is established already, for the openers that find out by ALPN.
  void carryOn(std::shared_ptr<Link> link, std::shared_ptr<OpenRequest> request);
  // Called with a request whose connection came out as HTTP/2; without it such a request fails.
  void onHttp2(std::function<void(std::shared_ptr<OpenRequest>)> handler) { onHttp2_ = std::move(handler); }

 private:
  friend class Http1Flow;

  void launchQueued();
  void fullHandshakeOver();
  void gone(Http1Flow& flow);

  boost::asio::io_context& io_;
  const OpenerOptions options_;
  GatewayAddresses addresses_;
  std::function<void(std::shared_ptr<OpenRequest>)> onHttp2_;
  std::unordered_set<std::shared_ptr<Http1Flow>> flows_;
  std::deque<std::shared_ptr<Http1Flow>> queue_;  // waiting for a ticket or for their turn at a full handshake
  size_t fullHandshakes_ = 0;
};

}  // namespace wayleave::tunnel
