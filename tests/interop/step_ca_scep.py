"""Real step-ca (Go module, pinned) with its SCEP provisioner: enrolment, mutual TLS, renewal, a wrong challenge. Prints lines as
scripts/interop.sh wants them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import scep
import step_ca

ROOT = scep.ROOT
import lab  # noqa: E402: scep put it on the path

PEER = f"{step_ca.PEER}, SCEP"
CHALLENGE = "step secret"
PORT = 9446


def make_authority(folder: Path) -> Path:
    """An RSA root and intermediate (SCEP needs a key that decrypts) and the configuration; returns the intermediate."""
    folder.mkdir()
    for name in ("root", "intermediate"):
        subprocess.run(["openssl", "genrsa", "-traditional", "-out", folder / f"{name}.key", "2048"], check=True, capture_output=True)
    openssl = lambda *arguments: subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)  # noqa: E731
    openssl("req", "-x509", "-new", "-key", folder / "root.key", "-days", 30, "-subj", "/CN=SCEP Root", "-out", folder / "root.crt",
            "-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-new", "-key", folder / "intermediate.key", "-subj", "/CN=SCEP Intermediate", "-out", folder / "intermediate.csr")
    (folder / "ext").write_text("basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature,keyEncipherment\n"
                                "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    openssl("x509", "-req", "-in", folder / "intermediate.csr", "-CA", folder / "root.crt", "-CAkey", folder / "root.key", "-CAcreateserial",
            "-days", 30, "-out", folder / "intermediate.crt", "-extfile", folder / "ext")
    (folder / "ca.json").write_text(json.dumps({
        "root": str(folder / "root.crt"), "crt": str(folder / "intermediate.crt"), "key": str(folder / "intermediate.key"),
        "address": "10.77.0.1:9447", "insecureAddress": f"10.77.0.1:{PORT}", "dnsNames": ["issuer.lab"], "logger": {"format": "text"},
        "db": {"type": "badgerv2", "dataSource": str(folder / "db")},
        "authority": {"claims": {"minTLSCertDuration": "1m", "defaultTLSCertDuration": "24h"},
                      "provisioners": [{"type": "SCEP", "name": "scep", "challenge": CHALLENGE, "minimumPublicKeyLength": 2048,
                                        "encryptionAlgorithmIdentifier": 2, "includeRoot": True}]}}))
    return folder / "intermediate.crt"


def main() -> int:
    try:
        step_ca.build()
    except (lab.LabError, OSError, subprocess.TimeoutExpired) as reason:
        print(f"SKIP {PEER}: {reason}")
        return 0
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-interop."))
    machine, failed = lab.Lab(work), 0

    def check(held: bool, scenario: str, detail: object = "") -> None:
        nonlocal failed
        failed += not held
        print(f"{'ok' if held else 'FAILED'} {PEER}: {scenario}" + ("" if held else f": {detail}"), flush=True)

    try:
        machine.up()
        authority = make_authority(work / "ca")
        machine.start("step-ca", "network", step_ca.STEP_CA, work / "ca" / "ca.json")
        machine.listening("step-ca", "network", PORT)
        machine.device_cas += [authority, work / "ca" / "root.crt"]
        machine.start_origin()
        machine.start_gateway()
        machine.start_wayleave()
        der = subprocess.run(["openssl", "x509", "-in", authority, "-outform", "DER"], check=True, capture_output=True).stdout
        settings = {"URL": f"http://issuer.lab:{PORT}/scep/scep"}
        wrong = machine.wayleave("profile", "install", scep.profile(work / "wrong.mobileconfig", hashlib.sha256(der).digest(), **settings, Challenge="no"))
        check(wrong.returncode != 0 and machine.wayleave_json("identity", "list")["identities"] == [], "a wrong challenge is refused", wrong.stdout)
        result = machine.wayleave("profile", "install",
                                  scep.profile(work / "good.mobileconfig", hashlib.sha256(der).digest(), **settings, Challenge=CHALLENGE))
        check(result.returncode == 0, "enrolment, replies encrypted with AES-256", result.stdout)
        lab.wait_until(machine.capture_active, 10, "capture")
        curl = machine.device("curl", "-sS", "--max-time", "10", "https://origin.lab/")
        check(curl.returncode == 0, "mutual TLS with it through the gateway", curl.stdout)
        before = machine.wayleave_json("identity", "list")["identities"][0]
        renewed = machine.wayleave("renew")
        after = machine.wayleave_json("identity", "list")["identities"][0]
        check(renewed.returncode == 0 and after["serial"] != before["serial"] and after["reference"] == before["reference"], "renewal", renewed.stdout)
        check(machine.stop("wayleave") == 0, "the daemons live through all of it")
    except (lab.LabError, subprocess.CalledProcessError, IndexError) as error:
        check(False, "the run", str(error))
    finally:
        if failed:
            print(machine.tail("wayleave", 30), machine.tail("step-ca", 30), sep="\n")
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
