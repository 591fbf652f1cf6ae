"""The order of app versions: 2.10 > 2.9, 2.0 > 2.0-beta, 2.0 = 2.0.0.

Numbers compare as numbers, and zeros at the end make no difference. What follows the numbers is a pre-release, as in Semantic
Versioning 2.0 §11: it comes before the release, numbers come before words, and a longer one after its beginning. Looser than
that page: any count of numbers, a leading `v`, a pre-release without its hyphen (2.0b1), and `beta10` after `beta9`. What
follows a `+` is a build and makes no difference.
"""

from __future__ import annotations

import re
from typing import Final

MAX_VERSION: Final = 128
"""Characters; what is longer is no version."""

Version = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]
"""A key whose order is that of versions: numbers, is it a release, parts of the pre-release."""

_VERSION: Final = re.compile(
    r"[vV]?(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    r"(?:[-._]?(?P<pre>[A-Za-z][0-9A-Za-z._-]*)|-(?P<hyphened>[0-9A-Za-z._-]+))?"
    r"(?:\+[0-9A-Za-z._-]*)?"
)
_PART: Final = re.compile(r"[0-9]+|[A-Za-z]+")


def version(text: str) -> Version | None:
    """The key of a version, or None where the text is none."""
    found = _VERSION.fullmatch(text) if len(text) <= MAX_VERSION else None
    if found is None:
        return None
    numbers = [int(number) for number in found["numbers"].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    before = found["pre"] or found["hyphened"] or ""
    parts = tuple((False, int(part), "") if part.isdigit() else (True, 0, part.lower()) for part in _PART.findall(before))
    return tuple(numbers), not parts, parts
