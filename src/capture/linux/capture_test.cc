// The capture as applications meet it: real nft, real routes, real TCP, over both families.

#include "capture/capture.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>

#include <atomic>
#include <thread>

#include "capture/linux/lab_test_support.h"
#include "capture/linux/listener.h"
#include "capture/linux/routing.h"

namespace wayleave::capture {
namespace {

using lab::at;
using rules::NetworkRule;

class Collector final : public FlowHandler {
 public:
  void onFlow(CapturedFlow flow) override { flows.push_back(std::move(flow)); }
  void onStarved(int error) override { starved = error; }
  std::vector<CapturedFlow> flows;
  int starved = 0;
};

// A capture with one worker, driven by hand.
struct Rig {
  explicit Rig(CaptureOptions options = {}) : capture(Capture::open(options).value()), source(capture->makeSource(loop).value()) {
    source->start(collector);
  }
  std::optional<CapturedFlow> next() {
    loop.restart();
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds{5};
    while (collector.flows.empty() && std::chrono::steady_clock::now() < limit) loop.run_one_for(std::chrono::milliseconds{100});
    if (collector.flows.empty()) return std::nullopt;
    CapturedFlow flow = std::move(collector.flows.front());
    collector.flows.erase(collector.flows.begin());
    return flow;
  }
  bool nothingComes() {
    loop.restart();
    loop.poll();
    return collector.flows.empty();
  }
  void apply(std::vector<NetworkRule> included, std::vector<NetworkRule> excluded = {}) {
    CapturePlan plan;
    plan.ruleSets.push_back(rules::RuleSet::make(std::move(included), std::move(excluded)).value());
    const auto applied = capture->apply(plan);
    ASSERT_TRUE(applied) << applied.error().message;
  }

  boost::asio::io_context loop;
  std::unique_ptr<Capture> capture;
  std::unique_ptr<FlowSource> source;
  Collector collector;
};

NetworkRule network(std::string_view address, int prefix, uint16_t port = 0) {
  return {.network = rules::parseAddress(address).value(), .prefix = prefix, .port = port};
}
std::string leftovers() {
  return lab::output("nft list tables; ip rule show; ip -6 rule show; ip route show table 22360; ip -6 route show table 22360");
}
bool clean() {
  const std::string text = leftovers();
  return !text.contains("wayleave") && !text.contains("0x58") && !text.contains("local default");
}

TEST(Capture, FlowsOfBothFamiliesArriveWithTheirDestinationAndOwner) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    Rig rig;
    rig.apply({NetworkRule{}});
    for (const auto& destination : {at("198.51.100.1", 443), at("2001:db8:1::1", 8443)}) {
      const Fd client = lab::connectTo(destination);
      ASSERT_TRUE(client);
      auto flow = rig.next();
      ASSERT_TRUE(flow);
      EXPECT_EQ(flow->destination, destination);
      EXPECT_EQ(flow->source, localEndpoint(client.borrow()));
      ASSERT_TRUE(flow->owner);
      EXPECT_EQ(flow->owner->uid, ::getuid());
      const auto process = processOfSocket(flow->owner->socketInode);
      ASSERT_TRUE(process);
      EXPECT_EQ(process->pid, ::getpid());
      ASSERT_EQ(::send(flow->socket.borrow(), "hello", 5, 0), 5);
      char text[5];
      ASSERT_EQ(::recv(client.borrow(), text, sizeof text, MSG_WAITALL), 5);
    }
  });
}

TEST(Capture, ExcludedTrafficIsUntouchedAndOwnTrafficNeverLoops) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    Fd excludedV4, excludedV6, included;
    lab.inNetwork([&] {
      excludedV4 = lab::listenOn(at("192.0.2.2", 80));
      excludedV6 = lab::listenOn(at("2001:db8::2", 80));
      included = lab::listenOn(at("198.51.100.1", 80));
    });
    Rig rig;
    rig.apply({NetworkRule{}}, {network("192.0.2.0", 24), network("2001:db8::", 64)});
    EXPECT_TRUE(lab::connectTo(at("192.0.2.2", 80)));
    EXPECT_TRUE(lab::readable(excludedV4, 1000));
    EXPECT_TRUE(lab::connectTo(at("2001:db8::2", 80)));
    EXPECT_TRUE(lab::readable(excludedV6, 1000));
    EXPECT_TRUE(rig.nothingComes());

    EXPECT_TRUE(lab::connectTo(at("198.51.100.1", 80), true));
    EXPECT_TRUE(lab::readable(included, 1000));
    EXPECT_TRUE(rig.nothingComes());
    EXPECT_TRUE(lab::connectTo(at("198.51.100.1", 80)));
    EXPECT_TRUE(rig.next());
  });
}

TEST(Capture, GatewaysAndExemptUsersAreLeftAlone) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    Fd gateway;
    lab.inNetwork([&] { gateway = lab::listenOn(at("198.51.100.1", 3129)); });
    Rig rig;
    CapturePlan plan;
    plan.ruleSets.push_back(rules::RuleSet::make({NetworkRule{}}, {}).value());
    plan.untouched = {at("198.51.100.1", 3129)};
    ASSERT_TRUE(rig.capture->apply(plan));
    EXPECT_TRUE(lab::connectTo(at("198.51.100.1", 3129)));
    EXPECT_TRUE(lab::readable(gateway, 1000));
    EXPECT_TRUE(rig.nothingComes());
    plan.untouched.clear();
    plan.exemptUsers = {::getuid()};
    ASSERT_TRUE(rig.capture->apply(plan));
    EXPECT_TRUE(lab::connectTo(at("198.51.100.1", 3129)));
    EXPECT_TRUE(rig.nothingComes());
  });
}

TEST(Capture, LoopbackServersAndInboundConnectionsWork) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    Rig rig;
    rig.apply({NetworkRule{}});
    const Fd server = lab::listenOn(at("127.0.0.1", 8080));
    const Fd ownAddress = lab::listenOn(at("192.0.2.1", 8080));
    EXPECT_TRUE(lab::connectTo(at("127.0.0.1", 8080)));
    EXPECT_TRUE(lab::readable(server, 1000));
    EXPECT_TRUE(lab::connectTo(at("192.0.2.1", 8080)));
    EXPECT_TRUE(lab::readable(ownAddress, 1000));
    lab.inNetwork([] { EXPECT_TRUE(lab::connectTo(at("192.0.2.1", 8080))); });
    EXPECT_TRUE(rig.nothingComes());

    rig.apply({network("127.0.0.1", 32, 8080)});
    EXPECT_TRUE(lab::connectTo(at("127.0.0.1", 8080)));
    const auto flow = rig.next();
    ASSERT_TRUE(flow);
    EXPECT_EQ(flow->destination, at("127.0.0.1", 8080));
  });
}

TEST(Capture, ChangedRulesApplyToNewFlowsOnly) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    Fd server;
    lab.inNetwork([&] { server = lab::listenOn(at("198.51.100.1", 80)); });
    const Fd before = lab::connectTo(at("198.51.100.1", 80));
    const Fd accepted = Fd::adopt(::accept(server.borrow(), nullptr, nullptr));
    Rig rig;
    rig.apply({NetworkRule{}});
    const auto works = [](const Fd& from, const Fd& to) {
      char byte = 0;
      return ::send(from.borrow(), "x", 1, MSG_NOSIGNAL) == 1 && lab::readable(to, 2000) && ::recv(to.borrow(), &byte, 1, 0) == 1;
    };
    EXPECT_TRUE(works(before, accepted)) << "a connection from before the capture was cut";
    const Fd during = lab::connectTo(at("198.51.100.1", 80));
    const auto flow = rig.next();
    ASSERT_TRUE(flow);
    rig.apply({network("203.0.113.0", 24)});
    EXPECT_TRUE(works(during, flow->socket)) << "a captured connection was cut by a change of rules";
    ASSERT_TRUE(rig.capture->drain());
    EXPECT_TRUE(works(during, flow->socket)) << "a captured connection was cut by draining";
    EXPECT_TRUE(lab::connectTo(at("198.51.100.1", 80)));
    EXPECT_TRUE(rig.nothingComes());
  });
}

TEST(Capture, WorksWithStrictReversePathFilterAndWithoutARoute) {
  lab::inNamespaces([] {
    lab::run("ip link set lo up && ip link add uplink type veth peer name other && ip addr add 192.0.2.1/24 dev uplink && ip link set uplink up");
    for (const char* name : {"all", "lo"})
      std::ofstream(std::string("/proc/sys/net/ipv4/conf/") + name + "/rp_filter") << "1";
    Rig rig({.fallbackRoute = true});
    rig.apply({NetworkRule{}});
    for (const auto& destination : {at("198.51.100.1", 443), at("2001:db8:1::1", 443)}) {
      const Fd client = lab::connectTo(destination);
      ASSERT_TRUE(client) << errno;
      const auto flow = rig.next();
      ASSERT_TRUE(flow);
      EXPECT_EQ(flow->destination, destination);
    }
    ASSERT_TRUE(rig.capture->remove());
    EXPECT_FALSE(lab::connectTo(at("198.51.100.1", 443)));
    EXPECT_EQ(errno, ENETUNREACH);
  });
}

TEST(Capture, NothingStaysAfterRemovalOrDestruction) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    {
      Rig rig;
      rig.apply({NetworkRule{}});
      EXPECT_TRUE(leftovers().contains("wayleave"));
      rig.apply({});  // no rules
      EXPECT_TRUE(clean()) << leftovers();
      EXPECT_FALSE(rig.capture->installed());
      rig.apply({NetworkRule{}});
    }
    EXPECT_TRUE(clean()) << leftovers();
  });
}

TEST(Capture, KilledProcessLeavesNoTableAndCleanupRemovesTheRest) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    lab::run("ip rule add fwmark 0x99 lookup 99 priority 99");  // somebody else's
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t victim = ::fork();
    if (victim == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      Rig rig;
      rig.apply({NetworkRule{}});
      (void)!::write(ready[1], "x", 1);
      ::pause();
    }
    char byte;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    EXPECT_TRUE(lab::output("nft list tables").contains("wayleave"));
    const auto alive = cleanUp();
    ASSERT_FALSE(alive);
    EXPECT_EQ(alive.error().reason, Reason::Conflict);
    ::kill(victim, SIGKILL);
    ::waitpid(victim, nullptr, 0);
    EXPECT_FALSE(lab::output("nft list tables").contains("wayleave")) << "the kernel keeps an owned table of a dead process";
    EXPECT_EQ(cleanUp().value(), 4);  // a rule and a route per family
    EXPECT_TRUE(clean()) << leftovers();
    EXPECT_TRUE(lab::output("ip rule show").contains("0x99"));
    EXPECT_EQ(cleanUp().value(), 0);
  });
}

TEST(Capture, StartReplacesWhatACrashLeft) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    ASSERT_TRUE(platform::installRouting({}));
    Rig rig;
    rig.apply({NetworkRule{}});
    EXPECT_TRUE(lab::connectTo(at("198.51.100.1", 80)));
    EXPECT_TRUE(rig.next());
  });
}

// Sanitizers need descriptors of their own: the reserve is used up to its edge, not beyond.
TEST(Capture, DescriptorShortageLeavesFlowsQueued) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    Rig rig;
    rig.apply({NetworkRule{}});
    const Fd first = lab::connectTo(at("198.51.100.1", 80));
    const Fd second = lab::connectTo(at("198.51.100.1", 80));
    std::vector<Fd> hoard;
    do hoard.push_back(Fd::adopt(::dup(0)));
    while (hoard.back().borrow() < platform::ceilingFromLimit());
    ASSERT_TRUE(rig.next());  // taken before the shortage is seen
    EXPECT_EQ(rig.collector.starved, EMFILE);
    rig.loop.restart();
    rig.loop.run_for(std::chrono::milliseconds{150});  // longer than two tries
    EXPECT_TRUE(rig.collector.flows.empty()) << "flows are taken although descriptors are short";
    hoard.clear();
    EXPECT_TRUE(rig.next());
  });
}

TEST(Capture, OnlyOneProxyCapturesInANamespace) {
  lab::inNamespaces([] {
    const lab::Lab lab;
    Rig first;
    first.apply({NetworkRule{}});
    Rig second;
    CapturePlan plan;
    plan.ruleSets.push_back(rules::RuleSet::make({NetworkRule{}}, {}).value());
    const auto refused = second.capture->apply(plan);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().reason, Reason::Conflict);
    EXPECT_TRUE(lab::connectTo(at("198.51.100.1", 80)));
    EXPECT_TRUE(first.next()) << "the loser disturbed the winner";
  });
}

TEST(Capture, PlainListenerNeedsNoRules) {
  boost::asio::io_context loop;
  Collector collector;
  EXPECT_FALSE(listenPlain(loop, at("192.0.2.77", 1), at("192.0.2.1", 1)));
  const Fd probe = lab::listenOn(at("127.0.0.1", 0));
  const Endpoint free = localEndpoint(probe.borrow());
  const_cast<Fd&>(probe).reset();
  auto source = listenPlain(loop, free, at("192.0.2.1", 443)).value();
  source->start(collector);
  EXPECT_TRUE(lab::connectTo(free));
  loop.run_one_for(std::chrono::seconds{5});
  ASSERT_EQ(collector.flows.size(), 1u);
  EXPECT_EQ(collector.flows[0].destination, at("192.0.2.1", 443));
}

TEST(Network, ChangeIsToldOncePerBurst) {
  lab::inNamespaces([] {
    std::atomic<int> told = 0;
    {
      std::jthread watcher([&](std::stop_token stop) { watchNetwork(std::move(stop), [&] { told = told + 1, told.notify_all(); }); });
      // The watcher may not listen yet: change something until it does.
      while (told == 0) lab::run("ip link set lo up && ip addr add 127.0.0.2/8 dev lo && ip addr del 127.0.0.2/8 dev lo");
    }
    EXPECT_GT(told, 0);
  });
}

TEST(Owner, UnknownSocketIsNotFound) { EXPECT_EQ(processOfSocket(1).error().reason, Reason::NotFound); }

}  // namespace
}  // namespace wayleave::capture
