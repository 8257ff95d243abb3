"""The attestation CA: POST /attest and /secret (the protocol of step-crypto and attezt).

It verifies the endorsement certificate against a trust store and, when there is one, an allow-list of endorsement public keys
that names each device's permanent identifier; proves by credential activation that the attestation key lives in the TPM of
that endorsement key; and issues the attestation key's certificate.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import os
import threading
import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from . import pki, tpm

# One attempt to activate, briefly.
SECRET_LIFE_SECONDS = 120


class Refused(ValueError):
    pass


def decoded(value, what: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except Exception as bad:
        raise Refused(f"{what} is not base64") from bad


class AttestationAuthority:
    def __init__(self, authority: pki.Authority, ek_roots: list[x509.Certificate], ek_intermediates: list[x509.Certificate],
                 allowed: dict[str, str] | None, ak_lifetime: datetime.timedelta):
        self.authority, self.ek_roots, self.ek_intermediates = authority, ek_roots, ek_intermediates
        self.allowed = allowed  # SHA-256 of the EK's SPKI (hex) → permanent identifier; None: any EK the trust store vouches for
        self.ak_lifetime = ak_lifetime
        self.waiting: dict[bytes, tuple] = {}
        self.lock = threading.Lock()

    def identifier_for(self, ek_spki: bytes) -> str:
        digest = hashlib.sha256(ek_spki).hexdigest()
        if self.allowed is None:
            return digest
        if digest not in self.allowed:
            raise Refused(f"endorsement key {digest} is not on the allow-list")
        return self.allowed[digest]

    def attest(self, request: dict) -> dict:
        ek_spki = decoded(request.get("ek"), "ek")
        identifier = self.identifier_for(ek_spki)
        try:
            ek = serialization.load_der_public_key(ek_spki)
        except ValueError as bad:
            raise Refused("ek is not a public key") from bad
        certificates = []
        for raw in request.get("ekCerts") or []:
            try:
                certificates.append(x509.load_der_x509_certificate(decoded(raw, "ekCerts")))
            except ValueError as bad:
                raise Refused("ekCerts holds something that is no certificate") from bad
        spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        own = [c for c in certificates if c.public_key().public_bytes(*spki) == ek.public_bytes(*spki)]
        if not own:
            raise Refused("no endorsement certificate belongs to ek")
        if not any(pki.chains_to(c, certificates + self.ek_intermediates, self.ek_roots) for c in own):
            raise Refused("the endorsement certificate does not chain to a trusted manufacturer")

        parameters = request.get("params") or {}
        try:
            public = tpm.parse_public(decoded(parameters.get("public"), "params.public"))
            creation = decoded(parameters.get("createData"), "params.createData")
            raw_attest = decoded(parameters.get("createAttestation"), "params.createAttestation")
            attest = tpm.parse_attest(raw_attest)
            if attest.magic != tpm.GENERATED or attest.type != tpm.ATTEST_CREATION:
                raise Refused("createAttestation is not a creation attestation of a TPM")
            wanted = tpm.FIXED_TPM | tpm.FIXED_PARENT | tpm.SENSITIVE_DATA_ORIGIN | tpm.RESTRICTED | tpm.SIGN
            if public.attributes & wanted != wanted or public.attributes & tpm.DECRYPT:
                raise Refused("the attestation key is not a restricted signing key fixed to its TPM")
            if isinstance(public.key, rsa.RSAPublicKey) and public.bits < 2048:
                raise Refused("the attestation key is smaller than RSA-2048")
            if attest.creation_hash != hashlib.new(tpm.HASH_NAMES[public.name_algorithm], creation).digest():
                raise Refused("createData does not match its attestation")
            if attest.name != public.name:
                raise Refused("the attested name is not the attestation key's")
            tpm.verify_signature(public.key, decoded(parameters.get("createSignature"), "params.createSignature"), raw_attest)
        except tpm.Malformed as bad:
            raise Refused(str(bad)) from bad
        except InvalidSignature as bad:
            raise Refused("the attestation key did not sign its own creation") from bad

        secret = os.urandom(32)
        credential, encrypted = tpm.make_credential(ek, public.name, secret)
        with self.lock:
            limit = time.monotonic() - SECRET_LIFE_SECONDS
            self.waiting = {k: v for k, v in self.waiting.items() if v[0] > limit}
            self.waiting[secret] = (time.monotonic(), public, ek_spki, identifier, request.get("tpmInfo") or {})
        return {"credential": base64.b64encode(credential).decode(), "secret": base64.b64encode(encrypted).decode()}

    def secret(self, request: dict) -> dict:
        offered = decoded(request.get("secret"), "secret")
        with self.lock:
            match = next((s for s in self.waiting if hmac.compare_digest(s, offered)), None)
            entry = self.waiting.pop(match) if match else None
        if entry is None or entry[0] < time.monotonic() - SECRET_LIFE_SECONDS:
            raise Refused("this secret was not asked for, or too long ago")
        _, public, ek_spki, identifier, info = entry
        model = info.get("model") or "unknown"
        names = x509.Name([x509.NameAttribute(pki.TPM_MANUFACTURER, str(info.get("manufacturer") or "unknown")),
                           x509.NameAttribute(pki.TPM_MODEL, model),
                           x509.NameAttribute(pki.TPM_VERSION, str(info.get("firmwareVersion") or "0.0"))])
        urn = "urn:ek:sha256:" + base64.b64encode(hashlib.sha256(ek_spki).digest()).decode()
        alternative = x509.SubjectAlternativeName([x509.DirectoryName(names), pki.permanent_identifier(identifier),
                                                   x509.UniformResourceIdentifier(urn)])
        leaf = self.authority.issue(public.key, x509.Name([]), self.ak_lifetime, [
            (x509.BasicConstraints(False, None), True),
            (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True),
            (x509.ExtendedKeyUsage([pki.AIK_CERTIFICATE]), False), (alternative, True)])
        return {"chain": [base64.b64encode(leaf.public_bytes(serialization.Encoding.DER)).decode()]}
