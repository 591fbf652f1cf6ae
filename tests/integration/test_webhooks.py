"""Uplinks to a product's webhook and back, on real brokers and a real HTTPS server: what fails is kept, in order, or buried."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from core import TopicReader, eventually, unique
from worker_process import environment, running, start, until

from infra.bus import Bus, BusError
from infra.documents import Product, product_key
from infra.documents.webhooks import new_secret
from infra.keeper import Keeper
from infra.settings import Settings
from infra.wire import VERSION, Reply, Request, UplinkItem, UplinkResult, encoder
from schemas import names
from schemas.records import DeadLetter, PushMessage, Retry
from tests.unit.certs import Authority

pytestmark = pytest.mark.xdist_group("local-brokers")

SECRET = new_secret()


class Hook:
    """A product's HTTPS server: keeps the connection, answers as `answer` says, checks each signature."""

    def __init__(self, authority: Authority) -> None:
        issued = authority.issue("localhost")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(issued.certificate, issued.key)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.connections = 0
        self.events: list[dict[str, Any]] = []
        self.requests: list[dict[str, str]] = []
        self.answer: Callable[[list[dict[str, Any]]], tuple[str, dict[str, Any]]] = lambda events: ("200 OK", {})

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/hook?secret=s3cr3t"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    def seen(self, client: str) -> list[str]:
        return [event["data"]["id"] for event in self.events if event["data"]["client"] == client]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                events = json.loads(body)["events"]
                self.requests.append(headers)
                status, answer = self.answer(events)
                if status.startswith("2"):
                    self.events += events
                data = json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                )
                writer.write(data)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


class World:
    """A coordinator as a process, a product with a webhook, and the topics that matter."""

    def __init__(self, bus: Bus, hook: Hook, settings: Settings, keeper: Keeper, folder: Path) -> None:
        self.bus, self.hook, self.settings, self._keeper, self.folder = bus, hook, settings, keeper, folder
        self.product = unique("hooked")
        self.inside = {"LONGWIRE_OUTSIDE__PRIVATE": '["127.0.0.0/8", "::1/128"]'}

    async def set(self, **changes: Any) -> None:
        endpoint = {"name": "main", "url": self.hook.url, "secrets": [SECRET], "events": ["uplink.received"], "private": True}
        fields = {"name": self.product, "webhooks": [{**endpoint, **changes.pop("endpoint", {})}], **changes}
        await self._keeper.put(product_key(self.product), Product.model_validate(fields))

    async def send(self, client: str, *ids: str, **changes: Any) -> list[UplinkResult]:
        fields = {
            "type": "order",
            "payload": b"hi",
            "qos": 1,
            "room": "r1",
            "wants_reply": True,
            "correlation": b"\x07",
            **changes,
        }
        items = [UplinkItem(id=each, key=f"main:{client}", user="ann", product=self.product, **fields) for each in ids]
        request = encoder().encode(Request(VERSION, unique("r"), 1, items))

        async def answered() -> bytes:
            try:
                return await self.bus.request(names.COORDINATOR_UPLINK, request)
            except BusError:
                return b""

        reply: Reply[UplinkResult] = msgspec.msgpack.decode(await until(answered), type=Reply[UplinkResult])
        assert reply.error == ""
        return reply.items

    async def known(self) -> None:
        """Until the coordinator knows the product."""

        async def accepted() -> bool:
            [result] = await self.send("probe", unique("probe"), qos=0, wants_reply=False, payload=b"")
            return result.status == "ok"

        await eventually(accepted, within=30, what="the product's document")


@pytest_asyncio.fixture(scope="module")
async def kept_bus(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Bus, Keeper]]:
    bus = Bus(settings.nats, name="test-webhooks", version="0.0.0")
    await bus.start()
    yield bus, Keeper(bus, disk=tmp_path_factory.mktemp("keeper"))
    await bus.stop()


@pytest_asyncio.fixture
async def world(settings: Settings, kept_bus: tuple[Bus, Keeper], tmp_path: Path) -> AsyncIterator[World]:
    authority = Authority(tmp_path)
    hook = Hook(authority)
    await hook.open()
    made = World(kept_bus[0], hook, settings, kept_bus[1], tmp_path)
    made.inside["LONGWIRE_OUTSIDE__CA"] = str(authority.file)
    yield made
    await hook.close()


@asynccontextmanager
async def coordinator(world: World) -> AsyncIterator[None]:
    async with running("workers.main:coordinator", world.settings, world.folder / "run", **world.inside):
        yield


def replies(reader: TopicReader, product: str) -> list[PushMessage]:
    return [each for each in reader.records if isinstance(each, PushMessage) and each.product == product]


def letters(reader: TopicReader, product: str) -> list[DeadLetter]:
    return [each for each in reader.records if isinstance(each, DeadLetter) and each.product == product]


def kept(reader: TopicReader, client: str) -> list[Retry]:
    return [each for each in reader.records if isinstance(each, Retry) and each.key == f"main:{client}"]


async def test_given_an_uplink_then_the_webhook_gets_it_signed_and_its_reply_goes_to_the_device(world: World) -> None:
    await world.set()
    world.hook.answer = lambda events: (
        "200 OK",
        {"replies": {each["id"]: {"payload": each["data"]["id"].upper(), "content_type": "text/plain"} for each in events}},
    )
    client = unique("c")
    async with TopicReader(world.settings, names.MESSAGES).open() as messages, coordinator(world):
        await world.known()
        await world.send(client, "u-1", "u-2")
        found = await eventually(lambda: len(replies(messages, world.product)) >= 2 and replies(messages, world.product))
    assert [(each.client, each.payload, each.correlation, each.content_type) for each in found] == [
        (client, b"U-1", b"\x07", "text/plain"),
        (client, b"U-2", b"\x07", "text/plain"),
    ]
    assert world.hook.seen(client) == ["u-1", "u-2"]
    data = next(each for each in world.hook.events if each["data"]["client"] == client)["data"]
    assert (base64.b64decode(data["payload_base64"]), data["user"], data["wants_reply"]) == (b"hi", "ann", True)
    assert all(each["webhook-signature"].startswith("v1,") and each["webhook-id"] for each in world.hook.requests)


async def test_given_an_endpoint_that_is_down_when_it_is_back_then_all_come_in_order(world: World) -> None:
    await world.set()
    client, ids = unique("c"), [f"u-{number}" for number in range(40)]
    async with coordinator(world):
        await world.known()
        await world.hook.close()
        for each in ids[:20]:
            await world.send(client, each)
        await asyncio.sleep(3)
        await world.hook.open()
        for each in ids[20:]:
            await world.send(client, each)
        await eventually(lambda: len(world.hook.seen(client)) >= 40, within=30, what="all events")
    first = list(dict.fromkeys(world.hook.seen(client)))
    assert first == ids


async def test_given_a_coordinator_that_is_killed_while_events_wait_then_the_next_tells_them_in_order(world: World) -> None:
    await world.set()
    client, ids = unique("c"), [f"u-{number}" for number in range(20)]
    async with TopicReader(world.settings, names.RETRIES).open() as retries:
        env = environment(world.settings, world.folder / "killed", **world.inside)
        process = await start("workers.main:coordinator", world.folder / "killed", env)
        await world.known()
        await world.hook.close()
        for each in ids[:10]:
            await world.send(client, each)
        await eventually(lambda: len(kept(retries, client)) >= 5, within=30, what="what waits")
        process.kill()
        await process.wait()
        await world.hook.open()
        async with coordinator(world):
            for each in ids[10:]:
                await world.send(client, each)
            await eventually(lambda: len(set(world.hook.seen(client))) >= 20, within=60, what="all events")
    assert list(dict.fromkeys(world.hook.seen(client))) == ids


async def test_given_an_event_that_is_refused_again_and_again_then_it_alone_is_a_dead_letter_and_no_secret_is_in_it(
    world: World,
) -> None:
    await world.set(endpoint={"attempts": 2})
    world.hook.answer = lambda events: ("422 No", {}) if any(e["data"]["id"] == "bad" for e in events) else ("200 OK", {})
    poisoned, well = unique("c"), unique("c")
    async with TopicReader(world.settings, names.DEAD).open() as dead, coordinator(world):
        await world.known()
        await world.send(poisoned, "before", "bad", "after")
        await world.send(well, "a", "b")
        [letter] = await eventually(lambda: letters(dead, world.product), within=30, what="the dead letter")
        await eventually(lambda: world.hook.seen(poisoned)[-1:] == ["after"], within=30, what="the one after it")
    assert world.hook.seen(poisoned) == ["before", "after"]
    assert list(dict.fromkeys(world.hook.seen(well))) == ["a", "b"]
    assert (letter.topic, letter.client) == (names.RETRIES, poisoned)
    assert letter.reason == "webhook main: it answered 422, 2 times"
    assert b"s3cr3t" not in msgspec.msgpack.encode(letter)


async def test_given_an_endpoint_that_stays_away_longer_than_events_are_kept_then_they_are_dead_letters(world: World) -> None:
    await world.set(endpoint={"keep": 2})
    client = unique("c")
    async with TopicReader(world.settings, names.DEAD).open() as dead, coordinator(world):
        await world.known()
        await world.hook.close()
        await world.send(client, "u-1", "u-2")
        found = await eventually(
            lambda: [each for each in letters(dead, world.product) if each.client == client][1:], within=30, what="two"
        )
    assert found[0].reason.startswith("webhook main: not taken in 2 s; at first: ")


async def test_given_a_slow_endpoint_then_uplinks_of_another_product_are_not_held_up(world: World) -> None:
    stuck: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stuck.append(writer)

    well = World(world.bus, world.hook, world.settings, world._keeper, world.folder)
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as listener:
        slow = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        await world.set(endpoint={"url": slow, "timeout": 30})
        await well.set()
        async with coordinator(world):
            await world.known()
            await well.known()
            client, longest = unique("c"), 0.0
            for number in range(20):
                await world.send(client, f"slow-{number}")
                begun = time.monotonic()
                await well.send(client, f"u-{number}")
                await eventually(lambda n=number: f"u-{n}" in world.hook.seen(client), what="the other product's")
                longest = max(longest, time.monotonic() - begun)
        for writer in stuck:
            writer.close()
    assert longest < 5


async def test_given_types_that_the_product_does_not_know_then_they_are_refused_where_it_says_so(world: World) -> None:
    await world.set(unknown_types="refuse", uplink_types=["probe"], endpoint={"uplinks": ["order"]})
    async with coordinator(world):

        async def refused() -> bool:
            [result] = await world.send("c", unique("u"), type="chat")
            return result.code == 0x90

        await eventually(refused, within=30, what="the refusal")
        assert [each.status for each in await world.send("c", unique("u"), type="probe")] == ["ok"]
        assert [each.status for each in await world.send("c", unique("u"))] == ["ok"]
