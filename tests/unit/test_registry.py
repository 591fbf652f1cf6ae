"""A schema registry over real HTTP: the framing byte by byte, what is cached, and what each failure means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra import registry
from infra.registry import Registry, RegistryDown, SchemaRefused, subject_of
from infra.settings import KafkaSettings
from schemas import codec, confluent, names
from schemas.broadcasts import Broadcast, Transition
from schemas.records import PushMessage, Receipt
from tests.integration.registry_server import RegistryServer, serving

MESSAGE = PushMessage(id="m", product="p", client="c", payload=b"\0\xff")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with serving() as found:
        yield found


@asynccontextmanager
async def client(server: RegistryServer, **settings: Any) -> AsyncIterator[Registry]:
    found = Registry(KafkaSettings(registry_url=server.url, **settings))
    yield found
    await found.stop()


def schema(version: str = "PushMessage.v3") -> str:
    return json.dumps(codec.load_schema(version))


# --- bytes -------------------------------------------------------------------------------------------------------------


def test_the_framing_is_a_zero_the_id_in_four_bytes_big_endian_and_the_datum() -> None:
    single = codec.encode(MESSAGE)
    framed = confluent.framed(0x01020304, single)
    assert framed[:5] == b"\x00\x01\x02\x03\x04"
    assert framed[5:] == single[10:]
    assert confluent.schema_id(framed) == 0x01020304
    assert confluent.unframed(single[:10], framed) == single
    assert confluent.framed(0xFFFFFFFF, single)[:5] == b"\x00\xff\xff\xff\xff"


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\1", b"\1\0\0\0\1", codec.encode(MESSAGE)], ids=str)
def test_what_is_no_frame_has_no_schema_id(data: bytes) -> None:
    assert confluent.schema_id(data) is None


def test_given_a_frame_without_a_registry_then_it_is_poison_and_the_reason_names_the_id() -> None:
    with pytest.raises(codec.Undecodable, match="schema id 7 is none of ours"):
        codec.decode(confluent.framed(7, codec.encode(MESSAGE)))


# --- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["PushMessage.v1", "PushMessage.v2", "PushMessage.v3"])
async def test_given_an_id_of_any_version_of_ours_then_the_record_is_read(server: RegistryServer, version: str) -> None:
    number = server.add(schema(version))
    header = codec.header_of(codec.load_schema(version))
    assert header is not None
    async with client(server) as found:
        assert await found.plain(b"\0" + number.to_bytes(4, "big") + b"datum") == header + b"datum"


async def test_given_the_schema_as_another_writes_it_then_it_is_the_same(server: RegistryServer) -> None:
    document = codec.load_schema("PushMessage.v3")
    for field in document["fields"]:
        field.pop("doc", None)
        if field["type"] == "string":
            field["type"] = {"type": "string", "avro.java.string": "String"}
    number = server.add(json.dumps(document, indent=4, sort_keys=True))
    async with client(server) as found:
        assert codec.decode(await found.plain(confluent.framed(number, codec.encode(MESSAGE)))) == MESSAGE


async def test_given_an_id_that_was_resolved_then_it_is_not_asked_again_also_while_the_registry_is_down(
    server: RegistryServer,
) -> None:
    known, other = server.add(schema()), server.add(schema("Receipt.v1"))
    data = confluent.framed(known, codec.encode(MESSAGE))
    async with client(server) as found:
        await asyncio.gather(*(found.plain(data) for _ in range(50)))
        assert server.asked == [f"GET /schemas/ids/{known}"]
        server.down = True
        assert codec.decode(await found.plain(data)) == MESSAGE
        with pytest.raises(RegistryDown):
            await found.plain(confluent.framed(other, codec.encode(MESSAGE)))


@pytest.mark.parametrize(
    "answer",
    [None, '"string"', '{"type": "record", "name": "A", "fields": [{"name": "next", "type": ["null", "A"]}]}', "{", "[" * 5000],
    ids=["404", "another schema", "a recursive one", "no JSON", "without an end"],
)
async def test_given_an_id_that_is_no_schema_of_ours_then_the_record_is_as_it_came_and_others_go_on(
    server: RegistryServer, answer: str | None
) -> None:
    good = server.add(schema())
    number = 4711 if answer is None else server.add(answer)
    data = confluent.framed(number, codec.encode(MESSAGE))
    async with client(server) as found:
        assert await found.plain(data) == data
        assert await found.plain(data) == data
        assert len(server.asked) == 1, "what the registry does not have is remembered for a while, too"
        assert codec.decode(await found.plain(confluent.framed(good, codec.encode(MESSAGE)))) == MESSAGE


async def test_given_many_ids_then_so_many_are_kept(server: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_IDS", 3)
    async with client(server) as found:
        for number in (1, 2, 3, 4):
            await found.plain(b"\0" + number.to_bytes(4, "big"))
        await found.plain(b"\0\0\0\0\4")
        assert len(server.asked) == 4
        await found.plain(b"\0\0\0\0\1")
        assert server.asked[-1] == "GET /schemas/ids/1"


async def test_given_a_slow_registry_then_the_loop_goes_on(server: RegistryServer) -> None:
    server.slow = 0.3
    number, turns = server.add(schema()), 0
    async with client(server) as found:
        asking = asyncio.create_task(found.plain(confluent.framed(number, codec.encode(MESSAGE))))
        while not asking.done():
            turns += 1
            await asyncio.sleep(0.01)
        assert turns > 10


@pytest.mark.parametrize("how", ["503", "nobody listens", "no JSON", "too slow", "endless"])
async def test_given_a_registry_that_does_not_answer_then_it_is_to_be_asked_again(
    server: RegistryServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = server.add(schema())
    data = confluent.framed(number, codec.encode(MESSAGE))
    url = server.url
    match how:
        case "503":
            server.down = True
        case "nobody listens":
            url = "http://127.0.0.1:1"
        case "no JSON":
            monkeypatch.setattr(server, "answer", lambda *_: (200, "no document"))
        case "too slow":
            server.slow = 0.5
            monkeypatch.setattr(registry, "TIMEOUT", 0.1)
        case "endless":
            monkeypatch.setattr(registry, "MAX_ANSWER", 100)
    found = Registry(KafkaSettings(registry_url=url))
    with pytest.raises(RegistryDown):
        await found.plain(data)
    asked = len(server.asked)
    with pytest.raises(RegistryDown, match="a moment ago"):
        await found.plain(data)
    assert len(server.asked) == asked, "it rests for a moment, and does not make each record wait"
    await found.stop()


async def test_given_a_registry_that_is_back_then_the_id_is_resolved(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "REST", 0.0)
    data = confluent.framed(server.add(schema()), codec.encode(MESSAGE))
    async with client(server) as found:
        server.down = True
        with pytest.raises(RegistryDown):
            await found.plain(data)
        server.down = False
        assert codec.decode(await found.plain(data)) == MESSAGE


# --- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "topic", "record", "subject"),
    [
        ("topic", names.MESSAGES, PushMessage, "push.messages-value"),
        ("topic", "push.messages.shop", PushMessage, "push.messages.shop-value"),
        ("topic", names.BROADCASTS, Broadcast, "push.broadcasts-longwire.Broadcast"),
        ("topic", names.BROADCASTS, Transition, "push.broadcasts-longwire.Transition"),
        ("record", names.MESSAGES, PushMessage, "longwire.PushMessage"),
        ("topic-record", names.RECEIPTS, Receipt, "push.receipts-longwire.Receipt"),
    ],
)
def test_the_subject_is_by_the_strategy(strategy: Any, topic: str, record: Any, subject: str) -> None:
    assert subject_of(strategy, topic, record) == subject


async def test_given_a_record_then_it_is_written_under_the_id_of_its_newest_schema_registered_once(
    server: RegistryServer,
) -> None:
    async with client(server) as found:
        first, second = [await found.frame(names.MESSAGES, MESSAGE) for _ in range(2)]
        assert first == second
        assert server.asked == ["POST /subjects/push.messages-value/versions"]
        assert json.loads(server.schemas[int.from_bytes(first[1:5], "big")]) == codec.load_schema("PushMessage.v3")
        assert codec.decode(await found.plain(first)) == MESSAGE


async def test_given_what_was_registered_then_it_is_written_on_while_the_registry_is_down(server: RegistryServer) -> None:
    async with client(server) as found:
        before = await found.frame(names.MESSAGES, MESSAGE)
        server.down = True
        assert await found.frame(names.MESSAGES, MESSAGE) == before
        with pytest.raises(RegistryDown):
            await found.frame("push.messages.shop", MESSAGE)


async def test_given_an_incompatible_subject_then_the_check_says_which(server: RegistryServer) -> None:
    server.frozen.add("push.receipts-value")
    async with client(server) as found:
        with pytest.raises(SchemaRefused, match=r"409 for Receipt\.v1 under push\.receipts-value: .* incompatible"):
            await found.check()


async def test_given_that_nothing_may_be_registered_then_what_is_there_is_used_and_what_is_not_is_named(
    server: RegistryServer,
) -> None:
    number = server.add(schema(), "push.messages-value")
    async with client(server, registry_register=False) as found:
        assert await found.id_of(names.MESSAGES, PushMessage) == number
        with pytest.raises(SchemaRefused, match=r"404 for Receipt\.v1 under push\.receipts-value"):
            await found.id_of(names.RECEIPTS, Receipt)
    assert list(server.subjects) == ["push.messages-value"]


async def test_given_a_sound_registry_then_the_check_registers_every_record(server: RegistryServer) -> None:
    async with client(server) as found:
        await found.check()
    assert {"push.messages-value", "push.receipts-value", "push.status-value"} <= server.subjects.keys()
