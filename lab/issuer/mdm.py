"""python3 -m issuer.mdm --state DIR --certificate server.crt --key server.key --device-ca ca.crt [--device-ca …] [--signatures]

An MDM server for the lab and tests: small, and strict about what it is sent. Every client must show a certificate of a device
authority; with --signatures every body must carry an Mdm-Signature that `openssl cms -verify` accepts over exactly that body, by
the certificate of the connection.

Driven by files in DIR:
  queue/NAME.plist   {Command: …}; its CommandUUID is NAME; gone when it was answered with anything but NotNow
  behaviour.json     {"status": 401} or {"status": 403, "type": "application/json", "body": "…"}: the answer to everything, or with
                     "only": "Authenticate" to messages of that kind
  declarations/      ENDPOINT with / as ~: what a DeclarativeManagement message is answered; none = 404
  log.jsonl          what came: {"type", "message" (as JSON, data in hex), "peer", "signed"}
"""

from __future__ import annotations

import argparse
import base64
import json
import plistlib
import ssl
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MAX_BODY = 4 * 1024 * 1024
_lock = threading.Lock()


def plain(value):
    """A property list as JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def verified(body: bytes, signature: str, peer: bytes, authorities: list[str]) -> str:
    """'' when the detached signature is the peer's over this body, else why not."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "sig.der").write_bytes(base64.b64decode(signature, validate=True))
        (work / "body").write_bytes(body)
        (work / "ca.pem").write_text("".join(Path(name).read_text() for name in authorities))
        result = subprocess.run(["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", work / "sig.der", "-content", work / "body",
                                 "-CAfile", work / "ca.pem", "-purpose", "any", "-partial_chain", "-signer", work / "signer.pem",
                                 "-out", "/dev/null"], capture_output=True, text=True)
        if result.returncode != 0:
            return result.stderr.strip()
        if ssl.PEM_cert_to_DER_cert((work / "signer.pem").read_text()) != peer:
            return "signed by another certificate than the connection's"
        return ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options: argparse.Namespace
    skipped: dict[str, set] = {}  # per device: what it said NotNow to in this conversation

    def log_message(self, *_):
        pass

    def reply(self, status: int, body: bytes = b"", kind: str = "application/xml") -> None:
        self.send_response(status)
        if body:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):  # noqa: N802
        length = int(self.headers.get("Content-Length", "0"))
        if length > MAX_BODY:
            return self.reply(413)
        body = self.rfile.read(length)
        peer = self.connection.getpeercert(binary_form=True)
        signed = self.headers.get("Mdm-Signature")
        if self.options.signatures:
            problem = verified(body, signed, peer, self.options.device_ca) if signed else "no Mdm-Signature"
            if problem:
                print(f"refused: {problem}", file=sys.stderr, flush=True)
                return self.reply(400, problem.encode(), "text/plain")
        try:
            message = plistlib.loads(body)
        except Exception as error:  # noqa: BLE001: whatever it is, it is no message
            return self.reply(400, str(error).encode(), "text/plain")
        kind = message.get("MessageType") or f"Status {message.get('Status')}"
        with _lock:
            subject = ", ".join(value for rdn in self.connection.getpeercert()["subject"] for _, value in rdn)
            with open(self.options.state / "log.jsonl", "a") as log:
                log.write(json.dumps({"type": kind, "message": plain(message), "peer": subject, "signed": bool(signed)}) + "\n")
            return self.answer(kind, message)

    def answer(self, kind: str, message: dict) -> None:
        state: Path = self.options.state
        behaviour = json.loads((state / "behaviour.json").read_text()) if (state / "behaviour.json").exists() else {}
        if behaviour and behaviour.get("only", kind) == kind:
            return self.reply(behaviour["status"], behaviour.get("body", "").encode(), behaviour.get("type", "text/plain"))
        if kind == "DeclarativeManagement":
            if message["Endpoint"] == "status":
                return self.reply(200)
            document = state / "declarations" / message["Endpoint"].replace("/", "~")
            return self.reply(200, document.read_bytes(), "application/json") if document.exists() else self.reply(404)
        if "MessageType" in message:
            return self.reply(200)
        skipped = self.skipped.setdefault(message["UDID"], set())
        if message["Status"] == "Idle":
            skipped.clear()
        elif message["Status"] == "NotNow":
            skipped.add(message["CommandUUID"])
        else:
            (state / "queue" / f"{message['CommandUUID']}.plist").unlink(missing_ok=True)
        for path in sorted((state / "queue").glob("*.plist")):
            if path.stem not in skipped:
                command = plistlib.loads(path.read_bytes())
                return self.reply(200, plistlib.dumps({"CommandUUID": path.stem, "Command": command["Command"]}))
        return self.reply(200)


def main() -> int:
    parser = argparse.ArgumentParser(prog="issuer.mdm", description="An MDM server for the lab. Not a product.")
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--listen", default="127.0.0.1:9445")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--device-ca", action="append", required=True)
    parser.add_argument("--signatures", action="store_true")
    options = parser.parse_args()
    for name in ("queue", "declarations"):
        (options.state / name).mkdir(parents=True, exist_ok=True)
    Handler.options = options
    host, _, port = options.listen.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(options.certificate, options.key)
    context.verify_mode = ssl.CERT_REQUIRED
    for name in options.device_ca:
        context.load_verify_locations(name)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print("serving", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
