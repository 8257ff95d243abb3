"""python3 -m issuer --state DIR --certificate server.crt --key server.key [--ek-roots roots.pem] …

Serves https://NAME:PORT/acme/directory and https://NAME:PORT/attestation/{attest,secret}. For the lab and tests only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509

from .acme import Acme, Reply
from .attestation_ca import AttestationAuthority, Refused
from .pki import Authority

MAX_BODY = 256 * 1024


def pem_certificates(path: str | None) -> list[x509.Certificate]:
    if not path:
        return []
    text = Path(path).read_text()
    return [x509.load_pem_x509_certificate(block.encode())
            for block in re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.S)]


def duration(text: str) -> datetime.timedelta:
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]]
    return datetime.timedelta(seconds=int(text[:-1]) * unit)


def main() -> int:
    parser = argparse.ArgumentParser(prog="issuer", description="The lab's ACME server and attestation CA. Not a product CA.")
    parser.add_argument("--state", required=True, type=Path, help="folder for the two authorities' keys")
    parser.add_argument("--listen", default="127.0.0.1:9443")
    parser.add_argument("--name", default="issuer.lab", help="host name in the URLs it hands out")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ek-roots", help="PEM: manufacturers' roots and intermediates for endorsement certificates")
    parser.add_argument("--ek-allow", help="JSON file: {SHA-256 of EK SPKI: permanent identifier}")
    parser.add_argument("--clients", help="JSON file: list of ClientIdentifiers; default: all")
    parser.add_argument("--eab", help="KID:BASE64URL-KEY; external account binding becomes mandatory")
    parser.add_argument("--lifetime", default="90d", type=duration, help="of device certificates: 90d, 10m, 30s …")
    parser.add_argument("--ak-lifetime", default="365d", type=duration)
    options = parser.parse_args()

    options.state.mkdir(parents=True, exist_ok=True)
    device_ca = Authority(options.state, "acme-device-ca", "Wayleave Lab ACME Device CA")
    attestation_ca = Authority(options.state, "attestation-ca", "Wayleave Lab Attestation CA")
    given = pem_certificates(options.ek_roots)
    roots = [c for c in given if c.issuer == c.subject]
    intermediates = [c for c in given if c.issuer != c.subject]
    allowed = json.loads(Path(options.ek_allow).read_text()) if options.ek_allow else None
    clients = json.loads(Path(options.clients).read_text()) if options.clients else None
    eab = None
    if options.eab:
        from .attestation import unpadded
        kid, _, key = options.eab.partition(":")
        eab = {kid: unpadded(key)}
    host, _, port = options.listen.rpartition(":")
    acme = Acme(f"https://{options.name}:{port}", device_ca, [attestation_ca.certificate], options.lifetime, eab, clients)
    attestation = AttestationAuthority(attestation_ca, roots, intermediates, allowed, options.ak_lifetime)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
            if self.path.startswith("/acme/"):
                self.send_header("Replay-Nonce", acme.nonce())
                self.send_header("Link", f'<{acme.base}/acme/directory>;rel="index"')
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        def body(self) -> bytes:
            length = int(self.headers.get("Content-Length") or 0)
            if length > MAX_BODY:
                raise ValueError("body too large")
            return self.rfile.read(length)

        def serve(self) -> None:
            body = self.body()
            if self.path.startswith("/acme/"):
                self.answer(acme.handle(self.command, self.path, body))
            elif self.path in ("/attestation/attest", "/attestation/secret") and self.command == "POST":
                action = attestation.attest if self.path.endswith("attest") else attestation.secret
                try:
                    self.answer(Reply(200, action(json.loads(body))))
                except (Refused, ValueError) as refused:
                    self.answer(Reply(403, {"error": str(refused)}))
            elif self.path == "/lab/faults" and self.command == "POST":
                with acme.lock:
                    acme.faults = json.loads(body)
                self.answer(Reply(200, {}))
            elif self.path == "/lab/state" and self.command == "GET":
                with acme.lock:
                    self.answer(Reply(200, {"counts": acme.counts, "orders": len(acme.orders), "certificates": acme.certificates,
                                            "accounts": len(acme.accounts)}))
            else:
                self.answer(Reply(404, {"error": "no such resource"}))

        do_GET = do_POST = do_HEAD = serve

        def log_message(self, form, *arguments):
            print(f"{self.log_date_time_string()} {form % arguments}", file=sys.stderr, flush=True)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        # The handshake belongs on the connection's own thread: a client that never speaks must not stop the others.
        def finish_request(self, request, client_address):
            request.settimeout(30)
            try:
                tls = context.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError):
                return
            self.RequestHandlerClass(tls, client_address, self)

    server = Server((host, int(port)), Handler)
    print(f"issuer: {acme.base}/acme/directory", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
