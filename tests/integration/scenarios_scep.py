"""SCEP identities with Debian's scepserver: killed at every step it converges. The protocol's corners are in src/enrolment/scep and
tests/interop/scep.py."""

import base64
import hashlib
import os
import plistlib
import shutil
import signal
import subprocess

from world import Skipped, eventually, lab

SCEP = lab.ROOT / "examples" / "scep.mobileconfig"
PORT = 18082
CHALLENGE = "lab challenge"


def serve(world) -> object:
    """scepserver with a CA of its own that the gateway trusts; returns the profile for it."""
    if not shutil.which("scepserver"):
        raise Skipped("scepserver is not installed (Debian package scep)")
    depot = world.folder / "depot"
    subprocess.run(["scepserver", "ca", "-init", "-keySize", "2048", "-depot", depot], check=True, capture_output=True, cwd=world.folder)
    world.lab.start("scepserver", "network", "scepserver", "-depot", depot, "-port", PORT, "-challenge", CHALLENGE, "-allowrenew", "0")
    world.lab.listening("scepserver", "network", PORT)
    world.lab.stop("gateway")
    world.lab.device_cas.append(depot / "ca.pem")
    world.lab.start_gateway()
    world.gateway_mark = world._gateway_size()
    der = subprocess.run(["openssl", "x509", "-in", depot / "ca.pem", "-outform", "DER"], check=True, capture_output=True).stdout
    profile = plistlib.loads(SCEP.read_bytes())
    payload = next(p for p in profile["PayloadContent"] if p["PayloadType"] == "com.apple.security.scep")
    payload["PayloadContent"].update(URL=f"http://issuer.lab:{PORT}/scep", Challenge=CHALLENGE, CAFingerprint=hashlib.sha256(der).digest())
    path = world.folder / "scep.mobileconfig"
    path.write_bytes(plistlib.dumps(profile))
    return path


def test_a_scep_identity_carries_traffic_and_its_challenge_is_nowhere(world):
    profile = serve(world)
    world.start()
    world.install(profile)
    identities = world.lab.wayleave_json("identity", "list")["identities"]
    assert len(identities) == 1 and identities[0]["keyType"] == "RSA 2048", identities
    assert base64.b64decode(identities[0]["reference"]).startswith(b"ssui")
    world.expect_origin()
    stored = b"".join(path.read_bytes() for path in world.lab.state.rglob("*") if path.is_file())
    assert CHALLENGE.encode() not in stored


def test_kills_at_every_step_of_a_scep_enrolment_converge(world):
    profile = serve(world)
    for step, delay_ms in enumerate(range(0, 600, 75)):
        shutil.rmtree(world.lab.state, ignore_errors=True)
        shutil.rmtree(world.lab.runtime, ignore_errors=True)
        world.start()
        install = subprocess.Popen(["ip", "netns", "exec", "device", lab.BIN / "wayleave", "--runtime-dir", world.lab.runtime, "profile", "install", profile],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            install.wait(delay_ms / 1000)
        except subprocess.TimeoutExpired:
            pass
        os.kill(world.pid("wayleave-managementd" if step % 2 == 0 else "wayleave-identityd"), signal.SIGKILL)
        install.wait(60)
        world.lab.stop("wayleave", signal.SIGKILL)
        world.kill_daemons()
        world.start()

        def settled():
            profiles, identities = world.inventory()
            return (len(profiles), len(identities)) in ((0, 0), (1, 1)) and not world.lab.wayleave_json("profile", "list")["unfinished"]
        eventually(settled, 60, f"an end state after a kill at {delay_ms} ms: {world.inventory()}")
        if world.inventory()[0] == []:
            world.install(profile, wait=False)
        assert len(world.inventory()[1]) == 1
        world.stop()
