"""Look-ups of names: one that hangs costs nobody but those who asked for it, and there is a bound to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from threading import Event, Lock

import pytest

from infra.settings import OutsideSettings
from workers import lookups as module
from workers.lookups import LATELY, MAX_NAMES, REMEMBERED, THREADS, Lookups, NoPlace
from workers.outside import NoAnswer, Outside

FOUND = ["192.0.2.1"]


class NameServer:
    """Answers, but for names that begin with `hangs`: not before it is released."""

    def __init__(self) -> None:
        self.released = Event()
        self.asked: list[str] = []
        self._lock = Lock()

    def __call__(self, host: str) -> list[str]:
        with self._lock:
            self.asked.append(host)
        if host.startswith("hangs"):
            self.released.wait(30)
        if host.startswith("unknown"):
            raise socket.gaierror(-2, "Name or service not known")
        return FOUND


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.released.set()


async def until_asked(server: NameServer, count: int) -> None:
    async with asyncio.timeout(5):
        while len(server.asked) < count:  # noqa: ASYNC110 - threads ask
            await asyncio.sleep(0.005)


async def test_given_a_name_that_hangs_then_others_are_found_and_it_is_asked_for_once(server: NameServer) -> None:
    by = Lookups(server)
    waiting = [asyncio.create_task(by.addresses("hangs", 443)) for _ in range(50)]
    for number in range(50):
        async with asyncio.timeout(5):
            assert await by.addresses(f"well{number}", 443) == FOUND
    assert server.asked.count("hangs") == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await by.addresses("hangs", 443)
    server.released.set()
    assert await asyncio.gather(*waiting) == [FOUND] * 50
    assert server.asked.count("hangs") == 1


async def test_given_as_many_names_that_hang_as_there_are_threads_then_what_was_found_lately_is_used(server: NameServer) -> None:
    now = [1000.0]
    by = Lookups(server, clock=lambda: now[0])
    await by.addresses("well", 443)
    waiting = [asyncio.create_task(by.addresses(f"hangs{number}", 443)) for number in range(THREADS)]
    await until_asked(server, 1 + THREADS)
    before = module.again._value.get()
    assert await by.addresses("well", 443) == FOUND
    assert module.again._value.get() == before + 1
    now[0] += LATELY
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await by.addresses("well", 443)
    server.released.set()
    assert await by.addresses("well", 443) == FOUND
    await asyncio.gather(*waiting)


async def test_given_more_names_than_may_be_waited_for_then_further_ones_are_refused_and_counted(server: NameServer) -> None:
    by = Lookups(server)
    waiting = [asyncio.create_task(by.addresses(f"hangs{number}", 443)) for number in range(MAX_NAMES)]
    await until_asked(server, THREADS)
    before = module.refused._value.get()
    with pytest.raises(NoPlace, match=f"well is not looked up: {MAX_NAMES} other names are"):
        await by.addresses("well", 443)
    assert (module.refused._value.get(), len(server.asked)) == (before + 1, THREADS)
    server.released.set()
    await asyncio.gather(*waiting)
    assert await by.addresses("well", 443) == FOUND


async def test_given_a_name_that_is_not_known_then_all_who_asked_are_told_and_it_is_asked_for_again(server: NameServer) -> None:
    by = Lookups(server)
    for times in (1, 2):
        for outcome in await asyncio.gather(*(by.addresses("unknown", 443) for _ in range(3)), return_exceptions=True):
            assert isinstance(outcome, socket.gaierror)
        assert server.asked.count("unknown") == times


async def test_given_many_names_then_so_many_answers_are_remembered(server: NameServer) -> None:
    by = Lookups(server)
    for number in range(REMEMBERED + 5):
        await by.addresses(f"well{number}", 443)
    assert len(by._found) == REMEMBERED


async def test_given_a_name_that_hangs_when_stopped_then_nobody_waits_for_it(server: NameServer) -> None:
    by = Lookups(server)
    waiting = asyncio.create_task(by.addresses("hangs", 443))
    await until_asked(server, 1)
    async with asyncio.timeout(1):
        await by.stop()
    await asyncio.wait([waiting])
    assert (waiting.cancelled(), by._running) == (True, {})


async def test_given_a_name_that_hangs_when_a_url_is_asked_then_the_time_is_kept_and_other_urls_go_on(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = Outside(OutsideSettings())
    monkeypatch.setattr(outside._lookups, "_resolve", server)
    with pytest.raises(NoAnswer, match=r"within 0\.1 s"):
        await outside.ask("POST", "https://hangs.example/", most=0, within=0.1)
    with pytest.raises(NoAnswer, match=r"192\.0\.2\.1, which is not a public one"):
        await outside.ask("POST", "https://well.example/", most=0, within=5)
    await outside.stop()


async def test_given_this_machine_when_it_is_looked_up_then_it_is_found() -> None:
    assert "127.0.0.1" in await Lookups().addresses("localhost", 443)
