"""A mirror must not take a read that stalled for one that is complete: what it did not see is not gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from nats.js.kv import KeyValue

from infra import mirror
from infra.mirror import Mirror


@dataclass
class Watcher:
    """Entries in the order of a real watch, which ends in silence."""

    entries: list[Any]
    _updates: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        for entry in self.entries:
            self._updates.put_nowait(entry)


def entry(key: str, revision: int, value: bytes | None = b"1") -> KeyValue.Entry:
    operation = "DEL" if value is None else None
    return KeyValue.Entry("b", key, value, revision, 0, None, operation)  # type: ignore[arg-type]


class Reconnecting:
    on_reconnect: list[Any]

    def __init__(self) -> None:
        self.on_reconnect = []


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Mirror:
    monkeypatch.setattr(mirror, "IDLE", 0.05)
    found = Mirror(Reconnecting(), "b")  # type: ignore[arg-type]
    found.entries.update({"a": b"1", "b": b"1", "c": b"1"})
    return found


async def test_given_a_read_that_stalls_then_nothing_is_dropped(known: Mirror) -> None:
    assert not await known._read_all(Watcher([entry("a", 1), entry("x", 2)]), goal=3, keys=3)  # type: ignore[arg-type]
    assert set(known.entries) == {"a", "b", "c", "x"}
    assert not known.current


async def test_given_a_whole_read_then_what_is_not_in_it_is_gone(known: Mirror) -> None:
    entries = [None, entry("a", 1, b"2"), entry("b", 2, None), entry("d", 3)]  # the end marker came first, as it may
    assert await known._read_all(Watcher(entries), goal=3, keys=3)  # type: ignore[arg-type]
    assert known.entries == {"a": b"2", "d": b"1"}
    assert known.current


async def test_given_a_newer_revision_than_the_goal_then_the_read_is_whole(known: Mirror) -> None:
    assert await known._read_all(Watcher([entry("a", 1), entry("b", 9)]), goal=3, keys=5)  # type: ignore[arg-type]
    assert set(known.entries) == {"a", "b"}


async def test_given_an_empty_bucket_and_a_keeper_then_the_last_known_good_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Mirror(Reconnecting(), "b", keep_when_empty=True)  # type: ignore[arg-type]
    kept.entries["a"] = b"1"
    assert await kept._read_all(Watcher([]), goal=7, keys=0)  # type: ignore[arg-type]
    assert kept.entries == {"a": b"1"}
