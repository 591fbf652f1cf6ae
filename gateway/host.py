"""What every client's delivery needs of its room."""

from __future__ import annotations

from collections.abc import Callable

from gateway.ports import FanOut, Saver
from infra.documents import Policy, Product


class Host:
    """What a delivery needs of its room: shared by all clients, read only."""

    __slots__ = ("_products", "ask_policy", "clock", "epoch", "fanout", "room", "saver")

    def __init__(
        self,
        *,
        room: str,
        epoch: int,
        saver: Saver,
        fanout: FanOut,
        clock: Callable[[], float],
        policy: Callable[[], Policy],
        products: Callable[[], dict[str, Product]],
    ) -> None:
        self.room = room
        self.epoch = epoch
        self.saver = saver
        self.fanout = fanout
        self.clock = clock
        self.ask_policy = policy
        self._products = products

    @property
    def policy(self) -> Policy:
        """The policy as it is now."""
        return self.ask_policy()

    @property
    def products(self) -> dict[str, Product]:
        """The products as they are now."""
        return self._products()
