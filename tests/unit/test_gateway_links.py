"""What waits for the workers is known in bytes of memory, over all operations."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import msgspec
import pytest

from gateway.backend.saver_link import SaverLink
from gateway.backend.uplink_link import HIGH_BYTES, UplinkLink
from gateway.sessions.uplinking import Uplinking
from infra.wire import ConnectItem, DisconnectItem, SyncItem, UnbindItem, UplinkItem

WAIT = 20_000


async def never(subject: str, data: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


def uplink(index: int) -> UplinkItem:
    return UplinkItem(
        id=f"r1.1.1.{index}", key="main:c1", user="", product="demo", type="t", payload=bytes(256), qos=1, room="r1",
        wants_reply=False,
    )  # fmt: skip


async def test_given_requests_that_are_not_answered_then_those_of_all_operations_count_until_they_are_given_up() -> None:
    link = SaverLink(never, sender="r:1")
    assert link.unanswered == 0
    seen = [0]
    link.connect(ConnectItem("main:c1", "r", 1, 1), lambda result: None)
    seen.append(link.unanswered)
    link.sync(SyncItem("main:c1", "r", 1, 1, 1, 1, [], [], []), lambda result: None)
    seen.append(link.unanswered)
    ask = link.unbind(UnbindItem("main:c1", "r", 1, 1, 1, "demo"), lambda result: None)
    seen.append(link.unanswered)
    link.disconnect(DisconnectItem("main:c1", "r", 1, 1, 1, "normal", [], []))
    seen.append(link.unanswered)
    assert seen == sorted(set(seen))
    ask.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert link.unanswered < seen[-1]
    await link.stop()


@pytest.mark.parametrize("kind", ["connect", "uplink"])
async def test_given_many_requests_that_wait_then_the_bytes_that_are_counted_are_about_those_that_they_take(kind: str) -> None:
    saver, uplinks = SaverLink(never, sender="r:1"), UplinkLink(never, sender="r:1")
    gc.collect()
    tracemalloc.start()
    for index in range(WAIT):
        if kind == "connect":
            saver.connect(ConnectItem(f"main:device-{index}", "r", 1, index), lambda result, index=index: None)  # type: ignore[misc]
        else:
            uplinks.send(uplink(index), lambda result, index=index: None)  # type: ignore[misc]
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.6 < taken / (saver.unanswered + uplinks.unanswered) < 1.5
    await saver.stop()
    await uplinks.stop()


async def test_given_clients_that_come_and_go_while_too_much_waits_then_nothing_of_them_is_kept() -> None:
    link = UplinkLink(never, sender="r:1")
    for index in range(HIGH_BYTES // 60_000 + 1):
        link.send(msgspec.structs.replace(uplink(index), payload=bytes(60_000)), lambda result: None)
    assert link.overloaded
    ended = []
    for index in range(100):
        client = Uplinking(link, lambda *answer: None, len, freed=lambda: None, relieved=lambda index=index: ended.append(index))  # type: ignore[misc]
        client.add(uplink(index), 1)
        assert client.blocked
        client.end()
    assert not link._relieved
    await link.stop()
    assert ended == []
