"""A gateway that is down, refuses, or misbehaves: each a clear outcome, and the daemons live."""

import signal
import time

from world import changed_vendor, eventually, lab


def misbehaving(world, mode: str) -> None:
    """Replaces the gateway by a TLS server that does what `mode` says."""
    world.lab.stop("gateway", signal.SIGKILL)
    world.lab.start("bad-gateway", "network", "/usr/bin/python3", lab.ROOT / "tests/integration/bad_gateway.py", mode,
                    lab.PKI / "server.crt", lab.PKI / "server.key", lab.PKI / "device-ca.crt")
    world.lab.listening("bad-gateway", "network", 3129)


def expect_failure(world, outcome: str, seconds: float = 15):
    started = time.monotonic()
    ok, text = world.curl()
    assert not ok, f"curl must fail, it said {text}"
    assert time.monotonic() - started < seconds, "it took too long"
    flow = world.expect_flow(outcome)
    assert flow["error"], flow
    return flow


def test_a_gateway_that_is_down(world):
    world.start()
    world.install()
    world.lab.stop("gateway", signal.SIGKILL)
    expect_failure(world, "GATEWAY_UNREACHABLE")
    world.lab.start_gateway()
    eventually(lambda: world.curl()[0], 15, "traffic to flow again")


def test_a_gateway_that_is_down_with_the_direct_policy(world):
    world.start()
    world.install(world.profile(changed_vendor(
        FailurePolicy="direct", IncludedNetworkRules=[{"MatchProtocol": "tcp", "MatchRemoteNetwork": "10.99.0.0", "MatchRemotePrefix": 16}])))
    world.lab.stop("gateway", signal.SIGKILL)
    ok, text = world.curl("https://outside.lab/", "-4")
    assert ok and text == "Hello from the origin.", text
    flow = world.expect_flow("COMPLETED")
    assert flow["decision"] == "direct", flow


def test_a_gateway_that_does_not_trust_our_certificate(world):
    world.lab.stop("gateway")
    saved, world.lab.device_cas = world.lab.device_cas, [lab.PKI / "server-ca.crt"]
    try:
        world.lab.start_gateway()
        world.start()
        world.install()
        expect_failure(world, "GATEWAY_REFUSED_CERTIFICATE")
    finally:
        world.lab.device_cas = saved
        world.lab.stop("gateway")


def test_a_gateway_we_do_not_trust(world):
    world.start()
    world.install(world.profile(changed_vendor(GatewayServerName="other.lab")))
    expect_failure(world, "GATEWAY_UNTRUSTED")


def test_403_for_a_forbidden_target(world):
    world.start()
    world.install()
    ok, _ = world.curl("https://10.88.0.66/")
    assert not ok
    world.expect_flow("GATEWAY_DENIED")


def test_502_when_the_gateway_cannot_reach_the_target(world):
    world.start()
    world.install()
    ok, _ = world.curl("http://10.88.0.10:81/")
    assert not ok
    world.expect_flow("GATEWAY_CANNOT_REACH_TARGET")


def test_407(world):
    world.start()
    world.install()
    misbehaving(world, "407")
    expect_failure(world, "GATEWAY_AUTH_REQUIRED")


def test_garbage_instead_of_http(world):
    world.start()
    world.install()
    misbehaving(world, "garbage")
    expect_failure(world, "GATEWAY_PROTOCOL_ERROR")


def test_closing_early(world):
    world.start()
    world.install()
    misbehaving(world, "close")
    expect_failure(world, "GATEWAY_CLOSED")


def test_never_answering(world):
    world.start()
    world.install()
    misbehaving(world, "silent")
    expect_failure(world, "GATEWAY_TIMEOUT", 25)


def test_an_endless_header(world):
    world.start()
    world.install()
    misbehaving(world, "endless")
    expect_failure(world, "GATEWAY_PROTOCOL_ERROR")
