"""The data plane when the network, the machine or the identity fails under it: real sockets, real programs."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import dataplane as d
import scenarios_acme
from scenarios_dataplane import begin
from world import IDENTIFIER, Skipped, changed_vendor, eventually, lab

ONE_PERCENT = "numgen random mod 100 == 0"


@contextlib.contextmanager
def packets_dropped(world, match: str = ""):
    """In the network's namespace: those that `match`, of what comes to and goes from the gateway's port. Gives a way to count them."""
    nft = ("network", "nft")
    world.lab.inside(*nft, "add table inet faults")
    try:
        for hook, port in (("input", "tcp dport 3129"), ("output", "tcp sport 3129")):
            world.lab.inside(*nft, f"add chain inet faults {hook} {{ type filter hook {hook} priority 0; }}")
            world.lab.inside(*nft, f"add rule inet faults {hook} {port} {match} counter drop")
        yield lambda: sum(map(int, re.findall(r"counter packets (\d+)", world.lab.inside(*nft, "list table inet faults").stdout)))
    finally:
        world.lab.inside(*nft, "delete table inet faults")


def test_a_black_hole_is_found_by_ping_within_its_limit(world):
    begin(world)
    flow = d.connect(d.ECHO, timeout=60)[0]
    d.exchange(flow)
    with packets_dropped(world):
        # A PING after 10 s of silence, its answer awaited for 20 s, and a second for the clocks in between.
        times = d.wait_ended([flow], 31)
    assert times[0] > 5, f"ended after {times[0]:.1f} s: not by PING"
    eventually(lambda: "GATEWAY_CLOSED" in {f["outcome"] for f in world.flows()} or "GATEWAY_TIMEOUT" in {f["outcome"] for f in world.flows()}, 5,
               f"the flow to say why: {[f['outcome'] for f in world.flows()]}")
    eventually(lambda: d.exchange(d.connect(d.ECHO)[0]) < 5, 20, "new flows when the way is there again")


def test_one_percent_loss_harms_no_byte(world):
    begin(world)
    with packets_dropped(world, ONE_PERCENT) as dropped:
        downloads = [d.Download(48), d.Download(48)]
        talk = d.connect(d.ECHO, 20)
        for _ in range(10):
            d.exchange_all(talk, b"x" * 2000)
        for download in downloads:
            download.finish(60)
        assert dropped() > 0
    assert all(f["outcome"] in ("COMPLETED", "-") for f in world.flows()), {f["outcome"] for f in world.flows()}


def test_one_percent_loss_and_a_hundred_milliseconds_of_way_at_full_window(world):
    gateway = d.ScriptedGateway(world, "--port", "3130")
    world.lab.start("relay", "network", "/usr/bin/python3", d.HERE / "delaying_relay.py", 3129, 3130, 50)
    world.lab.listening("relay", "network", 3129)
    world.start("--proxy-arg=--workers=1")
    world.install(d.h2_profile(world))
    proxy = world.pid("wayleave-proxyd")
    before = d.rss_kib(proxy)
    with packets_dropped(world, ONE_PERCENT) as dropped:
        downloads = [d.Download(256) for _ in range(4)]  # 64 MiB: four times the connection's window
        sibling = d.connect(d.ECHO)[0]
        slowest = max(d.exchange(sibling) for _ in range(5))
        assert slowest > 0.09, f"{slowest}: the way is not that long"
        for download in downloads:
            download.finish(60)
        assert dropped() > 10, f"{dropped()} packets were lost"
    assert world.sanitized or d.rss_kib(proxy) - before < 64 * 1024, f"{d.rss_kib(proxy) - before} KiB more"
    assert len(gateway.connections()) == 1
    assert all(f["outcome"] in ("COMPLETED", "-") for f in world.flows()), {f["outcome"] for f in world.flows()}


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


def test_a_worker_at_full_load_still_serves_the_others(world):
    programs = lab.ROOT / "build/bin"
    if not all((programs / name).exists() for name in ("wayleave-bench-load", "wayleave-bench-gateway")):
        raise Skipped("the ends that bring a worker to its limit are not built (scripts/build.sh release)")
    world.lab.stop("gateway", signal.SIGKILL)
    world.lab.start("bench-gateway", "network", programs / "wayleave-bench-gateway", "--port", 3129, "--certificate", lab.PKI / "server.crt",
                    "--key", lab.PKI / "server.key", "--client-ca", lab.PKI / "device-ca.crt")
    world.lab.listening("bench-gateway", "network", 3129)
    world.start("--proxy-arg=--workers=1")
    world.install(d.h2_profile(world))
    talk = d.connect(d.DISCARD, 10)
    for each in talk:
        each.sendall(b"P")  # of this gateway's commands: a KiB for each KiB
    kibibyte = b"\0" * 1024
    d.exchange_all(talk, kibibyte)
    proxy = world.pid("wayleave-proxyd")
    for number, mode in enumerate(("down", "up")):
        world.lab.start(f"load-{number}", "device", programs / "wayleave-bench-load", "run", "--target", f"{d.ORIGIN}:{d.DISCARD}", "--mode", mode,
                        "--flows", 16, "--seconds", 60)
    eventually(lambda: d.metric(world, "wayleave_flows_active") >= 42, 10, "the bulk flows")
    before, started, slowest = d.wanted_cpu(proxy), time.monotonic(), 0.0
    while time.monotonic() - started < 3:
        slowest = max(slowest, *(d.exchange(each, kibibyte) for each in talk))
    took = time.monotonic() - started
    after = d.wanted_cpu(proxy)
    busiest = max(after[thread] - before.get(thread, 0) for thread in after)
    assert busiest >= 0.8 * took, f"the worker wanted the CPU for {busiest:.2f} of {took:.2f} s: that is not full load"
    assert slowest < 1, f"{slowest:.2f} s for an exchange beside bulk transfers"
    with d.within(2, "a new flow"):
        fresh = d.connect(d.DISCARD)
        fresh[0].sendall(b"P")
        d.exchange_all(fresh, kibibyte)
    d.close([*talk, *fresh])


# --- An identity that may no longer be used: it was removed, its grant was withdrawn, or its key is lost ------------------------


def expect_end_within_a_second(world, gateway, flows, how, outcome: str) -> None:
    """From the command that takes the identity away to the end of its last flow, and of its tunnels."""
    action = threading.Thread(target=how)
    action.start()
    times = d.wait_ended(flows, 10)
    action.join()
    # Sanitized daemons on a machine that does other things as well keep the order, not the time.
    assert max(times) <= (5 if world.sanitized else 1), f"the last flow ended after {max(times):.2f} s"
    eventually(lambda: not gateway.open_connections(), 1, "the tunnels to close")
    eventually(lambda: "-" not in {f["outcome"] for f in world.flows()}, 2, "the flows to be on record")
    outcomes = {f["outcome"] for f in world.flows()}
    assert outcomes == {outcome}, outcomes


def begin_with_tpm(world) -> tuple[d.ScriptedGateway, str]:
    """begin(), with an attested identity in a software TPM, whose address it returns, too."""
    tcti = world.lab.start_tpm()
    world.lab.start_issuer()
    gateway = d.ScriptedGateway(world)
    world.start("--identity-arg", f"--tcti={tcti}", "--proxy-arg=--workers=1")
    world.install(world.profile(changed_vendor(GatewayProtocol="h2"), example=scenarios_acme.ACME))
    return gateway, tcti


def test_a_removed_identity_ends_its_tunnels_within_a_second_and_flows_say_why(world):
    gateway = begin(world)
    flows = d.connect(d.ECHO, 50)
    d.exchange_all(flows)
    expect_end_within_a_second(world, gateway, flows, lambda: world.remove(), "IDENTITY_UNAVAILABLE")


def test_a_withdrawn_grant_ends_tunnels_within_a_second_until_it_is_given_again(world):
    grants = world.folder / "grants.d"
    shutil.copytree(lab.ROOT / "packaging/grants.d", grants)
    file = grants / "10-wayleave.toml"
    given = file.read_text()
    begin_of_proxy, rest = given.split("[[grant]]\nname = \"wayleave-proxyd\"")
    withdrawn = begin_of_proxy + rest[rest.index("[[grant]]"):]
    gateway = d.ScriptedGateway(world)
    world.start("--proxy-arg=--workers=1", "--grants-dir", grants)
    world.install(d.h2_profile(world))
    flows = d.connect(d.ECHO, 50)
    d.exchange_all(flows)

    def reload(text: str) -> None:
        file.write_text(text)
        os.kill(world.pid("wayleave-identityd"), signal.SIGHUP)
    expect_end_within_a_second(world, gateway, flows, lambda: reload(withdrawn), "NOT_ENTITLED")
    refused = d.connect(d.ECHO)
    d.wait_ended(refused, 5)
    assert {f["outcome"] for f in world.flows()} == {"NOT_ENTITLED"}
    reload(given)

    def served() -> bool:
        try:
            return d.exchange(d.connect(d.ECHO)[0]) < 5
        except OSError:
            return False
    eventually(served, 10, "flows, now that the grant is there again")


def test_a_key_lost_in_the_tpm_ends_its_tunnels_within_a_second(world):
    gateway, tcti = begin_with_tpm(world)
    flows = d.connect(d.ECHO, 50)
    d.exchange_all(flows)
    reference = world.lab.wayleave_json("identity", "list")["identities"][0]["reference"]
    # The owner clears the TPM. The tunnels live from what was signed before, until the next signature shows that there is no key.
    world.lab.stop("tpm-device", signal.SIGKILL)
    world.lab.start_tpm()
    subprocess.run(["tpm2_clear", "-T", tcti, "-c", "p"], check=True, capture_output=True)
    message = world.folder / "m"
    message.write_text("x")
    expect_end_within_a_second(world, gateway, flows,
                               lambda: world.lab.wayleave("sign", message, "--identity", reference, "--out", world.folder / "s"), "IDENTITY_LOST")
    assert not (world.folder / "s").exists()


def test_a_renewal_in_the_middle_of_a_bulk_transfer_loses_no_byte(world):
    gateway, _ = begin_with_tpm(world)
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
    eventually(world.lab.carrying, 10, "rules and identity to come back")
    flows = d.connect(d.ECHO, 50)
    d.exchange_all(flows)
    os.kill(world.pid("wayleave-proxyd"), signal.SIGKILL)
    eventually(lambda: not world.lab.capture_active(), 5, "the table to vanish with its owner")
    d.wait_ended(flows, 5)
