"""Signatures of tokens: HS256, HS384, RS256, ES256 (RFC 7518 §3) and EdDSA with Ed25519 (RFC 8037 §3.1).

A key has one algorithm, pinned by whoever configured it: what a token says of its algorithm never chooses how it is verified
(RFC 8725 §3.1). Material that is too weak, too large or of another kind is refused when the key is made, not when it is used.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_pem_public_key

SECRET_BYTES: Final = {"HS256": 32, "HS384": 48}
"""A secret is at least as long as the hash (RFC 7518 §3.2)."""
MAX_SECRET: Final = 1024
PUBLIC: Final = ("RS256", "ES256", "EdDSA")
ED25519: Final = "Ed25519"
"""What RFC 9864 §2.2 calls EdDSA with an Ed25519 key."""
RSA_BITS: Final = (2048, 4096)
"""RFC 7518 §3.3; a larger key would cost every connect more."""
MAX_EXPONENT_BITS: Final = 33
MAX_PEM: Final = 4096

_HASHES: Final = {"HS256": hashlib.sha256, "HS384": hashlib.sha384}
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/***")
_ENDS: Final = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")
"""The last character of a part, by its length modulo 4: the bits that no byte takes are 0 (RFC 4648 §3.5)."""
_ES256_BYTES: Final = 64
_BEGINS: Final = ("-----BEGIN", "ssh-rsa ", "ssh-ed25519 ", "ecdsa-sha2-")


class BadKey(ValueError):
    """Material that makes no key; the text says why and never shows it."""


class Key(Protocol):
    """Verifies by one algorithm."""

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Is `signature` (base64url, as it stands in the token) of `signed`?"""


def unbase64url(part: bytes) -> bytes:
    """Base64url without padding (RFC 7515 §2), the one spelling that its bytes have; raises ValueError."""
    left = len(part) % 4
    if left and part[-1] not in _ENDS[left]:
        raise ValueError("a length that base64 has not, or bits beyond the last byte")
    return binascii.a2b_base64(part.translate(_FROM_URL) + b"=" * (-left % 4), strict_mode=True)


def base64url(data: bytes) -> bytes:
    """Base64url without padding (RFC 7515 §2)."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)


class _Hmac:
    """A shared secret (RFC 2104). The signature is compared as text: it has one spelling, and nothing of the sender's is decoded.

    What the secret alone decides is hashed once: `hmac.digest` does it again each time, and looks its hash up in OpenSSL, which
    takes 8 µs a token instead of 3.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, alg: str, secret: bytes) -> None:
        made = _HASHES[alg]
        size = made().block_size
        padded = (made(secret).digest() if len(secret) > size else secret).ljust(size, b"\0")
        self._inner = made(bytes([byte ^ 0x36 for byte in padded]))
        self._outer = made(bytes([byte ^ 0x5C for byte in padded]))

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(signed)
        outer.update(inner.digest())
        return hmac.compare_digest(base64url(outer.digest()), signature)


class _Public:
    """A public key: the signature has a fixed size, and is decoded."""

    __slots__ = ()

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        try:
            self._verify(unbase64url(signature), signed)
        except (InvalidSignature, ValueError):
            return False
        return True

    def _verify(self, signature: bytes, signed: bytes) -> None:
        """Raises InvalidSignature, ValueError."""
        raise NotImplementedError


class _Rsa(_Public):
    __slots__ = ("_key", "_padding", "_sha256")

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self._key = key
        self._padding = padding.PKCS1v15()
        self._sha256 = hashes.SHA256()

    def _verify(self, signature: bytes, signed: bytes) -> None:
        self._key.verify(signature, signed, self._padding, self._sha256)


class _Ec(_Public):
    __slots__ = ("_ecdsa", "_key")

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key
        self._ecdsa = ec.ECDSA(hashes.SHA256())

    def _verify(self, signature: bytes, signed: bytes) -> None:
        """R and S side by side (RFC 7518 §3.4); the library wants them in DER."""
        if len(signature) != _ES256_BYTES:
            raise ValueError("not 64 bytes")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        self._key.verify(utils.encode_dss_signature(r, s), signed, self._ecdsa)


class _Ed(_Public):
    __slots__ = ("_key",)

    def __init__(self, key: ed25519.Ed25519PublicKey) -> None:
        self._key = key

    def _verify(self, signature: bytes, signed: bytes) -> None:
        self._key.verify(signature, signed)


def secret_key(alg: str, secret: str) -> Key:
    """The key of a shared secret; raises BadKey."""
    data = secret.encode()
    if not SECRET_BYTES[alg] <= len(data) <= MAX_SECRET:
        raise BadKey(f"a secret for {alg} has {SECRET_BYTES[alg]} to {MAX_SECRET} bytes, and not {len(data)}")
    if secret.lstrip().startswith(_BEGINS):
        raise BadKey(f"a secret for {alg} is no key in PEM or SSH form: everybody may know a public one")
    return _Hmac(alg, data)


def public_key(alg: str, pem: str) -> Key:
    """The key of a SubjectPublicKeyInfo in PEM (RFC 7468 §13); raises BadKey."""
    if len(pem) > MAX_PEM:
        raise BadKey(f"a public key has at most {MAX_PEM} characters, and not {len(pem)}")
    if "PRIVATE" in pem:
        raise BadKey("this is a private key: keep it where the tokens are signed, and give the public one")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("this is no public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    return of_key(alg, key)


def of_key(alg: str, key: object) -> Key:
    """The key of a public key that was read; raises BadKey if it is weak, too large, or another algorithm's."""
    match alg, key:
        case "RS256", rsa.RSAPublicKey():
            least, most = RSA_BITS
            if not least <= key.key_size <= most:
                raise BadKey(f"an RSA key has {least} to {most} bits, and not {key.key_size}")
            exponent = key.public_numbers().e
            if exponent < 3 or exponent.bit_length() > MAX_EXPONENT_BITS:
                raise BadKey(f"an RSA exponent is at least 3, and has at most {MAX_EXPONENT_BITS} bits")
            return _Rsa(key)
        case "ES256", ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, ec.SECP256R1):
                raise BadKey(f"ES256 is of curve P-256, and not {key.curve.name}")
            return _Ec(key)
        case "EdDSA", ed25519.Ed25519PublicKey():
            return _Ed(key)
    raise BadKey(f"the key is not of {alg}")
