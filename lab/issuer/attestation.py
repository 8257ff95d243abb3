"""What step-ca checks of a `tpm` attestation statement, in its order (smallstep/certificates acme/challenge.go)."""

from __future__ import annotations

import base64
import binascii
import hashlib

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from . import pki, tpm


class Refused(ValueError):
    """The challenge fails with this detail."""


def unpadded(text: str) -> bytes:
    if not isinstance(text, str) or "=" in text:
        raise ValueError("not unpadded base64url")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def check_ak_certificate(certificate: x509.Certificate) -> list[str]:
    """The profile of an attestation key's certificate; returns its permanent identifiers."""
    if certificate.version != x509.Version.v3:
        raise Refused("AK certificate must be version 3")
    if len(list(certificate.subject)) > 0:
        raise Refused("AK certificate subject must be empty")
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise Refused("AK certificate must not be a CA")
    except x509.ExtensionNotFound:
        pass
    try:
        usages = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as missing:
        raise Refused(f"AK certificate lacks an extension: {missing}") from missing
    if not usages or usages[0] != pki.AIK_CERTIFICATE:
        raise Refused("AK certificate is missing Extended Key Usage value tcg-kp-AIKCertificate (2.23.133.8.3)")
    directory = [n.value for n in names if isinstance(n, x509.DirectoryName)]
    for oid, what in ((pki.TPM_MANUFACTURER, "manufacturer"), (pki.TPM_MODEL, "model"), (pki.TPM_VERSION, "version")):
        if not any(a.value for d in directory for a in d.get_attributes_for_oid(oid)):
            raise Refused(f"missing TPM {what}")
    return pki.permanent_identifiers(names)


def validate(payload: dict, key_authorization: str, identifier: str, roots: list[x509.Certificate]) -> bytes:
    """Returns the SPKI (DER) of the attested key, or raises Refused with the reason."""
    if "error" in payload:
        raise Refused(f"payload contained error: {payload['error']}")
    try:
        raw = unpadded(payload.get("attObj", ""))
    except (ValueError, binascii.Error) as bad:
        raise Refused(f"failed base64 decoding attObj {payload.get('attObj', '')!r:.40}: {bad}") from bad
    if not raw or raw == b"{}":
        raise Refused("attObj must not be empty")
    try:
        statement = cbor2.loads(raw)
    except Exception as bad:
        raise Refused("attObj is not well formed CBOR") from bad
    if not isinstance(statement, dict) or statement.get("fmt") != "tpm":
        raise Refused(f"attestation format {statement.get('fmt') if isinstance(statement, dict) else statement!r} is not enabled")
    if list(statement)[:2] != ["fmt", "attStmt"]:
        raise Refused("attObj is not in canonical order")
    s = statement.get("attStmt")
    if not isinstance(s, dict) or s.get("ver") != "2.0":
        raise Refused(f"version {s.get('ver') if isinstance(s, dict) else None!r} is not supported")
    chain = s.get("x5c")
    if not isinstance(chain, list) or not chain or not all(isinstance(c, bytes) for c in chain):
        raise Refused("x5c is empty or not present")
    try:
        certificates = [x509.load_der_x509_certificate(c) for c in chain]
    except ValueError as bad:
        raise Refused(f"x5c is malformed: {bad}") from bad
    if not pki.chains_to(certificates[0], certificates[1:], roots):
        raise Refused("x5c is not valid: the AK certificate does not chain to an attestation root")
    identifiers = check_ak_certificate(certificates[0])
    area, signature, info = s.get("pubArea"), s.get("sig"), s.get("certInfo")
    for name, value in (("pubArea", area), ("sig", signature), ("certInfo", info)):
        if not isinstance(value, bytes) or not value:
            raise Refused(f"invalid {name} in attestation statement")
    if s.get("alg") not in (-7, -257, -65535):
        raise Refused(f"invalid alg {s.get('alg')!r} in attestation statement")
    try:
        public, attest = tpm.parse_public(area), tpm.parse_attest(info)
        if attest.magic != tpm.GENERATED or attest.type != tpm.ATTEST_CERTIFY:
            raise Refused("certInfo is not a certification made by a TPM")
        if isinstance(public.key, rsa.RSAPublicKey) and public.bits < 2048:
            raise Refused("RSA key is smaller than 2048 bits")
        wanted = tpm.FIXED_TPM | tpm.FIXED_PARENT | tpm.SENSITIVE_DATA_ORIGIN
        if public.attributes & wanted != wanted:
            raise Refused("key is exportable or was not generated in the TPM")
        if public.attributes & tpm.RESTRICTED:
            raise Refused("key is restricted")
        if attest.name != public.name:
            raise Refused("attested name does not match pubArea")
        if isinstance(certificates[0].public_key(), ec.EllipticCurvePublicKey) and s["alg"] != -7:
            raise Refused("alg does not fit the AK")
        tpm.verify_signature(certificates[0].public_key(), signature, info)
    except tpm.Malformed as bad:
        raise Refused(f"invalid certification parameters: {bad}") from bad
    except InvalidSignature as bad:
        raise Refused("invalid certification parameters: the AK's signature does not verify") from bad
    if attest.extra_data != hashlib.sha256(key_authorization.encode()).digest():
        raise Refused("key authorization invalid")
    if identifiers and identifier not in identifiers:
        raise Refused(f"permanent identifier does not match: challenge identifier {identifier!r} doesn't match any of the "
                      f"attested hardware identifiers {identifiers!r}")
    return public.spki()
