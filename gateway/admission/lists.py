"""Who may connect, by the keeper's document `access`: networks and client ids that are denied, or are the only ones allowed.

A look-up is bounded whatever is asked: networks by the prefix lengths that occur, patterns as one expression that never goes
back over a star (so no id makes it slow). Addresses are numbers of 128 bits, as `infra.peers.number` makes them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final

from infra.documents import Access, Rules
from infra.networks import Networks

LONGEST_ID: Final = 128
"""Characters of a client id: a longer one is none (schemas/names.py), and no pattern is tried on it."""


class Verdict(enum.StrEnum):
    """What the lists say."""

    ADMITTED = ""
    DENIED = "denied"
    NOT_ALLOWED = "not_allowed"


def glob(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """One expression for patterns of `infra.access.pattern`, None for no patterns. Use it by `fullmatch`."""
    forms = "|".join(_expression(pattern) for pattern in patterns)
    return re.compile(forms, re.DOTALL) if forms else None


def _expression(pattern: str) -> str:
    """Between two stars the first place that fits is as good as any later one, so it is never tried again: `(?>…)`."""
    first, *rest = (re.escape(part).replace(r"\?", ".") for part in pattern.split("*"))
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last


ADMITTED: Final = Verdict.ADMITTED
"""By a name of its own: a member of an enum takes 0.4 µs to be looked up, four times in a connect."""


class Names:
    """A set of client ids: some by name, some by pattern."""

    __slots__ = ("_clients", "_patterns")

    def __init__(self, rules: Rules) -> None:
        self._clients = frozenset(rules.clients)
        self._patterns = glob(rules.patterns)

    def __contains__(self, client_id: str) -> bool:
        if client_id in self._clients:
            return True
        return self._patterns is not None and len(client_id) <= LONGEST_ID and self._patterns.fullmatch(client_id) is not None

    def __bool__(self) -> bool:
        return bool(self._clients) or self._patterns is not None


class Lists:
    """One state of the document; a change makes another."""

    __slots__ = ("_allow", "_allow_from", "_deny", "_deny_from", "_open", "uncounted")

    def __init__(self, access: Access) -> None:
        self._deny_from = Networks(access.deny.networks)
        self._deny = Names(access.deny)
        self._allow_from = Networks(access.allow.networks)
        self._allow = Names(access.allow)
        self._open = not (self._deny_from or self._deny or self._allow_from or self._allow)
        self.uncounted = Networks(access.uncounted)

    def address(self, address: int) -> Verdict:
        """May anybody come from there?"""
        if address in self._deny_from:
            return Verdict.DENIED
        return Verdict.NOT_ALLOWED if self._allow_from and address not in self._allow_from else ADMITTED

    def client(self, client_id: str) -> Verdict:
        """May this client connect?"""
        if client_id in self._deny:
            return Verdict.DENIED
        return Verdict.NOT_ALLOWED if self._allow and client_id not in self._allow else ADMITTED

    def both(self, address: int, client_id: str) -> Verdict:
        """May this client connect from there? A denial of either wins."""
        if self._open:
            return ADMITTED
        verdicts = (self.address(address), self.client(client_id))
        return next((found for found in (Verdict.DENIED, Verdict.NOT_ALLOWED) if found in verdicts), ADMITTED)
