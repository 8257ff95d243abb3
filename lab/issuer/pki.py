"""Certificates: the issuer's own authorities, and reading those of others."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

PERMANENT_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.8.3")
AIK_CERTIFICATE = ObjectIdentifier("2.23.133.8.3")
TPM_MANUFACTURER, TPM_MODEL, TPM_VERSION = (ObjectIdentifier(f"2.23.133.2.{n}") for n in (1, 2, 3))


def now() -> datetime.datetime:
    return datetime.datetime.utcnow().replace(microsecond=0)


def der(tag: int, content: bytes) -> bytes:
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def permanent_identifier(value: str) -> x509.OtherName:
    return x509.OtherName(PERMANENT_IDENTIFIER, der(0x30, der(0x0C, value.encode())))


def permanent_identifiers(names) -> list[str]:
    """Values of the PermanentIdentifier otherNames (RFC 4043) in a subjectAltName."""
    found = []
    for name in names:
        if isinstance(name, x509.OtherName) and name.type_id == PERMANENT_IDENTIFIER:
            raw = name.value
            if len(raw) > 4 and raw[0] == 0x30 and raw[1] < 128 and raw[2] == 0x0C:
                found.append(raw[4:4 + raw[3]].decode())
    return found


class Authority:
    """A root that signs leaves; kept in a folder so that a restarted issuer is the same issuer."""

    def __init__(self, folder: Path, name: str, common_name: str):
        key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.crt"
        if key_file.exists():
            self.key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            self.certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            return
        self.key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Wayleave Lab"),
                             x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        self.certificate = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(self.key.public_key())
                            .serial_number(x509.random_serial_number()).not_valid_before(now() - datetime.timedelta(minutes=5))
                            .not_valid_after(now() + datetime.timedelta(days=3650))
                            .add_extension(x509.BasicConstraints(True, None), True)
                            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
                            .sign(self.key, hashes.SHA384()))
        key_file.write_bytes(self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                    serialization.NoEncryption()))
        certificate_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, key, subject: x509.Name, lifetime: datetime.timedelta, extensions) -> x509.Certificate:
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.certificate.subject).public_key(key)
                   .serial_number(x509.random_serial_number()).not_valid_before(now() - datetime.timedelta(minutes=1))
                   .not_valid_after(now() + lifetime))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA384())


def verify_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    key = issuer.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), certificate.signature_hash_algorithm)
        else:
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(certificate.signature_hash_algorithm))
    except InvalidSignature:
        return False
    return True


def chains_to(certificate: x509.Certificate, others: list[x509.Certificate], roots: list[x509.Certificate]) -> bool:
    """Walks from the leaf through `others` to a root. Validity dates count, extended key usages do not."""
    current = certificate
    for _ in range(8):
        if not current.not_valid_before <= now() + datetime.timedelta(minutes=5) or not now() <= current.not_valid_after:
            return False
        if any(verify_issued_by(current, root) for root in roots):
            return True
        current = next((c for c in others if c.subject == current.issuer and c != current and verify_issued_by(current, c)), None)
        if current is None:
            return False
    return False
