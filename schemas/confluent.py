"""Confluent's wire format: a zero, the id of the writer's schema in a registry (4 bytes, big endian), the datum.

The datum is the one of Avro single-object encoding: what differs is how the schema is named, so each form becomes the other by
its head alone. Which id is which schema only a registry knows (infra/registry.py).
"""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"\0"
HEAD: Final = 5
"""Bytes before the datum; those of single-object encoding are 10."""
_SINGLE_HEAD: Final = 10


def schema_id(data: bytes) -> int | None:
    """The id that bytes in this format name; None for any others."""
    return int.from_bytes(data[1:HEAD], "big") if data[:1] == MAGIC and len(data) >= HEAD else None


def framed(schema: int, data: bytes) -> bytes:
    """A record in single-object encoding, in this format: `schema` is the id of its schema."""
    return MAGIC + schema.to_bytes(4, "big") + data[_SINGLE_HEAD:]


def unframed(header: bytes, data: bytes) -> bytes:
    """A record in this format, in single-object encoding: `header` is that of its schema."""
    return header + data[HEAD:]
