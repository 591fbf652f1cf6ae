"""Pages: how many, where one begins, and the cursor of the next. A cursor means nothing to who holds it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import Query

from workers.center.web.problems import bad_input

MAX_LIMIT: Final = 100

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="So many at most.")]
Cursor = Annotated[str, Query(max_length=512, description="`next` of the page before.")]


def cursor_of(*place: Any) -> str:
    """A cursor for where a page ends: JSON values."""
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode()


def place_of(cursor: str, *kinds: type | tuple[type, ...]) -> list[Any] | None:
    """What `cursor_of` was given, one value of each kind; None where there is no cursor. Raises a Problem for another text."""
    if not cursor:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, binascii.Error, RecursionError):
        raise bad_cursor(cursor) from None
    if not isinstance(place, list) or len(place) != len(kinds):
        raise bad_cursor(cursor)
    if not all(isinstance(value, kind) and not isinstance(value, bool) for value, kind in zip(place, kinds, strict=True)):
        raise bad_cursor(cursor)
    return place


def bad_cursor(cursor: str) -> Exception:
    """The 400 for a cursor that no page gave."""
    return bad_input("cursor", cursor, "is none that a page gave: begin without one")


def after_name(names: Sequence[str], cursor: str) -> list[str]:
    """Those sorted names that come behind a cursor."""
    place = place_of(cursor, str)
    return [name for name in names if place is None or name > place[0]]


def page_of(names: Sequence[str], limit: int) -> tuple[Sequence[str], str | None]:
    """The first names, and the cursor of the others, None where there are none."""
    page = names[:limit]
    return page, cursor_of(page[-1]) if len(names) > limit else None
