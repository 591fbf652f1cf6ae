"""The due-index: what is to be handed to another channel, by when (docs/adr/0011).

One ZSET a hash slot, `d:{tag}`, where the tag is a text that hashes to the slot: so a client's scripts may name it beside the
client's own keys, on a cluster too, and a message and its due time are written, and removed, in one step. Beside them each server
has one ZSET of its slots by their first due time. That one is a hint: written after the index, corrected by whoever looks, and
healed by a walk over all slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from infra.register.answers import text
from infra.register.scripts import Command, shard_script
from infra.register.shards import Shard
from infra.register.slots import due_key, slot_of_client
from infra.register.views import StoreItem
from schemas import names

AT_ONCE: Final = 100
"""Messages of one slot that are looked at in one go."""


def times_of(items: Iterable[StoreItem]) -> dict[int, int]:
    """Slot → the first due time (ms) of what is stored, for the slots that have one."""
    found: dict[int, int] = {}
    for item in items:
        times = [message.due_ms for message in item.messages if message.due_ms]
        if times:
            slot = slot_of_client(item.key)
            found[slot] = min(found.get(slot, times[0]), *times)
    return found


async def remind(shard: Shard, times: dict[int, int]) -> None:
    """These slots have something that is due then, or before; raises RegisterDown."""
    key = names.due_slots_key(shard.marker_key)
    await shard.pipe([("ZADD", key, "LT", at, slot) for slot, at in times.items()])


async def slots_due(shard: Shard) -> tuple[int, list[int]]:
    """The server's time, ms, and its slots in which something is due; raises RegisterDown."""
    [(now, found)] = await shard.pipe([shard_script("due", names.due_slots_key(shard.marker_key))])
    return int(now), [int(slot) for slot in found]


async def members_due(shard: Shard, slots: Sequence[int], now_ms: int) -> list[tuple[str, str, str]]:
    """(key, product, id) of what is due in these slots, the first `AT_ONCE` of each; raises RegisterDown."""
    found = await shard.pipe([("ZRANGEBYSCORE", due_key(slot), "-inf", now_ms, "LIMIT", 0, AT_ONCE) for slot in slots])
    return [names.parse_due_member(text(member)) for members in found for member in members]


async def corrected(shard: Shard, slots: Sequence[int]) -> None:
    """Note again when these slots are due first, if at all; raises RegisterDown.

    The note goes first: what is stored after the slot was read is noted by its own writer, who writes the index before the note.
    """
    await forgotten(shard, slots)
    await noted(shard, slots)


async def forgotten(shard: Shard, slots: Sequence[int]) -> None:
    """Take the notes of these slots away; raises RegisterDown."""
    await shard.pipe([("ZREM", names.due_slots_key(shard.marker_key), slot) for slot in slots])


async def noted(shard: Shard, slots: Sequence[int]) -> None:
    """Note when these slots are due first, where the note is missing or later; raises RegisterDown."""
    first: list[Command] = [("ZRANGE", due_key(slot), 0, 0, "WITHSCORES") for slot in slots]
    found = zip(slots, await shard.pipe(first), strict=True)
    await remind(shard, {slot: int(float(answer[1])) for slot, answer in found if answer})
