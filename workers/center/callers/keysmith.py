"""Making, rotating and revoking API keys: audited, then in the KV bucket that every center mirrors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from infra.bus import Bus, KvErrors
from infra.journal import Entry, Journal
from schemas import names
from schemas.broadcasts import NO_PRODUCT, Audit
from workers.center.callers.apikey import MAX_LIVE, ApiKey, Secret, new_id, new_secret
from workers.center.callers.keyring import MAX_KEYS, KeyRing
from workers.center.callers.lastused import LastUsed
from workers.center.ports import KeyOrder
from workers.center.web.problems import Problem, bus_down

ATTEMPTS: Final = 3
SUBJECT: Final = "key"
REMEMBERED_S: Final = 30 * 24 * 3600
"""How long a key that ended is shown; then it makes place for a new one."""
CLEARED: Final = 100
"""Ended ones that a new one clears away, at most."""

log = structlog.get_logger("center")


def rotated(key: ApiKey, fresh: Secret, grace_s: float, wall: float) -> ApiKey:
    """The key with a fresh secret, and the one before good for `grace_s` more; raises a Problem (409) where two are live, and
    both are to stay."""
    live = key.live(wall)
    if grace_s and len(live) >= MAX_LIVE:
        raise Problem("two-secrets", f"key {key.id} has {MAX_LIVE} live secrets; drop the older one, or rotate without a grace")
    kept = [msgspec.structs.replace(live[-1], until=wall + grace_s)] if grace_s and live else []
    return msgspec.structs.replace(key, secrets=(*kept, fresh))


def dropped(key: ApiKey) -> ApiKey:
    """The key with its newest secret alone."""
    return msgspec.structs.replace(key, secrets=key.secrets[-1:])


class KeySmith:
    """`workers.center.ports.ApiKeys` on NATS, Kafka and Redis."""

    def __init__(
        self, bus: Bus, journal: Journal, ring: KeyRing, used: LastUsed, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._bus = bus
        self._journal = journal
        self._ring = ring
        self._used = used
        self._wall = wall

    def known(self) -> list[ApiKey]:
        """See the port."""
        return sorted(self._ring.keys.values(), key=lambda key: key.id)

    async def last_used(self, keys: list[str]) -> dict[str, float]:
        """See the port."""
        return await self._used.of(keys)

    async def create(self, key: ApiKey, order: KeyOrder) -> tuple[ApiKey, str]:
        """See the port."""
        await self._clear()
        if len(self._ring.keys) >= MAX_KEYS:
            raise Problem("too-many-keys", f"there are {MAX_KEYS} API keys, as many as there may be; revoke some")
        key_id = new_id()
        shown, secret = new_secret(key_id, self._wall())
        made = msgspec.structs.replace(key, id=key_id, secrets=(secret,))
        await self._audit("create", None, made, order)
        value = msgspec.json.encode(made)
        try:
            bucket = await self._bus.bucket(names.KV_API_KEYS)
            await bucket.create(key_id, value)
        except KvErrors as error:
            raise _away(error) from None
        self._ring.put(key_id, value)
        return made, shown

    async def rotate(self, key_id: str, grace_s: float, order: KeyOrder) -> tuple[ApiKey, str]:
        """See the port."""
        wall = self._wall()
        shown, secret = new_secret(key_id, wall)
        return await self._change(key_id, "rotate", lambda key: rotated(key, secret, grace_s, wall), order), shown

    async def drop(self, key_id: str, order: KeyOrder) -> ApiKey:
        """See the port."""
        return await self._change(key_id, "drop", dropped, order)

    async def revoke(self, key_id: str, order: KeyOrder) -> ApiKey:
        """See the port."""
        wall = self._wall()
        return await self._change(key_id, "revoke", lambda key: msgspec.structs.replace(key, revoked_at=wall), order)

    async def _change(self, key_id: str, action: str, make: Callable[[ApiKey], ApiKey], order: KeyOrder) -> ApiKey:
        """Made from what is in the bucket now, and written unless somebody was faster. Raises a Problem."""
        try:
            bucket = await self._bus.bucket(names.KV_API_KEYS)
            for _ in range(ATTEMPTS):
                entry = await bucket.get(key_id)
                before = msgspec.json.decode(entry.value or b"", type=ApiKey)
                if ended := before.ended(self._wall()):
                    raise Problem("unknown-key", f"key {before.id} {ended}")
                after = make(before)
                if after == before:
                    return after
                await self._audit(action, before, after, order)
                value = msgspec.json.encode(after)
                try:
                    await bucket.update(key_id, value, last=entry.revision)
                except KeyWrongLastSequenceError:
                    continue
                self._ring.put(key_id, value)
                return after
        except KeyNotFoundError:
            raise unknown_key() from None
        except KvErrors as error:
            raise _away(error) from None
        raise Problem("changed-meanwhile", f"key {key_id} was changed meanwhile, {ATTEMPTS} times; look, and ask again")

    async def _clear(self) -> None:
        """What ended long ago leaves the store without a trace, and what is known of its use with it."""
        wall = self._wall()
        ended = {key.id: at for key in self.known() if (at := key.ended_at(wall)) is not None}
        old = [key_id for key_id, at in ended.items() if at < wall - REMEMBERED_S][:CLEARED]
        try:
            bucket = await self._bus.bucket(names.KV_API_KEYS)
            for key_id in old:
                revision = (await bucket.get(key_id)).revision
                await self._bus.forget(names.KV_API_KEYS, key_id, revision or 0)
                self._ring.put(key_id, None)
        except KeyNotFoundError:
            return  # another center is at it
        except KvErrors as error:
            raise _away(error) from None
        await self._used.forget(old)

    async def _audit(self, action: str, before: ApiKey | None, after: ApiKey, order: KeyOrder) -> None:
        products = after.products or ()
        record = Audit(
            product=products[0] if len(products) == 1 else NO_PRODUCT,
            subject=SUBJECT,
            action=action,
            by=order.by,
            at_ms=int(self._wall() * 1000),
            before=self._text(before),
            after=self._text(after),
            reason=order.reason,
        )
        await self._journal.produce([Entry(names.AUDIT, record.product, record)])

    def _text(self, key: ApiKey | None) -> str:
        if key is None:
            return "none"
        ended = key.ended(self._wall())
        return f"{key.text}, {ended}" if ended else f"{key.text}, {len(key.live(self._wall()))} live secrets"


def unknown_key() -> Problem:
    """The 404; it shows nothing of what was given: some give the whole key for its id."""
    return Problem("unknown-key", "there is no such API key; its id is the part between the underscores")


def _away(error: Exception) -> Problem:
    log.warning("API key not written", error=type(error).__name__)
    return bus_down()
