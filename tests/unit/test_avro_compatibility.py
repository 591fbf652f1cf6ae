"""Every version of a record's schema against every other: what one writes, the other reads; and what was published stays.

Data that Hypothesis makes from the writer's schema are written and resolved into the reader's by fastavro, both ways round, and
the rules of Avro 1.12, "Schema Resolution", are checked by themselves: data alone may miss the branch that can't be read.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import fastavro
import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.records import RECORDS

FOLDER: Final = Path(codec.__file__).parent / "avro"
VERSIONS: Final = sorted(path.name.removesuffix(".avsc") for path in FOLDER.glob("*.avsc"))
PAIRS: Final = [(a, b) for a, b in permutations(VERSIONS, 2) if a.partition(".")[0] == b.partition(".")[0]]
PROMOTED: Final = {"int": {"long", "float", "double"}, "long": {"float", "double"}, "float": {"double"}}
"""Avro 1.12: "int is promotable to long, float, or double"…; string and bytes, which are promotable too, are not used so."""

PUBLISHED: Final = {
    "AudienceChunk.v1": ("c33434a842d27113", 2541508174),
    "Audit.v1": ("9ab0dafc14bae34a", 1630155626),
    "Broadcast.v1": ("6114b86ddebe8ed9", 1094243056),
    "Broadcast.v2": ("ddd7e600c0d1f2b1", 638409672),
    "ClientRecord.v1": ("bf426faed895b246", 1977995878),
    "DeadLetter.v1": ("194fb8bf45d1bace", 3385202258),
    "Fallback.v1": ("6c8a71610b0d3a10", 83006681),
    "JobRecord.v1": ("8ddad8a2785096aa", 3230418512),
    "JobRecord.v2": ("8cd53a520166f7ad", 4133805938),
    "PushMessage.v1": ("38dda03cf75de87d", 386886345),
    "PushMessage.v2": ("6865c632f38ddb4c", 706889367),
    "PushMessage.v3": ("499e312b8f8dd979", 3648492480),
    "Receipt.v1": ("dc2fa1e2a797f074", 3508407334),
    "Retry.v1": ("30b221c5b7eca2cc", 445771147),
    "ShardRecord.v1": ("4ddf9ba7bcef235c", 2801216115),
    "StatusEvent.v1": ("8de923d2ef259a3f", 2239406130),
    "StatusEvent.v2": ("081ecb3aed034eea", 2067630819),
    "Transition.v1": ("e64370447969ac36", 1185854157),
    "Uplink.v1": ("4f8331d32d7fb1ff", 2999092934),
}
"""CRC-64-AVRO of each published version (Avro 1.12, "Parsing Canonical Form for Schemas"), and the defaults, which that leaves
out. A version that others may have written with is never changed: a change is a new file, and a new line here."""


def defaults_of(document: Any) -> list[Any]:
    """Every field's path and default, in order: the canonical form has none."""
    if isinstance(document, list):
        return [each for item in document for each in defaults_of(item)]
    if not isinstance(document, dict):
        return []
    inner = [each for name in ("items", "values", "type") if name in document for each in defaults_of(document[name])]
    for field in document.get("fields", ()):
        inner.append((field["name"], field["default"]) if "default" in field else (field["name"],))
        inner += defaults_of(field["type"])
    return inner


def print_of(version: str) -> tuple[str, int]:
    """The fingerprint of a version as it is in the folder, and a checksum of its defaults."""
    document = codec.load_schema(version)
    defaults = repr(defaults_of(document)).encode()
    return fingerprint(to_parsing_canonical_form(document), "CRC-64-AVRO"), zlib.crc32(defaults)


TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PRIMITIVES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "string": TEXT,
    "bytes": st.binary(max_size=8),
}


def data(schema: Any) -> st.SearchStrategy[Any]:
    """Data that fit a schema, all branches of it."""
    if isinstance(schema, list):
        return st.one_of([data(branch) for branch in schema])
    kind = schema["type"] if isinstance(schema, dict) else schema
    match kind:
        case "array":
            return st.lists(data(schema["items"]), max_size=3)
        case "map":
            return st.dictionaries(TEXT, data(schema["values"]), max_size=3)
        case "record":
            return st.fixed_dictionaries({field["name"]: data(field["type"]) for field in schema["fields"]})
        case dict():
            return data(kind)
    return PRIMITIVES[kind]


def unreadable(writer: Any, reader: Any, where: str = "") -> list[str]:
    """Why a reader's schema can't read everything of a writer's, by Avro's rules of resolution: each place; empty: it can."""
    if isinstance(writer, list):
        return [why for branch in writer for why in unreadable(branch, reader, where)]
    if isinstance(reader, list):
        return [] if any(not unreadable(writer, branch) for branch in reader) else [f"{where}: {writer} is in no branch"]
    kind, other = (each["type"] if isinstance(each, dict) else each for each in (writer, reader))
    if kind != other:
        return [] if other in PROMOTED.get(kind, ()) else [f"{where}: {kind} is read as {other}"]
    if kind in ("array", "map"):
        inner = "items" if kind == "array" else "values"
        return unreadable(writer[inner], reader[inner], f"{where}[]")
    return unreadable_record(writer, reader, where) if kind == "record" else []


def unreadable_record(writer: Any, reader: Any, where: str) -> list[str]:
    found = [] if writer["name"] == reader["name"] else [f"{where}: {writer['name']} is not {reader['name']}"]
    written = {field["name"]: field["type"] for field in writer["fields"]}
    for field in reader["fields"]:
        name = field["name"]
        if name in written:
            found += unreadable(written[name], field["type"], f"{where}.{name}")
        elif "default" not in field:
            found.append(f"{where}.{name} is not written and has no default")
    return found


def rules_of(schema: Any, where: str = "") -> list[str]:
    """What a schema may not have (docs/design.md): recursion, types without bytes, and types whose data can't be bounded."""
    if isinstance(schema, list):
        return [why for branch in schema for why in rules_of(branch, where)]
    if isinstance(schema, str):
        known = {"null", "boolean", "int", "long", "string", "bytes"}
        return [] if schema in known else [f"{where}: {schema} is a name (a recursion?) or a type that no record has"]
    match schema["type"]:
        case "record":
            fields = [why for field in schema["fields"] for why in rules_of(field["type"], f"{where}.{field['name']}")]
            return fields or ([] if schema["fields"] else [f"{where}: a record without fields has no bytes"])
        case "array" | "map":
            inner = schema.get("items", schema.get("values"))
            return [f"{where}: nulls have no bytes"] if inner == "null" else rules_of(inner, f"{where}[]")
        case other:
            return rules_of(other, where)


def test_every_file_belongs_to_a_record_and_every_version_of_a_record_has_a_file() -> None:
    named = {version for record in RECORDS for version in (record.SCHEMA, *getattr(record, "OLDER", ()))}
    assert named == set(VERSIONS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_versions_of_a_record_are_counted_from_1_and_the_newest_is_the_one_that_is_written(record: Any) -> None:
    versions = [int(version.rpartition(".v")[2]) for version in (record.SCHEMA, *getattr(record, "OLDER", ()))]
    assert versions == list(range(len(versions), 0, -1))


def test_what_is_published_is_as_it_was_published() -> None:
    assert {version: print_of(version) for version in VERSIONS} == PUBLISHED


@pytest.mark.parametrize("version", VERSIONS)
def test_a_schema_has_nothing_that_a_reader_can_be_hurt_by(version: str) -> None:
    assert rules_of(codec.load_schema(version)) == []


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_by_the_rules_each_version_reads_each_other_one(writer: str, reader: str) -> None:
    assert unreadable(codec.load_schema(writer), codec.load_schema(reader)) == []


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
@settings(max_examples=60, derandomize=True)
@given(drawn=st.data())
def test_what_one_version_writes_every_other_one_reads(writer: str, reader: str, drawn: st.DataObject) -> None:
    written, read = codec.load_schema(writer), codec.load_schema(reader)
    datum = drawn.draw(data(written))
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(written), datum)
    buffer.seek(0)
    found = fastavro.schemaless_reader(buffer, fastavro.parse_schema(written), fastavro.parse_schema(read))
    shared = {field["name"] for field in written["fields"]} & {field["name"] for field in read["fields"]}
    assert {name: found[name] for name in shared} == {name: datum[name] for name in shared}
    assert buffer.tell() == len(buffer.getvalue())


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=60, derandomize=True)
@given(drawn=st.data())
def test_what_any_version_writes_is_decoded_to_the_record_with_defaults_for_the_rest(version: str, drawn: st.DataObject) -> None:
    schema = codec.load_schema(version)
    datum = drawn.draw(data(schema))
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), datum)
    header = codec.MAGIC + bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
    record = codec.decode(header + buffer.getvalue())
    assert type(record).__name__ == version.partition(".")[0]
    assert codec.decode(codec.encode(record)) == record
    newest = fastavro.schemaless_reader(  # what Avro's own resolution gives: our defaults are those of the newest schema
        BytesIO(buffer.getvalue()), fastavro.parse_schema(schema), fastavro.parse_schema(codec.load_schema(type(record).SCHEMA))
    )
    assert {name: plain(getattr(record, name)) for name in record.__struct_fields__} == newest


def plain(value: Any) -> Any:
    """A record's value as Avro has it."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return (
        {name: plain(getattr(value, name)) for name in value.__struct_fields__} if hasattr(value, "__struct_fields__") else value
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "extra", "type": "string"}, "no default"),
        ({"name": "qos", "type": "string", "default": ""}, "int is read as string"),
        ({"name": "client", "type": "string", "default": ""}, "is read as string"),
        (
            {"name": "properties", "type": {"type": "map", "values": "bytes"}, "default": {}},
            r"properties\[\]: string is read as bytes",
        ),
    ],
    ids=["a field without a default", "another type", "null is read no more", "another type inside"],
)
def test_given_a_version_that_can_not_read_the_old_ones_then_the_rules_say_where(change: dict[str, Any], reason: str) -> None:
    old = codec.load_schema("PushMessage.v3")
    fields = [change if field["name"] == change["name"] else field for field in old["fields"]]
    new = {**old, "fields": fields if change in fields else [*fields, change]}
    [why] = unreadable(old, new)
    assert reason.replace("\\", "") in why


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "record", "name": "A", "fields": [{"name": "next", "type": ["null", "A"]}]},
        {"type": "array", "items": "null"},
        {"type": "record", "name": "A", "fields": [{"name": "b", "type": {"type": "record", "name": "B", "fields": []}}]},
    ],
    ids=["recursive", "a million nulls in four bytes", "a record without bytes"],
)
def test_given_a_schema_that_can_hurt_its_reader_then_the_rules_say_so(schema: Any) -> None:
    assert rules_of(schema)
