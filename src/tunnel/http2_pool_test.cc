// What the pool makes of gateways that are not quite what they say.

#include <gtest/gtest.h>

#include "tunnel/http2_gateway_test_support.h"
#include "tunnel/http2_opener.h"

namespace wayleave::tunnel {
namespace {

using test::Gateway;
using test::Http2Behaviour;
using test::Http2Peer;
using test::Tunnel;
using namespace std::chrono_literals;

class Http2PoolTest : public test::TunnelTest {
 protected:
  Http2PoolTest() : TunnelTest({"h2"}, Protocol::Http2) { test::withAlpn(serverContext_, "\x02h2"); }

  std::unique_ptr<Gateway> gatewayThat(const Http2Behaviour& behaviour) {
    return std::make_unique<Gateway>(serverContext_, test::http2(behaviour));
  }
  std::unique_ptr<Opener> impatientOpener(const Gateway& gateway) {
    OpenerOptions made = options(gateway.port());
    made.answerPatience = 100ms;
    return makeOpener(io_, std::move(made));
  }
  std::vector<std::unique_ptr<Tunnel>> open(Opener& opener, int count, const char* host = "origin.test") {
    std::vector<std::unique_ptr<Tunnel>> tunnels;
    for (int i = 0; i < count; ++i) {
      tunnels.push_back(std::make_unique<Tunnel>());
      tunnels.back()->open(opener, {host, 443}, 5s);
    }
    return tunnels;
  }
  void expectOpen(const std::vector<std::unique_ptr<Tunnel>>& tunnels) {
    for (const auto& tunnel : tunnels) {
      runUntil([&] { return tunnel->answered; });
      ASSERT_TRUE(tunnel->stream) << describe(*tunnel->failure);
    }
  }
};

// Apache httpd 2.4 takes a hundred streams and serves six at once; the others wait until one ends, which tunnels do not.
TEST_F(Http2PoolTest, LearnsThatAGatewayServesFewerStreamsThanItSays) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [](Http2Peer& peer, int32_t id, const std::string&) {
    if (peer.total == 6) return;
    ++peer.total;
    peer.respond(id, "200");
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = impatientOpener(*gateway);
  const auto tunnels = open(*opener, 20);
  expectOpen(tunnels);
  EXPECT_EQ(gateway->accepted(), 4);
  const auto started = Steady::clock::now();
  const auto more = open(*opener, 10);
  expectOpen(more);
  EXPECT_LT(Steady::clock::now() - started, 100ms) << "it knows by now";
}

TEST_F(Http2PoolTest, DoesNotBlameTheGatewayForASlowTarget) {
  Http2Behaviour behaviour;
  behaviour.onRequest = [](Http2Peer& peer, int32_t id, const std::string& authority) {
    if (!authority.starts_with("slow")) peer.respond(id, "200");
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = impatientOpener(*gateway);
  const auto first = open(*opener, 3);
  expectOpen(first);
  const auto slow = open(*opener, 2, "slow.test");
  runFor(500ms);  // moved once, and not answered there either
  EXPECT_LE(gateway->accepted(), 2);
  const auto more = open(*opener, 90);
  expectOpen(more);
  EXPECT_LE(gateway->accepted(), 2) << "no limit was learned";
}

TEST_F(Http2PoolTest, AsksElsewhereWhenAConnectionHasFallenSilent) {
  std::atomic<bool> deaf = false;
  Http2Behaviour behaviour;
  behaviour.onRequest = [&](Http2Peer& peer, int32_t id, const std::string& authority) {
    if (authority.starts_with("hole") && !deaf.exchange(true)) {
      while (deaf) std::this_thread::sleep_for(5ms);  // this connection answers nothing, not even PING
      return;
    }
    peer.respond(id, "200");
  };
  const auto gateway = gatewayThat(behaviour);
  const auto opener = impatientOpener(*gateway);
  const auto first = open(*opener, 1);
  expectOpen(first);
  const auto swallowed = open(*opener, 1, "hole.test");
  runUntil([&] { return deaf.load(); });
  const auto next = open(*opener, 1);
  expectOpen(next);
  expectOpen(swallowed);
  EXPECT_EQ(gateway->accepted(), 2);
  deaf = false;
}

// Many gateways' windows: as much for the connection as for one stream, and nothing back before the target took it.
TEST_F(Http2PoolTest, OpensNewTunnelsElsewhereWhileTheConnectionsWindowStaysClosed) {
  Http2Behaviour behaviour;
  behaviour.autoWindow = false;
  behaviour.streamWindow = 65'535;
  const auto gateway = gatewayThat(behaviour);
  const auto opener = impatientOpener(*gateway);
  const auto stalled = open(*opener, 1);
  expectOpen(stalled);
  stalled[0]->send(std::string(1'000'000, 'a'));
  runFor(400ms);
  const auto next = open(*opener, 1);
  expectOpen(next);
  next[0]->send("goes on");
  runUntil([&] { return next[0]->events.received == "goes on"; });
  EXPECT_EQ(gateway->accepted(), 2);
}

// CVE-2023-44487: gateways end a connection whose client resets too many streams, with everything that is on it.
TEST_F(Http2PoolTest, RetiresAConnectionBeforeItsResetsLookLikeAnAttack) {
  const auto gateway = gatewayThat({});
  const auto opener = impatientOpener(*gateway);
  const auto sibling = open(*opener, 1);
  expectOpen(sibling);
  for (int round = 0; round < 6; ++round) {
    const auto brief = open(*opener, 50);
    expectOpen(brief);
  }
  EXPECT_EQ(gateway->accepted(), 2);
  sibling[0]->send("still here");
  runUntil([&] { return sibling[0]->events.received == "still here"; });
}

}  // namespace
}  // namespace wayleave::tunnel
