"""An ACME server (RFC 8555) with permanent-identifier orders and the device-attest-01 challenge
(draft-ietf-acme-device-attest-09), strict where real servers are strict, and with faults on demand.

State lives in memory, guarded by one lock; only the CA's key is kept. `faults` (POST /lab/faults, lab only):
  bad-nonce-percent N   that share of requests gets badNonce with a fresh nonce
  fail-next {path: [[status, body]…]}   the next answers for a path prefix, in order
  processing-polls N    orders stay `processing` for N polls after finalize
  rate-limit-seconds N  newOrder answers rateLimited with Retry-After N, once
  wrong-key, broken-chain   the certificate is for another key, or its chain does not verify
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import secrets
import threading

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import attestation, pki

PROBLEM = "urn:ietf:params:acme:error:"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Problem(Exception):
    def __init__(self, status: int, kind: str, detail: str, subproblems=None, headers=None):
        super().__init__(detail)
        self.status, self.headers = status, headers or {}
        self.body = {"type": PROBLEM + kind, "detail": detail, "status": status}
        if subproblems:
            self.body["subproblems"] = subproblems


class Reply:
    def __init__(self, status: int, body, headers=None, kind="application/json"):
        self.status, self.headers, self.kind = status, headers or {}, kind
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def thumbprint(jwk: dict) -> str:
    return b64(hashlib.sha256(json.dumps({k: jwk[k] for k in ("crv", "kty", "x", "y")}, separators=(",", ":"), sort_keys=True).encode()).digest())


class Acme:
    def __init__(self, base: str, authority: pki.Authority, attestation_roots, lifetime: datetime.timedelta,
                 eab_keys: dict[str, bytes] | None = None, clients: list[str] | None = None):
        self.base, self.authority, self.attestation_roots, self.lifetime = base, authority, attestation_roots, lifetime
        self.eab_keys = eab_keys  # None: external account binding is not asked for
        self.clients = clients    # ClientIdentifiers this server knows; None: all
        self.lock = threading.RLock()
        self.nonces: list[str] = []
        self.accounts: dict[str, dict] = {}
        self.orders: dict[str, dict] = {}
        self.faults: dict = {}
        self.counts: dict[str, int] = {}
        self.certificates: list[str] = []

    # --- plumbing ---

    def nonce(self) -> str:
        with self.lock:
            value = secrets.token_urlsafe(16)
            self.nonces.append(value)
            del self.nonces[:-10000]
            return value

    def handle(self, method: str, path: str, body: bytes) -> Reply:
        with self.lock:
            self.counts[path.split("/")[2] if path.count("/") > 1 else path] = self.counts.get(path.split("/")[2] if path.count("/") > 1 else path, 0) + 1
            for prefix, answers in (self.faults.get("fail-next") or {}).items():
                if path.startswith(prefix) and answers:
                    status, text = answers.pop(0)
                    return Reply(status, text.encode(), kind="application/problem+json" if text.startswith("{") else "text/html")
            try:
                return self.route(method, path, body)
            except Problem as problem:
                return Reply(problem.status, problem.body, problem.headers, "application/problem+json")

    def route(self, method: str, path: str, body: bytes) -> Reply:
        if path == "/acme/directory" and method == "GET":
            meta = {"externalAccountRequired": self.eab_keys is not None}
            return Reply(200, {"newNonce": f"{self.base}/acme/new-nonce", "newAccount": f"{self.base}/acme/new-account",
                               "newOrder": f"{self.base}/acme/new-order", "revokeCert": f"{self.base}/acme/revoke",
                               "keyChange": f"{self.base}/acme/key-change", "meta": meta})
        if path == "/acme/new-nonce" and method in ("GET", "HEAD"):
            return Reply(200 if method == "HEAD" else 204, b"", {"Cache-Control": "no-store"})
        if method != "POST":
            raise Problem(405, "malformed", "POST is the only method here")
        protected, payload, account = self.verify_jws(path, body)
        if path == "/acme/new-account":
            return self.new_account(protected, payload)
        if account is None:
            raise Problem(400, "malformed", "this request needs kid, not jwk")
        if path == "/acme/new-order":
            return self.new_order(account, payload)
        kind, _, rest = path.removeprefix("/acme/").partition("/")
        order = self.orders.get(rest.partition("/")[0])
        if order is None or order["account"] != account["url"]:
            raise Problem(404, "malformed", "no such resource for this account")
        if kind == "order":
            return self.show_order(order)
        if kind == "authorization":
            return Reply(200, self.authorization(order))
        if kind == "challenge":
            return self.challenge(order, payload, account)
        if kind == "finalize":
            return self.finalize(order, payload)
        if kind == "certificate":
            return self.certificate(order)
        raise Problem(404, "malformed", "no such resource")

    def verify_jws(self, path: str, body: bytes):
        try:
            jws = json.loads(body)
            protected = json.loads(attestation.unpadded(jws["protected"]))
            raw_payload = attestation.unpadded(jws["payload"])
            signature = attestation.unpadded(jws["signature"])
        except Exception as bad:
            raise Problem(400, "malformed", f"the body is no flattened JWS: {bad}") from bad
        if protected.get("url") != self.base + path:
            raise Problem(401, "unauthorized", f"protected url {protected.get('url')!r} is not {self.base + path!r}")
        nonce = protected.get("nonce")
        unlucky = secrets.randbelow(100) < int(self.faults.get("bad-nonce-percent", 0))
        if nonce not in self.nonces or unlucky:
            if nonce in self.nonces:
                self.nonces.remove(nonce)
            raise Problem(400, "badNonce", f"nonce {nonce!r} is not fresh")
        self.nonces.remove(nonce)
        if ("kid" in protected) == ("jwk" in protected):
            raise Problem(400, "malformed", "exactly one of kid and jwk must be there")
        account = None
        if "kid" in protected:
            account = self.accounts.get(protected["kid"])
            if account is None:
                raise Problem(400, "accountDoesNotExist", f"account {protected['kid']} does not exist")
            jwk = account["jwk"]
        else:
            jwk = protected["jwk"]
        if protected.get("alg") != "ES256" or jwk.get("crv") != "P-256" or len(signature) != 64:
            raise Problem(400, "badSignatureAlgorithm", "this server takes ES256 only")
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(attestation.unpadded(jwk["x"]), "big"),
                                                int.from_bytes(attestation.unpadded(jwk["y"]), "big"), ec.SECP256R1())
        der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        try:
            numbers.public_key().verify(der, f"{jws['protected']}.{jws['payload']}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as bad:
            raise Problem(400, "malformed", "the JWS signature does not verify") from bad
        payload = json.loads(raw_payload) if raw_payload else None
        return protected, payload, account

    # --- resources ---

    def new_account(self, protected: dict, payload) -> Reply:
        jwk = protected.get("jwk")
        if jwk is None:
            raise Problem(400, "malformed", "newAccount is signed with jwk")
        url = f"{self.base}/acme/account/{thumbprint(jwk)}"
        if url in self.accounts:
            return Reply(200, {"status": "valid", "orders": url + "/orders"}, {"Location": url})
        if (payload or {}).get("onlyReturnExisting"):
            raise Problem(400, "accountDoesNotExist", "no account with this key")
        if self.eab_keys is not None:
            self.check_eab(jwk, (payload or {}).get("externalAccountBinding"))
        self.accounts[url] = {"url": url, "jwk": jwk}
        return Reply(201, {"status": "valid", "orders": url + "/orders"}, {"Location": url})

    def check_eab(self, jwk: dict, binding) -> None:
        if not isinstance(binding, dict):
            raise Problem(403, "externalAccountRequired", "this server wants an external account binding")
        protected = json.loads(attestation.unpadded(binding["protected"]))
        key = self.eab_keys.get(protected.get("kid"))
        mac = key and hmac.new(key, f"{binding['protected']}.{binding['payload']}".encode(), "sha256").digest()
        if (not mac or protected.get("alg") != "HS256" or protected.get("url") != f"{self.base}/acme/new-account"
                or not hmac.compare_digest(mac, attestation.unpadded(binding["signature"]))
                or json.loads(attestation.unpadded(binding["payload"])) != jwk):
            raise Problem(403, "unauthorized", "the external account binding does not verify")

    def new_order(self, account: dict, payload) -> Reply:
        wait = self.faults.pop("rate-limit-seconds", None)
        if wait is not None:
            raise Problem(429, "rateLimited", "too many orders for this device", headers={"Retry-After": str(wait)})
        identifiers = (payload or {}).get("identifiers") or []
        if len(identifiers) != 1 or identifiers[0].get("type") != "permanent-identifier":
            raise Problem(400, "unsupportedIdentifier", "exactly one permanent-identifier is served here")
        value = identifiers[0].get("value") or ""
        if not value or "/" in value:
            raise Problem(400, "malformed", f"permanent identifier {value!r} is not of the form this server takes")
        if self.clients is not None and value not in self.clients:
            raise Problem(403, "rejectedIdentifier", f"device {value!r} is not known here", subproblems=[
                {"type": PROBLEM + "rejectedIdentifier", "detail": "ask the administrator to add the device",
                 "identifier": identifiers[0]}])
        name = secrets.token_urlsafe(12)
        self.orders[name] = {"name": name, "account": account["url"], "identifier": identifiers[0], "status": "pending",
                             "token": secrets.token_urlsafe(24), "challenge": "pending", "error": None, "key": None,
                             "certificate": None, "polls": 0,
                             "expires": (pki.now() + datetime.timedelta(hours=24)).isoformat() + "Z"}
        return Reply(201, self.order_body(self.orders[name]), {"Location": f"{self.base}/acme/order/{name}"})

    def order_body(self, order: dict) -> dict:
        body = {"status": order["status"], "expires": order["expires"], "identifiers": [order["identifier"]],
                "authorizations": [f"{self.base}/acme/authorization/{order['name']}"],
                "finalize": f"{self.base}/acme/finalize/{order['name']}"}
        if order["status"] == "valid":
            body["certificate"] = f"{self.base}/acme/certificate/{order['name']}"
        if order["error"] and order["status"] == "invalid":
            body["error"] = order["error"]
        return body

    def show_order(self, order: dict) -> Reply:
        if order["status"] == "processing":
            order["polls"] -= 1
            if order["polls"] <= 0:
                order["status"] = "valid"
        headers = {"Retry-After": "1"} if order["status"] == "processing" else {}
        return Reply(200, self.order_body(order), headers)

    def authorization(self, order: dict) -> dict:
        challenge = {"type": "device-attest-01", "status": order["challenge"], "token": order["token"],
                     "url": f"{self.base}/acme/challenge/{order['name']}"}
        if order["challenge"] == "invalid":
            challenge["error"] = order["error"]
        return {"status": {"pending": "pending", "valid": "valid", "invalid": "invalid"}[order["challenge"]],
                "expires": order["expires"], "identifier": order["identifier"], "challenges": [challenge]}

    def challenge(self, order: dict, payload, account: dict) -> Reply:
        up = {"Link": f'<{self.base}/acme/authorization/{order["name"]}>;rel="up"'}
        if payload is None or order["challenge"] != "pending":
            return Reply(200, self.authorization(order)["challenges"][0], up)
        key_authorization = f"{order['token']}.{thumbprint(account['jwk'])}"
        try:
            order["key"] = attestation.validate(payload, key_authorization, order["identifier"]["value"], self.attestation_roots)
            order["challenge"], order["status"] = "valid", "ready"
        except attestation.Refused as refused:
            order["challenge"] = order["status"] = "invalid"
            order["error"] = {"type": PROBLEM + "badAttestationStatement", "detail": str(refused), "status": 403}
        return Reply(200, self.authorization(order)["challenges"][0], up)

    def finalize(self, order: dict, payload) -> Reply:
        if order["status"] != "ready":
            raise Problem(403, "orderNotReady", f"the order is {order['status']}")
        try:
            request = x509.load_der_x509_csr(attestation.unpadded(payload["csr"]))
        except Exception as bad:
            raise Problem(400, "badCSR", f"csr is not a PKCS #10 request: {bad}") from bad
        if not request.is_signature_valid:
            raise Problem(400, "badCSR", "the request's signature does not verify")
        key = request.public_key()
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if spki != order["key"]:
            raise Problem(403, "unauthorized", f"order {order['name']} csr does not match the attested key")
        identifier = order["identifier"]["value"]
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if names and names[0].value != identifier:
            raise Problem(400, "badCSR", "CSR Subject Common Name does not match identifiers exactly: "
                                         f"CSR Subject Common Name = {names[0].value}, Order Permanent Identifier = {identifier}")
        if self.faults.pop("wrong-key", None):
            key = ec.generate_private_key(ec.SECP384R1()).public_key()
        leaf = self.authority.issue(key, request.subject, self.lifetime, [
            (x509.BasicConstraints(False, None), True),
            (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (x509.SubjectAlternativeName([pki.permanent_identifier(identifier)]), False)])
        pem = serialization.Encoding.PEM
        chain = leaf.public_bytes(pem).decode() + self.authority.certificate.public_bytes(pem).decode()
        if self.faults.pop("broken-chain", None):
            other = ec.generate_private_key(ec.SECP384R1())
            fake = pki.Authority.__new__(pki.Authority)
            fake.key, fake.certificate = other, self.authority.certificate
            leaf = fake.issue(key, request.subject, self.lifetime, [(x509.BasicConstraints(False, None), True)])
            chain = leaf.public_bytes(pem).decode() + self.authority.certificate.public_bytes(pem).decode()
        order["certificate"] = chain
        self.certificates.append(chain)
        order["polls"] = int(self.faults.get("processing-polls", 0))
        order["status"] = "processing" if order["polls"] > 0 else "valid"
        return Reply(200, self.order_body(order), {"Retry-After": "1"} if order["polls"] else {})

    def certificate(self, order: dict) -> Reply:
        if order["status"] != "valid":
            raise Problem(403, "orderNotReady", "there is no certificate yet")
        return Reply(200, order["certificate"].encode(), kind="application/pem-certificate-chain")
