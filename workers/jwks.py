"""Issuers' key sets (JWKS, RFC 7517): fetched here, put into the keeper, where every verifying process has them from.

A set is asked for by the clock, never because a token names a key that is not known: nobody outside can make us ask. Where it
can't be had, or makes no sense, the keys of the last time stay. Each coordinator does it; who finds that another one was
there just now leaves it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import Counter, Gauge
from pydantic import ValidationError

from infra.bus import KvErrors
from infra.documents import MAX_SET, KeySet, Signer, SigningKey, check_kids, key_set_key
from infra.keeper import Keeper
from infra.lifecycle import Loops
from infra.signatures import ED25519, unbase64url
from workers.outside import NoAnswer

MAX_BYTES: Final = 64 * 1024
MAX_LOOKED_AT: Final = 100
RETRY: Final = 60.0
"""Seconds after a failure; also the least between two attempts of this process, whatever the keeper says."""
TURN: Final = 5.0
AT_ONCE: Final = 8

_ALGORITHMS: Final = {"RSA": ("RS256", ("RS256",)), "EC": ("ES256", ("ES256",)), "OKP": ("EdDSA", ("EdDSA", ED25519))}
"""kty → the algorithm that its keys are used with, and how a JWK may spell it."""

log = structlog.get_logger("jwks")
fetches = Counter("longwire_jwks_fetches_total", "Attempts to fetch an issuer's keys", ["outcome"])
unusable = Counter("longwire_jwks_unusable_keys_total", "Keys of a JWKS that are not used here")
age = Gauge("longwire_jwks_age_seconds", "Since an issuer's keys were fetched", ["issuer"])


class BadSet(ValueError):
    """What came is no key set that can be used."""


class Fetcher(Protocol):
    """See workers.outside.Outside."""

    async def get(self, url: str, *, most: int) -> bytes:
        """The body; raises NoAnswer."""


def keys_of(data: bytes) -> tuple[SigningKey, ...]:
    """The keys of a JWKS that verify signatures by our algorithms; others are passed over (RFC 7517 §5). Raises BadSet."""
    try:
        document = json.loads(data)
        listed = document["keys"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise BadSet("what came is no JWKS: an object with keys") from None
    if not isinstance(listed, list) or len(listed) > MAX_LOOKED_AT:
        raise BadSet(f"keys is no list of at most {MAX_LOOKED_AT}")
    found = []
    for item in listed:
        try:
            found.append(_key(item))
        except (ValueError, TypeError, KeyError, ValidationError):
            unusable.inc()
    if not found or len(found) > MAX_SET:
        raise BadSet(f"{len(found)} of {len(listed)} keys can be used: 1 to {MAX_SET} are expected")
    try:
        check_kids(found)
    except ValueError as error:
        raise BadSet(str(error)) from None
    if sum(not key.kid for key in found) > 1:
        raise BadSet("several keys have no kid")
    return tuple(found)


def _key(item: dict[str, Any]) -> SigningKey:
    """Raises ValueError, TypeError, KeyError for what is no public key of ours."""
    alg, spelled = _ALGORITHMS[item["kty"]]
    if item.get("alg", alg) not in spelled or item.get("use", "sig") != "sig" or "verify" not in item.get("key_ops", ("verify",)):
        raise ValueError("for something else")
    if "d" in item:
        raise ValueError("a private key, which everybody knows now")
    kid = item.get("kid", "")
    pem = _public(item).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return SigningKey.model_validate({"kid": kid, "alg": alg, "public_key": pem})


def _public(item: dict[str, Any]) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    match item["kty"], item.get("crv"):
        case "RSA", _:
            return rsa.RSAPublicNumbers(_number(item["e"], 8), _number(item["n"], 512)).public_key()
        case "EC", "P-256":
            return ec.EllipticCurvePublicNumbers(_number(item["x"], 32), _number(item["y"], 32), ec.SECP256R1()).public_key()
        case "OKP", "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(unbase64url(item["x"].encode()))
    raise ValueError("a curve that is not ours")


def _number(text: str, most: int) -> int:
    """Base64urlUInt (RFC 7518 §2) of at most `most` bytes."""
    data = unbase64url(text.encode())
    if len(data) > most:
        raise ValueError("too large")
    return int.from_bytes(data, "big")


class KeySets:
    """Keeps the keeper's key sets young; a part of its process (infra.lifecycle.Part)."""

    def __init__(
        self,
        keeper: Keeper,
        fetcher: Fetcher,
        *,
        fail: Callable[[str], None] = lambda reason: None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeper = keeper
        self._fetcher = fetcher
        self._wall = wall
        self._clock = clock
        self._tried: dict[tuple[str, str], float] = {}
        self._loops = Loops(fail)

    async def start(self) -> None:
        """Begin."""
        self._loops.start("key sets", self._follow())

    async def stop(self) -> None:
        """End."""
        await self._loops.stop()

    async def _follow(self) -> None:
        while True:
            await self.turn()
            await asyncio.sleep(TURN * random.uniform(0.5, 1.5))

    async def turn(self) -> None:
        """Fetch what is due, and forget the sets of issuers that have none any more."""
        issuers = {**self._keeper.api_issuers, **self._keeper.issuers}  # who signs both has one JWKS
        sets = self._keeper.key_sets
        wanted: list[Signer] = [issuer for issuer in issuers.values() if issuer.jwks is not None]
        self._tried = {key: at for key, at in self._tried.items() if key in {(item.iss, item.jwks) for item in wanted}}
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(issuer: Signer) -> None:
            async with limit:
                await self._renew(issuer)

        await asyncio.gather(*(one(issuer) for issuer in wanted if self._due(issuer, sets.get(issuer.iss))))
        age.clear()
        for issuer in wanted:
            if (found := self._keeper.key_sets.get(issuer.iss)) is not None:
                age.labels(issuer.iss).set(max(0.0, self._wall() - found.fetched_at))
        if self._keeper.current:
            for iss in sets.keys() - {issuer.iss for issuer in wanted}:
                await self._forget(iss)

    def _due(self, issuer: Signer, found: KeySet | None) -> bool:
        assert issuer.jwks is not None
        tried = self._tried.get((issuer.iss, issuer.jwks))
        if tried is not None and self._clock() < tried + RETRY:
            return False
        if found is None or found.url != issuer.jwks:
            return True
        since = self._wall() - found.tried_at
        return not 0 <= since < (RETRY if found.error else issuer.jwks_interval)

    async def _renew(self, issuer: Signer) -> None:
        """Fetch one, and write what came of it."""
        assert issuer.jwks is not None
        self._tried[issuer.iss, issuer.jwks] = self._clock()
        old = self._keeper.key_sets.get(issuer.iss)
        kept = old if old is not None and old.url == issuer.jwks else None
        now = self._wall()
        try:
            keys = keys_of(await self._fetcher.get(issuer.jwks, most=MAX_BYTES))
        except (NoAnswer, BadSet) as error:
            fetches.labels("failed").inc()
            log.warning("JWKS not fetched, keys of the last time stay", issuer=issuer.iss, error=str(error))
            fetched_at, keys = (kept.fetched_at, kept.keys) if kept is not None else (0.0, ())
            made = KeySet(iss=issuer.iss, url=issuer.jwks, fetched_at=fetched_at, tried_at=now, error=str(error)[:200], keys=keys)
        else:
            fetches.labels("ok").inc()
            if kept is None or keys != kept.keys:
                log.info("JWKS has changed", issuer=issuer.iss, keys=[key.kid for key in keys])
            made = KeySet(iss=issuer.iss, url=issuer.jwks, fetched_at=now, tried_at=now, keys=keys)
        await self._write(made, kept)

    async def _write(self, made: KeySet, over: KeySet | None) -> None:
        """Unless another coordinator has written meanwhile: our failure must not go over its success."""
        key = key_set_key(made.iss)
        try:
            stored, revision = await self._keeper.read(key)
            if isinstance(stored, KeySet) and stored.url == made.url and (over is None or stored.tried_at != over.tried_at):
                return
        except KeyError:
            revision = 0
        except KvErrors as error:
            log.warning("key set not written", issuer=made.iss, error=type(error).__name__)
            return
        try:
            if revision:
                await self._keeper.replace(key, made, revision)
            else:
                await self._keeper.put(key, made)
        except KvErrors as error:
            log.warning("key set not written", issuer=made.iss, error=type(error).__name__)

    async def _forget(self, iss: str) -> None:
        try:
            await self._keeper.remove(key_set_key(iss))
        except KvErrors as error:
            log.warning("key set not removed", issuer=iss, error=type(error).__name__)
