"""What was asked under an idempotency key, for a day: the same key with another body is a mistake of the sender."""

from __future__ import annotations

from typing import Final

from infra.register.answers import text
from infra.register.client import Register
from schemas import names

KEPT_S: Final = 24 * 3600


class IdempotencyKeys:
    """Keys of a product, each with the digest of the body that came first."""

    def __init__(self, register: Register) -> None:
        self._register = register

    async def claim(self, product: str, record: str, digest: str) -> bool:
        """Is this the body that the key stands for? `record`: the id that the key decides. Raises RegisterDown."""
        key = names.idempotency_key(product, record)
        _, first = await self._register.shards.of(key).pipe([("SET", key, digest, "NX", "EX", KEPT_S), ("GET", key)])
        return first is None or text(first) == digest
