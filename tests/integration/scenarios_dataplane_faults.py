"""The data plane when the network, the machine or the identity fails under it: real sockets, real programs."""

import contextlib
import os
import signal
import threading
import time

import dataplane as d
import scenarios_acme
from scenarios_dataplane import begin
from world import IDENTIFIER, changed_vendor, eventually, lab


@contextlib.contextmanager
def packets_dropped(world, rule: str):
    """In the network's namespace: of what comes from and goes to the gateway's port."""
    nft = ("network", "nft")
    world.lab.inside(*nft, "add table inet faults")
    try:
        for hook, match in (("input", "tcp dport 3129"), ("output", "tcp sport 3129")):
            world.lab.inside(*nft, f"add chain inet faults {hook} {{ type filter hook {hook} priority 0; }}")
            world.lab.inside(*nft, f"add rule inet faults {hook} {match} {rule}")
        yield
    finally:
        world.lab.inside(*nft, "delete table inet faults")


def test_a_black_hole_is_found_by_ping_within_its_limit(world):
    begin(world)
    flow = d.connect(d.ECHO, timeout=60)[0]
    d.exchange(flow)
    with packets_dropped(world, "drop"):
        # A PING after 10 s of silence, its answer awaited for 20 s.
        times = d.wait_ended([flow], 40)
    assert times[0] > 5, f"ended after {times[0]:.1f} s: not by PING"
    eventually(lambda: "GATEWAY_CLOSED" in {f["outcome"] for f in world.flows()} or "GATEWAY_TIMEOUT" in {f["outcome"] for f in world.flows()}, 5,
               f"the flow to say why: {[f['outcome'] for f in world.flows()]}")
    eventually(lambda: d.exchange(d.connect(d.ECHO)[0]) < 5, 20, "new flows when the way is there again")


def test_one_percent_loss_harms_no_byte(world):
    begin(world)
    with packets_dropped(world, "numgen random mod 100 == 0 drop"):
        downloads = [d.Download(48), d.Download(48)]
        talk = d.connect(d.ECHO, 20)
        for _ in range(10):
            d.exchange_all(talk, b"x" * 2000)
        for download in downloads:
            download.finish(60)
    assert all(f["outcome"] in ("COMPLETED", "-") for f in world.flows()), {f["outcome"] for f in world.flows()}


def test_a_hundred_milliseconds_of_way_at_full_window(world):
    gateway = d.ScriptedGateway(world, "--port", "3130")
    world.lab.start("relay", "network", "/usr/bin/python3", d.HERE / "delaying_relay.py", 3129, 3130, 50)
    world.lab.listening("relay", "network", 3129)
    world.start("--proxy-arg=--workers=1")
    world.install(d.h2_profile(world))
    proxy = world.pid("wayleave-proxyd")
    before = d.rss_kib(proxy)
    downloads = [d.Download(256) for _ in range(4)]  # 64 MiB: four times the connection's window
    sibling = d.connect(d.ECHO)[0]
    slowest = max(d.exchange(sibling) for _ in range(5))
    assert slowest > 0.09, f"{slowest}: the way is not that long"
    for download in downloads:
        download.finish(60)
    assert world.sanitized or d.rss_kib(proxy) - before < 64 * 1024, f"{d.rss_kib(proxy) - before} KiB more"
    assert len(gateway.connections()) == 1


def test_without_descriptors_flows_are_refused_and_come_back(world):
    d.ScriptedGateway(world)
    world.start("--proxy-arg=--workers=1", descriptors=100)
    world.install(d.h2_profile(world))
    sibling = d.connect(d.ECHO)[0]
    d.exchange(sibling)
    proxy = world.pid("wayleave-proxyd")
    flows = d.connect(d.ECHO, 150, timeout=1)
    served = 0
    for each in flows:
        try:
            each.sendall(b"ping")
        except OSError:
            continue
    for each in flows:
        try:
            served += d.receive(each, 4) == b"ping"
        except OSError:
            break  # those that wait in the listener's queue have nobody to answer them
    assert 20 <= served < 100, f"{served} of 150 were served with 100 descriptors"
    d.exchange(sibling)
    assert "new flows wait in the kernel" in world.log() and d.metric(world, "wayleave_accept_starved_total") > 0
    d.reset(flows)
    eventually(lambda: d.exchange(d.connect(d.ECHO, timeout=3)[0]) < 3, 15, "new flows, now that there are descriptors")
    assert world.pid("wayleave-proxyd") == proxy


def test_a_worker_that_is_busy_still_serves_the_others(world):
    begin(world)
    talk = d.connect(d.ECHO, 10)
    d.exchange_all(talk)
    downloads = [d.Download(320) for _ in range(4)]
    slowest = max(d.exchange(each, b"x" * 1000) for _ in range(10) for each in talk)
    assert slowest < 3, f"{slowest:.2f} s beside bulk transfers"
    for download in downloads:
        download.finish(60)


def test_a_removed_identity_ends_its_tunnels_within_a_second_and_flows_say_why(world):
    gateway = begin(world)
    flows = d.connect(d.ECHO, 50)
    d.exchange_all(flows)
    threading.Thread(target=world.lab.wayleave, args=("profile", "remove", IDENTIFIER)).start()
    eventually(lambda: not world.inventory()[0], 10, "the profile to be gone")
    times = d.wait_ended(flows, 3)
    assert max(times) < 1.5, f"the last flow ended {max(times):.2f} s after the identity"
    eventually(lambda: not gateway.open_connections(), 3, "the tunnels to close")
    outcomes = {f["outcome"] for f in world.flows()}
    assert outcomes <= {"IDENTITY_UNAVAILABLE"}, outcomes


def test_a_renewal_in_the_middle_of_a_bulk_transfer_loses_no_byte(world):
    tcti = world.lab.start_tpm()
    world.lab.start_issuer()
    gateway = d.ScriptedGateway(world)
    world.start("--identity-arg", f"--tcti={tcti}", "--proxy-arg=--workers=1")
    world.install(world.profile(changed_vendor(GatewayProtocol="h2"), example=scenarios_acme.ACME))
    download = d.Download(160, rate=4e6)
    eventually(lambda: download.received > 5, 10, "the download to run")
    first = gateway.open_connections()[0]["serial"]
    renewed = world.lab.wayleave("renew")
    assert renewed.returncode == 0, renewed.stdout

    def moved() -> bool:
        fresh = d.connect(d.ECHO)[0]
        d.exchange(fresh)
        found = {c["serial"] for c in gateway.connections()} != {first}
        fresh.close()
        return found
    eventually(moved, 10, "a tunnel with the new certificate")
    fresh = d.connect(d.ECHO)[0]
    d.exchange(fresh)
    carrying = [c for c in gateway.open_connections() if c["serial"] != first]
    assert carrying and carrying[-1]["streams"] == 1, gateway.connections()
    assert download.received < download.blocks, "it was to be in mid-transfer"
    download.finish(60)
    eventually(lambda: first not in {c["serial"] for c in gateway.open_connections()}, 10, "the drained tunnel to close")


def test_sigterm_under_load_lets_flows_finish_and_sigkill_leaves_no_rule(world):
    begin(world)
    download = d.Download(48, rate=3e6)
    eventually(lambda: download.received > 3, 10, "the download to run")
    stopping = threading.Thread(target=world.stop)
    stopping.start()
    download.finish(30)
    stopping.join(30)
    world.expect_no_trace()
    world.start("--proxy-arg=--workers=1")
    eventually(world.lab.capture_active, 10, "capture")
    flows = d.connect(d.ECHO, 50)
    d.exchange_all(flows)
    os.kill(world.pid("wayleave-proxyd"), signal.SIGKILL)
    eventually(lambda: not world.lab.capture_active() or time.sleep(0), 5, "the table to vanish with its owner")
    d.wait_ended(flows, 5)
