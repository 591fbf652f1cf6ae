"""Names, records and their bytes: what must be refused is refused, what is written is read, and the hashes are Kafka's."""

from __future__ import annotations

import io

import fastavro
import pytest
from aiokafka.partitioner import murmur2 as reference_murmur2
from fastavro.schema import fingerprint, to_parsing_canonical_form
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, names
from schemas.broadcasts import AudienceChunk, Broadcast, JobRecord, Quiet, RoomCursor
from schemas.codes import MAX_PAYLOAD, SLOTS, State
from schemas.partition import murmur2, partition_of, slot_of
from schemas.records import RECORDS, ClientProduct, ClientRecord, Fallback, PushMessage, Receipt, Retry, StatusEvent

EXAMPLES = [
    PushMessage(id="m", product="p", client="c", payload=b"\0\xff", properties={"a": "b"}, ttl_s=5, correlation=b"x"),
    Broadcast(id="b", product="p", groups=("g", "h"), rate=7, include_new=True),
    JobRecord(
        job="j",
        product="p",
        state="running",
        number_partition=1,
        number_offset=2,
        source_partition=1,
        source_offset=3,
        rate=4,
        started_ms=5,
        expires_ms=6,
        rooms=(RoomCursor(room="r", epoch=1, slot=2, counts={"sent": 3}),),
    ),
    ClientRecord(
        realm="main",
        client="c",
        product="p",
        bind=ClientProduct(user="u", groups=("g",), attrs={"os": "x"}, qos=1, first_bind_ms=9),
    ),
    StatusEvent(
        realm="main",
        client="c",
        event="offline",
        generation=1,
        session=2,
        room="r",
        epoch=3,
        at_ms=4,
        settled_jobs=("p:1:2",),
        user="u",
        changed=True,
        again=True,
    ),
    Receipt(id="m", product="p", realm="main", client="c", state="acked", at_ms=1),
    AudienceChunk(audience="a", product="p", upload="u", number=3, clients=("c", "d"), sealed=5),
    Retry(
        id="up-1",
        product="shop",
        endpoint="main",
        type="uplink.received",
        key="main:c",
        at_ms=1,
        data=b"{}",
        since_ms=2,
        reason="it answered 503",
    ),
    Fallback(
        id="m",
        product="p",
        realm="main",
        client="c",
        user="u",
        payload=b"\xff",
        content_type=None,
        properties={"a": "b"},
        accepted_ms=1,
        reason="r",
    ),
]


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_given_a_record_when_encoded_then_it_is_read_back_equal(record: object) -> None:
    assert codec.decode(codec.encode(record)) == record  # type: ignore[arg-type]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_record_class_has_the_fields_of_its_schema(record: type) -> None:
    document = codec.load_schema(record.SCHEMA)
    assert [field["name"] for field in document["fields"]] == list(record.__struct_fields__)


def test_the_header_is_the_single_object_encoding_of_the_specification() -> None:
    # Avro 1.12: C3 01, then the CRC-64-AVRO Rabin fingerprint, little endian; the known one of "null" is 63dd24e7cc258f8a.
    assert fingerprint('"null"', "CRC-64-AVRO") == bytes.fromhex("63dd24e7cc258f8a")[::-1].hex()
    assert codec.encode(EXAMPLES[0])[:2] == b"\xc3\x01"


@pytest.mark.parametrize("version", ["PushMessage.v1", "PushMessage.v2", "PushMessage.v3"])
def test_a_producer_that_only_has_the_schema_file_is_understood(version: str) -> None:
    document = codec.load_schema(version)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(document), {"id": "x", "product": "p", "client": "c", "payload": b"1"})
    header = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(document), "CRC-64-AVRO"))
    data = header + body.getvalue()
    assert codec.decode_as(PushMessage, data) == PushMessage(id="x", product="p", client="c", payload=b"1")


@pytest.mark.parametrize("version", ["StatusEvent.v1", "StatusEvent.v2"])
def test_a_saver_that_writes_an_older_or_the_newest_status_is_understood(version: str) -> None:
    document = codec.load_schema(version)
    event = {"realm": "main", "client": "c", "event": "bind", "generation": 1, "session": 2, "room": "r", "epoch": 3, "at_ms": 4}
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(document), event)
    header = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(document), "CRC-64-AVRO"))
    assert codec.decode_as(StatusEvent, header + body.getvalue()) == StatusEvent(**event)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "header"),
        (b"\xc3\x01" + b"\0" * 8, "header"),
        (codec.encode(EXAMPLES[0])[:-1], "not a PushMessage"),
        (codec.encode(EXAMPLES[0]) + b"\0", "1 bytes follow"),
        (codec.encode(EXAMPLES[1]), "a Broadcast where a PushMessage belongs"),
        (b"\xc3\x01" + b"\0" * codec.MAX_RECORD, "more than"),
    ],
)
def test_given_bytes_that_are_no_message_then_the_reason_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(codec.Undecodable, match=reason):
        codec.decode_as(PushMessage, data)


@given(st.binary(max_size=200))
def test_given_any_bytes_after_a_header_then_they_are_a_record_or_undecodable(tail: bytes) -> None:
    try:
        codec.decode(codec.encode(EXAMPLES[2])[:10] + tail)
    except codec.Undecodable:
        return


@pytest.mark.parametrize(
    "fields",
    [
        {"client": None},
        {"user": "u"},
        {"client": "a*b"},
        {"client": "a}{b"},
        {"client": "a\r\nb"},
        {"client": "x" * 129},
        {"id": "no spaces"},
        {"qos": 2},
        {"priority": 9},
        {"ttl_s": 0},
        {"payload": b"x" * (MAX_PAYLOAD + 1)},
        {"properties": {"id": "mine"}},
        {"properties": {"a": "\0"}},
        {"properties": {str(n): "" for n in range(17)}},
        {"collapse_key": "a|b"},
        {"group": "Up"},
        {"correlation": b"x" * 1025},
        {"fallback_after_s": 0},
        {"fallback_after_s": 61, "ttl_s": 60},
        {"fallback_after_s": 28 * 24 * 3600 + 1},
        {"fallback_after_s": 60, "qos": 0},
    ],
    ids=str,
)
def test_given_a_field_out_of_bounds_then_the_message_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        PushMessage(**{"id": "m", "product": "p", "client": "c", **fields}).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"groups": ("g",)}, "groups"),
        ({"segment": "os == 'x'"}, "segment"),
        ({"sample_bp": 500}, "sample"),
        ({"include_new": True}, "include_new"),
        ({"quiet": Quiet(from_minute=1, to_minute=2), "groups": ("g",)}, "groups, quiet hours"),
    ],
    ids=str,
)
def test_given_an_audience_and_another_choice_then_the_broadcast_is_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"leave out .*{named}"):
        Broadcast(**{"id": "b", "product": "p", "audience": "a", **fields}).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields", [{"clients": ("c",) * 1001}, {"clients": ("no spaces",)}, {"number": -1}, {"sealed": 0}, {"audience": ""}], ids=str
)
def test_given_a_chunk_out_of_bounds_then_it_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        AudienceChunk(**{"audience": "a", "product": "p", "upload": "u", "number": 0, **fields}).check()  # type: ignore[arg-type]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=100))
def test_given_a_first_field_then_its_records_and_no_others_begin_with_it(text: str) -> None:
    def receipt(name: str) -> bytes:
        return codec.encode(Receipt(id=name, product="p", realm="main", client="c", state="acked", at_ms=1))  # type: ignore[arg-type]

    begins = codec.beginning(Receipt, text)
    assert receipt(text).startswith(begins)
    assert receipt(text + "x").startswith(begins) is False


@given(st.binary(max_size=64))
def test_murmur2_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == reference_murmur2(data) & 0xFFFFFFFF


@given(st.text(max_size=40))
def test_partitions_and_slots_are_in_range(key: str) -> None:
    assert 0 <= partition_of(key, 7) < 7
    assert 0 <= slot_of(key) < SLOTS


@pytest.mark.parametrize(
    "topic", ["push", "push/", "push/a/b/c", "push/+", "push/#", "up/a", "push/A", "$share/g/push/a", "push/a\0"]
)
def test_given_a_topic_that_is_no_bind_then_it_is_refused(topic: str) -> None:
    with pytest.raises(names.BadName):
        names.parse_push_topic(topic)


def test_everything_of_a_client_has_one_hash_tag() -> None:
    key = names.client_key("main", "c:1")
    assert names.split_client_key(key) == ("main", "c:1")
    keys = [names.session_key(key), names.counter_key(key), names.owed_key(key)]
    keys += [make(key, "p") for make in (names.pending_key, names.bodies_key, names.number_key, names.settled_key)]
    assert {text[text.index("{") : text.index("}") + 1] for text in keys} == {"{main:c:1}"}


@given(st.from_regex(r"[A-Za-z0-9._:@=+~-]{1,40}", fullmatch=True), st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True))
def test_a_member_of_the_due_index_is_read_back(client: str, message: str) -> None:
    key = names.client_key("main", client)
    assert names.parse_due_member(names.due_member(key, "shop", message)) == (key, "shop", message)


@given(st.text("abcXYZ019.:_-", min_size=1, max_size=64), st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True), st.data())
def test_a_receipts_product_is_read_from_its_bytes_or_it_has_to_be_decoded(name: str, product: str, data: st.DataObject) -> None:
    encoded = codec.encode(Receipt(id=name, product=product, realm="main", client="c", state=State.ACKED, at_ms=1))
    assert codec.second_text(Receipt, encoded) == (product.encode() if len(name) < 64 and len(product) < 64 else None)
    cut = encoded[: data.draw(st.integers(0, len(encoded)))]
    assert codec.second_text(Receipt, cut) in (None, product.encode())
    assert codec.second_text(StatusEvent, encoded) is None
