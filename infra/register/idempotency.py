"""What was asked under an idempotency key, and when, for a day: the same key with another body is a mistake of the sender."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from infra.register.answers import text
from infra.register.client import Register
from infra.register.scripts import Command
from schemas import names

KEPT_S: Final = 24 * 3600
ATTEMPTS: Final = 8
"""Times that are kept of a request that is repeated: the first ones, and the last."""


class Claim(NamedTuple):
    """A request under a key. `record`: the id that the key decides."""

    product: str
    record: str
    digest: str


class IdempotencyKeys:
    """Keys of a product, each with the digest of the body that came first, and the times (ms) at which it came."""

    def __init__(self, register: Register) -> None:
        self._register = register

    async def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Is this the body that the key stands for, of each in order? Raises RegisterDown."""
        now = str(time.time_ns() // 1_000_000)
        keys = [names.idempotency_key(claim.product, claim.record) for claim in claims]
        pairs: list[tuple[Command, ...]] = [
            (("SET", key, f"{claim.digest} {now}", "NX", "EX", KEPT_S), ("GET", key))
            for key, claim in zip(keys, claims, strict=True)
        ]
        answers = await self._ask(keys, pairs)
        known = [text(first).split(" ") if first is not None else [] for _, first in answers]
        same = [not words or words[0] == claim.digest for words, claim in zip(known, claims, strict=True)]
        again = {
            key: " ".join([*words[:ATTEMPTS], now])
            for key, words, it_is in zip(keys, known, same, strict=True)
            if it_is and words and now not in words
        }
        await self._ask(list(again), [(("SET", key, words, "XX", "KEEPTTL"),) for key, words in again.items()])
        return same

    async def times(self, products: Sequence[str], record: str) -> tuple[int, ...]:
        """When this id was asked for under its key, ms, in any of these products; raises RegisterDown."""
        keys = [names.idempotency_key(product, record) for product in products]
        found = await self._ask(keys, [(("GET", key),) for key in keys])
        return tuple(int(at) for [first] in found if first is not None for at in text(first).split(" ")[1:])

    async def _ask(self, keys: Sequence[str], commands: Sequence[tuple[Command, ...]]) -> list[Sequence[Any]]:
        """The commands of each key, on its shard."""
        groups = self._register.shards.grouped(keys)
        found = await asyncio.gather(
            *(shard.pipe([command for place in places for command in commands[place]]) for shard, places in groups)
        )
        answers: list[Sequence[Any]] = [()] * len(keys)
        for (_, places), flat in zip(groups, found, strict=True):
            rest = iter(flat)
            for place in places:
                answers[place] = [next(rest) for _ in commands[place]]
        return answers
