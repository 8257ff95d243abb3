// Flows through a worker that the test drives by hand: real sockets, gateways in the process.

#include "proxy/flow.h"

#include <gtest/gtest.h>

#include "proxy/proxy_test_support.h"

namespace wayleave::proxy {
namespace {

using namespace testing;
using observe::Carriage;
using rules::NetworkRule;

static_assert(sizeof(Flow) <= 512, "an idle flow must stay small: 2 KiB with everything around it");

TEST(Flow, NothingIsReadBeforeTheGatewayAccepted) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  sendText(app, "early");
  const auto tunnel = rig.onlyTunnel();
  rig.settle();
  EXPECT_EQ(tunnel->target.host, "198.51.100.1");
  EXPECT_EQ(tunnel->target.port, 443);
  EXPECT_EQ(tunnel->written, "");
  acceptTunnel(tunnel);
  EXPECT_TRUE(rig.until([&] { return tunnel->written == "early"; }));
}

TEST(Flow, RelaysBothWaysAndHalfClosesBothWays) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  acceptTunnel(tunnel);
  sendText(app, "request");
  EXPECT_TRUE(rig.until([&] { return tunnel->written == "request"; }));
  ::shutdown(app.borrow(), SHUT_WR);
  EXPECT_TRUE(rig.until([&] { return tunnel->finished; }));
  EXPECT_EQ(tunnel->events->onData(asBytes("answer")), 6u);
  EXPECT_EQ(receive(app), "answer");
  tunnel->events->onEndOfStream();
  EXPECT_EQ(receive(app), "");
  tunnel->events->onClosed({Reason::Completed, {}, {}});
  const auto record = rig.ended();
  ASSERT_TRUE(record);
  EXPECT_EQ(record->outcome, Reason::Completed);
  EXPECT_EQ(record->carriage, Carriage::Tunnel);
  EXPECT_EQ(record->bytesUp, 7u);
  EXPECT_EQ(record->bytesDown, 6u);
  EXPECT_EQ(record->configuration, "c1");
  EXPECT_TRUE(rig.until([&] { return tunnel->streamGone; }));
  EXPECT_EQ(rig.worker->metrics().flowsActive.get(), 0u);
}

TEST(Flow, TargetMayEndFirst) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  acceptTunnel(tunnel);
  tunnel->events->onEndOfStream();
  EXPECT_EQ(receive(app), "");
  sendText(app, "still talking");
  EXPECT_TRUE(rig.until([&] { return tunnel->written == "still talking"; }));
}

TEST(Flow, RefusalResetsTheApplicationAndIsNeverBypassed) {
  for (const Reason reason : {Reason::GatewayDenied, Reason::GatewayAuthRequired, Reason::GatewayCannotReachTarget}) {
    Rig rig;
    PolicyEntry entry = rig.entry(rig.gateway);
    entry.failurePolicy = localapi::FailurePolicy::Direct;
    rig.apply({entry});
    const Fd app = rig.flow();
    rig.onlyTunnel()->refuse(reason);
    EXPECT_EQ(receive(app), kReset);
    const auto record = rig.ended();
    ASSERT_TRUE(record);
    EXPECT_EQ(record->outcome, reason);
    EXPECT_FALSE(record->error.empty());
  }
}

TEST(Flow, UnusableGatewayFollowsTheFailurePolicy) {
  for (const Reason reason : {Reason::GatewayUnreachable, Reason::IdentityUnavailable, Reason::GatewayTimeout}) {
    Rig rig;
    Endpoint server;
    const Fd listener = listenLocally(&server);
    PolicyEntry entry = rig.entry(rig.gateway, {{.network = server.address, .prefix = 32}});
    rig.apply({entry});
    const Fd blocked = rig.flow(server);
    rig.onlyTunnel()->refuse(reason);
    EXPECT_EQ(receive(blocked), kReset);
    EXPECT_EQ(rig.ended()->outcome, reason);

    entry.failurePolicy = localapi::FailurePolicy::Direct;
    rig.apply({entry});
    const Fd app = rig.flow(server);
    sendText(app, "hello");
    EXPECT_TRUE(rig.until([&] { return rig.gateway.tunnels.size() == 2; }));
    rig.gateway.tunnels.back()->refuse(reason);
    const Fd accepted = Fd::adopt(::accept(listener.borrow(), nullptr, nullptr));
    rig.settle();
    EXPECT_EQ(receive(accepted), "hello");
    EXPECT_EQ(rig.worker->metrics().fallbacks.get(), 1u);
  }
}

TEST(Flow, StreamThatDiesResetsTheApplicationWithItsReason) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  acceptTunnel(tunnel);
  tunnel->events->onClosed({Reason::IdentityUnavailable, "the identity was removed", {}});
  EXPECT_EQ(receive(app), kReset);
  EXPECT_EQ(rig.ended()->outcome, Reason::IdentityUnavailable);
  EXPECT_EQ(rig.ended()->error, "the identity was removed");
}

void resetNow(Fd app) {
  const linger reset{1, 0};
  ::setsockopt(app.borrow(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

TEST(Flow, ApplicationThatLeavesCancelsTheOpeningTunnel) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  resetNow(std::move(app));
  EXPECT_TRUE(rig.until([&] { return tunnel->cancelled; }));
  EXPECT_EQ(rig.ended()->outcome, Reason::ClientReset);
}

TEST(Flow, ApplicationThatResetsAbandonsTheStream) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  acceptTunnel(tunnel);
  resetNow(std::move(app));
  EXPECT_TRUE(rig.until([&] { return tunnel->streamGone; }));
  EXPECT_EQ(rig.ended()->outcome, Reason::ClientReset);
}

TEST(Flow, StalledGatewayStopsReadingFromTheApplication) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  tunnel->capacity = 10;
  acceptTunnel(tunnel);
  sendText(app, std::string(1000, 'x'));
  EXPECT_TRUE(rig.until([&] { return tunnel->written.size() == 10; }));
  rig.settle();
  EXPECT_EQ(tunnel->written.size(), 10u);
  tunnel->capacity = 5000;
  tunnel->events->onWritable();
  EXPECT_EQ(tunnel->written.size(), 1000u);
}

TEST(Flow, StalledApplicationPausesTheStreamAndResumesIt) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  acceptTunnel(tunnel);
  const Bytes chunk(200'000, 'y');
  size_t sent = 0, taken = 0;
  while ((taken = tunnel->events->onData(chunk)) == chunk.size()) sent += taken;
  sent += taken;
  EXPECT_EQ(tunnel->events->onData(chunk), 0u);
  size_t received = 0;
  while (received < sent) {
    const std::string got = receive(app, 1 << 20);
    ASSERT_FALSE(got.empty() || got[0] == '!');
    received += got.size();
  }
  EXPECT_TRUE(rig.until([&] { return tunnel->resumed > 0; }));
  EXPECT_GT(tunnel->events->onData(chunk), 0u);
}

TEST(Flow, WithoutAWantingConfigurationItGoesDirect) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway, {{.network = rules::parseAddress("203.0.113.0").value(), .prefix = 24}})});
  Endpoint server;
  const Fd listener = listenLocally(&server);
  const Fd app = rig.flow(server);
  const Fd accepted = Fd::adopt(::accept(listener.borrow(), nullptr, nullptr));
  limitWaiting(accepted);
  sendText(app, "up");
  rig.settle();
  EXPECT_EQ(receive(accepted), "up");
  ::shutdown(app.borrow(), SHUT_WR);
  rig.settle();
  EXPECT_EQ(receive(accepted), "");
  sendText(accepted, "down");
  rig.settle();
  EXPECT_EQ(receive(app), "down");
  const_cast<Fd&>(accepted).reset();
  rig.settle();
  EXPECT_EQ(receive(app), "");
  const auto record = rig.ended();
  ASSERT_TRUE(record);
  EXPECT_EQ(record->outcome, Reason::Completed);
  EXPECT_EQ(record->carriage, Carriage::Direct);
  EXPECT_EQ(record->bytesUp, 2u);
  EXPECT_EQ(record->bytesDown, 4u);
  EXPECT_TRUE(record->configuration.empty());
}

// Bulk both ways at once, with and without pipes.
void moveDirectly(bool withoutPipes) {
  Rig rig;
  Endpoint server;
  const Fd listener = listenLocally(&server);
  const Fd app = rig.flow(server);
  const Fd accepted = Fd::adopt(::accept(listener.borrow(), nullptr, nullptr));
  rig.settle();
  std::vector<Fd> hoard;
  if (withoutPipes)
    while (Fd one = Fd::adopt(::dup(0))) hoard.push_back(std::move(one));
  std::string up(8'000'000, '\0'), down(8'000'000, '\0'), gotUp, gotDown;
  for (size_t i = 0; i < up.size(); ++i) {
    up[i] = static_cast<char>(i * 7 >> 3);
    down[i] = static_cast<char>(i * 13 >> 5);
  }
  size_t sentUp = 0, sentDown = 0;
  std::vector<char> buffer(1 << 18);
  const auto move = [&](const Fd& from, const std::string& text, size_t& sent, const Fd& to, std::string& got) {
    if (sent < text.size())
      if (const ssize_t n = ::send(from.borrow(), text.data() + sent, text.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL); n > 0)
        if ((sent += static_cast<size_t>(n)) == text.size()) ::shutdown(from.borrow(), SHUT_WR);
    if (const ssize_t n = ::recv(to.borrow(), buffer.data(), buffer.size(), MSG_DONTWAIT); n > 0)
      got.append(buffer.data(), static_cast<size_t>(n));
  };
  EXPECT_TRUE(rig.until([&] {
    move(app, up, sentUp, accepted, gotUp);
    move(accepted, down, sentDown, app, gotDown);
    return gotUp.size() == up.size() && gotDown.size() == down.size();
  }));
  EXPECT_TRUE(gotUp == up && gotDown == down);
  hoard.clear();
  const auto record = rig.ended();
  ASSERT_TRUE(record);
  EXPECT_EQ(record->outcome, Reason::Completed);
  EXPECT_EQ(record->bytesUp, up.size());
}
TEST(Flow, DirectBulkArrivesWhole) { moveDirectly(false); }
TEST(Flow, DirectBulkArrivesWholeWithoutDescriptorsForPipes) { moveDirectly(true); }

TEST(Flow, UnreachableDestinationResets) {
  Rig rig;
  Endpoint server;
  listenLocally(&server).reset();  // nobody there
  const Fd app = rig.flow(server);
  rig.settle();
  EXPECT_EQ(receive(app), kReset);
  EXPECT_EQ(rig.ended()->outcome, Reason::DirectUnreachable);
}

TEST(Flow, LoopIsRefused) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow(at("127.0.0.1", 9));
  EXPECT_EQ(receive(app), kReset);
  EXPECT_EQ(rig.ended()->outcome, Reason::RefusedByRule);
  EXPECT_EQ(rig.ended()->carriage, Carriage::Refuse);
}

TEST(Flow, TheGatewayItselfIsReachedDirectly) {
  Rig rig;
  Endpoint server;
  const Fd listener = listenLocally(&server);
  PolicyEntry entry = rig.entry(rig.gateway, {{.network = server.address, .prefix = 32}});
  entry.gateways = {server};
  rig.apply({entry});
  const Fd app = rig.flow(server);
  EXPECT_TRUE(Fd::adopt(::accept(listener.borrow(), nullptr, nullptr)));
  EXPECT_TRUE(rig.gateway.tunnels.empty());
}

TEST(Flow, HostRuleWaitsForTheNameAndDecides) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway, {{.host = "example.com"}})});
  const Fd app = rig.flow();
  sendText(app, "GET / HTTP/1.1\r\nHost: www.exa");
  rig.settle();
  EXPECT_TRUE(rig.gateway.tunnels.empty());
  sendText(app, "mple.com\r\n\r\n");
  const auto tunnel = rig.onlyTunnel();
  EXPECT_EQ(tunnel->target.host, "198.51.100.1");
  acceptTunnel(tunnel);
  EXPECT_TRUE(rig.until([&] { return tunnel->written == "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"; }));
}

TEST(Flow, ConnectTargetIsTheNameWhenTheConfigurationSaysSo) {
  Rig rig;
  PolicyEntry entry = rig.entry(rig.gateway);
  entry.connectTarget = localapi::ConnectTarget::HostName;
  rig.apply({entry});
  const Fd app = rig.flow(at("198.51.100.1", 80));
  sendText(app, "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
  const auto tunnel = rig.onlyTunnel();
  EXPECT_EQ(tunnel->target.host, "www.example.com");
  EXPECT_EQ(tunnel->target.port, 80);
}

TEST(Flow, ClientThatWaitsForItsServerIsNotMadeToSpeak) {
  WorkerOptions options;
  options.peekDeadline = std::chrono::milliseconds{30};
  Rig rig(std::move(options));
  PolicyEntry entry = rig.entry(rig.gateway);
  entry.connectTarget = localapi::ConnectTarget::HostName;
  rig.apply({entry});
  const Fd mail = rig.flow(at("198.51.100.1", 25));  // known: no waiting at all
  EXPECT_EQ(rig.gateway.tunnels.size(), 1u);
  const Fd other = rig.flow(at("198.51.100.1", 9999));
  EXPECT_EQ(rig.gateway.tunnels.size(), 1u);
  EXPECT_TRUE(rig.until([&] { return rig.gateway.tunnels.size() == 2; }));
  EXPECT_EQ(rig.gateway.tunnels[1]->target.host, "198.51.100.1");
}

TEST(Flow, FirstBytesAreLookedAtWithinABound) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway, {{}}, {{.host = "direct.example"}})});
  const Fd app = rig.flow();
  sendText(app, "GET / HTTP/1.1\r\nX: " + std::string(20'000, 'x'));
  EXPECT_TRUE(rig.until([&] { return rig.gateway.tunnels.size() == 1; })) << "a head without an end is waited for";
}

TEST(Flow, FirstConfigurationThatWantsAFlowGetsIt) {
  Rig rig;
  FakeGateway second;
  PolicyEntry other = rig.entry(second);
  other.id = "c2";
  rig.apply({rig.entry(rig.gateway, {{}}, {{.network = rules::parseAddress("203.0.113.0").value(), .prefix = 24}}), other});
  const Fd a = rig.flow(at("198.51.100.1", 443));
  const Fd b = rig.flow(at("203.0.113.1", 443));
  EXPECT_EQ(rig.gateway.tunnels.size(), 1u);
  EXPECT_EQ(second.tunnels.size(), 1u);
}

TEST(Flow, IdleAndHalfClosedFlowsEndWithinTheirLimits) {
  WorkerOptions options;
  options.idleDeadline = std::chrono::milliseconds{50};
  options.halfClosedDeadline = std::chrono::milliseconds{20};
  Rig rig(std::move(options));
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  acceptTunnel(rig.onlyTunnel());
  EXPECT_EQ(rig.ended()->outcome, Reason::IdleTimeout);
  EXPECT_EQ(receive(app), kReset);

  const Fd half = rig.flow();
  acceptTunnel(rig.gateway.tunnels.back());
  ::shutdown(half.borrow(), SHUT_WR);
  EXPECT_TRUE(rig.until([&] { return rig.journal.latest(2).size() == 2; }));
  EXPECT_EQ(rig.ended()->error, "nothing moved after one side had ended");
}

TEST(Worker, DrainWaitsForTheLastFlow) {
  Rig rig;
  rig.apply({rig.entry(rig.gateway)});
  const Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  acceptTunnel(tunnel);
  bool drained = false;
  rig.worker->drain([&] { drained = true; });
  rig.settle();
  EXPECT_FALSE(drained);
  tunnel->events->onClosed({Reason::Completed, {}, {}});
  EXPECT_TRUE(rig.until([&] { return drained; }));
  bool again = false;
  rig.worker->drain([&] { again = true; });
  EXPECT_TRUE(again);
}

TEST(Worker, PolicyChangeKeepsDrainsOrClosesTunnels) {
  Rig rig;
  PolicyEntry entry = rig.entry(rig.gateway);
  rig.apply({entry});
  rig.apply({entry});
  EXPECT_EQ(rig.gateway.openers, 1);
  EXPECT_EQ(rig.gateway.drains, 0);
  rig.worker->drainTunnels("c1");
  rig.worker->drainTunnels("unknown");
  EXPECT_EQ(rig.gateway.drains, 1);
  entry.generation = 1;
  rig.apply({entry});
  EXPECT_EQ(rig.gateway.openers, 2);
  EXPECT_EQ(rig.gateway.drains, 2);
  rig.worker->closeTunnels("c1", {Reason::IdentityLost, "gone", {}});
  EXPECT_EQ(rig.gateway.closed->reason, Reason::IdentityLost);
  rig.apply({});
  EXPECT_EQ(rig.gateway.closed->reason, Reason::IdentityUnavailable);
}

TEST(Worker, FlowOutlivesTheConfigurationThatCarriesIt) {
  Rig rig;
  PolicyEntry entry = rig.entry(rig.gateway);
  rig.apply({entry});
  const Fd app = rig.flow();
  const auto tunnel = rig.onlyTunnel();
  acceptTunnel(tunnel);
  entry.generation = 1;
  rig.apply({entry});
  sendText(app, "on");
  EXPECT_TRUE(rig.until([&] { return tunnel->written == "on"; }));
  EXPECT_EQ(rig.gateway.tunnels.size(), 1u);
}

}  // namespace
}  // namespace wayleave::proxy
