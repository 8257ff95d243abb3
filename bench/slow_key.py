"""New flows per second when the device's key signs in 200 ms: Wayleave, and a proxy that shakes hands for each flow with the same key.

    bench/slow_key.py PROGRAMS [--delay MS] [--seconds S] [--store FILE]

The key is one of a software TPM that answers each signature late (slow_tpm.py), enrolled by ACME as in the demo. The gateway gives no
tickets, so that nobody gets around a signature. The peer is stunnel with OpenSSL's PKCS#11 engine and Wayleave's module: the same key,
the same identityd. Counting begins with the first flow ever, as soon as proxyd has its configuration: Wayleave's figure contains the
handshakes of its tunnels but for what it did of the first, which it starts by itself.
"""

from __future__ import annotations

import argparse
import json
import plistlib
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from rig import CONNECT_PORT, ENDS_CORE, PROXY_CORE, Candidate, Rig, lab  # noqa: E402

MODULE = lab.BIN.parent / "lib" / "libwayleave-pkcs11.so"
ENGINE = next(Path("/usr/lib").glob("*/engines-3/pkcs11.so"), None)
TOKENS = {"file": "Wayleave file keychain", "data-protection": "Wayleave data protection"}


def gateway(rig: Rig) -> None:
    cas = rig.work / "device-cas.crt"
    cas.write_text("".join(Path(ca).read_text() for ca in rig.machine.device_cas))
    rig.process("gateway", ENDS_CORE, rig.own_gateway, "--port", CONNECT_PORT, "--certificate", lab.PKI / "server.crt", "--key", lab.PKI / "server.key",
                "--client-ca", cas, "--no-tickets")
    rig.machine.listening("gateway", "device", CONNECT_PORT)


def profile() -> bytes:
    content = plistlib.loads((lab.ROOT / "examples/acme.mobileconfig").read_bytes())
    vpn = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.vpn.managed")
    vpn["VendorConfig"].update({"GatewayURL": f"https://gateway.lab:{CONNECT_PORT}", "GatewayProtocol": "h2", "GatewayAddresses": ["127.0.0.1"]})
    return plistlib.dumps(content)


def slow_device(rig: Rig, delay: Path) -> str:
    rig.machine.start_tpm()
    real, slow = rig.machine.tpm_folder("device") / "tpm.sock", rig.work / "slow.sock"
    delay.write_text("0")
    rig.machine.start("slow-tpm", "device", "/usr/bin/python3", Path(__file__).resolve().parent / "slow_tpm.py", slow, real, delay)
    Path(f"{slow}.ctrl").symlink_to(f"{real}.ctrl")
    lab.wait_until(slow.exists, 10, "the slow TPM's socket")
    return f"swtpm:path={slow}"


def grants(rig: Rig) -> Path:
    folder = rig.work / "grants.d"
    shutil.copytree(lab.ROOT / "packaging" / "grants.d", folder)
    (folder / "50-stunnel.toml").write_text('[[grant]]\nname = "stunnel"\nexecutable = ["/usr/bin/stunnel4"]\naccess-groups = "*"\n'
                                            'usages = ["list", "digest"]\nsignatures-per-minute = 100000\nsignature-burst = 1000\n')
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def stunnel(rig: Rig, name: str, port: int) -> list[str]:
    if ENGINE is None or not MODULE.exists():
        raise lab.LabError("no PKCS#11 engine or module")
    first = json.loads(rig.control("wayleave", "identity", "list", "--json"))["identities"][0]
    identity = json.loads(rig.control("wayleave", "identity", "show", first["id"], "--json"))
    where = f"pkcs11:token={quote(TOKENS[identity['keychain']])};object={quote(identity['label'])}"
    (rig.work / f"{name}.conf").write_text(f"""
foreground = yes
debug = warning
pid =
engine = pkcs11
engineCtrl = MODULE_PATH:{MODULE}
engineCtrl = INIT
[t]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{CONNECT_PORT}
engineId = pkcs11
cert = {where};type=cert
key = {where};type=private
CAfile = {lab.PKI}/server-ca.crt
verifyChain = yes
checkHost = gateway.lab
sni = gateway.lab
sslVersionMin = TLSv1.3
""")
    rig.process(name, PROXY_CORE, "stunnel4", rig.work / f"{name}.conf", env={"WAYLEAVE_RUNTIME_DIR": str(rig.work / "wayleave" / "run")})
    return [name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("--delay", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--store", type=Path, default=lab.ROOT / "build/bench/data-plane.json")
    options = parser.parse_args()
    options.programs, options.store = options.programs.resolve(), options.store.resolve()
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-bench."))
    machine = lab.Lab(work)
    result: dict = {"delay": options.delay}
    try:
        machine.up()
        work.chmod(0o755)
        rig = Rig(machine, options.programs)
        delay = work / "delay"
        tcti = slow_device(rig, delay)
        machine.start_issuer()
        gateway(rig)
        rig.wayleave("wayleave", profile(), 8009, "--grants-dir", str(grants(rig)), f"--identity-arg=--tcti={tcti}")
        ours = Candidate("wayleave h2", "127.0.0.1:8009", lambda name: [], ours=True, processes=["wayleave"])
        peer = Candidate("stunnel", "127.0.0.1:8004", lambda name: stunnel(rig, name, 8004))
        delay.write_text(str(options.delay))
        # A few tens of thousand flows need some seconds: the count, not the clock, ends the run, as there is no warm-up then.
        raw = rig.run(ours, "rate", 16, "--count", int(5000 * options.seconds))
        result["wayleave h2"] = {"per second": raw["count"] / raw["seconds"], "count": raw["count"], "failures": raw["failures"], "p50": raw["p50"], "p99": raw["p99"]}
        delay.write_text("0")  # the first flow, which shows that it works, need not wait
        started = rig.start(peer)
        delay.write_text(str(options.delay))
        if started:
            raw = rig.run(peer, "rate", 16, "--count", int(5 * options.seconds) + 16)
            result["stunnel"] = {"per second": raw["count"] / raw["seconds"], "count": raw["count"], "failures": raw["failures"], "p50": raw["p50"], "p99": raw["p99"]}
        else:
            result["stunnel"] = {"missing": rig.missing[peer.name] + " " + machine.tail("stunnel", 3)}
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(result, indent=1))
    options.store.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(options.store.read_text()) if options.store.exists() else {}
    content["slow key"] = result
    options.store.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
