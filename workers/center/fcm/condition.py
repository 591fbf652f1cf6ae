"""FCM's conditions as segments: `'a' in topics && !('b' in topics)` is `group("a") && !(group("b"))`."""

from __future__ import annotations

import re
from typing import Final

from infra import segments
from infra.segments import BadSegment
from schemas import names

MAX_TOPICS: Final = 5
"""Topics of a condition, at most: FCM's bound."""

_WORD: Final = re.compile(r"""\s*(?:(?P<mark>&&|\|\||!|\(|\))|(?P<quote>['"])(?P<topic>[^'"]*)(?P=quote)\s+in\s+topics\b)\s*""")


def segment_of(condition: str) -> str:
    """The segment that means the same; raises ValueError, with the character at which that shows."""
    found: list[str] = []
    begins: list[tuple[int, int]] = []  # of each word: there, here
    length, at, topics = 0, 0, 0
    while at < len(condition):
        match = _WORD.match(condition, at)
        if match is None:
            raise ValueError(f"at character {at}: 'topic' in topics, &&, ||, !, ( or ) belongs here")
        topics += match["topic"] is not None
        word = match["mark"] or f'group("{_group(match["topic"], at)}")'
        begins.append((length, at))
        found.append(word)
        length, at = length + len(word) + 1, match.end()
    if topics > MAX_TOPICS:
        raise ValueError(f"has {topics} topics, more than {MAX_TOPICS}")
    text = " ".join(found)
    _check(text, begins, len(condition))
    return text


def _group(topic: str, at: int) -> str:
    try:
        return names.group(topic)
    except names.BadName as error:
        raise ValueError(f"at character {at}: {error}") from None


def _check(text: str, begins: list[tuple[int, int]], end: int) -> None:
    try:
        segments.compile(text)
    except BadSegment as error:
        at = next((theirs for ours, theirs in begins if ours >= error.position), end)
        raise ValueError(f"at character {at}: it does not go on as a condition does") from None
