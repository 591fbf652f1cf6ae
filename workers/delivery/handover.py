"""The hand-over: what is unsettled when its fallback is due goes to `push.fallback`, once (docs/adr/0011).

A loop in each delivery worker. Each second it asks each Redis server which hash slots have something due, takes those that are
its own (slot % partitions is a partition that it owns), claims what is due in them, produces the records with their receipts,
and marks it as handed over. The messages stay pending. A claim that nobody ends, since its worker died, is due again after
`CLAIM_MS`: so a crash between Kafka and the mark hands over once more, under the same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

import structlog
from prometheus_client import Counter

from infra.journal import Entry, Journal, JournalDown
from infra.lifecycle import Loops
from infra.register import Claimed, Register, RegisterDown, Shard
from infra.register.due import corrected, forgotten, members_due, noted, slots_due
from infra.register.slots import SLOTS, due_key
from schemas import names
from schemas.codes import State
from schemas.records import Fallback, Receipt
from workers.owed import pay

LOOK_EVERY: Final = 1.0
CLAIM_MS: Final = 15_000
ROUND_S: Final = 300
"""Seconds in which all slots are looked at, whatever their servers have noted: a slot that moved to another server is found."""
SLOTS_AT_ONCE: Final = 64
MESSAGES_AT_ONCE: Final = 100
"""Messages claimed and produced in one go, each with up to 64 KiB."""

log = structlog.get_logger("handover")
handed_over = Counter("longwire_fallback_handed_total", "Messages that were unsettled when their fallback was due")

T = TypeVar("T")
Group = tuple[str, str, list[str]]
"""(key, product, ids)."""


class Owner(Protocol):
    """Who owns partitions of `push.messages` (workers.runner.Runner)."""

    def owned(self) -> frozenset[int]:
        """The partitions that are this member's now."""


class HandOver:
    """The loop of one delivery worker."""

    def __init__(self, journal: Journal, register: Register, owner: Owner, *, fail: Callable[[str], None]) -> None:
        self._journal = journal
        self._register = register
        self._owner = owner
        self._loops = Loops(fail)
        self._walked = 0

    async def start(self) -> None:
        """Begin."""
        self._loops.start("hand-over", self._run())

    async def stop(self) -> None:
        """End; what is claimed is due again later."""
        await self._loops.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self._look()
            except (RegisterDown, JournalDown) as error:
                log.warning("hand-over put off", reason=str(error)[:200])

    async def _look(self) -> None:
        partitions = await self._journal.partitions(names.MESSAGES)
        owned = self._owner.owned()
        walk = [slot for slot in self._next_slots() if slot % partitions in owned]
        failed: list[RegisterDown] = []
        for shard in self._register.shards.all:
            if shard.incarnation is None:
                continue  # it is not open, or not known to be: recovery sees to it
            try:
                await noted(shard, [slot for slot in walk if self._has(shard, slot)])
                now, slots = await slots_due(shard)
                await forgotten(shard, [slot for slot in slots if not self._has(shard, slot)])
                mine = [slot for slot in slots if slot % partitions in owned and self._has(shard, slot)]
                await self._hand_over(shard, mine, now)
            except RegisterDown as error:  # the other servers' clients need not wait for this one
                failed.append(error)
        if failed:
            raise failed[0]

    def _has(self, shard: Shard, slot: int) -> bool:
        """Is the slot this server's? One that moved away may still be in its notes."""
        return self._register.shards.of(due_key(slot)) is shard

    def _next_slots(self) -> list[int]:
        """Those that this look's part of the walk over all slots has."""
        begin = self._walked
        self._walked = (begin + round(SLOTS * LOOK_EVERY / ROUND_S)) % SLOTS
        end = self._walked if self._walked > begin else SLOTS + self._walked
        return [slot % SLOTS for slot in range(begin, end)]

    async def _hand_over(self, shard: Shard, slots: Sequence[int], now_ms: int) -> None:
        for some in _steps(slots, SLOTS_AT_ONCE):
            while members := await members_due(shard, some, now_ms):  # whatever is claimed or ended leaves what is due now
                for part in _steps(members, MESSAGES_AT_ONCE):
                    await self._hand(_grouped(part))
            await corrected(shard, some)

    async def _hand(self, groups: Sequence[Group]) -> None:
        """Claim, produce, mark. Raises JournalDown or RegisterDown: then it is due again when the claim is over."""
        claimed = await self._register.hand(groups, CLAIM_MS)
        await self._journal.produce([entry for each in claimed for entry in entries_of(each)])
        await self._register.handed([(each.key, each.product, [m.id for m in each.messages]) for each in claimed])
        handed_over.inc(sum(len(each.messages) for each in claimed))
        await pay(self._journal, self._register, [owed for each in claimed for owed in each.owed])


def entries_of(claimed: Claimed) -> list[Entry]:
    """The records of one client's messages, each with the receipt that keeps a fold from handing it over again."""
    realm, client = names.split_client_key(claimed.key)
    entries = []
    for message in claimed.messages:
        body = message.body
        record = Fallback(
            id=message.id,
            product=claimed.product,
            realm=realm,
            client=client,
            user=claimed.user or None,
            payload=body.payload,
            content_type=body.content_type or None,
            properties=dict(body.properties),
            accepted_ms=body.accepted_ms,
            reason=f"not settled {(claimed.now_ms - body.accepted_ms) // 1000} s after it was accepted",
        )
        receipt = Receipt(
            id=message.id, product=claimed.product, realm=realm, client=client, state=State.FALLBACK, at_ms=claimed.now_ms
        )
        entries += [Entry(names.FALLBACK, client, record), Entry(names.RECEIPTS, client, receipt)]
    return entries


def _grouped(members: Iterable[tuple[str, str, str]]) -> list[Group]:
    groups: dict[tuple[str, str], list[str]] = {}
    for key, product, message_id in members:
        groups.setdefault((key, product), []).append(message_id)
    return [(key, product, ids) for (key, product), ids in groups.items()]


def _steps(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
