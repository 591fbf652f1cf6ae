"""Keys of every algorithm, and tokens that are signed with them by another implementation (joserfc)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwt
from joserfc.jwk import import_key

from infra.documents import SigningKey
from tests.unit.gateway_world import claims

ALGORITHMS = ("HS256", "HS384", "RS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class Pair:
    """What an issuer signs with, and what the keeper is told."""

    alg: str
    private: Any
    material: str

    def document(self, kid: str = "") -> SigningKey:
        name = "secret" if self.alg.startswith("HS") else "public_key"
        return SigningKey.model_validate({"kid": kid, "alg": self.alg, name: self.material})

    def sign(self, body: dict[str, Any] | None = None, **header: Any) -> bytes:
        return jwt.encode({"alg": self.alg, **header}, body or claims(), self.private, algorithms=[self.alg]).encode()

    def jwk(self, kid: str | None = None, **more: Any) -> dict[str, Any]:
        found = self.private.as_dict(private=False)
        return {**{name: value for name, value in found.items() if name != "kid"}, **({"kid": kid} if kid else {}), **more}


def pem_of(key: Any) -> str:
    """The public part of a private key."""
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: Any) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


@cache
def pair(alg: str, number: int = 0) -> Pair:
    """One of several pairs of an algorithm, always the same in a run."""
    if alg.startswith("HS"):
        secret = f"{number:02}" * 30
        return Pair(alg, import_key(secret, "oct"), secret)
    made: Any
    match alg:
        case "RS256":
            made, kind = rsa.generate_private_key(65537, 2048), "RSA"
        case "ES256":
            made, kind = ec.generate_private_key(ec.SECP256R1()), "EC"
        case _:
            made, kind = ed25519.Ed25519PrivateKey.generate(), "OKP"
    return Pair(alg, import_key(private_pem(made), kind), pem_of(made))


def part(document: object) -> bytes:
    """One part of a token that somebody wrote by hand."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")
