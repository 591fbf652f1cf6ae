"""Whom a broadcast means: its conditions, compiled once, asked of each bind when it would be written.

Conditions are tried from the cheapest on. A job without any costs one comparison of numbers; a segment is evaluated once for each
distinct attribute set that the room holds (infra/attributes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.client import BindState
from infra import segments
from infra.attributes import Attributes
from infra.wire import JobContent
from schemas.codes import WHOLE
from schemas.partition import Shares

Condition = Callable[[BindState], bool]

MAX_KNOWN: Final = 10_000
"""Attribute sets for which a job remembers what its segment says; then it begins anew."""
EVER: Final = 1 << 63
SEGMENT_LOOKS: Final = 10
"""A bind of a job with a segment counts for so many where turns of the loop are shared out: its set may be a new one."""


class Target:
    """The conditions of one content. `newest_ms`: a client that first bound the product after it is not meant.

    `condition` is all the others in one, or None where there are none. `looks`: what a look at one bind costs, in plain ones.
    """

    __slots__ = ("condition", "groups", "looks", "newest_ms")

    def __init__(self, content: JobContent) -> None:
        """Raises BadSegment."""
        self.groups = frozenset(content.groups)
        self.newest_ms = EVER if content.include_new else content.started_ms
        self.looks = SEGMENT_LOOKS if content.segment else 1
        self.condition = _together(_conditions(content, self.groups))

    def means(self, bind: BindState) -> bool:
        """Is it about this bind? Whether something may be written to it now is another question."""
        return bind.first_bind_ms <= self.newest_ms and (self.condition is None or self.condition(bind))


def _conditions(content: JobContent, groups: frozenset[str]) -> list[Condition]:
    found: list[Condition] = []
    if groups:
        found.append(_in_all(groups) if content.every_group else _in_any(groups))
    if content.segment:
        found.append(Segmented(segments.compile(content.segment)))
    if content.sample_bp < WHOLE:
        found.append(_sampled(content.sample_bp, content.sample_seed))
    return found


def _together(conditions: list[Condition]) -> Condition | None:
    if len(conditions) <= 1:
        return conditions[0] if conditions else None
    each = tuple(conditions)

    def meets(bind: BindState) -> bool:
        for condition in each:  # noqa: SIM110 - a generator costs more than the conditions
            if not condition(bind):
                return False
        return True

    return meets


def _in_any(groups: frozenset[str]) -> Condition:
    return lambda bind: not groups.isdisjoint(bind.groups)


def _in_all(groups: frozenset[str]) -> Condition:
    return lambda bind: groups <= bind.groups


def _sampled(most: int, seed: str) -> Condition:
    shares = Shares(seed)
    return lambda bind: shares.of(bind.client.key) < most


class Segmented:
    """A segment as a condition, evaluated once for each attribute set, with those of its groups that the bind has joined."""

    __slots__ = ("_groups", "_known", "_matches")

    def __init__(self, segment: segments.Segment) -> None:
        self._groups = segment.groups
        self._matches = segment.predicate
        self._known: dict[Attributes | tuple[Attributes, segments.Groups], bool] = {}

    def __call__(self, bind: BindState) -> bool:
        """Does the segment match the bind's attributes and groups?"""
        key = (bind.attrs, self._groups & bind.groups) if self._groups else bind.attrs
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = self._matches(bind.attrs, bind.groups)
        return known
