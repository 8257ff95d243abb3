"""Debian's SCEP server (micromdm scepserver), end to end with our client. Prints lines as scripts/interop.sh wants them."""

from __future__ import annotations

import base64
import hashlib
import plistlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "lab"), str(ROOT / "tests" / "integration")]

import lab  # noqa: E402

PEER = "micromdm scepserver"
CHALLENGE = "interop secret 1"
PORT = 18080


def profile(path: Path, fingerprint: bytes, **scep) -> Path:
    """examples/pkcs12.mobileconfig with a SCEP payload in place of the PKCS#12 one, under the same PayloadUUID."""
    content = plistlib.loads((ROOT / "examples" / "pkcs12.mobileconfig").read_bytes())
    payload = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.security.pkcs12")
    payload.pop("Password")
    settings = {"URL": f"http://issuer.lab:{PORT}/scep", "Challenge": CHALLENGE, "Keysize": 2048, "Key Type": "RSA", "Key Usage": 5,
                "CAFingerprint": fingerprint, "Subject": [[["O", "Wayleave Lab"]], [["CN", "lab-device-scep"]]], **scep}
    payload.update({"PayloadType": "com.apple.security.scep", "PayloadContent": {k: v for k, v in settings.items() if v is not None}})
    path.write_bytes(plistlib.dumps(content))
    return path


class Report:
    failed = 0

    def check(self, held: bool, scenario: str, detail: str = "") -> None:
        self.failed += not held
        print(f"{'ok' if held else 'FAILED'} {PEER}: {scenario}" + ("" if held else f": {detail}"), flush=True)


def main() -> int:
    if not shutil.which("scepserver"):
        print(f"SKIP {PEER}: not installed (Debian package scep)")
        return 0
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-interop."))
    machine, report = lab.Lab(work), Report()
    try:
        machine.up()
        depot = work / "depot"
        subprocess.run(["scepserver", "ca", "-init", "-keySize", "2048", "-depot", depot], check=True, capture_output=True, cwd=work)
        ca = depot / "ca.pem"
        der = subprocess.run(["openssl", "x509", "-in", ca, "-outform", "DER"], check=True, capture_output=True).stdout
        fingerprint = hashlib.sha256(der).digest()

        def serve() -> None:
            machine.start("scepserver", "network", "scepserver", "-depot", depot, "-port", PORT, "-challenge", CHALLENGE, "-allowrenew", "0", "-debug")
            machine.listening("scepserver", "network", PORT)
        serve()
        machine.device_cas.append(ca)
        machine.start_origin()
        machine.start_gateway()
        machine.start_wayleave()

        def refused(scenario: str, path: Path, *words: str) -> None:
            result = machine.wayleave("profile", "install", path)
            held = result.returncode != 0 and all(word.lower() in result.stdout.lower() for word in words)
            report.check(held, scenario, f"exit {result.returncode}: {result.stdout}")

        refused("a wrong challenge is refused as badRequest", profile(work / "word.mobileconfig", fingerprint, Challenge="wrong"), "badRequest")
        refused("a wrong fingerprint is refused before anything is sent", profile(work / "print.mobileconfig", bytes(32)), "CAFingerprint")
        refused("plain http without a fingerprint does not get the challenge", profile(work / "http.mobileconfig", fingerprint, CAFingerprint=None), "plain http")

        result = machine.wayleave("profile", "install", profile(work / "good.mobileconfig", fingerprint))
        report.check(result.returncode == 0, "enrolment of an RSA key by PKCSReq", result.stdout)
        identities = machine.wayleave_json("identity", "list")["identities"]
        report.check(len(identities) == 1 and identities[0]["source"] == "scep" and base64.b64decode(identities[0]["reference"]).startswith(b"ssui"),
                     "the identity has a file keychain's reference", str(identities))
        stored = b"".join(path.read_bytes() for path in machine.state.rglob("*") if path.is_file())
        report.check(CHALLENGE.encode() not in stored and base64.b64encode(CHALLENGE.encode())[:12] not in stored, "the challenge is nowhere on disk")
        lab.wait_until(machine.capture_active, 10, "capture")
        curl = machine.device("curl", "-sS", "--max-time", "10", "https://origin.lab/")
        report.check(curl.returncode == 0, "mutual TLS with it through the gateway", curl.stdout)
        renewed = machine.wayleave("renew")
        after = machine.wayleave_json("identity", "list")["identities"]
        report.check(renewed.returncode == 0 and after[0]["serial"] != identities[0]["serial"] and after[0]["reference"] == identities[0]["reference"],
                     "renewal at a server that wants its challenge again: same key, same reference", f"{renewed.stdout} {after}")
        machine.stop("scepserver")
        down = machine.wayleave("renew")
        report.check(down.returncode != 0 and machine.device("curl", "-sS", "--max-time", "10", "https://origin.lab/").returncode == 0,
                     "with the CA down the renewal says so and the identity works on", down.stdout)
        status = machine.stop("wayleave")
        report.check(status == 0, "the daemons live through all of it", f"status {status}")
    except (lab.LabError, subprocess.CalledProcessError) as error:
        report.check(False, "the run", str(error))
    finally:
        if report.failed:
            print(machine.tail("wayleave", 40), machine.tail("scepserver", 20))
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
