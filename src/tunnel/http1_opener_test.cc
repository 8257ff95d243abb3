#include "tunnel/http1_opener.h"

#include <gtest/gtest.h>

#include "tunnel/gateway_test_support.h"

namespace wayleave::tunnel {
namespace {

using test::echo;
using test::Gateway;
using test::Peer;
using test::Tunnel;
using namespace std::chrono_literals;

class Http1 : public test::TunnelTest {
 protected:
  Reason reasonWhenGateway(const Gateway::Behaviour& behaviour, std::chrono::milliseconds patience = 5s) {
    const Gateway gateway(serverContext_, behaviour);
    return reasonFrom(gateway.port(), patience);
  }
  Reason reasonWhenAnswered(const std::string& answer) {
    return reasonWhenGateway([&](Peer& peer) {
      peer.readHead();
      peer.write(answer);
      peer.read();
    });
  }
};

TEST_F(Http1, CarriesBytesBothWaysAndEndsInOrder) {
  test::Noted head;
  const Gateway gateway(serverContext_, [&](Peer& peer) {
    head.set(peer.readHead());
    peer.write("HTTP/1.1 200 OK\r\n\r\nhello ");
    std::string got;
    while (got.size() < 300'000) got += peer.read();
    peer.write(std::to_string(got.size()));
    EXPECT_EQ(peer.read(), "") << "the client's half-close arrives";
    peer.write(" after half-close");
    peer.finish();
  });
  const auto opener = openerTo(gateway.port());
  Tunnel tunnel;
  tunnel.open(*opener, {"2001:db8::1", 22});
  runUntil([&] { return tunnel.answered; });
  ASSERT_TRUE(tunnel.stream) << describe(*tunnel.failure);
  tunnel.finishAfterSending = true;
  tunnel.send(std::string(300'000, 'u'));
  runUntil([&] { return tunnel.events.closed.has_value(); });
  EXPECT_EQ(head.get(), "CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n\r\n");
  EXPECT_EQ(tunnel.events.received, "hello 300000 after half-close");
  EXPECT_TRUE(tunnel.events.ended);
  EXPECT_EQ(tunnel.events.closed->reason, Reason::Completed);
}

TEST_F(Http1, MapsRefusals) {
  EXPECT_EQ(reasonWhenAnswered("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!"), Reason::GatewayDenied);
  EXPECT_EQ(reasonWhenAnswered("HTTP/1.1 407 Who\r\n\r\n"), Reason::GatewayAuthRequired);
  EXPECT_EQ(reasonWhenAnswered("HTTP/1.1 502 Bad Gateway\r\n\r\n"), Reason::GatewayCannotReachTarget);
  EXPECT_EQ(reasonWhenAnswered("HTTP/1.1 500 Oops\r\n\r\n"), Reason::GatewayRefused);
  EXPECT_EQ(reasonWhenAnswered("220 smtp.example ESMTP\r\n"), Reason::GatewayProtocolError);
  EXPECT_EQ(reasonWhenAnswered("HTTP/1.1 200 OK\r\nX: " + std::string(20'000, 'x')), Reason::GatewayProtocolError);
}

TEST_F(Http1, ReportsAGatewayThatIsDown) {
  uint16_t port = 0;
  {
    const test::Listener gone;
    port = gone.port;
  }
  EXPECT_EQ(reasonFrom(port), Reason::GatewayUnreachable);
}

TEST_F(Http1, ReportsAGatewayThatClosesEarly) {
  EXPECT_EQ(reasonWhenGateway([](Peer&) {}), Reason::GatewayClosed);
  EXPECT_EQ(reasonWhenGateway([](Peer& peer) {
              peer.readHead();
              peer.finish();
            }),
            Reason::GatewayClosed);
  EXPECT_EQ(reasonWhenGateway([](Peer& peer) {
              peer.readHead();
              peer.reset();
            }),
            Reason::GatewayClosed);
}

TEST_F(Http1, GivesUpOnAGatewayThatNeverAnswers) {
  EXPECT_EQ(reasonWhenGateway([](Peer& peer) {
              peer.readHead();
              peer.read();
            }, 150ms),
            Reason::GatewayTimeout);
  const test::Listener silent;  // accepts by backlog, never speaks TLS
  EXPECT_EQ(reasonFrom(silent.port, 150ms), Reason::GatewayTimeout);
}

TEST_F(Http1, ReportsARefusedCertificate) {
  const tls::test::Authority stranger("Stranger CA");
  device_ = stranger.issue("device-1", keys::KeyType::EcP256, "clientAuth", nullptr);
  EXPECT_EQ(reasonWhenGateway(echo), Reason::GatewayRefusedCertificate);
  context_.reset();
  SSL_CTX_set_max_proto_version(serverContext_.get(), TLS1_2_VERSION);
  EXPECT_EQ(reasonWhenGateway(echo), Reason::GatewayRefusedCertificate);
}

TEST_F(Http1, ReportsAGatewayItCannotTrust) {
  const tls::test::Authority stranger("Stranger CA");
  gatewayLeaf_ = stranger.issue("gateway.test", keys::KeyType::EcP256, "serverAuth", "DNS:gateway.test");
  serverContext_ = tls::test::serverContext(gatewayLeaf_, nullptr);
  EXPECT_EQ(reasonWhenGateway(echo), Reason::GatewayUntrusted);
}

TEST_F(Http1, TellsWhyThereIsNoIdentity) {
  const Gateway gateway(serverContext_, echo);
  OpenerOptions made = options(gateway.port());
  made.context = []() -> Result<std::shared_ptr<tls::ClientContext>> { return fail(Reason::IdentityExpired, "expired"); };
  const auto opener = makeOpener(io_, std::move(made));
  Tunnel tunnel;
  tunnel.open(*opener, {"origin.test", 443});
  runUntil([&] { return tunnel.answered; });
  EXPECT_EQ(tunnel.failure->reason, Reason::IdentityExpired);
  Tunnel bad;
  bad.open(*opener, {"no name", 443});
  runUntil([&] { return bad.answered; });
  EXPECT_EQ(bad.failure->reason, Reason::BadInput);
}

TEST_F(Http1, RefusesToDialWithASocketItCannotMark) {
  const Gateway gateway(serverContext_, echo);
  OpenerOptions made = options(gateway.port());
  made.socketOptions = [](int) -> Status { return fail(Reason::Io, "SO_MARK: not permitted"); };
  const auto opener = makeOpener(io_, std::move(made));
  Tunnel tunnel;
  tunnel.open(*opener, {"origin.test", 443});
  runUntil([&] { return tunnel.answered; });
  EXPECT_EQ(tunnel.failure->reason, Reason::Io);
  EXPECT_EQ(gateway.accepted(), 0);
}

TEST_F(Http1, TriesTheNextAddress) {
  const Gateway gateway(serverContext_, echo);
  OpenerOptions made = options(gateway.port());
  made.addresses = {"127.0.0.2", "127.0.0.1"};  // nobody listens on the first
  const auto opener = makeOpener(io_, std::move(made));
  Tunnel tunnel;
  tunnel.open(*opener, {"origin.test", 443});
  runUntil([&] { return tunnel.answered; });
  EXPECT_TRUE(tunnel.stream);
}

TEST_F(Http1, ResumesSoThatABurstNeedsFewSignatures) {
  std::atomic<int> signatures = 0;
  context_ = newContext([&] { ++signatures; });
  const Gateway gateway(serverContext_, echo);
  const auto opener = openerTo(gateway.port());
  std::vector<std::unique_ptr<Tunnel>> tunnels;
  for (int i = 0; i < 60; ++i) {
    tunnels.push_back(std::make_unique<Tunnel>());
    tunnels.back()->open(*opener, {"origin.test", 443}, 20s);
  }
  for (const auto& tunnel : tunnels) runUntil([&] { return tunnel->answered; });
  for (const auto& tunnel : tunnels) ASSERT_TRUE(tunnel->stream) << describe(*tunnel->failure);
  EXPECT_LE(signatures, 4);
  EXPECT_GE(gateway.resumed(), 56);
}

// The point of the handshake pool: a slow signer delays its own flow alone.
TEST_F(Http1, MovesDataWhileASignerSleeps) {
  const Gateway gateway(serverContext_, echo);
  const auto opener = openerTo(gateway.port());
  Tunnel fast;
  fast.open(*opener, {"origin.test", 443});
  runUntil([&] { return fast.answered; });
  ASSERT_TRUE(fast.stream);

  std::atomic<bool> signing = false;
  context_ = newContext([&] {
    signing = true;
    std::this_thread::sleep_for(600ms);  // a TPM at its 95th percentile
    signing = false;
  });
  Tunnel slow;
  slow.open(*opener, {"origin.test", 443});
  runUntil([&] { return signing.load(); });
  int exchanges = 0;
  auto longest = 0ns;
  while (signing) {
    const auto start = std::chrono::steady_clock::now();
    const size_t before = fast.events.received.size();
    fast.send(std::string(1024, 'x'));
    runUntil([&] { return fast.events.received.size() == before + 1024; });
    longest = std::max<std::chrono::nanoseconds>(longest, std::chrono::steady_clock::now() - start);
    ++exchanges;
  }
  EXPECT_GT(exchanges, 50);
  EXPECT_LT(longest, 300ms);
  EXPECT_FALSE(slow.answered);
  runUntil([&] { return slow.answered; });
  EXPECT_TRUE(slow.stream);
}

TEST_F(Http1, CallsALateSignatureWhatItIs) {
  const Gateway gateway(serverContext_, echo);
  context_ = newContext([] { std::this_thread::sleep_for(400ms); });
  const auto opener = openerTo(gateway.port());
  Tunnel tunnel;
  tunnel.open(*opener, {"origin.test", 443}, 200ms);
  runUntil([&] { return tunnel.answered; });
  EXPECT_EQ(tunnel.failure->reason, Reason::DeadlineExceeded) << describe(*tunnel.failure);
}

TEST_F(Http1, StopsReadingWhenTheFlowDoes) {
  constexpr size_t kTotal = 64 << 20;
  std::atomic<size_t> written = 0;
  const Gateway gateway(serverContext_, [&](Peer& peer) {
    peer.readHead();
    peer.write("HTTP/1.1 200 OK\r\n\r\n");
    const std::string block(1 << 16, 'd');
    while (written < kTotal && peer.write(block)) written += block.size();
    peer.finish();
  });
  const auto opener = openerTo(gateway.port());
  Tunnel tunnel;
  tunnel.events.appetite = 1000;
  tunnel.events.keep = false;
  tunnel.open(*opener, {"origin.test", 443});
  runUntil([&] { return tunnel.events.receivedBytes == 1000; });
  runFor(300ms);
  EXPECT_EQ(tunnel.events.receivedBytes, 1000u);
  EXPECT_LT(written, kTotal / 2) << "the gateway was not held back";
  tunnel.events.appetite = SIZE_MAX;
  tunnel.stream->resumeReading();
  runUntil([&] { return tunnel.events.ended; });
  EXPECT_EQ(tunnel.events.receivedBytes, kTotal);
}

TEST_F(Http1, HoldsTheFlowBackWhenTheGatewayStopsReading) {
  std::atomic<bool> read = false;
  std::atomic<size_t> got = 0;
  const Gateway gateway(serverContext_, [&](Peer& peer) {
    peer.readHead();
    peer.write("HTTP/1.1 200 OK\r\n\r\n");
    while (!read) std::this_thread::sleep_for(5ms);
    for (;;) {
      const std::string bytes = peer.read();
      if (bytes.empty()) break;
      got += bytes.size();
    }
    peer.finish();
  });
  const auto opener = openerTo(gateway.port());
  Tunnel tunnel;
  tunnel.open(*opener, {"origin.test", 443});
  runUntil([&] { return tunnel.answered; });
  tunnel.finishAfterSending = true;
  tunnel.send(std::string(64 << 20, 'u'));
  runFor(100ms);
  EXPECT_LT(tunnel.sent, 32u << 20);
  EXPECT_EQ(tunnel.stream->writeCapacity(), 0u);
  read = true;
  runUntil([&] { return tunnel.events.closed.has_value(); });
  EXPECT_EQ(got, 64u << 20);
  EXPECT_EQ(tunnel.events.closed->reason, Reason::Completed);
}

TEST_F(Http1, TellsAnOpenFlowThatTheGatewayVanished) {
  const Gateway gateway(serverContext_, [](Peer& peer) {
    peer.readHead();
    peer.write("HTTP/1.1 200 OK\r\n\r\n");
    peer.read();
    peer.reset();
  });
  const auto opener = openerTo(gateway.port());
  Tunnel tunnel;
  tunnel.open(*opener, {"origin.test", 443});
  runUntil([&] { return tunnel.answered; });
  tunnel.send("x");
  runUntil([&] { return tunnel.events.closed.has_value(); });
  EXPECT_EQ(tunnel.events.closed->reason, Reason::GatewayClosed);
  EXPECT_EQ(tunnel.stream->write(asBytes("y")), 0u);
}

TEST_F(Http1, ClosesFlowsWithTheReasonGiven) {
  const Gateway gateway(serverContext_, echo);
  auto opener = openerTo(gateway.port());
  Tunnel open;
  open.open(*opener, {"origin.test", 443});
  runUntil([&] { return open.answered; });
  Tunnel opening;
  opening.open(*opener, {"origin.test", 443});
  opener->closeAll({Reason::IdentityUnavailable, "removed", {}});
  EXPECT_EQ(open.events.closed->reason, Reason::IdentityUnavailable);
  EXPECT_EQ(opening.failure->reason, Reason::IdentityUnavailable);

  Tunnel last;
  last.open(*opener, {"origin.test", 443});
  runUntil([&] { return last.answered; });
  opener.reset();
  EXPECT_EQ(last.events.closed->reason, Reason::Drained);
}

TEST_F(Http1, CancelsAndAbandonsWithoutAWord) {
  std::atomic<int> ended = 0;
  const Gateway gateway(serverContext_, [&](Peer& peer) {
    echo(peer);
    ++ended;
  });
  const auto opener = openerTo(gateway.port());
  Tunnel cancelled;
  cancelled.open(*opener, {"origin.test", 443});
  cancelled.pending.reset();
  Tunnel abandoned;
  abandoned.open(*opener, {"origin.test", 443});
  runUntil([&] { return abandoned.answered; });
  abandoned.stream.reset();
  runUntil([&] { return ended >= 1; });
  EXPECT_FALSE(cancelled.answered);
  EXPECT_FALSE(abandoned.events.closed);
}

TEST_F(Http1, LooksUpAName) {
  const Gateway gateway(serverContext_, echo);
  OpenerOptions made = options(gateway.port());
  made.host = "localhost";
  const auto opener = makeOpener(io_, made);
  Tunnel tunnel;
  tunnel.open(*opener, {"origin.test", 443});
  runUntil([&] { return tunnel.answered; });
  EXPECT_TRUE(tunnel.stream);

  made.host = "no-such-host.invalid";
  const auto lost = makeOpener(io_, made);
  Tunnel none;
  none.open(*lost, {"origin.test", 443});
  runUntil([&] { return none.answered; });
  EXPECT_EQ(none.failure->reason, Reason::GatewayUnreachable);
}

}  // namespace
}  // namespace wayleave::tunnel
