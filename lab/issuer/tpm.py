"""The TPM 2.0 structures that an issuer must read (TPM 2.0 Library, Part 2), and the making of credentials (Part 1, 24).

Nothing here talks to a TPM. Input is hostile: every read is bounded and says what it could not read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

RSA, ECC, NULL = 0x0001, 0x0023, 0x0010
RSASSA, ECDSA = 0x0014, 0x0018
HASHES = {0x000B: hashes.SHA256, 0x000C: hashes.SHA384, 0x000D: hashes.SHA512}
HASH_NAMES = {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
CURVES = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1, 0x0005: ec.SECP521R1}
GENERATED = 0xFF544347
ATTEST_CERTIFY, ATTEST_CREATION = 0x8017, 0x801A

FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN, RESTRICTED, DECRYPT, SIGN = 0x2, 0x10, 0x20, 0x10000, 0x20000, 0x40000


class Malformed(ValueError):
    pass


class Reader:
    def __init__(self, data: bytes, what: str):
        self.data, self.at, self.what = data, 0, what

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Malformed(f"{self.what} ends at byte {len(self.data)}, {count} more wanted at {self.at}")
        piece = self.data[self.at:self.at + count]
        self.at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))

    def end(self) -> None:
        if self.at != len(self.data):
            raise Malformed(f"{self.what} has {len(self.data) - self.at} bytes too many")


@dataclass
class Public:
    """TPMT_PUBLIC of a key."""
    raw: bytes
    type: int
    name_algorithm: int
    attributes: int
    key: object  # a public key of the cryptography package
    bits: int

    @property
    def name(self) -> bytes:
        return struct.pack(">H", self.name_algorithm) + hashlib.new(HASH_NAMES[self.name_algorithm], self.raw).digest()

    def spki(self) -> bytes:
        return self.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def parse_public(raw: bytes) -> Public:
    r = Reader(raw, "pubArea")
    kind, name_algorithm, attributes = r.number(2), r.number(2), r.number(4)
    if name_algorithm not in HASH_NAMES:
        raise Malformed(f"name algorithm 0x{name_algorithm:04x} is not SHA-2")
    r.sized()  # authPolicy
    if r.number(2) != NULL:
        r.take(4)  # symmetric key bits and mode
    if r.number(2) != NULL:
        r.take(2)  # the scheme's hash
    if kind == ECC:
        curve = r.number(2)
        if r.number(2) != NULL:
            r.take(2)  # kdf hash
        x, y = r.sized(), r.sized()
        r.end()
        if curve not in CURVES:
            raise Malformed(f"curve 0x{curve:04x} is not supported")
        kind_of_curve = CURVES[curve]()
        key = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), kind_of_curve).public_key()
        return Public(raw, kind, name_algorithm, attributes, key, kind_of_curve.key_size)
    if kind == RSA:
        bits, exponent = r.number(2), r.number(4) or 65537
        modulus = r.sized()
        r.end()
        key = rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "big")).public_key()
        return Public(raw, kind, name_algorithm, attributes, key, bits)
    raise Malformed(f"key type 0x{kind:04x} is neither RSA nor ECC")


@dataclass
class Attest:
    """TPMS_ATTEST, of a certification or a creation."""
    magic: int
    type: int
    extra_data: bytes
    name: bytes
    creation_hash: bytes


def parse_attest(raw: bytes) -> Attest:
    r = Reader(raw, "certInfo")
    magic, kind = r.number(4), r.number(2)
    r.sized()  # qualifiedSigner
    extra = r.sized()
    r.take(17 + 8)  # clockInfo, firmwareVersion
    name = r.sized()
    second = r.sized()  # qualifiedName, or creationHash
    r.end()
    return Attest(magic, kind, extra, name, second if kind == ATTEST_CREATION else b"")


def verify_signature(key, signature: bytes, message: bytes) -> None:
    """TPMT_SIGNATURE over message; raises when it does not verify."""
    r = Reader(signature, "sig")
    algorithm, digest = r.number(2), r.number(2)
    if digest not in HASHES:
        raise Malformed(f"signature hash 0x{digest:04x} is not supported")
    if algorithm == ECDSA:
        first, second = r.sized(), r.sized()
        r.end()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Malformed("an ECDSA signature by a key that is not EC")
        der = encode_dss_signature(int.from_bytes(first, "big"), int.from_bytes(second, "big"))
        key.verify(der, message, ec.ECDSA(HASHES[digest]()))
    elif algorithm == RSASSA:
        raw = r.sized()
        r.end()
        key.verify(raw, message, padding.PKCS1v15(), HASHES[digest]())
    else:
        raise Malformed(f"signature algorithm 0x{algorithm:04x} is neither ECDSA nor RSASSA")


def kdfa(name: str, key: bytes, label: str, context: bytes, bits: int) -> bytes:
    out, counter = b"", 0
    while len(out) * 8 < bits:
        counter += 1
        out += hmac.new(key, struct.pack(">I", counter) + label.encode() + b"\0" + context + struct.pack(">I", bits), name).digest()
    return out[:bits // 8]


def make_credential(ek, ak_name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET for the TPM that holds `ek` and a key named `ak_name`.

    The endorsement key's name algorithm follows the TCG default templates: SHA-256 and AES-128 for RSA-2048 and P-256,
    SHA-384 and AES-256 for P-384 and RSA-3072.
    """
    large = ek.key_size in (384, 3072)
    name, digest, key_bits = ("sha384", hashes.SHA384(), 256) if large else ("sha256", hashes.SHA256(), 128)
    if isinstance(ek, rsa.RSAPublicKey):
        seed = os.urandom(digest.digest_size)
        encrypted = ek.encrypt(seed, padding.OAEP(padding.MGF1(digest), digest, b"IDENTITY\0"))
    elif isinstance(ek, ec.EllipticCurvePublicKey):
        size = (ek.key_size + 7) // 8
        own = ec.generate_private_key(ek.curve)
        shared = own.exchange(ec.ECDH(), ek)
        mine, theirs = own.public_key().public_numbers(), ek.public_numbers()
        x, y = mine.x.to_bytes(size, "big"), mine.y.to_bytes(size, "big")
        # KDFe (Part 1, 11.4.10.3): one round is enough, the seed is as long as the hash.
        seed = hashlib.new(name, struct.pack(">I", 1) + shared.rjust(size, b"\0") + b"IDENTITY\0" + x + theirs.x.to_bytes(size, "big")).digest()
        encrypted = struct.pack(">H", size) + x + struct.pack(">H", size) + y
    else:
        raise Malformed("the endorsement key is neither RSA nor EC")
    cipher = Cipher(algorithms.AES(kdfa(name, seed, "STORAGE", ak_name, key_bits)), modes.CFB(bytes(16))).encryptor()
    identity = cipher.update(struct.pack(">H", len(secret)) + secret) + cipher.finalize()
    integrity = hmac.new(kdfa(name, seed, "INTEGRITY", b"", digest.digest_size * 8), identity + ak_name, name).digest()
    body = struct.pack(">H", len(integrity)) + integrity + identity
    return struct.pack(">H", len(body)) + body, struct.pack(">H", len(encrypted)) + encrypted
