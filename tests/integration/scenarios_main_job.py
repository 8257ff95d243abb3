"""The main job: a profile in, real flows out over mutual TLS, and everything gone when the profile goes."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from world import EXAMPLE, IDENTIFIER, changed_vendor, eventually, lab


def test_a_profile_carries_curl_through_the_gateway_and_back_out_when_removed(world):
    world.start()
    assert not world.curl()[0], "the origin must not be reachable before"
    world.install()
    world.expect_origin("https://origin.lab/")
    world.expect_origin("https://origin6.lab/")
    lines = eventually(lambda: len(c := [l for l in world.gateway_lines() if "CONNECT" in l]) >= 2 and c, 5, "two CONNECTs at the gateway")
    assert all("CN=lab-device-1" in line for line in lines), lines
    flow = world.expect_flow("COMPLETED")
    assert flow["decision"] == "tunnel" and flow["bytesDown"] > 0, flow
    world.remove()
    eventually(lambda: not world.lab.capture_active(), 5, "the rules to go")
    assert not world.curl()[0], "the origin must not be reachable after removal"
    assert world.inventory() == ([], [])


def test_the_reference_is_the_ssui_form_and_resolves(world):
    world.start()
    world.install()
    identity = world.lab.wayleave_json("identity", "list")["identities"][0]
    reference = identity["reference"]
    message = world.folder / "message"
    message.write_text("signed by reference")
    assert lab.reference_hex(identity).startswith("73737569"), identity
    values = {v["name"]: v["value"] for v in world.lab.explain(reference)["values"]}
    assert any("Wayleave Lab Device CA" in value for value in values.values()), values
    signature = world.folder / "signature"
    result = world.lab.wayleave("sign", message, "--identity", reference, "--out", signature)
    assert result.returncode == 0, result.stdout
    certificate = world.lab.wayleave_json("identity", "show", identity["id"])
    pem = world.folder / "leaf.der"
    import base64
    pem.write_bytes(base64.b64decode(certificate["chain"][0]))
    key = world.lab.device("openssl", "x509", "-inform", "DER", "-in", pem, "-noout", "-pubkey").stdout
    (world.folder / "key.pem").write_text(key)
    verified = world.lab.device("openssl", "dgst", "-sha384", "-verify", world.folder / "key.pem", "-signature", signature, message)
    assert verified.returncode == 0, verified.stdout


def test_200_concurrent_downloads_over_both_families_arrive_unchanged_and_leak_nothing(world):
    downloads = 60 if world.sanitized else 200
    world.start()
    world.install()
    world.expect_origin()
    proxy = world.pid("wayleave-proxyd")
    eventually(lambda: all(f["outcome"] != "-" for f in world.flows()), 5, "the first flow to end")
    before = len(os.listdir(f"/proc/{proxy}/fd"))
    mark = len([l for l in world.gateway_lines() if "CONNECT" in l])
    root = world.lab.work / "origin"
    expected = {}
    for n in range(20):
        content = os.urandom(1000 + n * 150_000)
        (root / f"random-{n}").write_bytes(content)
        expected[n] = hashlib.sha256(content).hexdigest()

    def download(n: int) -> str:
        host = "origin.lab" if n % 2 else "origin6.lab"
        target = world.folder / f"download-{n}"
        family = "-4" if n % 2 else "-6"
        result = world.lab.device("curl", "-sS", family, "--max-time", "120", "-o", target, f"https://{host}/random-{n % 20}")
        if result.returncode != 0:
            return f"curl {n}: {result.stdout}"
        got = hashlib.sha256(target.read_bytes()).hexdigest()
        target.unlink()
        return "" if got == expected[n % 20] else f"download {n} differs"

    with ThreadPoolExecutor(downloads) as pool:
        problems = [p for p in pool.map(download, range(downloads)) if p]
    assert not problems, f"{len(problems)} of {downloads}: {problems[:3]}"
    lines = eventually(lambda: len(c := [l for l in world.gateway_lines() if "CONNECT" in l][mark:]) >= downloads and c, 20,
                       "every CONNECT in the gateway's log")
    assert len(lines) == downloads and all("CN=lab-device-1" in line for line in lines), \
        f"{len(lines)} tunnels, without the device certificate: {[l for l in lines if 'CN=lab-device-1' not in l][:3]}"
    eventually(lambda: len(os.listdir(f"/proc/{proxy}/fd")) <= before, 15,
               f"descriptors back to {before}, there are {len(os.listdir(f'/proc/{proxy}/fd'))}")


def test_excluded_and_foreign_traffic_never_reaches_the_proxy(world):
    world.start()
    world.install(world.profile(changed_vendor(
        IncludedNetworkRules=[{"MatchProtocol": "tcp"}],
        ExcludedNetworkRules=[{"MatchProtocol": "tcp", "MatchRemoteNetwork": "10.99.0.0", "MatchRemotePrefix": 16},
                              {"MatchProtocol": "tcp", "MatchRemoteNetwork": "fd99::", "MatchRemotePrefix": 16}])))
    world.expect_origin("https://outside.lab/")
    world.expect_origin("https://origin.lab/")
    flow = world.expect_flow("COMPLETED")
    assert "10.88.0.10" in flow["destination"] or "fd88::10" in flow["destination"], flow
    assert len(world.flows()) == 1, "the excluded flow was seen"


def test_a_host_rule_tunnels_by_server_name_and_lets_others_pass(world):
    world.start()
    world.install(world.profile(changed_vendor(
        IncludedNetworkRules=[{"MatchProtocol": "tcp", "MatchRemoteHost": "origin.lab", "MatchRemotePort": "443"}],
        ExcludedNetworkRules=None)))
    world.expect_origin("https://origin.lab/")
    world.expect_origin("https://outside.lab/")
    decisions = {f["host"]: f["decision"] for f in eventually(lambda: len(world.flows()) >= 2 and world.flows(), 5, "two flows")}
    assert decisions == {"origin.lab": "tunnel", "outside.lab": "direct"}, decisions


def test_a_newer_profile_replaces_the_older_one_whole(world):
    world.start()
    world.install()
    first = world.lab.wayleave_json("identity", "list")["identities"]
    assert len(first) == 1

    def newer(content, payloads):
        content["PayloadUUID"] = "11111111-0C57-4D2E-9E0B-6A1D5B7C2E10"
        content["PayloadDisplayName"] = "Newer"
    world.install(world.profile(newer))
    profiles = world.lab.wayleave_json("profile", "list")["profiles"]
    assert [p["displayName"] for p in profiles] == ["Newer"], profiles
    assert len(world.lab.wayleave_json("identity", "list")["identities"]) == 1
    world.expect_origin()


def test_everything_survives_a_restart(world):
    world.start()
    world.install()
    before = world.inventory()
    assert world.stop() == 0
    world.expect_no_trace()
    world.start()
    assert world.inventory() == before
    eventually(world.lab.carrying, 10, "rules and identity to come back")
    world.expect_origin()


def test_the_example_profile_is_what_the_documentation_says(world):
    world.start()
    world.install(Path(EXAMPLE))
    shown = world.lab.wayleave_json("profile", "show", IDENTIFIER)
    assert shown["identifier"] == IDENTIFIER and len(shown["payloads"]) == 3, shown
