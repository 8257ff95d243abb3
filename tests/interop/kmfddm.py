"""Real KMFDDM beside NanoMDM (Go modules, pinned) declares the proxy with an identity of each kind (PKCS#12, ACME with an attested TPM
key, SCEP): each ends in a working tunnel, and the server gets our status reports. Prints lines as scripts/interop.sh wants them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nanomdm

ROOT = nanomdm.ROOT
import lab  # noqa: E402: nanomdm put it on the path

VERSION = "v0.8.3"
PEER = f"kmfddm {VERSION} with {nanomdm.PEER}"
KMFDDM = nanomdm.CACHE / "go" / f"kmfddm-{VERSION}"
API = "http://127.0.0.1:9002/v1"
SCEP_PORT = 18081
CHALLENGE = "interop secret 2"


def build() -> None:
    nanomdm.build()
    if KMFDDM.exists():
        return
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        raise lab.LabError("no Go toolchain")
    with tempfile.TemporaryDirectory() as target:
        result = subprocess.run([go, "install", f"github.com/jessepeterson/kmfddm/cmd/kmfddm@{VERSION}"], capture_output=True, text=True,
                                timeout=800, env=dict(os.environ, GOBIN=target, CGO_ENABLED="0", GOFLAGS="-trimpath"))
        if result.returncode != 0:
            raise lab.LabError("go install failed: " + (result.stderr.strip().splitlines() or ["no output"])[-1])
        shutil.copy(Path(target) / "kmfddm", KMFDDM)


class Declarer:
    """KMFDDM's API, from where the server runs."""

    def __init__(self, machine: lab.Lab, folder: Path):
        self.machine, self.folder = machine, folder
        machine.start("kmfddm", "network", KMFDDM, "-api", nanomdm.API_KEY, "-listen", "127.0.0.1:9002", "-storage", "filekv", "-storage-dsn",
                      folder / "kmfddm", "-enqueue", "http://127.0.0.1:9000/v1/enqueue/", "-enqueue-key", nanomdm.API_KEY,
                      "-dump-status", folder / "status.jsonl", "-debug")
        machine.listening("kmfddm", "network", 9002)

    def call(self, method: str, path: str, body: bytes | None = None) -> str:
        arguments = ["curl", "-sS", "--fail-with-body", "-u", f"kmfddm:{nanomdm.API_KEY}", "-X", method]
        if body is not None:
            file = self.folder / "body.json"
            file.write_bytes(body)
            arguments += ["--data-binary", f"@{file}", "-H", "Content-Type: application/json"]
        result = self.machine.inside("network", *arguments, f"{API}/{path}")
        if result.returncode != 0:
            raise lab.LabError(f"{method} {path}: {result.stdout}")
        return result.stdout

    def declare(self, declaration: dict, group: str) -> None:
        self.call("PUT", "declarations", json.dumps(declaration).encode())
        self.call("PUT", f"set-declarations/{group}?declaration={declaration['Identifier']}")

    def withdraw(self, declaration: dict, group: str) -> None:
        self.call("DELETE", f"set-declarations/{group}?declaration={declaration['Identifier']}")

    def status_of(self, udid: str) -> dict:
        """Identifier → what the server knows of it."""
        answer = json.loads(self.call("GET", f"declaration-status/{udid}"))
        return {entry["identifier"]: entry for entry in answer.get(udid) or []}

    def reports(self) -> list[str]:
        file = self.folder / "status.jsonl"
        return file.read_text().splitlines() if file.exists() else []


def scep_declarations(machine: lab.Lab, work: Path) -> list[dict]:
    depot = work / "depot"
    subprocess.run(["scepserver", "ca", "-init", "-keySize", "2048", "-depot", depot], check=True, capture_output=True, cwd=work)
    machine.start("scepserver", "network", "scepserver", "-depot", depot, "-port", SCEP_PORT, "-challenge", CHALLENGE, "-allowrenew", "0")
    machine.listening("scepserver", "network", SCEP_PORT)
    machine.device_cas.append(depot / "ca.pem")
    der = subprocess.run(["openssl", "x509", "-in", depot / "ca.pem", "-outform", "DER"], check=True, capture_output=True).stdout
    document = {"URL": f"http://issuer.lab:{SCEP_PORT}/scep", "Challenge": CHALLENGE, "Keysize": 2048, "Key Type": "RSA", "Key Usage": 5,
                "CAFingerprint": base64.b64encode(hashlib.sha256(der).digest()).decode(),
                "Subject": [[["O", "Wayleave Lab"]], [["CN", "lab-device-3"]]]}
    declarations = declarations_of("pkcs12", "scep")
    identity = next(d for d in declarations if d["Identifier"].endswith(".identity"))
    identity["Type"] = "com.apple.asset.credential.scep"
    identity["Payload"]["Reference"]["DataURL"] = "data:application/json;base64," + base64.b64encode(json.dumps(document).encode()).decode()
    return declarations


def declarations_of(kind: str, name: str) -> list[dict]:
    """examples/declarations/KIND, with NAME in the identifiers; the activation last, since KMFDDM wants what it names first."""
    text = [file.read_text().replace(f"com.wayleave.example.{kind}.", f"com.wayleave.example.{name}.")
            for file in sorted((ROOT / "examples" / "declarations" / kind).glob("*.json"))]
    order = ("gateway-ca", "identity", "proxy", "activation")
    return sorted((json.loads(one) for one in text), key=lambda d: order.index(d["Identifier"].rsplit(".", 1)[1]))


def main() -> int:
    try:
        build()
        for program in ("nginx", "scepserver"):
            if not shutil.which(program, path="/usr/sbin:/usr/bin"):
                raise lab.LabError(f"{program} is not installed")
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

    def state() -> dict:
        return {d["identifier"]: d for d in machine.wayleave_json("declarations")["declarations"]}

    try:
        machine.up()
        tcti = machine.start_tpm()
        machine.start_issuer()
        machine.start_origin()
        scep = scep_declarations(machine, work)
        machine.start_gateway()
        machine.start_wayleave("--identity-arg", f"--tcti={tcti}")
        server = nanomdm.Server(machine, nanomdm.Folder(machine, "server"), False, ("-dm", "http://127.0.0.1:9002/"))
        declarer = Declarer(machine, work)
        enrolled = machine.wayleave("enroll", server.enrolment.profile())
        check(enrolled.returncode == 0, "enrolment", enrolled.stdout)
        udid = json.loads(machine.device("curl", "-sS", "--unix-socket", machine.runtime / "management.sock", "http://x/v1/enrolment").stdout)["udid"]
        server.udid = udid
        declarer.call("PUT", f"enrollment-sets/{udid}?set=lab")

        for kind, name, declarations, common in (("PKCS#12", "pkcs12", declarations_of("pkcs12", "pkcs12"), "lab-device-1"),
                                                 ("ACME, attested TPM key", "acme", declarations_of("acme", "acme"), "lab-device-2"),
                                                 ("SCEP", "scep", scep, "lab-device-3")):
            proxy = f"com.wayleave.example.{name}.proxy"
            for declaration in declarations:
                declarer.declare(declaration, "lab")
            machine.wayleave("wake")
            try:
                lab.wait_until(lambda: state().get(proxy, {}).get("active") and state()[proxy]["valid"] == "valid" and machine.capture_active(),
                               30, f"{proxy} in force")
            except lab.LabError as reason:
                check(False, f"{kind}: declarations come into force", f"{reason}: {json.dumps(state())[:3000]}")
                continue
            curl = machine.device("curl", "-sS", "--max-time", "10", "https://origin.lab/")
            line = machine.gateway_log.read_text().splitlines()[-1] if machine.gateway_log.exists() else ""
            check(curl.returncode == 0 and f"CN={common}" in line, f"{kind}: the declared proxy carries flows, and the gateway names {common}",
                  curl.stdout + line)

            def known() -> bool:
                entry = declarer.status_of(udid).get(proxy)
                return bool(entry and entry["active"] and entry["valid"] == "valid")
            try:
                lab.wait_until(known, 20, "the server to know")
                check(True, f"{kind}: the server knows from our status report that {proxy} is active and valid")
            except lab.LabError:
                check(False, f"{kind}: status report", declarer.call("GET", f"declaration-status/{udid}"))
            for declaration in reversed(declarations):
                declarer.withdraw(declaration, "lab")
            machine.wayleave("wake")
            lab.wait_until(lambda: proxy not in state(), 20, f"{proxy} to be withdrawn")
            lab.wait_until(lambda: not machine.capture_active(), 10, "the rules to go")
            check(len(machine.wayleave_json("identity", "list")["identities"]) == 1, f"{kind}: withdrawn, only the management identity is left")

        broken = declarations_of("pkcs12", "broken")[2]
        broken["Payload"]["Unheard"] = 1
        declarer.declare(broken, "lab")
        machine.wayleave("wake")
        lab.wait_until(lambda: broken["Identifier"] in declarer.status_of(udid), 20, "the server to hear of the broken one")
        reasons = json.dumps(declarer.status_of(udid)[broken["Identifier"]])
        check("Error.UnknownPayloadKeys" in reasons, "an unknown key is reported as Error.UnknownPayloadKeys", reasons)
        reports = declarer.reports()
        check(bool(reports), "status reports were received")
        if reports:
            print("# the first status report, as KMFDDM received it: " + reports[0][:1500])
            print("# the last: " + reports[-1][:600])
        left = machine.wayleave("unenroll")
        check(left.returncode == 0 and not state() and machine.wayleave_json("identity", "list")["identities"] == [], "unenrolling leaves nothing behind",
              left.stdout)
        check(machine.stop("wayleave") == 0, "the daemons live through all of it")
    except (lab.LabError, subprocess.CalledProcessError, KeyError, json.JSONDecodeError) as error:
        check(False, "the run", f"{type(error).__name__}: {error}")
    finally:
        if failed:
            print(machine.tail("wayleave", 60), machine.tail("kmfddm", 30), sep="\n")
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
