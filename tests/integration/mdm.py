"""The lab's MDM server (lab/issuer/mdm.py) and enrolment profiles for it, for scenarios."""

from __future__ import annotations

import json
import plistlib
import subprocess
import uuid
from pathlib import Path

import lab
from world import World, eventually

URL = "https://issuer.lab:9445/mdm"
TOPIC = "com.apple.mgmt.lab"
ENROLMENT = "com.wayleave.test.enrolment"
PASSWORD = "wayleave-mdm"


def openssl(*arguments) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


class MdmServer:
    def __init__(self, world: World, signatures: bool = False):
        self.lab, self.folder, self.signatures = world.lab, world.folder / "mdm", signatures
        self.folder.mkdir()
        self.identity = self.folder / "device.p12"
        openssl("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", self.folder / "ca.key")
        openssl("req", "-x509", "-new", "-key", self.folder / "ca.key", "-days", 30, "-subj", "/CN=MDM Test CA", "-out", self.folder / "ca.crt",
                "-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.folder / "device.key")
        openssl("req", "-new", "-key", self.folder / "device.key", "-subj", "/CN=mdm-device", "-out", self.folder / "device.csr")
        (self.folder / "ext").write_text("basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n")
        openssl("x509", "-req", "-in", self.folder / "device.csr", "-CA", self.folder / "ca.crt", "-CAkey", self.folder / "ca.key", "-CAcreateserial",
                "-days", 30, "-out", self.folder / "device.crt", "-extfile", self.folder / "ext")
        openssl("pkcs12", "-export", "-inkey", self.folder / "device.key", "-in", self.folder / "device.crt", "-passout", f"pass:{PASSWORD}",
                "-out", self.identity)

    def trust(self, *certificates: Path) -> None:
        """Further issuers of device certificates. Before start()."""
        with (self.folder / "ca.crt").open("a") as file:
            for certificate in certificates:
                file.write(certificate.read_text())

    def start(self) -> None:
        arguments = ["--signatures"] if self.signatures else []
        self.lab.start("mdm", "network", "/usr/bin/python3", "-m", "issuer.mdm", "--state", self.folder, "--listen", "10.77.0.1:9445",
                       "--certificate", lab.PKI / "server.crt", "--key", lab.PKI / "server.key", "--device-ca", self.folder / "ca.crt", *arguments,
                       env={"PYTHONPATH": str(lab.ROOT / "lab"), "PYTHONDONTWRITEBYTECODE": "1"})
        self.lab.listening("mdm", "network", 9445)

    def behave(self, **behaviour) -> None:
        path = self.folder / "behaviour.json"
        if behaviour:
            path.write_text(json.dumps(behaviour))
        else:
            path.unlink(missing_ok=True)

    def profile(self, identity: dict | None = None, **mdm) -> Path:
        """`identity`: a payload in place of the PKCS#12 one."""
        root = openssl("x509", "-in", lab.PKI / "server-ca.crt", "-outform", "DER")
        payloads = [
            {"PayloadType": "com.apple.security.root", "PayloadIdentifier": f"{ENROLMENT}.root", "PayloadContent": root,
             "PayloadUUID": "11111111-0000-4000-8000-000000000001", "PayloadVersion": 1},
            {**(identity or {"PayloadType": "com.apple.security.pkcs12", "PayloadContent": self.identity.read_bytes(), "Password": PASSWORD}),
             "PayloadIdentifier": f"{ENROLMENT}.identity", "PayloadUUID": "11111111-0000-4000-8000-000000000002", "PayloadVersion": 1},
            {"PayloadType": "com.apple.mdm", "PayloadIdentifier": f"{ENROLMENT}.mdm", "PayloadUUID": "11111111-0000-4000-8000-000000000003",
             "PayloadVersion": 1, "IdentityCertificateUUID": "11111111-0000-4000-8000-000000000002", "Topic": TOPIC, "ServerURL": URL,
             "AccessRights": 8191, "CheckOutWhenRemoved": True, "SignMessage": self.signatures, **mdm}]
        path = self.folder / "enrolment.mobileconfig"
        path.write_bytes(plistlib.dumps({"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": ENROLMENT,
                                         "PayloadUUID": "11111111-0000-4000-8000-000000000000", "PayloadDisplayName": "Enrolment",
                                         "PayloadContent": payloads}))
        return path

    def command(self, request: str, wait: bool = True, **parameters) -> dict:
        """Queues a command, wakes the device, and returns its answer."""
        name = str(uuid.uuid4()).upper()
        temporary = self.folder / f"{name}.new"
        temporary.write_bytes(plistlib.dumps({"Command": {"RequestType": request, **parameters}}))
        temporary.rename(self.folder / "queue" / f"{name}.plist")
        if not wait:
            return {"CommandUUID": name}
        self.lab.wayleave("wake")
        return eventually(lambda: self.answer(name), 20, f"an answer to {request}; the log has {[m['type'] for m in self.log()]}")

    def answer(self, name: str) -> dict | None:
        return next((m["message"] for m in self.log()
                     if m["message"].get("CommandUUID") == name and m["message"]["Status"] != "NotNow"), None)

    def log(self) -> list[dict]:
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def kinds(self) -> list[str]:
        return [m["type"] for m in self.log()]
