"""Loops that are told to end do, also where a library has swallowed the cancellation."""

from __future__ import annotations

import asyncio

import pytest

from infra import lifecycle
from infra.lifecycle import Loops, end


async def test_given_a_task_whose_cancellation_got_lost_when_ended_then_it_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "CANCEL_AGAIN", 0.05)
    lost: list[int] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:  # as wait_for does when the result comes at the same time (cpython#86296)
                if len(lost) == 2:
                    raise
                lost.append(1)

    failed: list[str] = []
    loops = Loops(failed.append)
    loops.start("stubborn", stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await loops.stop()
    assert (len(lost), failed) == (2, [])


async def test_given_tasks_that_end_in_their_own_way_when_ended_then_nothing_of_it_is_raised() -> None:
    async def raises() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ZeroDivisionError

    task = asyncio.ensure_future(raises())
    await asyncio.sleep(0)
    await end([task])
    assert isinstance(task.exception(), ZeroDivisionError)
    await end([])
