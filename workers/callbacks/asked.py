"""Who asks for what: the webhooks of all products, by what they want to be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from infra.documents.products import Product
from infra.documents.webhooks import Endpoint
from schemas.codes import EventType
from workers.runner import Retryable
from workers.webhooks import Event

OF_CLIENTS: Final = (EventType.CLIENT_CONNECTED, EventType.CLIENT_DISCONNECTED, EventType.CLIENT_BOUND, EventType.CLIENT_UNBOUND)
OF_USERS: Final = (EventType.USER_ONLINE, EventType.USER_OFFLINE)
OF_MESSAGES: Final = tuple(kind for kind in EventType if kind.startswith("message."))


class Products(Protocol):
    """The products as they are now (infra.keeper.Keeper). A change replaces the mapping."""

    @property
    def products(self) -> Mapping[str, Product]:
        """Products by name."""

    @property
    def current(self) -> bool:
        """Was what they ask for read lately?"""


class Sender(Protocol):
    """Where events go (workers.webhooks.Outbox)."""

    async def send(self, endpoint: Endpoint, events: Sequence[Event]) -> None:
        """Post them, those of one key in order, or keep what is not taken for later; raises JournalDown."""


class Kept(Protocol):
    """What waits for endpoints already (workers.webhooks.Shelf): later events of its keys wait behind it."""

    async def caught_up(self) -> None:
        """Return when all that was kept before is known; raises JournalDown."""


class Asked:
    """Derived again whenever a document changed; asking costs a look-up."""

    def __init__(self, products: Products) -> None:
        self._products = products
        self._seen: Mapping[str, Product] | None = None
        self._tracked: frozenset[str] = frozenset()
        self._of_users: frozenset[str] = frozenset()
        self._of_messages: frozenset[bytes] = frozenset()

    @property
    def current(self) -> bool:
        """Is it known who asks?"""
        return self._products.current

    def check(self) -> None:
        """Raise Retryable while it is not: what would not be told now would never be."""
        if not self.current:
            raise Retryable("the keeper was not read lately: who asks for events is not known")

    @property
    def tracked(self) -> frozenset[str]:
        """The products that are told anything of clients or users."""
        self._look()
        return self._tracked

    @property
    def of_messages(self) -> frozenset[bytes]:
        """The products that are told of their messages, as they are in the bytes of a record."""
        self._look()
        return self._of_messages

    def tracks(self, product: str) -> bool:
        """Is it told anything of its clients?"""
        return product in self.tracked

    def tracks_users(self, product: str) -> bool:
        """Is it told of its users?"""
        self._look()
        return product in self._of_users

    def window_ms(self, product: str) -> int:
        """How long an end is held back for it, ms."""
        found = self._products.products.get(product)
        return int(found.debounce * 1000) if found else 0

    def endpoints(self, product: str, event: str) -> tuple[Endpoint, ...]:
        """Who is told of it."""
        found = self._products.products.get(product)
        return found.listening(event) if found else ()

    def by_endpoint(self, events: Iterable[Event]) -> list[tuple[Endpoint, list[Event]]]:
        """Each endpoint with what it is told, in order."""
        found: dict[tuple[str, str], tuple[Endpoint, list[Event]]] = {}
        for event in events:
            for endpoint in self.endpoints(event.product, event.type):
                found.setdefault((event.product, endpoint.name), (endpoint, []))[1].append(event)
        return list(found.values())

    def _look(self) -> None:
        products = self._products.products
        if products is self._seen:
            return
        self._seen = products
        self._of_users = _asking(products, OF_USERS)
        self._tracked = self._of_users | _asking(products, OF_CLIENTS)
        self._of_messages = frozenset(name.encode() for name in _asking(products, OF_MESSAGES))


def _asking(products: Mapping[str, Product], kinds: Iterable[EventType]) -> frozenset[str]:
    return frozenset(name for name, product in products.items() if any(product.listening(kind) for kind in kinds))
