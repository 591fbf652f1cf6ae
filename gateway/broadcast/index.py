"""Which connections are bound to a product, by slot: what a broadcast walks.

A product has `SLOTS` lists of binds, each allocated when its first client comes. A room of 18,000 connections has four or five
binds in a slot, so adding appends and removing looks through a handful: no positions are kept, and order means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.client import BindState
from schemas.codes import SLOTS

NO_BINDS: Final[tuple[BindState, ...]] = ()


class Slots:
    """The binds of one product."""

    __slots__ = ("_slots", "count")

    def __init__(self) -> None:
        self._slots: list[list[BindState] | None] = [None] * SLOTS
        self.count = 0

    def __contains__(self, bind: BindState) -> bool:
        return bind in (self._slots[bind.client.slot] or NO_BINDS)

    def __iter__(self) -> Iterator[BindState]:
        for binds in self._slots:
            if binds:
                yield from binds

    def add(self, bind: BindState) -> bool:
        """Take a bind in; False if it is here already."""
        slot = bind.client.slot
        binds = self._slots[slot]
        if binds is None:
            self._slots[slot] = [bind]
        elif bind in binds:
            return False
        else:
            binds.append(bind)
        self.count += 1
        return True

    def remove(self, bind: BindState) -> bool:
        """Let a bind go; False if it is not here."""
        binds = self._slots[bind.client.slot]
        if not binds or bind not in binds:
            return False
        binds.remove(bind)
        if not binds:
            self._slots[bind.client.slot] = None
        self.count -= 1
        return True

    def take(self, lo: int, hi: int, limit: int) -> tuple[list[BindState], int]:
        """The binds of whole slots from `lo` on, and the slot that comes next (≤ `hi`).

        It stops after the slot in which `limit` is reached. The list is a copy: who walks it may remove binds meanwhile.
        """
        taken: list[BindState] = []
        slots = self._slots
        for slot in range(lo, hi):
            binds = slots[slot]
            if binds:
                taken += binds
                if len(taken) >= limit:
                    return taken, slot + 1
        return taken, max(lo, hi)


class Index:
    """The slots of every product that somebody is bound to."""

    def __init__(self) -> None:
        self._products: dict[str, Slots] = {}

    def add(self, bind: BindState) -> bool:
        """Take a bind in; False if it is here already."""
        slots = self._products.get(bind.product)
        if slots is None:
            slots = self._products[bind.product] = Slots()
        return slots.add(bind)

    def remove(self, bind: BindState) -> bool:
        """Let a bind go, and the product with its last one; False if it is not here."""
        slots = self._products.get(bind.product)
        if slots is None or not slots.remove(bind):
            return False
        if not slots.count:
            del self._products[bind.product]
        return True

    def contains(self, bind: BindState) -> bool:
        """Is this very bind here?"""
        slots = self._products.get(bind.product)
        return slots is not None and bind in slots

    def binds(self, product: str) -> Iterator[BindState]:
        """All binds of a product, in the order of their slots."""
        return iter(self._products.get(product, NO_BINDS))

    def take(self, product: str, lo: int, hi: int, limit: int) -> tuple[list[BindState], int]:
        """`Slots.take` for a product that may have nobody."""
        slots = self._products.get(product)
        return ([], max(lo, hi)) if slots is None else slots.take(lo, hi, limit)

    def counts(self) -> dict[str, int]:
        """Product → clients bound here."""
        return {product: slots.count for product, slots in self._products.items()}
