"""Putting Kafka's records into a shard that lost something, before it is open (docs/design.md, Redis; docs/adr/0007).

A `Fold` is one incarnation of one shard. Everything here may be repeated, and done by two at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from infra.register import answers, due
from infra.register.answers import text
from infra.register.calls import handed_call, pack, restore_call, settle_call, store_call
from infra.register.marker import FOLDING, OPEN, Marker
from infra.register.scripts import shard_script
from infra.register.shards import RegisterNotReady, Shard
from infra.register.views import LastSession, Owed, Settlement, StoreItem
from infra.wire import Bind
from schemas import names

OTHER: Final = "other"


class Fold:
    """The writing side of one incarnation that is being folded. Every method raises RegisterDown, or RegisterNotReady where
    the incarnation is over."""

    def __init__(self, shard: Shard, marker: Marker) -> None:
        self.shard = shard
        self.marker = marker

    async def begin(self) -> None:
        """Load the fold's scripts."""
        self._scripts = await self.shard.load(self.marker, "fold", FOLDING)

    async def documents(self, items: Sequence[tuple[str, Bind, int]]) -> None:
        """The durable registry's binds: (key, bind, when it was first bound, ms)."""
        await self.shard.pipe(
            [
                ("HSET", names.first_bind_key(key, bind.product), "at", at, "document", pack(bind), "user", bind.user)
                for key, bind, at in items
            ]
        )

    async def restore(self, sessions: Sequence[LastSession]) -> None:
        """Sessions and settled broadcasts by `push.status`."""
        await self.shard.evaluate_fold(self._scripts, [restore_call(session) for session in sessions])

    async def settle(self, items: Sequence[tuple[str, str, list[Settlement]]]) -> None:
        """Receipts of (key, product)."""
        await self.shard.evaluate_fold(self._scripts, [settle_call(*item) for item in items])

    async def store(self, items: Sequence[StoreItem]) -> list[Owed]:
        """Messages, in the order of their partition; returns what caps, collapse keys and expiry ended."""
        found = await self.shard.evaluate_fold(self._scripts, [store_call(item) for item in items])
        await due.remind(self.shard, due.times_of(items))
        return [each for item, answer in zip(items, found, strict=True) for each in answers.stored(item, answer).owed]

    async def handed(self, items: Sequence[tuple[str, str, list[str]]]) -> None:
        """Receipts say that (key, product, ids) were handed to another channel; what of it is not stored here is left out."""
        await self.shard.evaluate_fold(self._scripts, [handed_call(*item) for item in items])

    async def paid(self, owed: Sequence[Owed]) -> None:
        """These receipts are in Kafka."""
        await self.shard.pipe([("HDEL", names.owed_key(item.key), f"{item.product} {item.id}") for item in owed])

    async def progress(self, name: str, read: int, of: int) -> None:
        """For `pushctl register status`: records read of a part of the log, and how many there are."""
        await self.shard.pipe([("HSET", self.shard.marker_key, f"r:{name}", f"{read}/{of}")])

    async def done(self, name: str, partitions: int, position: int, queues: Iterable[str]) -> bool:
        """This part of the log is folded, its messages below `position`; True if with it the shard is open: all `partitions` are,
        of each own queue too.

        `queues` must be those that Kafka had after the shard was closed. Raises RegisterNotReady where it is folded anew.
        """
        incarnation = self.marker.incarnation
        words: list[str | int] = [incarnation.run_id, incarnation.generation, name, partitions, position, *sorted(queues)]
        [state] = await self.shard.pipe([shard_script("folded", self.shard.marker_key, *words)])
        if text(state) == OTHER:
            raise RegisterNotReady(f"{self.shard.address} was restarted again")
        return text(state) == OPEN


async def incarnate(shard: Shard, run_id: str, marker: Marker | None, generation: int) -> None:
    """Close a shard that lost something, under a new generation; who comes second changes nothing. Raises RegisterDown.

    Where the marker is missing the server may be the old one, emptied by a command: the scripts that it has go first.
    """
    begin = shard_script("incarnate", shard.marker_key, run_id, generation)
    await shard.pipe([begin] if marker is not None else [("SCRIPT", "FLUSH", "SYNC"), begin])
    shard.forget()
