"""Attribute sets of clients, shared: a million clients have some thousands of them."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakValueDictionary


class Attributes(dict[str, str]):
    """One set, never changed once it is made. It hashes by identity, so that what is worked out for it is found at once: equal
    sets of one `Interned` are the same object."""

    __slots__ = ("__weakref__",)

    __hash__ = object.__hash__  # type: ignore[assignment]


class Interned:
    """Equal sets as one object, which lives as long as somebody holds it."""

    def __init__(self) -> None:
        self._sets: WeakValueDictionary[tuple[tuple[str, str], ...], Attributes] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._sets)

    def of(self, values: Mapping[str, str]) -> Attributes:
        """The shared object that equals `values`."""
        key = tuple(sorted(values.items()))
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = Attributes(values)
        return found
