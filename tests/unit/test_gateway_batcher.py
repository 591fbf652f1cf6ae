"""Batches: bounds, at most four unanswered, everything repeated until it is answered or given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.backend.batcher import Batcher
from infra.bus import BusTimeout, NoResponders
from infra.wire import MAX_BYTES, MAX_ITEMS, MAX_UNANSWERED, VERSION, DoneResult, Reply, Request, UnbindItem, request_of

Answer = Callable[[Request[UnbindItem]], Reply[DoneResult]]


def ok(request: Request[UnbindItem]) -> Reply[DoneResult]:
    return Reply(request.seq, [DoneResult("ok") for _ in request.items])


class Server:
    """The other end: batches wait until they are let through, and are then answered by `answers` in turn, at last by `ok`."""

    def __init__(self, *answers: Answer | Exception, open: bool = True) -> None:  # noqa: A002 - like a gate
        self.batches: list[Request[UnbindItem]] = []
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        if open:
            self.gate.set()
        self._answers = list(answers)

    async def request(self, subject: str, data: bytes) -> bytes:
        request = msgspec.msgpack.decode(data, type=Request[UnbindItem])
        self.batches.append(request)
        self.sizes.append(len(data))
        await self.gate.wait()
        answer = self._answers.pop(0) if self._answers else ok
        if isinstance(answer, Exception):
            raise answer
        return msgspec.msgpack.encode(answer(request))


def made(server: Server, **more: Any) -> Batcher[UnbindItem, DoneResult]:
    return Batcher(server.request, "s", DoneResult, sender="r:1", **{"limit": 100_000, "backoff": (0.1, 0.002), **more})


def item(name: str = "k") -> UnbindItem:
    return UnbindItem(name, "r", 1, 1, 1, "demo")


async def settled(batcher: Batcher[UnbindItem, DoneResult]) -> None:
    async with asyncio.timeout(5):
        await batcher.idle.wait()


async def test_given_items_in_one_turn_when_sent_then_one_batch_numbered_from_one() -> None:
    server = Server()
    results: list[Any] = []
    batcher = made(server)
    for i in range(10):
        batcher.ask(item(f"k{i}"), results.append)
    await settled(batcher)
    (batch,) = server.batches
    assert (batch.version, batch.sender, batch.seq) == (1, "r:1", 1)
    assert [entry.key for entry in batch.items] == [f"k{i}" for i in range(10)]
    assert results == [DoneResult("ok")] * 10
    assert batcher.bytes == 0


@pytest.mark.parametrize("count", [0, 1, 15, 16, 255, 256, MAX_ITEMS])
@pytest.mark.parametrize("brief", [True, False])
def test_given_items_that_are_encoded_when_they_are_a_request_then_it_is_what_the_struct_says(count: int, brief: bool) -> None:
    items = [item(f"k{i}") for i in range(count)]
    made_of = request_of("room-1:1700000000000", 70_000, [msgspec.msgpack.encode(each) for each in items], brief=brief)
    assert made_of == msgspec.msgpack.encode(Request(VERSION, "room-1:1700000000000", 70_000, items, brief))


async def test_given_many_items_when_sent_then_no_batch_is_over_its_bounds_and_four_are_unanswered() -> None:
    server = Server(open=False)
    results: list[Any] = []
    batcher = made(server)
    for _ in range(MAX_ITEMS * 6):
        batcher.ask(item(), results.append)
    await asyncio.sleep(0.01)
    assert len(server.batches) == MAX_UNANSWERED
    server.gate.set()
    await settled(batcher)
    assert len(results) == MAX_ITEMS * 6
    assert max(len(batch.items) for batch in server.batches) == MAX_ITEMS


async def test_given_large_items_when_sent_then_the_bytes_of_a_batch_are_bounded() -> None:
    server = Server()
    batcher = made(server)
    for _ in range(20):
        batcher.ask(item("k" * 60_000), lambda result: None)
    await settled(batcher)
    assert max(server.sizes) <= MAX_BYTES
    assert len(server.batches) == 5


async def test_given_an_item_larger_than_any_batch_when_asked_then_it_is_given_up_and_the_others_go() -> None:
    server = Server()
    batcher = made(server)
    results: list[Any] = []
    batcher.ask(item("k" * MAX_BYTES), results.append)
    assert results == [None]
    batcher.ask(item(), results.append)
    await settled(batcher)
    assert results == [None, DoneResult("ok")]
    assert max(server.sizes) <= MAX_BYTES


def retry_second(request: Request[UnbindItem]) -> Reply[DoneResult]:
    return Reply(request.seq, [DoneResult("retry" if entry.key == "k1" else "ok") for entry in request.items])


@pytest.mark.parametrize(
    "trouble",
    [
        BusTimeout("s"),
        NoResponders("s"),
        lambda request: Reply(request.seq, [], "JournalDown: no"),
        lambda request: Reply(request.seq + 1, [DoneResult("ok")] * 2),
        lambda request: Reply(request.seq, [DoneResult("ok")]),
        lambda request: Reply(request.seq, []),
        retry_second,
    ],
)
async def test_given_trouble_when_asked_then_it_is_asked_again_and_answered_once(trouble: Any) -> None:
    server = Server(trouble, trouble)
    results: list[Any] = []
    batcher = made(server)
    batcher.ask(item("k0"), results.append)
    batcher.ask(item("k1"), results.append)
    await settled(batcher)
    assert results == [DoneResult("ok")] * 2
    assert [entry.key for entry in server.batches[-1].items] == (["k1"] if trouble is retry_second else ["k0", "k1"])


@pytest.mark.parametrize(
    ("answer", "second"),
    [
        (lambda request: Reply(request.seq, []), "ok"),
        (ok, "ok"),  # by who knows nothing of it
        (lambda request: Reply(request.seq, [DoneResult("ok"), DoneResult("superseded")]), "superseded"),
    ],
)
async def test_given_a_brief_batch_when_answered_then_items_are_named_or_all_are_plain(answer: Answer, second: str) -> None:
    server = Server(answer)
    results: list[Any] = []
    batcher = made(server, plain=DoneResult("ok"))
    batcher.ask(item("k0"), results.append)
    batcher.ask(item("k1"), results.append)
    await settled(batcher)
    assert [batch.brief for batch in server.batches] == [True]
    assert results == [DoneResult("ok"), DoneResult(second)]
    assert (batcher.items, batcher.bytes) == (0, 0)


async def test_given_a_brief_answer_to_another_batch_or_an_error_when_it_comes_then_it_is_asked_again() -> None:
    server = Server(lambda request: Reply(request.seq + 1, []), lambda request: Reply(request.seq, [], "JournalDown: no"))
    results: list[Any] = []
    batcher = made(server, plain=DoneResult("ok"))
    batcher.ask(item(), results.append)
    await settled(batcher)
    assert results == [DoneResult("ok")]
    assert len(server.batches) == 3


async def test_given_a_result_that_asks_anew_when_told_then_it_is_not_idle_before_that_is_answered() -> None:
    server = Server()
    results: list[Any] = []
    batcher = made(server, plain=DoneResult("ok"))

    def again(result: Any) -> None:
        batcher.ask(item("again"), results.append)

    batcher.ask(item(), again)
    await settled(batcher)
    assert results == [DoneResult("ok")]


async def test_given_an_item_past_its_time_when_it_fails_then_it_is_given_up_as_none() -> None:
    now = [0.0]
    server = Server(BusTimeout("s"))
    results: list[Any] = []
    batcher = made(server, give_up=60.0, clock=lambda: now[0])
    batcher.ask(item(), results.append)
    now[0] = 61.0
    await settled(batcher)
    assert results == [None]


async def test_given_a_cancelled_item_when_it_was_not_sent_then_it_never_is() -> None:
    server = Server()
    results: list[Any] = []
    batcher = made(server)
    batcher.ask(item("k0"), results.append).cancel()
    batcher.ask(item("k1"), results.append)
    await settled(batcher)
    assert results == [None, DoneResult("ok")]
    assert [entry.key for entry in server.batches[0].items] == ["k1"]


@pytest.mark.parametrize(("answer", "result"), [(ok, DoneResult("ok")), (BusTimeout("s"), None)])
async def test_given_a_cancelled_item_when_it_is_under_way_then_its_end_is_awaited(answer: Any, result: Any) -> None:
    server = Server(answer, open=False)
    results: list[Any] = []
    batcher = made(server)
    ask = batcher.ask(item(), results.append)
    await asyncio.sleep(0.01)
    ask.cancel()
    assert results == []
    server.gate.set()
    await settled(batcher)
    assert results == [result]
    assert len(server.batches) == 1


@pytest.mark.parametrize("turns", range(4))
async def test_given_an_item_cancelled_at_any_turn_then_what_is_sent_is_answered_and_the_rest_is_none(turns: int) -> None:
    server = Server()
    results: list[Any] = []
    batcher = made(server)
    ask = batcher.ask(item(), results.append)
    for _ in range(turns):
        await asyncio.sleep(0)
    ask.cancel()
    await settled(batcher)
    await asyncio.sleep(0.01)
    assert results == ([DoneResult("ok")] if server.batches else [None])


async def test_given_a_full_queue_when_one_more_comes_then_the_oldest_is_given_up() -> None:
    server = Server()
    results: list[Any] = []
    batcher = made(server, limit=2)
    for i in range(3):
        batcher.ask(item(f"k{i}"), lambda result, i=i: results.append((i, result)))  # type: ignore[misc]
    await settled(batcher)
    assert results == [(0, None), (1, DoneResult("ok")), (2, DoneResult("ok"))]


async def test_given_nobody_who_answers_when_more_comes_turn_after_turn_then_no_more_is_kept_than_the_limit() -> None:
    server = Server(*(NoResponders() for _ in range(1_000)))
    lost: list[int] = []
    batcher = made(server, limit=10, backoff=(60.0, 60.0))  # each that was asked once waits for longer than this test
    for i in range(200):
        batcher.ask(item(f"k{i}"), lambda result, i=i: lost.append(i))  # type: ignore[misc]
        for _ in range(5):
            await asyncio.sleep(0)
    assert batcher.items == 10
    assert lost == list(range(190))
    assert sum(len(asks) for asks in batcher._later.values()) + len(batcher._waiting) == 10
    await batcher.stop()


async def test_given_a_callback_that_raises_when_answered_then_the_others_get_their_results() -> None:
    server = Server()
    results: list[Any] = []
    batcher = made(server)

    def broken(result: DoneResult | None) -> None:
        raise RuntimeError("mine")

    batcher.ask(item("k0"), broken)
    batcher.ask(item("k1"), results.append)
    await settled(batcher)
    assert results == [DoneResult("ok")]


@pytest.mark.parametrize("sent", [0, MAX_UNANSWERED])
async def test_given_more_than_may_be_unanswered_when_stopped_then_no_further_batch_is_sent(sent: int) -> None:
    server = Server(open=False)
    batcher = made(server)
    for _ in range(MAX_ITEMS * 6):
        batcher.ask(item(), lambda result: None)
    if sent:
        await asyncio.sleep(0.01)
    await batcher.stop()
    await asyncio.sleep(0.05)
    assert len(server.batches) == sent
