"""API keys, `lw_<id>_<secret>`: found by id, compared by the hash of the secret, which is all that is kept (ADR 20). Pure."""

from __future__ import annotations

import hmac
import re
import secrets
from hashlib import sha256
from typing import Final

import msgspec

from schemas import names
from workers.center.callers.auth import Caller, Role

MAX_LIVE: Final = 2
"""Secrets of a key that are good at one time: the new one and, for a while, the one before."""
DEFAULT_RATE: Final = 100
"""Requests per second of a key, over all centers."""

_FORM: Final = re.compile(rb"lw_([0-9a-f]{12})_([0-9a-f]{64})")


class Secret(msgspec.Struct, frozen=True):
    """A secret's SHA-256 in hex; `until`: when it ends, where it was rotated. Times in seconds since the epoch."""

    hash: str
    made_at: float
    until: float | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key, as it lies in the KV. `products` None: all. `rate`: requests per second; `confirm_over`: see Caller. A revoked one
    stays for a while, so that nobody puts it back."""

    id: str
    name: str
    products: tuple[str, ...] | None
    roles: tuple[Role, ...]
    rate: int = DEFAULT_RATE
    confirm_over: int | None = None
    created_at: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None
    secrets: tuple[Secret, ...]

    def live(self, wall: float) -> tuple[Secret, ...]:
        """The secrets that are good at `wall`, the newest last."""
        if self.ended(wall):
            return ()
        return tuple(secret for secret in self.secrets if secret.until is None or wall < secret.until)

    def ended(self, wall: float) -> str:
        """Why no secret of it is good any more; "" while one may be."""
        if self.revoked_at is not None:
            return "was revoked"
        return "has expired" if self.expires_at is not None and self.expires_at <= wall else ""

    def ended_at(self, wall: float) -> float | None:
        """When it ended; None: it has not."""
        ends = [at for at in (self.revoked_at, self.expires_at) if at is not None and at <= wall]
        return min(ends, default=None)

    def caller(self) -> Caller:
        """Whoever shows it."""
        products = None if self.products is None else frozenset(self.products)
        return Caller(key=self.id, products=products, roles=frozenset(self.roles), rate=self.rate, confirm_over=self.confirm_over)

    @property
    def text(self) -> str:
        """What it is, for the audit: nothing of a secret."""
        products = "all products" if self.products is None else ", ".join(self.products)
        ends = "" if self.expires_at is None else f", expires {self.expires_at:.0f}"
        return f"key {self.id} {self.name!a}: {', '.join(self.roles)} of {products}, {self.rate}/s{ends}"


def split(credential: bytes) -> tuple[str, bytes] | None:
    """The id and the secret of a key; None for what has not its form."""
    found = _FORM.fullmatch(credential)
    return None if found is None else (found[1].decode(), found[2])


def hash_of(secret: bytes) -> str:
    """What is kept of a secret. It has 256 random bits, so nothing slower is needed: nobody can try them all."""
    return sha256(secret).hexdigest()


def fits(secret: bytes, those: tuple[Secret, ...]) -> bool:
    """Is it one of those? All are compared, each in constant time."""
    digest = hash_of(secret)
    matches = [hmac.compare_digest(digest, each.hash) for each in those]
    return any(matches)


def new_id() -> str:
    """A fresh id: no secret, it is in logs and audits."""
    return secrets.token_hex(6)


def new_secret(key_id: str, wall: float) -> tuple[str, Secret]:
    """The key as it is shown, once, and what is kept of it."""
    secret = secrets.token_hex(32)
    return f"lw_{key_id}_{secret}", Secret(hash_of(secret.encode()), wall)


def check(key: ApiKey) -> None:
    """Raises ValueError for a document that makes no sense."""
    if not key.secrets or any(len(secret.hash) != 64 for secret in key.secrets):
        raise ValueError("a key has secrets, each as a SHA-256 in hex")
    for product in key.products or ():
        names.product(product)
