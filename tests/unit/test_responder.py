"""Answers to batches: an item each, or nothing where that says it all to who asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from infra.bus import Handler
from infra.wire import VERSION, DoneResult, Reply, UnbindItem
from workers.responder import respond

OK, OTHER = DoneResult("ok"), DoneResult("superseded")


class Wire:
    """The one end of a bus that is needed here."""

    async def serve(self, name: str, subject: str, handler: Handler, **more: Any) -> None:
        self.answer = handler


async def answered(results: list[DoneResult], *, plain: DoneResult | None, request: list[Any]) -> Reply[DoneResult]:
    async def handle(items: Sequence[UnbindItem]) -> list[DoneResult]:
        return results

    wire = Wire()
    await respond(wire, "t", subject="s", queue="q", item=UnbindItem, handle=handle, plain=plain)  # type: ignore[arg-type]
    return msgspec.msgpack.decode(await wire.answer(msgspec.msgpack.encode(request)), type=Reply[DoneResult])


def batch(*, brief: bool) -> list[Any]:
    items = [UnbindItem(f"k{i}", "r", 1, 1, 1, "demo") for i in range(2)]
    return [VERSION, "r:1", 7, items, *([True] if brief else [])]


@pytest.mark.parametrize(
    ("results", "plain", "brief", "named"),
    [
        ([OK, OK], OK, True, []),
        ([OK, OK], OK, False, [OK, OK]),  # a room of before
        ([OK, OTHER], OK, True, [OK, OTHER]),
        ([OK, OK], None, True, [OK, OK]),
    ],
)
async def test_given_results_when_answered_then_they_are_named_unless_all_are_plain_and_that_was_asked_for(
    results: list[DoneResult], plain: DoneResult | None, brief: bool, named: list[DoneResult]
) -> None:
    reply = await answered(list(results), plain=plain, request=batch(brief=brief))
    assert (reply.seq, reply.items, reply.error) == (7, named, "")
