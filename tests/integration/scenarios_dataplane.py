"""The data plane over HTTP/2 when the gateway misbehaves, dies or says goodbye: real sockets, real programs, thousands of flows."""

import json
import os
import signal
import time

import dataplane as d
from world import Skipped, eventually, lab


def begin(world, *options) -> d.ScriptedGateway:
    """Wayleave with a profile that insists on HTTP/2, and the scriptable gateway."""
    gateway = d.ScriptedGateway(world, *options)
    world.start("--proxy-arg=--workers=1")
    world.install(d.h2_profile(world))
    return gateway


def test_the_gateway_is_killed_and_restarted_under_1000_flows(world):
    count = 200 if world.sanitized else 1000
    gateway = d.Nghttpx(world)
    d.start_echo_origin(world)
    world.start()
    world.install(d.h2_profile(world))
    proxy = world.pid("wayleave-proxyd")
    d.exchange(d.connect(d.ECHO)[0])
    eventually(lambda: all(f["outcome"] != "-" for f in world.flows()), 5, "the first flow to end")
    descriptors = len(os.listdir(f"/proc/{proxy}/fd"))
    for _ in range(2):
        flows = d.connect(d.ECHO, count)
        d.exchange_all(flows)
        gateway.kill()
        d.wait_ended(flows, 5)
        d.close(flows)
        eventually(lambda: d.metric(world, "wayleave_flows_ended_total", outcome="GATEWAY_CLOSED") >= count, 5, "every flow to say why")
        gateway.start()
        d.metric(world, "wayleave_flows_ended_total")
    with d.within(20, "new flows after the restart"):
        flows = d.connect(d.ECHO, count)
        d.exchange_all(flows)
    d.reset(flows)
    # Each new nghttpx has new ticket keys and the workers dial at once: one signature for each of them, not for each flow.
    assert d.signatures(world) <= 3 * 4, f"{d.signatures(world)} signatures"
    eventually(lambda: len(os.listdir(f"/proc/{proxy}/fd")) <= descriptors + 40, 10, "descriptors to come back")


def test_goaway_in_mid_transfer_finishes_what_runs_and_moves_what_is_new(world):
    gateway = begin(world)
    download = d.Download(160, rate=8e6)  # 10 MiB
    quiet = d.connect(d.ECHO)[0]
    d.exchange(quiet)
    eventually(lambda: download.received > 10, 10, "the download to run")
    before = len(gateway.connections())
    gateway.do("goaway")
    fresh = d.connect(d.ECHO)[0]
    d.exchange(fresh)
    assert not download.blocks == download.received, "it was to be in mid-transfer"
    d.exchange(quiet)
    after = gateway.connections()
    assert len(after) == before + 1 and after[-1]["streams"] == 1, after
    download.finish()
    d.close([quiet, fresh])
    eventually(lambda: [c["open"] for c in gateway.connections()].count(True) == 1, 10, "the drained connection to close")
    assert gateway.connections()[-1]["resumed"], "the redial needs no signature"


def test_redials_by_session_ticket_need_no_signature(world):
    gateway = begin(world)
    d.close(d.connect(d.ECHO))
    before = None
    for round in range(5):
        flow = d.connect(d.ECHO)
        d.exchange_all(flow)
        d.close(flow)
        before = before or d.signatures(world)
        gateway.do("close" if round % 2 else "hang-up")
        eventually(lambda: not gateway.open_connections(), 5, "the connection to go")
    assert before >= 1 and d.signatures(world) == before, f"{before} signatures became {d.signatures(world)}"
    assert [c["resumed"] for c in gateway.connections()][-4:] == [True] * 4, gateway.connections()


def test_tunnels_are_warm_before_the_first_flow_and_after_a_network_change(world):
    gateway = d.ScriptedGateway(world)
    world.start("--proxy-arg=--workers=2")
    world.install(d.h2_profile(world))
    eventually(lambda: len(gateway.open_connections()) == 2, 5, "a connection for each worker")
    assert sum(c["requests"] for c in gateway.connections()) == 0
    gateway.do("hang-up")
    eventually(lambda: not gateway.open_connections(), 5, "them to go")
    network = ("device", "ip", "addr")
    world.lab.inside(*network, "add", "10.77.3.3/24", "dev", "wl-device")
    try:
        eventually(lambda: len(gateway.open_connections()) == 2, 5, "a connection for each worker after the change")
        pings = sum(c["pings"] for c in gateway.open_connections())
        world.lab.inside(*network, "del", "10.77.3.3/24", "dev", "wl-device")
        eventually(lambda: sum(c["pings"] for c in gateway.open_connections()) >= pings + 2, 5, "a PING on each after the next")
    finally:
        world.lab.inside(*network, "del", "10.77.3.3/24", "dev", "wl-device", check=False)


def test_a_target_that_stops_reading_costs_no_memory_and_holds_up_nobody(world):
    gateway = begin(world, "--stream-window", str(1 << 20))
    sibling = d.connect(d.ECHO)[0]
    d.exchange(sibling)
    proxy = world.pid("wayleave-proxyd")
    before = d.rss_kib(proxy)
    stalled = d.connect(d.HOLD, 20)
    sent = [d.push(each, 0.3, 64 << 20) for each in stalled]
    assert max(sent) < 32 << 20, f"{max(sent)} bytes went somewhere"
    grown = d.rss_kib(proxy) - before
    assert world.sanitized or grown < 16 * 1024, f"{grown} KiB more"
    assert d.exchange(sibling, b"x" * 10_000) < 1
    d.close([*stalled, sibling])


def test_programs_that_stop_reading_cost_bounded_memory_and_hold_up_nobody(world):
    gateway = begin(world)
    proxy = world.pid("wayleave-proxyd")
    sibling = d.connect(d.ECHO)[0]
    d.exchange(sibling)
    before = d.rss_kib(proxy)
    flood = d.connect(d.FLOOD, 20)
    time.sleep(1)
    taken = sum(c["streams"] for c in gateway.connections())
    assert taken == 21, taken
    # The bound: 32 MiB held for all paused streams, and one connection window.
    grown = d.rss_kib(proxy) - before
    assert world.sanitized or grown < 64 * 1024, f"{grown} KiB more"
    assert d.exchange(sibling, b"x" * 10_000) < 1
    d.reset(flood)
    eventually(lambda: sum(c["streams"] for c in gateway.connections()) == 1, 5, "the streams to be reset")
    d.exchange(sibling)
    eventually(lambda: world.sanitized or d.rss_kib(proxy) - before < 20 * 1024, 10, f"the memory to come back; {d.rss_kib(proxy) - before} KiB more")


def test_equal_windows_do_not_deadlock_when_one_stream_waits_for_another(world):
    # nghttpx's and many others' default: 65,535 bytes for a stream and for the whole connection.
    gateway = begin(world)
    first = d.connect(d.HOLD)[0]
    d.push(first, 0.5, 8 << 20)  # the gateway gives nothing back until data comes on the second
    taken = gateway.connections()[-1]["dataBytes"]
    assert taken == 65_535, taken
    second = d.connect(d.RELEASE)[0]
    with d.within(2, "the second stream"):
        d.exchange(second, b"go on")
    eventually(lambda: sum(c["dataBytes"] for c in gateway.connections()) > taken + 1000, 5, "the first to go on")
    d.close([first, second])


def test_100000_writes_of_one_byte_become_few_frames(world):
    writes = 20_000 if world.sanitized else 100_000
    gateway = begin(world)
    flow = d.connect(d.DISCARD)[0]
    started = time.monotonic()
    for _ in range(writes):
        flow.send(b"x")
    eventually(lambda: gateway.connections()[-1]["dataBytes"] == writes, 10, "every byte")
    took = time.monotonic() - started
    frames = gateway.connections()[-1]["dataFrames"]
    assert frames < 100 + 1100 * took, f"{frames} DATA frames for {writes} writes in {took:.1f} s"
    flow.close()


def test_storms_of_resets_hurt_nobody_else(world):
    gateway = begin(world)
    sibling = d.connect(d.ECHO)[0]
    d.exchange(sibling)
    proxy = world.pid("wayleave-proxyd")
    d.close(d.connect(d.REFUSE, 50))
    before = d.rss_kib(proxy)
    rounds = 3 if world.sanitized else 10
    for _ in range(rounds):
        refused = d.connect(d.REFUSE, 100)
        d.wait_ended(refused, 5)
        d.close(refused)
        broken = d.connect(d.RESET, 100)
        for each in broken:
            each.send(b"x")
        d.wait_ended(broken, 5)
        d.close(broken)
        d.reset(d.connect(d.ECHO, 100))
    d.exchange(sibling)
    d.exchange_all(d.connect(d.ECHO, 50))
    assert world.sanitized or d.rss_kib(proxy) - before < 4096, f"{d.rss_kib(proxy) - before} KiB more"
    assert d.metric(world, "wayleave_flows_ended_total", outcome="GATEWAY_CLOSED") >= rounds * 200


def test_a_gateway_that_counts_resets_as_abuse_is_never_provoked(world):
    # nghttp2 says goodbye after 1,000 resets of a connection (CVE-2023-44487): programs that hang up must not cost their siblings.
    d.Nghttpx(world)
    d.start_echo_origin(world)
    world.start("--proxy-arg=--workers=1")
    world.install(d.h2_profile(world))
    sibling = d.connect(d.ECHO)[0]
    d.exchange(sibling)
    for _ in range(6 if world.sanitized else 16):
        flows = d.connect(d.ECHO, 90)
        d.exchange_all(flows)
        d.reset(flows)
        d.exchange(sibling)
    outcomes = {f["outcome"] for f in world.flows()}
    assert outcomes <= {"CLIENT_RESET", "COMPLETED", "-"}, outcomes


def test_a_gateway_that_serves_fewer_streams_than_it_says_is_learned(world):
    gateway = begin(world, "--serve", "6")
    with d.within(4, "30 flows through a gateway that serves six at a time"):
        flows = d.connect(d.ECHO, 30)
        d.exchange_all(flows)
    connections = gateway.open_connections()
    assert len(connections) == 5, connections
    with d.within(1, "a flow, now that it is known"):
        d.exchange_all(d.connect(d.ECHO, 6))


def test_a_user_sees_his_own_flows_and_an_administrator_all(world):
    if not lab.real_root():
        raise Skipped("needs real root: with one user there are no others")
    world.start()
    world.install()
    machine = world.lab

    def as_user(number: int, *command):
        return machine.device("setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", *command)
    for number in (4711, 4712):
        got = as_user(number, "curl", "-sS", "--max-time", "20", f"https://origin.lab/?{number}")
        assert got.returncode == 0, got.stdout
    eventually(lambda: len(world.flows()) == 2, 5, "both flows to be on record")
    for number in (4711, 4712):
        flows = json.loads(as_user(number, "wayleave", "flows", "--json").stdout)["flows"]
        assert [f["user"] for f in flows] == [number], flows
        assert "fd88::10" in as_user(number, "wayleave", "flows").stdout
    nobodys = as_user(4713, "wayleave", "flows").stdout
    assert "fd88" not in nobodys and "No flow yet" in nobodys, nobodys
    assert as_user(4713, "wayleave", "status").returncode == 0
    assert {f["user"] for f in world.flows()} == {4711, 4712}
