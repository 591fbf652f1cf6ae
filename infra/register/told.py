"""What products were told of their clients and users last, beside the sessions it is about (docs/adr/0023).

An index like the rest of the register: what a shard lost is not known any more, and told again rather than never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from infra.register.answers import text
from infra.register.calls import Call
from infra.register.client import Register
from schemas import names

ENDED_MS: Final = 2 * 3600 * 1000
"""How long it is remembered of a client that it is gone, ms: copies of older records must find it."""
USER_MS: Final = 24 * 3600 * 1000
"""How long a user's presence is remembered since it changed, ms; then it is asked for again."""
ONLINE, OVER, UNBOUND = "1", "0", "2"


class Told(msgspec.Struct, frozen=True):
    """What a product was told of a client by the record at `offset`: it is there (`online`), in the session (generation,
    number), or it is not, and that session is `over` or goes on without the product.

    `known`: in the shard's present life. Else it may have been told more since.
    """

    generation: int
    number: int
    offset: int
    online: bool
    user: str = ""
    known: bool = True
    over: bool = False

    @property
    def session(self) -> tuple[int, int]:
        """In the order of sessions."""
        return self.generation, self.number

    @property
    def mark(self) -> tuple[int, int, int]:
        """In the order of what is told."""
        return self.generation, self.number, self.offset


class ToldView(msgspec.Struct, frozen=True):
    """All that is known of one client; `generation`: of its shard now. Sessions that began before it may miss here."""

    generation: int
    products: dict[str, Told]


class User(msgspec.Struct, frozen=True):
    """A user in a product."""

    realm: str
    product: str
    name: str


class Presence(msgspec.Struct, frozen=True):
    """What is to be told of a user: a higher `sequence` is the newer news."""

    sequence: int
    online: bool


class ToldIndex:
    """Reads and writes it; a part of the process (infra.lifecycle.Part). Everything raises RegisterDown, and RegisterNotReady
    while the shard is folded."""

    def __init__(self, register: Register) -> None:
        """`register`: its own; nobody else starts it."""
        self._register = register

    async def start(self) -> None:
        """Nothing: who has it may live without Redis, until `ready`."""

    async def stop(self) -> None:
        """Close the connections."""
        await self._register.stop()

    async def ready(self) -> None:
        """Connect, unless it was done."""
        if not self._register.shards.all:
            await self._register.start()

    async def read(self, keys: Sequence[str]) -> list[ToldView]:
        """What is known of these clients."""
        found = await self._register.run([("told", [names.told_key(key)], []) for key in keys])
        return [_view(*answer) for answer in found]

    async def members(self, pairs: Sequence[tuple[str, str]]) -> list[str | None]:
        """(key, product) → the user, "" for none, of those that are bound as the registry has it; None for others."""
        found = await self._register.run([("bound", [names.first_bind_key(key, product)], []) for key, product in pairs])
        return [text(user) if isinstance(user, bytes) else None for user in found]

    async def write(self, told: dict[str, dict[str, Told]]) -> None:
        """Client key → product → what was told now. What is of a later record stays."""
        calls: list[Call] = []
        for key, products in told.items():
            arguments: list[Any] = [ENDED_MS]
            for product, each in products.items():
                arguments += [product, each.generation, each.number, each.offset, _state(each), each.user]
            calls.append(("tell", [names.told_key(key)], arguments))
        await self._register.run(calls)

    async def forget(self, told: dict[str, list[str]]) -> None:
        """Client key → products that do not ask any more."""
        await self._register.run([("untold", [names.told_key(key)], products) for key, products in told.items()])

    # --- users -----------------------------------------------------------------------------------------------------------

    async def present(self, user: User, client: str, *, there: bool) -> Presence | None:
        """This client of the user came or went: what is to be told, until `presented`. None where nothing changes by it."""
        key = names.presence_key(user.realm, user.product, user.name)
        arguments: list[Any] = [client, int(there), USER_MS]
        [answer] = await self._register.run([("present", [key], [*arguments, "ask"])])
        if text(answer[0]) == "unknown":
            others = await self._others(user, client)
            [answer] = await self._register.run([("present", [key], [*arguments, "known", *others])])
        return Presence(int(answer[1]), bool(answer[2])) if text(answer[0]) == "tell" else None

    async def presented(self, user: User, told: Presence) -> None:
        """It was told."""
        key = names.presence_key(user.realm, user.product, user.name)
        await self._register.run([("presented", [key], [told.sequence])])

    async def _others(self, user: User, client: str) -> list[str]:
        """The user's other clients whose end will be told."""
        found = await self._register.clients_of(user.realm, user.product, user.name)
        others = [each for each in found if each != client]
        calls: list[Call] = []
        for each in others:
            key = names.client_key(user.realm, each)
            keys = [names.session_key(key), names.told_key(key), names.first_bind_key(key, user.product)]
            calls.append(("there", keys, [user.product, user.name]))
        return [each for each, there in zip(others, await self._register.run(calls), strict=True) if there]


def _state(told: Told) -> str:
    return ONLINE if told.online else OVER if told.over else UNBOUND


def _view(generation: int, flat: Sequence[bytes]) -> ToldView:
    products = {}
    for product, field in zip(flat[::2], flat[1::2], strict=True):
        known, session_generation, number, offset, state, user = text(field).split(" ", 5)
        session = (int(session_generation), int(number), int(offset))
        products[text(product)] = Told(*session, state == ONLINE, user, int(known) == int(generation), state == OVER)
    return ToldView(int(generation), products)
