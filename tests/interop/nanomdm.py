"""Real NanoMDM (Go module, pinned) enrols our device: behind nginx, which verifies client certificates, and by Mdm-Signature alone.
Profiles are installed, listed and removed. No push certificate is needed: our device polls. Prints lines as scripts/interop.sh
wants them."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "lab"), str(ROOT / "tests" / "integration")]

import lab  # noqa: E402
import mdm  # noqa: E402

VERSION = "v0.9.0"
PEER = f"nanomdm {VERSION}"
CACHE = Path(os.environ.get("WAYLEAVE_CACHE") or Path.home() / ".cache" / "wayleave")
NANOMDM = CACHE / "go" / f"nanomdm-{VERSION}"
API_KEY = "interop"
EXAMPLE = ROOT / "examples" / "pkcs12.mobileconfig"
IDENTIFIER = "com.wayleave.example.pkcs12"


def build() -> None:
    """Builds the peer once, outside the source tree; raises with the reason when it cannot be had."""
    if NANOMDM.exists():
        return
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        raise lab.LabError("no Go toolchain (nanomdm needs a current one; Debian 12's is too old)")
    with tempfile.TemporaryDirectory() as target:
        result = subprocess.run([go, "install", f"github.com/micromdm/nanomdm/cmd/nanomdm@{VERSION}"], capture_output=True, text=True,
                                timeout=800, env=dict(os.environ, GOBIN=target, CGO_ENABLED="0", GOFLAGS="-trimpath"))
        if result.returncode != 0:
            raise lab.LabError("go install failed: " + (result.stderr.strip().splitlines() or ["no output"])[-1])
        NANOMDM.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(target) / "nanomdm", NANOMDM)


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 16m;
  ssl_certificate {pki}/server.crt; ssl_certificate_key {pki}/server.key; ssl_protocols TLSv1.3;
  server {{
    listen 10.77.0.1:9445 ssl; ssl_verify_client {verify}; ssl_client_certificate {ca};
    location / {{ proxy_pass http://127.0.0.1:9000; {header} }}
  }}
}}
"""


class Report:
    failed = 0

    def check(self, held: bool, scenario: str, detail: object = "") -> None:
        self.failed += not held
        print(f"{'ok' if held else 'FAILED'} {PEER}: {scenario}" + ("" if held else f": {detail}"), flush=True)


class Server:
    """NanoMDM behind nginx. What it said and heard is in its log, by -dump."""

    def __init__(self, machine: lab.Lab, world, signatures: bool, extra: tuple = ()):
        self.machine, self.signatures = machine, signatures
        self.enrolment = mdm.MdmServer(world, signatures)  # for its device authority and profiles
        folder = self.enrolment.folder
        arguments = [NANOMDM, "-api", API_KEY, "-ca", folder / "ca.crt", "-listen", "127.0.0.1:9000", "-storage", "filekv", "-storage-dsn",
                     folder / "nanomdm", "-dump", "-debug", *extra]
        header = ""
        if not signatures:
            arguments += ["-cert-header", "X-Client-Cert"]
            header = "proxy_set_header X-Client-Cert $ssl_client_escaped_cert;"
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, pki=lab.PKI, ca=folder / "ca.crt", header=header,
                                                        verify="off" if signatures else "on"))
        machine.start("nanomdm", "network", *arguments)
        machine.listening("nanomdm", "network", 9000)
        machine.start("nginx", "network", "/usr/sbin/nginx", "-c", folder / "nginx.conf")
        machine.listening("nginx", "network", 9445)
        self.udid = ""

    def log(self) -> str:
        return (self.machine.work / "nanomdm.log").read_text(errors="replace")

    def command(self, request: str, **parameters) -> dict:
        name = str(uuid.uuid4()).upper()
        body = plistlib.dumps({"CommandUUID": name, "Command": {"RequestType": request, **parameters}})
        path = self.enrolment.folder / "command.plist"
        path.write_bytes(body)
        answer = self.machine.inside("network", "curl", "-sS", "-u", f"nanomdm:{API_KEY}", "-T", path,
                                     f"http://127.0.0.1:9000/v1/enqueue/{self.udid}?nopush=1")
        if name not in answer.stdout:
            raise lab.LabError(f"enqueue: {answer.stdout}")
        self.machine.wayleave("wake")
        return lab.wait_until(lambda: self.answer(name), 20, f"an answer to {request}")

    def answer(self, name: str) -> dict | None:
        for text in re.findall(r"<\?xml.*?</plist>", self.log(), re.S):
            if name in text:
                try:
                    found = plistlib.loads(text.encode())
                except Exception:  # noqa: BLE001: a dump cut in the middle
                    continue
                if found.get("CommandUUID") == name and found.get("Status") not in (None, "NotNow"):
                    return found
        return None

    def stop(self) -> None:
        for name in ("nginx", "nanomdm"):
            self.machine.stop(name)


class Folder:
    """What MdmServer needs of a scenario's world."""

    def __init__(self, machine: lab.Lab, name: str):
        self.lab, self.folder = machine, machine.work / name
        self.folder.mkdir()


def main() -> int:
    try:
        build()
        if not Path("/usr/sbin/nginx").exists():
            raise lab.LabError("nginx is not installed")
    except (lab.LabError, OSError, subprocess.TimeoutExpired) as reason:
        print(f"SKIP {PEER}: {reason}")
        return 0
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-interop."))
    machine, report = lab.Lab(work), Report()

    def enrolment() -> dict:
        answer = machine.device("curl", "-sS", "--unix-socket", machine.runtime / "management.sock", "http://x/v1/enrolment")
        return json.loads(answer.stdout)

    try:
        machine.up()
        machine.start_origin()
        machine.start_gateway()
        machine.start_wayleave()
        for signatures in (False, True):
            how = "Mdm-Signature alone" if signatures else "mutual TLS in front"
            server = Server(machine, Folder(machine, "signed" if signatures else "mutual"), signatures)
            result = machine.wayleave("enroll", server.enrolment.profile())
            report.check(result.returncode == 0, f"enrolment, {how}", result.stdout + server.log()[-2000:])
            server.udid = enrolment()["udid"]
            answer = server.command("DeviceInformation", Queries=["UDID", "OSVersion", "ProductName"])
            report.check(answer["Status"] == "Acknowledged" and answer["QueryResponses"]["UDID"] == server.udid, f"DeviceInformation, {how}", answer)
            answer = server.command("InstallProfile", Payload=EXAMPLE.read_bytes())
            report.check(answer["Status"] == "Acknowledged", f"InstallProfile, {how}", answer)
            lab.wait_until(machine.capture_active, 10, "capture")
            curl = machine.device("curl", "-sS", "--max-time", "10", "https://origin.lab/")
            report.check(curl.returncode == 0 and "Hello" in curl.stdout, f"the tunnel of the profile that NanoMDM installed, {how}", curl.stdout)
            answer = server.command("ProfileList")
            report.check(IDENTIFIER in {p["PayloadIdentifier"] for p in answer["ProfileList"]}, f"ProfileList, {how}", answer)
            answer = server.command("CertificateList")
            report.check(len([c for c in answer["CertificateList"] if c["IsIdentity"]]) == 2, f"CertificateList, {how}", answer)
            answer = server.command("Settings", Settings=[])
            report.check(answer["Status"] == "Error", f"an unknown command is answered with an error chain, {how}", answer)
            answer = server.command("RemoveProfile", Identifier=IDENTIFIER)
            report.check(answer["Status"] == "Acknowledged", f"RemoveProfile, {how}", answer)
            result = machine.wayleave("unenroll")
            report.check(result.returncode == 0 and "CheckOut" in server.log() and machine.wayleave_json("identity", "list")["identities"] == [],
                         f"leaving, with CheckOut, {how}", result.stdout)
            server.stop()
        status = machine.stop("wayleave")
        report.check(status == 0, "the daemons live through all of it", f"status {status}")
    except lab.LabError as error:
        report.check(False, "the run", str(error))
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
