#include "tunnel/http2_opener.h"

#include <gtest/gtest.h>

#include "tunnel/http2_gateway_test_support.h"

namespace wayleave::tunnel {
namespace {

using test::Gateway;
using test::Http2Behaviour;
using test::Http2Peer;
using test::Tunnel;
using namespace std::chrono_literals;

class Http2 : public test::TunnelTest {
 protected:
  Http2() : TunnelTest({"h2"}, Protocol::Http2) { test::withAlpn(serverContext_, "\x02h2"); }

  std::unique_ptr<Gateway> gatewayThat(const Http2Behaviour& behaviour) {
    return std::make_unique<Gateway>(serverContext_, test::http2(behaviour));
  }
  void openAndWait(Opener& opener, Tunnel& tunnel, const Target& target = {"origin.test", 443}) {
    tunnel.open(opener, target);
    runUntil([&] { return tunnel.answered; });
    ASSERT_TRUE(tunnel.stream) << describe(*tunnel.failure);
  }
  Error errorWhenGateway(const Http2Behaviour& behaviour, std::chrono::milliseconds patience = 5s) {
    const auto gateway = gatewayThat(behaviour);
    const auto opener = openerTo(gateway->port());
    Tunnel tunnel;
    tunnel.open(*opener, {"origin.test", 443}, patience);
    runUntil([&] { return tunnel.answered; });
    EXPECT_TRUE(tunnel.failure);
    return tunnel.failure.value_or(Error{});
  }
  Reason reasonWhenAnswered(const char* status) {
    Http2Behaviour behaviour;
    behaviour.onRequest = [status](Http2Peer& peer, int32_t id, const std::string&) { peer.respond(id, status, true); };
    return errorWhenGateway(behaviour).reason;
  }
};

TEST_F(Http2, CarriesBytesBothWaysAndEndsInOrder) {
  test::Noted authority;
  Http2Behaviour behaviour;
  behaviour.onRequest = [&](Http2Peer& peer, int32_t id, const std::string& target) {
    authority.set(target);
    peer.respond(id, "200");
    peer.send(id, "hello ");
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel tunnel;
  openAndWait(*opener, tunnel, {"2001:db8::1", 22});
  std::string sent;
  for (int i = 0; i < 3'000'000; ++i) sent.push_back(static_cast<char>(i * 31 + i / 251));
  tunnel.finishAfterSending = true;
  tunnel.send(sent);
  runUntil([&] { return tunnel.events.closed.has_value(); });
  EXPECT_EQ(authority.get(), "[2001:db8::1]:22");
  EXPECT_TRUE(tunnel.events.received == "hello " + sent);
  EXPECT_TRUE(tunnel.events.ended);
  EXPECT_EQ(tunnel.events.closed->reason, Reason::Completed);
}

TEST_F(Http2, HalfClosesEitherWay) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [](Http2Peer& peer, int32_t id, const std::string&) {
    peer.respond(id, "200");
    peer.send(id, "all I have");
    peer.end(id);
  };
  behaviour.onData = [](Http2Peer& peer, int32_t, std::string_view bytes) { peer.total += bytes.size(); };
  behaviour.onEnd = [](Http2Peer&, int32_t) {};
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel tunnel;
  openAndWait(*opener, tunnel);
  runUntil([&] { return tunnel.events.ended; });
  EXPECT_EQ(tunnel.events.received, "all I have");
  EXPECT_FALSE(tunnel.events.closed) << "writing may go on";
  tunnel.finishAfterSending = true;
  tunnel.send(std::string(100'000, 'x'));
  runUntil([&] { return tunnel.events.closed.has_value(); });
  EXPECT_EQ(tunnel.events.closed->reason, Reason::Completed);
}

// What nghttpx does when an origin behind it closes. A slow reader still gets every byte.
TEST_F(Http2, EndsInOrderWhenTheGatewayTakesNoMore) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [](Http2Peer& peer, int32_t id, const std::string&) {
    peer.respond(id, "200");
    peer.send(id, std::string(200'000, 'e'));
    peer.end(id);
    peer.total = static_cast<size_t>(id);
  };
  behaviour.onTick = [](Http2Peer& peer) {
    if (peer.total != 0) peer.reset(static_cast<int32_t>(std::exchange(peer.total, 0)), NGHTTP2_NO_ERROR);
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel tunnel;
  tunnel.events.appetite = 10;
  openAndWait(*opener, tunnel);
  runFor(100ms);
  EXPECT_FALSE(tunnel.events.ended);
  EXPECT_FALSE(tunnel.events.closed);
  tunnel.events.appetite = SIZE_MAX;
  tunnel.stream->resumeReading();
  runUntil([&] { return tunnel.events.closed.has_value(); });
  EXPECT_EQ(tunnel.events.receivedBytes, 200'000u);
  EXPECT_TRUE(tunnel.events.ended);
  EXPECT_EQ(tunnel.events.closed->reason, Reason::Completed);
}

TEST_F(Http2, MapsRefusals) {
  EXPECT_EQ(reasonWhenAnswered("403"), Reason::GatewayDenied);
  EXPECT_EQ(reasonWhenAnswered("407"), Reason::GatewayAuthRequired);
  EXPECT_EQ(reasonWhenAnswered("503"), Reason::GatewayCannotReachTarget);
  EXPECT_EQ(reasonWhenAnswered("404"), Reason::GatewayRefused);
}

TEST_F(Http2, MapsResetsOfRequests) {
  const auto reasonWhenReset = [&](uint32_t code) {
    Http2Behaviour behaviour;
    behaviour.onRequest = [code](Http2Peer& peer, int32_t id, const std::string&) { peer.reset(id, code); };
    return errorWhenGateway(behaviour).reason;
  };
  EXPECT_EQ(reasonWhenReset(NGHTTP2_CONNECT_ERROR), Reason::GatewayCannotReachTarget);
  EXPECT_EQ(reasonWhenReset(NGHTTP2_PROTOCOL_ERROR), Reason::GatewayProtocolError);
  EXPECT_EQ(reasonWhenReset(NGHTTP2_INTERNAL_ERROR), Reason::GatewayClosed);
  EXPECT_EQ(reasonWhenReset(NGHTTP2_HTTP_1_1_REQUIRED), Reason::GatewayRefused);
  EXPECT_EQ(reasonWhenReset(NGHTTP2_REFUSED_STREAM), Reason::GatewayRefused) << "after its retries";
}

TEST_F(Http2, MapsResetsOfOpenTunnels) {
  const auto reasonWhenReset = [&](uint32_t code) {
    Http2Behaviour behaviour;
    behaviour.onData = [code](Http2Peer& peer, int32_t id, std::string_view) { peer.reset(id, code); };
    const auto gateway = gatewayThat(behaviour);
    const auto opener = openerTo(gateway->port());
    Tunnel tunnel;
    openAndWait(*opener, tunnel);
    tunnel.send("x");
    runUntil([&] { return tunnel.events.closed.has_value(); });
    return tunnel.events.closed->reason;
  };
  EXPECT_EQ(reasonWhenReset(NGHTTP2_CONNECT_ERROR), Reason::TargetReset);
  EXPECT_EQ(reasonWhenReset(NGHTTP2_CANCEL), Reason::TargetReset);
  EXPECT_EQ(reasonWhenReset(NGHTTP2_INTERNAL_ERROR), Reason::GatewayClosed);
}

TEST_F(Http2, RefusesBrokenHeads) {
  using Fields = std::vector<std::pair<std::string, std::string>>;
  const auto reasonWhenHead = [&](const Fields& fields) {
    Http2Behaviour behaviour;
    behaviour.onRequest = [&](Http2Peer& peer, int32_t id, const std::string&) { peer.respondWith(id, fields); };
    return errorWhenGateway(behaviour).reason;
  };
  EXPECT_EQ(reasonWhenHead({{"server", "no status"}}), Reason::GatewayProtocolError);
  EXPECT_EQ(reasonWhenHead({{":status", "abc"}}), Reason::GatewayProtocolError);
  EXPECT_EQ(reasonWhenHead({{":status", "200"}, {":status", "200"}}), Reason::GatewayProtocolError);
  Fields big{{":status", "200"}};
  for (int i = 0; i < 30; ++i) big.emplace_back("x-" + std::to_string(i), std::string(1000, 'x'));
  EXPECT_EQ(reasonWhenHead(big), Reason::GatewayProtocolError);
}

TEST_F(Http2, ReportsAGatewayThatIsNoHttp2) {
  const Gateway text(serverContext_, [](test::Peer& peer) {
    peer.write("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    peer.read();
    peer.read();
  });
  EXPECT_EQ(reasonFrom(text.port()), Reason::GatewayProtocolError);
  const Gateway early(serverContext_, [](test::Peer&) {});
  EXPECT_EQ(reasonFrom(early.port()), Reason::GatewayClosed);
  context_.reset();
  serverContext_ = tls::test::serverContext(gatewayLeaf_, authority_.certificate());  // no ALPN
  const Gateway noAlpn(serverContext_, test::echo);
  EXPECT_EQ(reasonFrom(noAlpn.port()), Reason::GatewayProtocolError);
}

TEST_F(Http2, ReportsARefusedCertificate) {
  const tls::test::Authority stranger("Stranger CA");
  device_ = stranger.issue("device-1", keys::KeyType::EcP256, "clientAuth", nullptr);
  EXPECT_EQ(errorWhenGateway({}).reason, Reason::GatewayRefusedCertificate);
}

TEST_F(Http2, GivesUpOnAGatewayThatNeverAnswers) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [](Http2Peer&, int32_t, const std::string&) {};
  EXPECT_EQ(errorWhenGateway(behaviour, 150ms).reason, Reason::GatewayTimeout);
}

// A thousand flows at once on a cold gateway: one dial at a time, one signature, ten connections of a hundred streams.
TEST_F(Http2, OpensAThousandTunnelsWithOneSignature) {
  std::atomic<int> signatures = 0;
  context_ = newContext([&] { ++signatures; });
  const auto gateway = gatewayThat({});
  const auto opener = openerTo(gateway->port());
  std::vector<std::unique_ptr<Tunnel>> tunnels;
  for (int i = 0; i < 1000; ++i) {
    tunnels.push_back(std::make_unique<Tunnel>());
    tunnels.back()->open(*opener, {"origin.test", 443}, 20s);
  }
  for (const auto& tunnel : tunnels) runUntil([&] { return tunnel->answered; });
  for (const auto& tunnel : tunnels) ASSERT_TRUE(tunnel->stream) << describe(*tunnel->failure);
  EXPECT_EQ(signatures, 1);
  EXPECT_EQ(gateway->accepted(), 10);
  for (const auto& tunnel : tunnels) tunnel->send("ping");
  for (const auto& tunnel : tunnels) runUntil([&] { return tunnel->events.received == "ping"; });
}

TEST_F(Http2, RespectsTheGatewaysStreamLimit) {
  Http2Behaviour behaviour;
  behaviour.maxStreams = 3;
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel first;
  openAndWait(*opener, first);  // the limit is known from here on
  std::vector<std::unique_ptr<Tunnel>> tunnels;
  for (int i = 0; i < 5; ++i) {
    tunnels.push_back(std::make_unique<Tunnel>());
    tunnels.back()->open(*opener, {"origin.test", 443});
  }
  for (const auto& tunnel : tunnels) runUntil([&] { return tunnel->answered; });
  for (const auto& tunnel : tunnels) EXPECT_TRUE(tunnel->stream);
  EXPECT_EQ(gateway->accepted(), 2);
}

TEST_F(Http2, GathersSmallWrites) {
  std::atomic<int> chunks = 0;
  std::atomic<size_t> bytes = 0;
  Http2Behaviour behaviour;
  behaviour.onData = [&](Http2Peer&, int32_t, std::string_view got) {
    ++chunks;
    bytes += got.size();
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel tunnel;
  openAndWait(*opener, tunnel);
  constexpr size_t kWrites = 100'000;
  size_t written = 0;
  const auto writeSome = [&] {
    while (written < kWrites && tunnel.stream->write(asBytes("x")) == 1) ++written;
  };
  tunnel.events.whenWritable = writeSome;
  writeSome();
  runUntil([&] { return bytes == kWrites; });
  EXPECT_LT(chunks, 200) << "no tiny DATA frames";
}

TEST_F(Http2, OneStalledFlowHoldsUpNeitherMemoryNorItsSiblings) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [](Http2Peer& peer, int32_t id, const std::string& authority) {
    peer.respond(id, "200");
    if (authority.starts_with("flood")) peer.send(id, std::string(64 << 20, 'f'));
  };
  const auto gateway = gatewayThat(behaviour);
  OpenerOptions made = options(gateway->port());
  made.answerPatience = 60s;  // a flooding gateway under a sanitizer is late, too; here that is not to look like refusal
  const auto opener = makeOpener(io_, std::move(made));
  std::vector<std::unique_ptr<Tunnel>> stalled;
  for (int i = 0; i < 6; ++i) {  // six windows are more than the connection's
    stalled.push_back(std::make_unique<Tunnel>());
    stalled.back()->events.appetite = 10;
    stalled.back()->events.keep = false;
    openAndWait(*opener, *stalled.back(), {"flood.test", 1});
  }
  runFor(300ms);
  Tunnel lively;
  openAndWait(*opener, lively);
  lively.send(std::string(2'000'000, 'l'));
  runUntil([&] { return lively.events.receivedBytes == 2'000'000; });
  EXPECT_EQ(gateway->accepted(), 1) << "all on one connection";
  EXPECT_EQ(stalled[0]->events.receivedBytes, 10u);
  // And it comes to life again, whole.
  stalled[0]->events.appetite = SIZE_MAX;
  stalled[0]->stream->resumeReading();
  runUntil([&] { return stalled[0]->events.receivedBytes == 64u << 20; });
}

TEST_F(Http2, HoldsTheFlowBackWhenTheGatewayStopsReading) {
  std::atomic<bool> read = false;
  std::atomic<size_t> got = 0;
  Http2Behaviour behaviour;
  behaviour.autoWindow = false;
  behaviour.streamWindow = 65'535;
  behaviour.onData = [&](Http2Peer& peer, int32_t, std::string_view bytes) { peer.total += bytes.size(); };
  behaviour.onTick = [&](Http2Peer& peer) {
    if (!read || peer.total == 0) return;
    got += peer.total;
    for (const int32_t id : peer.ids()) peer.consume(id, std::exchange(peer.total, 0));
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel tunnel;
  openAndWait(*opener, tunnel);
  tunnel.finishAfterSending = false;
  tunnel.send(std::string(1'000'000, 'u'));
  runFor(100ms);
  EXPECT_LE(tunnel.sent, 65'535u);
  EXPECT_EQ(tunnel.stream->writeCapacity(), 0u);
  read = true;
  runUntil([&] { return got == 1'000'000; });
}

TEST_F(Http2, FinishesStreamsBelowAGoAwayAndMovesTheRest) {
  std::atomic<int> connections = 0;
  Http2Behaviour behaviour;
  behaviour.onRequest = [&](Http2Peer& peer, int32_t id, const std::string& authority) {
    if (id == 1 && authority.starts_with("first")) ++connections;
    if (authority.starts_with("second") && connections == 1) {
      ++connections;
      peer.goAway(1);  // `second` was not processed; `first` goes on
      return;
    }
    peer.respond(id, "200");
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel first;
  openAndWait(*opener, first, {"first.test", 1});
  first.send(std::string(100'000, 'a'));
  Tunnel second;
  openAndWait(*opener, second, {"second.test", 1});
  EXPECT_EQ(gateway->accepted(), 2);
  first.finishAfterSending = true;
  first.send(std::string(2'000'000, 'b'));
  second.finishAfterSending = true;
  second.send("moved");
  runUntil([&] { return first.events.closed && second.events.closed; });
  EXPECT_EQ(first.events.receivedBytes, 2'100'000u);
  EXPECT_EQ(first.events.closed->reason, Reason::Completed);
  EXPECT_EQ(second.events.received, "moved");
}

TEST_F(Http2, NeverUsesAConnectionThatWasToldToGo) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [&](Http2Peer& peer, int32_t id, const std::string&) {
    peer.respond(id, "200");
    peer.goAway(id);
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  for (int i = 1; i <= 3; ++i) {
    Tunnel tunnel;
    openAndWait(*opener, tunnel);
    runFor(20ms);
    EXPECT_EQ(gateway->accepted(), i);
  }
}

TEST_F(Http2, SurvivesAStormOfResets) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [&](Http2Peer& peer, int32_t id, const std::string& authority) {
    if (authority.starts_with("storm"))
      peer.reset(id, NGHTTP2_INTERNAL_ERROR);
    else
      peer.respond(id, "200");
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel steady;
  openAndWait(*opener, steady);
  int failed = 0;
  for (int round = 0; round < 50; ++round) {
    std::vector<std::unique_ptr<Tunnel>> tunnels;
    for (int i = 0; i < 60; ++i) {
      tunnels.push_back(std::make_unique<Tunnel>());
      tunnels.back()->open(*opener, {"storm.test", 1});
    }
    for (const auto& tunnel : tunnels) runUntil([&] { return tunnel->answered; });
    for (const auto& tunnel : tunnels) failed += tunnel->failure.has_value();
  }
  EXPECT_EQ(failed, 3000);
  // And ours: open, write, abandon.
  for (int round = 0; round < 50; ++round) {
    std::vector<std::unique_ptr<Tunnel>> tunnels;
    for (int i = 0; i < 60; ++i) {
      tunnels.push_back(std::make_unique<Tunnel>());
      tunnels.back()->open(*opener, {"brief.test", 1});
    }
    for (const auto& tunnel : tunnels) runUntil([&] { return tunnel->answered; });
    for (const auto& tunnel : tunnels)
      if (tunnel->stream) tunnel->stream->write(asBytes(std::string(round % 2 ? 10 : 10'000, 'x')));
  }
  steady.send("still here");
  runUntil([&] { return steady.events.received == "still here"; });
}

TEST_F(Http2, FindsADeadGatewayByPing) {
  Http2Behaviour behaviour;
  behaviour.answersPings = false;
  const auto gateway = gatewayThat(behaviour);
  OpenerOptions made = options(gateway->port());
  made.pingInterval = 50ms;
  made.pingTimeout = 100ms;
  const auto opener = makeOpener(io_, std::move(made));
  Tunnel tunnel;
  openAndWait(*opener, tunnel);
  runUntil([&] { return tunnel.events.closed.has_value(); });
  EXPECT_EQ(tunnel.events.closed->reason, Reason::GatewayTimeout);
}

TEST_F(Http2, KeepsAQuietConnectionThatAnswersPings) {
  const auto gateway = gatewayThat({});
  OpenerOptions made = options(gateway->port());
  made.pingInterval = 20ms;
  made.pingTimeout = 40ms;
  const auto opener = makeOpener(io_, std::move(made));
  Tunnel tunnel;
  openAndWait(*opener, tunnel);
  runFor(300ms);
  EXPECT_FALSE(tunnel.events.closed);
}

TEST_F(Http2, ReleasesAnIdleConnection) {
  const auto gateway = gatewayThat({});
  OpenerOptions made = options(gateway->port());
  made.buffers = std::make_shared<WorkerBuffers>();
  made.pingInterval = 20ms;
  made.idleRelease = 50ms;
  Http2Opener opener(io_, std::move(made));
  {
    Tunnel tunnel;
    openAndWait(opener, tunnel);
    runFor(150ms);
    EXPECT_EQ(opener.connections(), 1u) << "in use";
  }
  runUntil([&] { return opener.connections() == 0; });
  Tunnel again;
  openAndWait(opener, again);
}

TEST_F(Http2, ReleasesTheConnectionsOfAPeakAndKeepsOne) {
  Http2Behaviour behaviour;
  behaviour.maxStreams = 1;
  const auto gateway = gatewayThat(behaviour);
  OpenerOptions made = options(gateway->port());
  made.buffers = std::make_shared<WorkerBuffers>();
  made.pingInterval = 20ms;
  made.spareRelease = 30ms;
  Http2Opener opener(io_, std::move(made));
  {
    Tunnel first, second, third;
    for (Tunnel* tunnel : {&first, &second, &third}) openAndWait(opener, *tunnel);
    EXPECT_EQ(opener.connections(), 3u);
    runFor(150ms);
    EXPECT_EQ(opener.connections(), 3u) << "in use";
  }
  runUntil([&] { return opener.connections() == 1; });
  runFor(150ms);
  EXPECT_EQ(opener.connections(), 1u) << "the next flow needs no handshake";
}

TEST_F(Http2, WarmsUpBeforeTheFirstFlow) {
  const auto gateway = gatewayThat({});
  const auto opener = openerTo(gateway->port());
  opener->warm();
  runUntil([&] { return gateway->accepted() == 1; });
  Tunnel tunnel;
  openAndWait(*opener, tunnel);
  EXPECT_EQ(gateway->accepted(), 1);
}

TEST_F(Http2, DrainsToANewIdentityAndClosesOnRemoval) {
  const auto gateway = gatewayThat({});
  const auto opener = openerTo(gateway->port());
  Tunnel old;
  openAndWait(*opener, old);
  context_ = newContext();
  opener->drain();
  Tunnel fresh;
  openAndWait(*opener, fresh);
  EXPECT_EQ(gateway->accepted(), 2);
  old.send("on the old one");
  runUntil([&] { return old.events.received == "on the old one"; });
  Tunnel opening;
  opening.open(*opener, {"origin.test", 443});
  opener->closeAll({Reason::IdentityUnavailable, "removed", {}});
  EXPECT_EQ(old.events.closed->reason, Reason::IdentityUnavailable);
  EXPECT_EQ(fresh.events.closed->reason, Reason::IdentityUnavailable);
  EXPECT_EQ(opening.failure->reason, Reason::IdentityUnavailable);
  EXPECT_EQ(old.stream->write(asBytes("x")), 0u);
}

TEST_F(Http2, RetriesARequestThatCrossedAClosingConnection) {
  std::atomic<bool> hangUp = true;
  Http2Behaviour behaviour;
  behaviour.onRequest = [&](Http2Peer& peer, int32_t id, const std::string& authority) {
    if (authority.starts_with("second") && hangUp.exchange(false))
      peer.hangUp();
    else
      peer.respond(id, "200");
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  {
    Tunnel first;
    openAndWait(*opener, first);
  }
  Tunnel second;
  openAndWait(*opener, second, {"second.test", 1});
  EXPECT_EQ(gateway->accepted(), 2);
}

TEST_F(Http2, TellsOpenFlowsThatTheGatewayVanished) {
  Http2Behaviour behaviour;
  behaviour.onData = [](Http2Peer& peer, int32_t, std::string_view) { peer.hangUp(); };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = openerTo(gateway->port());
  Tunnel one;
  Tunnel two;
  openAndWait(*opener, one);
  openAndWait(*opener, two);
  one.send("x");
  runUntil([&] { return one.events.closed && two.events.closed; });
  EXPECT_EQ(two.events.closed->reason, Reason::GatewayClosed);
}

class Auto : public test::TunnelTest {
 protected:
  Auto() : TunnelTest({"h2", "http/1.1"}, Protocol::Auto) {}
};

TEST_F(Auto, TakesHttp2WhereTheGatewayHasIt) {
  test::withAlpn(serverContext_, "\x02h2\x08http/1.1");
  const Gateway gateway(serverContext_, test::http2({}));
  const auto opener = openerTo(gateway.port());
  Tunnel one;
  Tunnel two;
  one.open(*opener, {"origin.test", 443});
  two.open(*opener, {"origin.test", 443});
  runUntil([&] { return one.answered && two.answered; });
  EXPECT_TRUE(one.stream && two.stream);
  EXPECT_EQ(gateway.accepted(), 1);
}

TEST_F(Auto, FallsBackToHttp1OnTheSameConnection) {
  std::atomic<int> signatures = 0;
  context_ = newContext([&] { ++signatures; });
  const Gateway gateway(serverContext_, test::echo);  // offers no ALPN, like Squid
  const auto opener = openerTo(gateway.port());
  std::vector<std::unique_ptr<Tunnel>> tunnels;
  for (int i = 0; i < 8; ++i) {
    tunnels.push_back(std::make_unique<Tunnel>());
    tunnels.back()->open(*opener, {"origin.test", 443});
  }
  for (const auto& tunnel : tunnels) {
    runUntil([&] { return tunnel->answered; });
    ASSERT_TRUE(tunnel->stream) << describe(*tunnel->failure);
    tunnel->send("x");
    runUntil([&] { return tunnel->events.received == "x"; });
  }
  EXPECT_EQ(gateway.accepted(), 8) << "the first connection carries the first tunnel";
}

TEST_F(Auto, FollowsAGatewayThatChangesItsMind) {
  const Gateway gateway(serverContext_, [&](test::Peer& peer) {
    const unsigned char* name = nullptr;
    unsigned int length = 0;
    SSL_get0_alpn_selected(peer.ssl(), &name, &length);
    if (length == 2)
      test::http2({})(peer);
    else
      test::echo(peer);
  });
  const auto opener = openerTo(gateway.port());
  {
    Tunnel before;
    before.open(*opener, {"origin.test", 443});
    runUntil([&] { return before.answered; });
    EXPECT_TRUE(before.stream);
  }
  test::withAlpn(serverContext_, "\x02h2");
  context_->forgetSessions();
  Tunnel after;
  after.open(*opener, {"origin.test", 443});
  runUntil([&] { return after.answered; });
  ASSERT_TRUE(after.stream) << describe(*after.failure);
  after.send("x");
  runUntil([&] { return after.events.received == "x"; });
}

}  // namespace
}  // namespace wayleave::tunnel
