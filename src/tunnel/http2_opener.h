#pragma once

// CONNECT over HTTP/2: many tunnels on few connections.
//
// What always holds (after ztunnel's pool): at most one dial at a time, so that a thousand flows at once ask for one
// signature; a connection that was told to go away, or is full, gets no request; a request that the gateway did not
// process is tried again on another connection, twice at most; connections are filled one after the other, so that
// those above the need run dry and are released.

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "tunnel/gateway_addresses.h"
#include "tunnel/http2_connection.h"

namespace wayleave::tunnel {

class Http2Opener final : public Opener, private Http2Pool, private Carrier {
 public:
  // `options.buffers` is set.
  Http2Opener(boost::asio::io_context& io, OpenerOptions options);
  ~Http2Opener() override;

  std::unique_ptr<Pending> open(const Target& target, StreamEvents& events, std::chrono::steady_clock::time_point deadline,
                                OpenDone done) override;
  void drain() override;
  void closeAll(const Error& why) override;
  void warm() override;

  void carry(std::shared_ptr<OpenRequest> request);
  // Called when the gateway chose HTTP/1.1, with the connection and everyone who waits; without it they fail.
  using OnHttp1 = std::function<void(std::shared_ptr<Link>, std::vector<std::shared_ptr<OpenRequest>>)>;
  void onHttp1(OnHttp1 handler) { onHttp1_ = std::move(handler); }

  size_t connections() const { return connections_.size(); }

 private:
  // Http2Pool
  void connectionReady(Http2Connection& connection) override;
  void connectionHasRoom(Http2Connection& connection) override;
  void connectionIsHttp1(Http2Connection& connection, std::shared_ptr<Link> link) override;
  void connectionGone(Http2Connection& connection, const Error& why) override;
  void retryRequest(std::shared_ptr<OpenRequest> request, const Error& why) override;
  void requestIgnored(Http2Connection& connection, int32_t id, bool silent) override;
  bool connectionIsSpare(const Http2Connection& connection) const override;
  // Carrier, of those who wait for a connection
  void abandonRequest() override {}
  Error lateness() const override;

  void serveAtMost(size_t streams);
  void dial();
  void dialFailed(const Error& why);
  void assignWaiting();
  std::shared_ptr<OpenRequest> nextWaiting();
  std::vector<std::shared_ptr<OpenRequest>> takeWaiting();

  boost::asio::io_context& io_;
  const OpenerOptions options_;
  GatewayAddresses addresses_;
  OnHttp1 onHttp1_;
  std::vector<std::shared_ptr<Http2Connection>> connections_;  // ready ones, and draining ones until they end
  std::shared_ptr<Http2Connection> dialling_;
  bool resolving_ = false;
  // What the gateway was seen to serve at once on a connection, whatever it says; until when; and when to look again after
  // it was the target that was slow.
  size_t served_ = Http2Session::kMaxStreams;
  Steady servedUntil_{};
  Steady suspectAgain_{};
  bool outdated_ = false;  // drain() came during the dial
  std::deque<std::shared_ptr<OpenRequest>> waiting_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace wayleave::tunnel
