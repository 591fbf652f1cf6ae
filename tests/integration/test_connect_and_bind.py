"""A connect with its bind is what both are one after the other, in Redis and in Kafka (docs/adr/0031)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest_asyncio
from core import Core, Room, TopicReader, eventually, unique

from infra.settings import Settings
from infra.wire import (
    ELSEWHERE,
    OK,
    SUPERSEDED,
    Bind,
    BindItem,
    BindResult,
    ConnectItem,
    ConnectResult,
    FirstBind,
    ProductWindow,
    Reply,
    Request,
    SyncItem,
)
from schemas import names
from schemas.codes import Status
from schemas.records import ClientRecord, PushMessage, StatusEvent


@pytest_asyncio.fixture(scope="module")
async def core(settings: Settings) -> AsyncIterator[Core]:
    running = Core(settings)
    await running.start()
    yield running
    await running.stop()


def asked(room: Room, client: str, product: str, **more: Any) -> ConnectItem:
    room.connections += 1
    bind = Bind(product, 1, ["g1"], "u-" + client, {"os": "x"})
    item = ConnectItem(names.client_key("main", client), room.id, room.epoch, room.connections, first=FirstBind(bind, 2))
    return msgspec.structs.replace(item, **more)


async def store(core: Core, client: str, product: str, count: int) -> None:
    await core.push(*(PushMessage(id=f"{client}-{n}", product=product, client=client, payload=b"%d" % n) for n in range(count)))

    async def stored() -> bool:
        return await core.pending(client, product) == count

    await eventually(stored, what=f"{count} pending")


async def apart(core: Core, item: ConnectItem) -> tuple[ConnectResult, BindResult]:
    """The same, asked for one after the other, as a room of before does."""
    assert item.first is not None
    [result] = await core.saver.connect([msgspec.structs.replace(item, first=None)])
    assert result.bound is None
    session = (item.connection, result.generation, result.number)
    [bound] = await core.saver.bind([BindItem(item.key, item.room, item.epoch, *session, item.first.bind, [], item.first.limit)])
    return result, bound


async def test_given_both_then_redis_and_kafka_have_what_they_have_of_one_after_the_other(core: Core) -> None:
    product, room = await core.product(), await core.room()
    two, one = unique("c"), unique("c")
    for client in (two, one):
        await store(core, client, product, 3)
    status, clients = TopicReader(core.settings, names.STATUS), TopicReader(core.settings, names.CLIENTS)
    async with status.open(), clients.open():
        (first, bound), second = await apart(core, asked(room, two, product)), asked(room, one, product)
        [result] = await core.saver.connect([second])
        assert result.bound is not None
        await eventually(lambda: len(status.records) == 4 and len(clients.records) == 2, what="the records")
    assert (result.status, result.number, result.generation) == (OK, first.number, first.generation)
    pages = [each.page for each in (bound, result.bound)]
    assert [[(item.n, item.payload) for item in page.items] for page in pages if page] == [[(1, b"0"), (2, b"1")]] * 2
    assert [(page.n, page.more) for page in pages if page] == [(3, True)] * 2
    assert [(each.status, each.settled_jobs, each.recent_jobs) for each in (bound, result.bound)] == [(OK, [], [])] * 2

    events = {
        client: [each for each in status.records if isinstance(each, StatusEvent) and each.client == client]
        for client in (two, one)
    }
    assert [each.event for each in events[one]] == [Status.ONLINE, Status.BIND]
    plain = [[_plain(each, client) for each in events[client]] for client in (two, one)]
    assert plain[0] == plain[1]
    registry = {each.client: each for each in clients.records if isinstance(each, ClientRecord)}
    assert [each.bind.groups for each in registry.values() if each.bind] == [("g1",)] * 2

    views = [await core.register.show(names.client_key("main", client)) for client in (two, one)]
    assert [next(iter(view.binds.values())).groups for view in views if view] == [["g1"]] * 2
    assert [await core.register.clients_of("main", product, "u-" + client) for client in (two, one)] == [[two], [one]]
    documents = [await _document(core, client, product) for client in (two, one)]
    assert documents[0] is not None
    assert documents[1] is not None


async def test_given_a_repeat_then_it_is_the_same_session_and_a_page_as_it_is_then(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    item = asked(room, client, product)
    [first] = await core.saver.connect([item])
    await store(core, client, product, 1)
    [second] = await core.saver.connect([item])
    assert (second.status, second.number) == (OK, first.number)
    assert first.bound is not None
    assert second.bound is not None
    assert first.bound.first_bind_ms == second.bound.first_bind_ms
    assert second.bound.page is not None
    assert [each.id for each in second.bound.page.items] == [f"{client}-0"]


async def test_given_a_session_elsewhere_or_a_later_connection_then_nothing_is_bound(core: Core) -> None:
    product, client, home, late = await core.product(), unique("c"), await core.room(), await core.room()
    device = await home.connect(client)
    key = device.key
    item = asked(late, client, product)
    [found] = await core.saver.connect([item])
    assert (found.status, found.bound) == (ELSEWHERE, None)
    assert await _bound_to(core, key) == []

    seen = msgspec.structs.replace(item, seen=(found.generation, found.number), until_ms=found.now_ms + 5000)
    [taken] = await core.saver.connect([seen])
    assert (taken.status, taken.number) == (OK, device.number + 1)
    assert await _bound_to(core, key) == [product]

    later = asked(late, client, product)
    [newest] = await core.saver.connect([later])
    [over] = await core.saver.connect([item])
    assert (newest.status, over.status, over.bound) == (OK, SUPERSEDED, None)


async def test_given_a_bound_session_then_a_sync_of_it_finds_nothing_missing(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    item = asked(room, client, product)
    [result] = await core.saver.connect([item])
    assert item.first is not None
    session = (item.connection, result.generation, result.number)
    sync = SyncItem(item.key, room.id, room.epoch, *session, [ProductWindow(item.first.bind, [], 2)], [], [])
    reader = TopicReader(core.settings, names.STATUS)
    async with reader.open():
        [answer] = await core.saver.sync([sync])
        assert answer.status == OK
        other = asked(room, unique("c"), product)
        await core.saver.connect([other])
        await eventually(lambda: reader.records, what="the other client's event")
    assert client not in {each.client for each in reader.records if isinstance(each, StatusEvent)}  # it was not registered again


async def test_given_a_batch_of_both_kinds_then_each_has_its_answer(core: Core) -> None:
    product, room = await core.product(), await core.room()
    items = [asked(room, unique("c"), product) for _ in range(6)]
    items = [msgspec.structs.replace(item, first=None) if place % 2 else item for place, item in enumerate(items)]
    results = await core.saver.connect(items)
    assert [(each.status, each.bound is None) for each in results] == [(OK, bool(place % 2)) for place in range(6)]


async def test_given_large_pages_then_a_reply_stays_within_its_bytes(core: Core) -> None:
    product, room = await core.product(), await core.room()
    clients = [unique("c") for _ in range(20)]
    for client in clients:
        await core.push(PushMessage(id=f"{client}-0", product=product, client=client, payload=b"x" * 16_000))

    async def stored() -> bool:
        return all([await core.pending(client, product) for client in clients])

    await eventually(stored, what="a message for each")
    results = await core.saver.connect([asked(room, client, product) for client in clients])
    assert len(msgspec.msgpack.encode(Reply(1, results))) <= 300 * 1024
    cut = [each.bound.page.more for each in results if each.bound and each.bound.page]
    assert len(cut) == 20
    assert not cut[0]
    assert cut[-1]


def test_given_a_room_or_a_saver_of_before_then_each_reads_the_other() -> None:
    class OldItem(msgspec.Struct, array_like=True):
        key: str
        room: str
        epoch: int
        connection: int
        seen: tuple[int, int] = (0, 0)
        until_ms: int = 0

    class OldResult(msgspec.Struct, array_like=True):
        status: str
        generation: int = 0
        number: int = 0
        now_ms: int = 0

    item = ConnectItem("main:c1", "r1", 5, 1, first=FirstBind(Bind("demo", 1, []), 2))
    request = msgspec.msgpack.encode(Request(1, "r1:5", 1, [item]))
    assert msgspec.msgpack.decode(request, type=Request[OldItem]).items == [OldItem("main:c1", "r1", 5, 1)]
    old_request = msgspec.msgpack.encode(Request(1, "r1:5", 1, [OldItem("main:c1", "r1", 5, 1)]))
    assert msgspec.msgpack.decode(old_request, type=Request[ConnectItem]).items[0].first is None
    reply = msgspec.msgpack.encode(Reply(1, [ConnectResult(OK, 1, 2, 3, BindResult(OK, 7))]))
    assert msgspec.msgpack.decode(reply, type=Reply[OldResult]).items == [OldResult(OK, 1, 2, 3)]
    old_reply = msgspec.msgpack.encode(Reply(1, [OldResult(OK, 1, 2, 3)]))
    assert msgspec.msgpack.decode(old_reply, type=Reply[ConnectResult]).items[0].bound is None


def _plain(event: StatusEvent, client: str) -> StatusEvent:
    user = "u" if event.user == "u-" + client else event.user
    return msgspec.structs.replace(event, client="c", at_ms=0, user=user)


async def _bound_to(core: Core, key: str) -> list[str]:
    view = await core.register.show(key)
    return [] if view is None else list(view.binds)


async def _document(core: Core, client: str, product: str) -> bytes | None:
    key = names.client_key("main", client)
    [found] = await core.register.shards.of(key).pipe([("HGET", names.first_bind_key(key, product), "document")])
    return found  # type: ignore[no-any-return]
