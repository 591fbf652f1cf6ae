"""What we write of a record is, byte for byte, what fastavro writes of it, and it is read back as the same record."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.records import RECORDS, Record
from schemas.writer import write_long, writer_of

LONG = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-70, 70) | st.integers(1_700_000_000_000, 1_800_000_000_000)
TEXT = st.text(max_size=80)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """What a schema's type may hold, as fastavro takes it."""
    if isinstance(kind, list):
        return st.one_of(*(values(each) for each in kind))
    if isinstance(kind, str):
        return {
            "null": st.none(),
            "boolean": st.booleans(),
            "int": st.integers(-(1 << 31), (1 << 31) - 1),
            "long": LONG,
            "string": TEXT,
            "bytes": st.binary(max_size=200),
        }[kind]
    if kind["type"] == "array":
        return st.lists(values(kind["items"]), max_size=4)
    if kind["type"] == "map":
        return st.dictionaries(TEXT, values(kind["values"]), max_size=4)
    if kind["type"] == "record":
        return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in kind["fields"]})
    return values(kind["type"])


def by_fastavro(schema: Any, datum: Any) -> bytes:
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), datum)
    return buffer.getvalue()


@pytest.mark.parametrize("record", RECORDS, ids=[record.__name__ for record in RECORDS])
@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(data=st.data())
def test_every_record_has_the_bytes_that_fastavro_writes(record: type[Record], data: st.DataObject) -> None:
    schema = codec.load_schema(record.SCHEMA)
    datum = data.draw(values(schema))
    built: Any = codec._build(record, _copied(datum))
    encoded = codec.encode(built)
    assert encoded[10:] == by_fastavro(schema, datum)
    assert codec.decode(encoded) == built


@settings(deadline=None, database=None)
@given(value=LONG)
def test_every_long(value: int) -> None:
    assert write_long(value) == by_fastavro({"type": "long"}, value)


def test_what_no_schema_of_ours_has_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        write_long(1 << 63)
    with pytest.raises(ValueError, match="union"):
        writer_of(["string", "null"])
    with pytest.raises(ValueError, match="not known here: double"):
        writer_of("double")


def _copied(datum: Any) -> Any:
    """`codec._build` changes what it is given."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in datum.items()}
