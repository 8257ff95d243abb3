"""Real step-ca (Go module, pinned) with a device-attest-01 provisioner for `tpm`, end to end with our client, a software TPM and
the lab's attestation CA. Prints lines as scripts/interop.sh wants them."""

from __future__ import annotations

import base64
import os
import plistlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "lab"), str(ROOT / "tests" / "integration")]

import json  # noqa: E402

import lab  # noqa: E402

VERSION = "v0.30.2"
PEER = f"step-ca {VERSION}"
CACHE = Path(os.environ.get("WAYLEAVE_CACHE") or Path.home() / ".cache" / "wayleave")
STEP_CA = CACHE / "go" / f"step-ca-{VERSION}"


def build() -> None:
    """Builds the peer once, outside the source tree; raises with the reason when it cannot be had."""
    if STEP_CA.exists():
        return
    go = shutil.which("go")
    if not go:
        raise lab.LabError("no Go toolchain (step-ca needs a current one; Debian 12's is too old)")
    with tempfile.TemporaryDirectory() as target:
        result = subprocess.run([go, "install", f"github.com/smallstep/certificates/cmd/step-ca@{VERSION}"], capture_output=True, text=True,
                                timeout=800, env=dict(os.environ, GOBIN=target, CGO_ENABLED="0", GOFLAGS="-trimpath"))
        if result.returncode != 0:
            raise lab.LabError("go install failed: " + (result.stderr.strip().splitlines() or ["no output"])[-1])
        STEP_CA.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(target) / "step-ca", STEP_CA)


def make_authority(folder: Path, attestation_roots: Path) -> Path:
    """A root, an intermediate and step-ca's configuration; returns the root certificate."""
    folder.mkdir()
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    for name in ("root", "intermediate"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.key")
    openssl("req", "-x509", "-new", "-key", folder / "root.key", "-days", 30, "-subj", "/CN=Interop Root", "-out", folder / "root.crt",
            "-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-new", "-key", folder / "intermediate.key", "-subj", "/CN=Interop Intermediate", "-out", folder / "intermediate.csr")
    (folder / "ext").write_text("basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
                                "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    openssl("x509", "-req", "-in", folder / "intermediate.csr", "-CA", folder / "root.crt", "-CAkey", folder / "root.key", "-CAcreateserial",
            "-days", 30, "-out", folder / "intermediate.crt", "-extfile", folder / "ext")
    (folder / "ca.json").write_text(json.dumps({
        "root": str(folder / "root.crt"), "crt": str(folder / "intermediate.crt"), "key": str(folder / "intermediate.key"),
        "address": "10.77.0.1:9444", "dnsNames": ["issuer.lab"], "logger": {"format": "text"},
        "db": {"type": "badgerv2", "dataSource": str(folder / "db")},
        "authority": {"claims": {"minTLSCertDuration": "1m", "defaultTLSCertDuration": "24h"},
                      "provisioners": [{"type": "ACME", "name": "acme-da", "challenges": ["device-attest-01"], "attestationFormats": ["tpm"],
                                        "attestationRoots": base64.b64encode(attestation_roots.read_bytes()).decode()}]},
        "tls": {"minVersion": 1.2, "maxVersion": 1.3}}))
    return folder / "root.crt"


def profile(path: Path, root: Path, **acme) -> Path:
    """examples/acme.mobileconfig, pointed at step-ca, with its root as a further root payload."""
    content = plistlib.loads((ROOT / "examples" / "acme.mobileconfig").read_bytes())
    der = subprocess.run(["openssl", "x509", "-in", root, "-outform", "DER"], check=True, capture_output=True).stdout
    content["PayloadContent"].append({"PayloadType": "com.apple.security.root", "PayloadVersion": 1, "PayloadIdentifier": "interop.step-ca.root",
                                      "PayloadUUID": "0F6B3A52-1B44-4E0E-9B57-3C6C1D2E4F50", "PayloadContent": der})
    payload = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.security.acme")
    payload.update({"DirectoryURL": "https://issuer.lab:9444/acme/acme-da/directory", **acme})
    path.write_bytes(plistlib.dumps(content))
    return path


class Report:
    failed = 0

    def check(self, held: bool, scenario: str, detail: str = "") -> None:
        self.failed += not held
        print(f"{'ok' if held else 'FAILED'} {PEER}: {scenario}" + ("" if held else f": {detail}"), flush=True)


def main() -> int:
    try:
        build()
    except (lab.LabError, OSError, subprocess.TimeoutExpired) as reason:
        print(f"SKIP {PEER}: {reason}")
        return 0
    if os.environ.get("WAYLEAVE_LAB") != "1":
        # The open attestation CA. Its protocol is what the lab's CA and our client speak.
        looked = subprocess.run([shutil.which("go") or "go", "list", "-m", "github.com/Foxboron/attezt@latest"], capture_output=True, text=True)
        if looked.returncode != 0:
            print("SKIP attezt: the Go module proxy does not serve it")
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-interop."))
    machine, report = lab.Lab(work), Report()
    try:
        machine.up()
        tcti = machine.start_tpm()
        machine.start_issuer()  # for its attestation CA
        root = make_authority(work / "step", work / "issuer" / "attestation-ca.crt")
        machine.start("step-ca", "network", STEP_CA, work / "step" / "ca.json")
        machine.listening("step-ca", "network", 9444)
        machine.device_cas.append(root)
        machine.start_origin()
        machine.start_gateway()
        # step-ca verifies ECC attestation keys only after 0.30.2.
        machine.start_wayleave("--identity-arg", f"--tcti={tcti}", "--identity-arg", "--attestation-key=rsa2048")

        def refused(scenario: str, path: Path, *words: str) -> None:
            result = machine.wayleave("profile", "install", path)
            held = result.returncode != 0 and all(word.lower() in result.stdout.lower() for word in words)
            report.check(held, scenario, f"exit {result.returncode}: {result.stdout}")

        good = profile(work / "good.mobileconfig", root)
        result = machine.wayleave("profile", "install", good)
        report.check(result.returncode == 0, "enrolment of a P-384 TPM key by an attested order", result.stdout)
        identities = machine.wayleave_json("identity", "list")["identities"]
        report.check(len(identities) == 1 and identities[0]["attested"] and "Interop Intermediate" in identities[0]["issuer"],
                     "the certificate is step-ca's, for the attested key", str(identities))
        lab.wait_until(machine.capture_active, 10, "capture")
        curl = machine.device("curl", "-sS", "--max-time", "10", "https://origin.lab/")
        report.check(curl.returncode == 0, "mutual TLS with it through the gateway", curl.stdout)
        renewed = machine.wayleave("renew")
        after = machine.wayleave_json("identity", "list")["identities"]
        report.check(renewed.returncode == 0 and after[0]["serial"] != identities[0]["serial"] and after[0]["reference"] == identities[0]["reference"],
                     "renewal: same key, same reference, a new certificate", renewed.stdout)
        machine.wayleave("profile", "remove", "com.wayleave.example.acme")

        refused("policy: a common name that is not the permanent identifier is refused with step-ca's words",
                profile(work / "cn.mobileconfig", root, Subject=[[["CN", "another-name"]]]), "badCSR")
        refused("wrong identifier: an attestation for another device is refused",
                profile(work / "id.mobileconfig", root, ClientIdentifier="somebody-else", Subject=[[["CN", "somebody-else"]]]), "identifier")
        # An attestation CA that step-ca does not trust stands for a wrong endorsement key.
        machine.stop("step-ca")
        shutil.rmtree(work / "step")
        root = make_authority(work / "step", lab.PKI / "device-ca.crt")
        machine.start("step-ca", "network", STEP_CA, work / "step" / "ca.json")
        machine.listening("step-ca", "network", 9444)
        refused("wrong EK: an AK certificate of an unknown attestation CA is refused", profile(work / "ak.mobileconfig", root), "x5c")
        status = machine.stop("wayleave")
        report.check(status == 0, "the daemons live through all of it", f"status {status}")
    except lab.LabError as error:
        report.check(False, "the run", str(error))
        print(machine.tail("wayleave", 40), machine.tail("step-ca", 40))
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
