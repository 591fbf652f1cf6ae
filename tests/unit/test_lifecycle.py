"""Loops end when they are told to, whatever a library does with their cancellation."""

from __future__ import annotations

import asyncio

import pytest

from infra import lifecycle
from infra.lifecycle import Loops


async def test_given_a_loop_whose_cancellation_was_swallowed_when_stopped_then_it_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "CANCEL_AGAIN", 0.01)
    swallowed: list[int] = []
    failures: list[str] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(1)

    loops = Loops(failures.append)
    loops.start("stubborn", stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await loops.stop()
    assert len(swallowed) == 2
    assert failures == []
