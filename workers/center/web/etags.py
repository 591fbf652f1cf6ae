"""Writes of the keeper's documents: who asks and why, and the preconditions (RFC 9110 §13). The entity tag of a document is its
revision in the bucket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Header, Query
from pydantic import AfterValidator, Field

from schemas.broadcasts import MAX_BY
from workers.center.callers.auth import Caller, Who
from workers.center.web.problems import Problem, bad_input


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has control characters")
    return text


Words = Annotated[str, Field(min_length=1, max_length=MAX_BY), AfterValidator(_printable)]
"""Who, or why: for the audit."""

_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
"""RFC 9110 §8.8.3."""
_TAGS: Final = re.compile(rf"\s*{_TAG.pattern}\s*(,\s*{_TAG.pattern}\s*)*")
_REVISION: Final = re.compile(r"[0-9]{1,19}")
_ANY: Final = "*"


def tag_of(revision: int) -> str:
    """The entity tag of a revision."""
    return f'"{revision}"'


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What has to hold for a write. `match`: revisions, one of which it has to be; `anything`: it has to be there; `nothing`: it
    must not."""

    match: frozenset[int] | None = None
    anything: bool = False
    nothing: bool = False

    @property
    def any(self) -> bool:
        """Was one given?"""
        return self.match is not None or self.anything or self.nothing

    def check(self, *, there: bool, revision: int) -> None:
        """Raise a Problem (412) where one does not hold."""
        unwanted = self.nothing and there
        missing = self.anything and not there
        other = self.match is not None and not (there and revision in self.match)
        if unwanted or missing or other:
            now = f"it is at {tag_of(revision)} now" if there else "it is not there"
            raise Problem("precondition-failed", f"{now}; read it, and ask again with what you read")


async def _read(
    if_match: Annotated[
        str | None, Header(max_length=1024, description="Only if it is at this ETag; `*`: only if it is there.")
    ] = None,
    if_none_match: Annotated[str | None, Header(max_length=1024, description="`*`: only if it is not there.")] = None,
) -> Preconditions:
    if if_none_match is not None and if_none_match.strip() != _ANY:
        raise bad_input("If-None-Match", if_none_match, "is * or nothing")
    if if_match is None or if_match.strip() == _ANY:
        return Preconditions(anything=if_match is not None, nothing=if_none_match is not None)
    if not _TAGS.fullmatch(if_match):
        raise bad_input("If-Match", if_match, 'is * or ETags, as "17"')
    return Preconditions(match=frozenset(_revisions(if_match)), nothing=if_none_match is not None)


def _revisions(if_match: str) -> Iterator[int]:
    """Those that may be ours. A weak tag never matches (RFC 9110 §13.1.1), nor does one that no document of ours ever had."""
    for weak, text in _TAG.findall(if_match):
        if not weak and _REVISION.fullmatch(text):
            yield int(text)


@dataclass(frozen=True, slots=True)
class Writing:
    """A write that is asked for: by whom, why, and what has to hold."""

    who: Caller
    reason: str | None
    conditions: Preconditions


async def _writing(
    who: Who,
    conditions: Annotated[Preconditions, Depends(_read)],
    reason: Annotated[Words | None, Query(description="Why: for the audit.")] = None,
) -> Writing:
    return Writing(who, reason, conditions)


Asked = Annotated[Writing, Depends(_writing)]
"""The parameter of a route that writes."""
