"""Making and lifting revocations: audited, then in the KV bucket that every verifying process mirrors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from infra.bus import Bus, KvErrors
from infra.journal import Entry, Journal
from infra.revoked import MAX_REVOCATIONS, Revocation, Revoked
from schemas import names
from schemas.broadcasts import NO_PRODUCT, Audit
from workers.center.operating.attempts import until_written
from workers.center.web.problems import Problem, bus_down

SUBJECT: Final = "revocation"
CLEARED: Final = 100
"""Expired ones that a new one clears away, at most."""

log = structlog.get_logger("center")


class Revoker:
    """`workers.center.ports.RevocationTable` on NATS and Kafka."""

    def __init__(self, bus: Bus, journal: Journal, revoked: Revoked, *, wall: Callable[[], float] = time.time) -> None:
        self._bus = bus
        self._journal = journal
        self._revoked = revoked
        self._wall = wall

    def known(self) -> list[Revocation]:
        """See the port."""
        now = self._wall()
        return [entry for entry in self._revoked.entries.values() if entry.until > now]

    async def revoke(self, entry: Revocation) -> Revocation:
        """See the port."""
        if entry.id not in self._revoked.entries and len(self.known()) >= MAX_REVOCATIONS:
            raise Problem("too-many-revocations", f"{MAX_REVOCATIONS} hold, as many as there may be; lift some")
        try:
            await self._clear()
        except KvErrors as error:
            log.warning("revocations not cleared", error=type(error).__name__)
            raise bus_down() from None
        return await until_written(lambda: self._attempt_revoke(entry), f"the revocation of {entry.text} was")

    async def lift(self, key: str, *, by: str, reason: str | None) -> Revocation:
        """See the port."""
        return await until_written(lambda: self._attempt_lift(key, by, reason), f"revocation {key} was")

    async def _attempt_revoke(self, entry: Revocation) -> Revocation | None:
        """As it holds now: for as long as the longer of the two, where it was revoked before. None where somebody was faster."""
        bucket = await self._bus.bucket(names.KV_REVOCATIONS)
        before, revision = await _stored(bucket, entry.id)
        after = entry if before is None else _longer(before, entry)
        await self._audit("revoke", before, after, by=entry.by, reason=entry.reason)
        value = msgspec.json.encode(after)
        try:
            await (bucket.update(entry.id, value, last=revision) if revision else bucket.create(entry.id, value))
        except KeyWrongLastSequenceError:
            return None
        self._revoked.put(entry.id, value)
        return after

    async def _attempt_lift(self, key: str, by: str, reason: str | None) -> Revocation | None:
        """As it was; None where somebody was faster. One that is known here only (the store was wiped) is taken away, too."""
        bucket = await self._bus.bucket(names.KV_REVOCATIONS)
        stored, revision = await _stored(bucket, key)
        entry = stored or self._revoked.entries.get(key)
        if entry is None:
            raise Problem("unknown-revocation", f"there is no revocation {key[:64]!a}")
        await self._audit("lift", entry, None, by=by, reason=reason)
        try:
            await bucket.delete(key, last=revision)
        except KeyWrongLastSequenceError:
            return None
        self._revoked.put(key, None)
        return entry

    async def _clear(self) -> None:
        """What has expired leaves the store without a trace, unless it was renewed meanwhile."""
        now = self._wall()
        for key in self._revoked.expired(now)[:CLEARED]:
            bucket = await self._bus.bucket(names.KV_REVOCATIONS)
            try:
                found = await bucket.get(key)
            except KeyNotFoundError:
                continue
            stored = msgspec.json.decode(found.value or b"{}", type=Revocation)
            if found.revision is not None and stored.until <= now:
                await self._bus.forget(names.KV_REVOCATIONS, key, found.revision)

    async def _audit(
        self, action: str, before: Revocation | None, after: Revocation | None, *, by: str, reason: str | None
    ) -> None:
        entry = after or before
        assert entry is not None
        product = entry.product or NO_PRODUCT
        record = Audit(
            product=product,
            subject=SUBJECT,
            action=action,
            by=by,
            at_ms=int(self._wall() * 1000),
            before=_text(before),
            after=_text(after),
            reason=reason or None,
        )
        await self._journal.produce([Entry(names.AUDIT, product, record)])


def _text(entry: Revocation | None) -> str:
    return "none" if entry is None else f"{entry.text}, issued until {entry.before:.0f}, holds until {entry.until:.0f}"


def _longer(before: Revocation, entry: Revocation) -> Revocation:
    return msgspec.structs.replace(entry, before=max(entry.before, before.before), until=max(entry.until, before.until))


async def _stored(bucket: KeyValue, key: str) -> tuple[Revocation | None, int | None]:
    """What is in the bucket, None for what nobody can read; and its revision, None where nothing is. Raises one of KvErrors."""
    try:
        found = await bucket.get(key)
    except KeyNotFoundError:
        return None, None
    try:
        return msgspec.json.decode(found.value or b"", type=Revocation), found.revision
    except msgspec.MsgspecError:
        return None, found.revision
