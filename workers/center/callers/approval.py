"""A broadcast to many persons is asked for twice: the first answer says how many, and gives a token for the second request.

The token is an HMAC over the very request, who asks and until when; nothing is kept of it. Its secret lies in the KV for all
centers, a new one each day. A broadcast that is confirmed has its id from its token, so that it is sent once, however often it is
asked for.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import Final

import structlog
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from pydantic import BaseModel

from infra.bus import Bus, KvErrors
from schemas import names
from workers.center.callers.auth import Caller
from workers.center.web.problems import bus_down

KEPT_S: Final = 600
"""How long a token is good."""
SECRET_BYTES: Final = 32

log = structlog.get_logger("center")


class Secrets:
    """`workers.center.ports.ApprovalSecrets` on the KV."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def current(self) -> bytes:
        """See the port."""
        try:
            bucket = await self._bus.bucket(names.KV_SECRETS)
            try:
                return (await bucket.get(names.KV_APPROVALS)).value or b""
            except KeyNotFoundError:
                fresh = secrets.token_bytes(SECRET_BYTES)
            try:
                await bucket.create(names.KV_APPROVALS, fresh)
            except KeyWrongLastSequenceError:  # another center was faster
                return (await bucket.get(names.KV_APPROVALS)).value or b""
            return fresh
        except KvErrors as error:
            log.warning("secret of confirmations not read", error=type(error).__name__)
            raise bus_down() from None


def token_of(secret: bytes, who: Caller, request: BaseModel, wall: float, *, key: str = "") -> str:
    """A token for this request of this caller, good for `KEPT_S` from `wall` (s since the epoch). `key`: its Idempotency-Key, or
    the draft that it starts."""
    head = f"{secrets.token_hex(12)}.{int(wall) + KEPT_S}"
    return f"{head}.{_mac(secret, head, who, request, key)}"


def approved(secret: bytes, token: str, who: Caller, request: BaseModel, wall: float, *, key: str = "") -> str | None:
    """The id that the token gives to the broadcast; None if it is not of this request and caller, or too old."""
    head, _, mac = token.rpartition(".")
    if not token.isascii() or not hmac.compare_digest(mac, _mac(secret, head, who, request, key)):
        return None
    nonce, _, until = head.partition(".")
    return f"c-{nonce}" if wall < int(until) else None


def _mac(secret: bytes, head: str, who: Caller, request: BaseModel, key: str) -> str:
    """Over the key, too: a token that another key could use would be good for another broadcast."""
    content = sha256(request.model_dump_json(exclude={"confirm", "validate_only"}).encode()).hexdigest()
    return hmac.digest(secret, f"{head}\0{who.key}\0{key}\0{content}".encode("utf-8", "surrogateescape"), "sha256").hex()


def limit_of(who: Caller, product_limit: int | None) -> int | None:
    """Persons up to whom nothing has to be confirmed: the product's limit or the key's, whichever is less; None: no limit."""
    return min((limit for limit in (who.confirm_over, product_limit) if limit is not None), default=None)
