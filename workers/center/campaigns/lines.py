"""An uploaded list as bytes become client ids: one a line, as NDJSON, CSV or plain text. No I/O.

A line ends with LF or CRLF; a byte order mark at the very start and blank lines are passed over. A line that gives no id is told
by its number (from 1) and the reason. Nothing here grows with the upload: a line that is too long is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from schemas import names

MAX_LINE: Final = 4_096
"""Bytes of a line, its CR included, at most."""
MAX_TOLD: Final = 100
"""Bad lines that are told one by one; all are counted."""
_BOM: Final = b"\xef\xbb\xbf"


class BadLine(NamedTuple):
    """A line that gives no id, and why."""

    line: int
    reason: str


class NoId(ValueError):
    """A line that gives no id; the text says why."""


class _Object(msgspec.Struct):
    client: str


class _Plain:
    """The line is the id."""

    def read(self, line: bytes, *, odd: bool) -> str | None:
        """The id of a line, None where it is not meant as one; raises NoId. `odd`: it has an odd number of quotes."""
        return _text(line)

    def skip(self, *, odd: bool) -> None:
        """A line that was too long to be kept."""


class _Ndjson(_Plain):
    """`"id"`, or an object with `client`; other fields are passed over."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(str | _Object)

    def read(self, line: bytes, *, odd: bool) -> str | None:
        try:
            found = self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise NoId(f"is neither a JSON string nor an object with client: {ascii(str(error))[1:-1][:100]}") from None
        return found if isinstance(found, str) else found.client


class _Csv(_Plain):
    """The first column; a header `client` in the first line is passed over.

    A quoted field may hold line ends (RFC 4180 §2.6), so what looks like a line may be the inside of one: as no id has a quote or
    a line end, such a record is bad as a whole, and nothing in it is taken for an id.
    """

    def __init__(self) -> None:
        self._first = True
        self._open = False

    def read(self, line: bytes, *, odd: bool) -> str | None:
        first, was_open = self._first, self._open
        self.skip(odd=odd)
        if was_open or self._open:
            raise NoId("belongs to a quoted field that goes over a line end")
        field = line.partition(b",")[0].strip()
        if len(field) >= 2 and field[:1] == field[-1:] == b'"':
            field = field[1:-1]
        return None if first and field.lower() == b"client" else _text(field)

    def skip(self, *, odd: bool) -> None:
        self._first = False
        self._open ^= odd


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NoId("is not UTF-8") from None


FORMATS: Final[Mapping[str, Callable[[], _Plain]]] = {
    "application/x-ndjson": _Ndjson,
    "text/csv": _Csv,
    "text/plain": _Plain,
}
"""Media type → what makes a reader of its lines."""


class Lines:
    """A list in one of `FORMATS`: feed it bytes as they come, then end it."""

    def __init__(self, media_type: str) -> None:
        self._reader = FORMATS[media_type]()
        self._number = 0
        self._line = b""
        self._skipping = False
        self._odd = False
        self.bad: list[BadLine] = []
        self.bad_count = 0

    def feed(self, data: bytes) -> list[str]:
        """The ids of the lines that end in `data`."""
        found: list[str] = []
        *lines, rest = data.split(b"\n")
        for piece in lines:
            self._keep(piece)
            self._end_line(found)
        self._keep(rest)
        return found

    def end(self) -> list[str]:
        """The id of the last line, where it had no end."""
        found: list[str] = []
        if self._line or self._skipping:
            self._end_line(found)
        return found

    def _keep(self, piece: bytes) -> None:
        """More of a line whose end is not here yet; not more than shows that it is too long."""
        self._odd ^= bool(piece.count(b'"') % 2)
        self._skipping = self._skipping or len(self._line) + len(piece) > MAX_LINE
        self._line = b"" if self._skipping else self._line + piece

    def _end_line(self, found: list[str]) -> None:
        line, too_long, odd = self._line, self._skipping, self._odd
        self._line, self._skipping, self._odd = b"", False, False
        self._number += 1
        try:
            if too_long:
                self._reader.skip(odd=odd)
                raise NoId(f"has more than {MAX_LINE} bytes")
            line = (line.removeprefix(_BOM) if self._number == 1 else line).strip()
            if line and (client := self._reader.read(line, odd=odd)) is not None:
                found.append(names.client(client))
        except (NoId, names.BadName) as error:
            self.bad_count += 1
            if len(self.bad) < MAX_TOLD:
                self.bad.append(BadLine(self._number, str(error)))
