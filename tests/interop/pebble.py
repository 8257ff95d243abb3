"""Debian's pebble: RFC 8555 as a strict server sees it (nonces refused, external accounts, strict mode), with a software key."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "lab")]

import lab  # noqa: E402

CLIENT = lab.BIN / "wayleave-acme-order"
KID, HMAC = "kid-1", base64.urlsafe_b64encode(b"0123456789abcdef0123456789abcdef").decode().rstrip("=")


def version() -> str:
    result = subprocess.run(["dpkg-query", "-W", "-f=${Version}", "pebble"], capture_output=True, text=True)
    return result.stdout.strip()


def main() -> int:
    if not shutil.which("pebble"):
        print("SKIP pebble: the Debian package pebble is not installed")
        return 0
    lab.enter_namespaces()
    peer, failed = f"pebble {version()}", 0
    work = Path(tempfile.mkdtemp(prefix="wayleave-interop."))
    machine = lab.Lab(work)

    def start(eab: bool, **environment: str) -> None:
        (work / "cfg.json").write_text(json.dumps({"pebble": {
            "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000", "certificate": str(work / "cert.pem"),
            "privateKey": str(work / "key.pem"), "httpPort": 5002, "tlsPort": 5001, "ocspResponderURL": "",
            "externalAccountBindingRequired": eab, "externalAccountMACKeys": {KID: HMAC}}}))
        machine.start("pebble", "device", "pebble", "-config", work / "cfg.json", "-strict",
                      env=dict({"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_CHAIN_LENGTH": "2"}, **environment))
        machine.listening("pebble", "device", 14000)

    def order(*arguments: str) -> subprocess.CompletedProcess:
        state = Path(tempfile.mkdtemp(dir=work))
        return machine.inside("device", CLIENT, "--directory", "https://localhost:14000/dir", "--trust", work / "cert.pem", "--state", state,
                              "--name", "device.example.org", *arguments, check=False)

    def check(held: bool, scenario: str, result) -> None:
        nonlocal failed
        failed += not held
        print(f"{'ok' if held else 'FAILED'} {peer}: {scenario}" + ("" if held else f": {result.stdout}"), flush=True)

    try:
        machine.up()
        lab.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", work / "key.pem", "-out",
                work / "cert.pem", "-subj", "/CN=localhost", "-days", "2", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        start(False, PEBBLE_WFE_NONCEREJECT="30")
        for n in range(3):
            result = order()
            check(result.returncode == 0 and "certificates" in result.stdout, f"strict mode, 30 % of nonces refused, order {n + 1} of 3", result)
        result = order("--type", "permanent-identifier")
        check(result.returncode != 0 and "permanent-identifier" in result.stdout, "an identifier it does not know is refused with its words", result)
        machine.stop("pebble")
        start(True)
        result = order()
        check(result.returncode != 0 and "external" in result.stdout.lower(), "without the external account it demands: refused, said so", result)
        result = order("--eab-kid", KID, "--eab-key", HMAC)
        check(result.returncode == 0, "with an external account binding", result)
        result = order("--eab-kid", KID, "--eab-key", HMAC[:-4] + "AAAA")
        check(result.returncode != 0, "a wrong external account key is refused", result)
    except lab.LabError as error:
        failed += 1
        print(f"FAILED {peer}: the run: {error}\n{machine.tail('pebble')}")
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
