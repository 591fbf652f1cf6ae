"""Records to bytes and back: Avro single-object encoding (Avro 1.12, "Single-object encoding").

Two marker bytes, the CRC-64-AVRO fingerprint of the writer's schema (8 bytes, little endian), the datum. What is read is
capped in size, must name a known schema, and must consume all its bytes; whatever does not is `Undecodable`, a poison record.
A record class may name older versions of its schema: these are read too (a field that one lacks has its default).
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas import confluent
from schemas.broadcasts import AudienceChunk, Broadcast, Canary, JobRecord, Quiet, RoomCursor
from schemas.records import RECORDS, ClientProduct, ClientRecord, Record, StatusEvent
from schemas.writer import write_long, writer_of

MAGIC: Final = b"\xc3\x01"
MAX_RECORD: Final = 256 * 1024
"""Bytes of an encoded record, at most."""

R = TypeVar("R", bound=Record)

_FOLDER: Final = Path(__file__).parent / "avro"


class Undecodable(ValueError):
    """Bytes that are no record of ours. The text says why; the bytes belong in the dead letters."""


def load_schema(name: str) -> dict[str, Any]:
    """The `.avsc` file of a record version, as a parsed JSON document; `name` as in `PushMessage.v1`."""
    return cast("dict[str, Any]", json.loads((_FOLDER / f"{name}.avsc").read_text()))


class _Form:
    """One version of a record class: its parsed schema and its header."""

    def __init__(self, record: type[Record], version: str) -> None:
        document = load_schema(version)
        self.record = record
        self.schema = fastavro.parse_schema(document)
        digest = fingerprint(to_parsing_canonical_form(document), "CRC-64-AVRO")
        self.header = MAGIC + bytes.fromhex(digest)
        self.write = writer_of(document, record)


_FORMS: Final = {record: _Form(record, record.SCHEMA) for record in RECORDS}
_OLDER: Final = [_Form(record, version) for record in RECORDS for version in getattr(record, "OLDER", ())]
_BY_HEADER: Final = {form.header: form for form in (*_FORMS.values(), *_OLDER)}


_LISTS: Final[dict[type[Record], tuple[str, ...]]] = {
    Broadcast: ("groups",),
    StatusEvent: ("settled_jobs",),
    AudienceChunk: ("clients",),
}


def encode(record: Record) -> bytes:
    """Encode a record; raises ValueError if it is larger than MAX_RECORD."""
    form = _FORMS[type(record)]
    data = form.header + form.write(record)
    if len(data) > MAX_RECORD:
        raise ValueError(f"{form.record.__name__} has {len(data)} bytes encoded, more than {MAX_RECORD}")
    return data


def decode(data: bytes) -> Record:
    """Decode any known record; raises Undecodable."""
    if len(data) > MAX_RECORD:
        raise Undecodable(f"{len(data)} bytes, more than {MAX_RECORD}")
    form = _BY_HEADER.get(data[:10])
    if form is None:
        raise Undecodable(_unknown(data))
    buffer = BytesIO(data)
    buffer.seek(10)
    try:
        datum = cast("dict[str, Any]", fastavro.schemaless_reader(buffer, form.schema, None))
    except Exception as error:  # fastavro raises whatever the bytes lead it to: EOFError, IndexError, UnicodeDecodeError…
        raise Undecodable(f"not a {form.record.__name__}: {type(error).__name__}") from error
    if buffer.tell() != len(data):
        raise Undecodable(f"{len(data) - buffer.tell()} bytes follow the {form.record.__name__}")
    return _build(form.record, datum)


def _unknown(data: bytes) -> str:
    schema = confluent.schema_id(data)
    if schema is None:
        return "no single-object header of a known schema"
    return f"Confluent's wire format, and its schema id {schema} is none of ours in a registry that is configured"


def header_of(document: Any) -> bytes | None:
    """The header of records that were written with this schema (a JSON document); None: it is no version of ours."""
    try:
        header = MAGIC + bytes.fromhex(fingerprint(to_parsing_canonical_form(document), "CRC-64-AVRO"))
    except Exception:  # fastavro raises whatever a document that is no schema leads it to
        return None
    return header if header in _BY_HEADER else None


def holds(record: type[Record], data: bytes) -> bool:
    """Does the header name this class (in any version)? Nothing else is looked at."""
    form = _BY_HEADER.get(data[:10])
    return form is not None and form.record is record


def beginning(record: type[Record], text: str) -> bytes:
    """How a record of this class begins whose first field is `text`: a reader that seeks a few among many compares bytes.

    Its newest version only. Avro 1.12, "Strings are encoded as a long followed by that many bytes", the long in zig-zag.
    """
    data = text.encode()
    return _FORMS[record].header + write_long(len(data)) + data


def second_text(record: type[Record], data: bytes) -> bytes | None:
    """The second field of a record whose first two are texts, undecoded: for a reader that passes over most of them.

    None where it has to be decoded to know: another version, a text of more than 63 bytes (its length takes two), or no record.
    """
    if data[:10] != _FORMS[record].header or len(data) < 12 or data[10] & 1 or data[10] > 0x7F:
        return None
    start = 11 + (data[10] >> 1)
    if start >= len(data) or data[start] & 1 or data[start] > 0x7F:
        return None
    end = start + 1 + (data[start] >> 1)
    return data[start + 1 : end] if end <= len(data) else None


def decode_as(record: type[R], data: bytes) -> R:
    """Decode a record of one class; raises Undecodable if it is of another, or if `check()` refuses it."""
    found = decode(data)
    if not isinstance(found, record):
        raise Undecodable(f"a {type(found).__name__} where a {record.__name__} belongs")
    check = getattr(found, "check", None)
    if check is not None:
        try:
            check()
        except ValueError as error:
            raise Undecodable(f"{record.__name__}: {error}") from error
    return found


def _build(record: type[Record], datum: dict[str, Any]) -> Record:
    if record is JobRecord:
        datum["rooms"] = tuple(RoomCursor(**cursor) for cursor in datum["rooms"])
    elif record is ClientRecord:
        bind = datum["bind"]
        datum["bind"] = ClientProduct(**{**bind, "groups": tuple(bind["groups"])})
    else:
        for name in _LISTS.get(record, ()):
            datum[name] = tuple(datum[name])
    if record is Broadcast:
        for name, kind in (("canary", Canary), ("quiet", Quiet)):
            if datum.get(name) is not None:
                datum[name] = kind(**datum[name])
    return record(**datum)
