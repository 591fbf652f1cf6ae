"""Accepting in C and in Python (docs/adr/0030): the same comes of both."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from front_world import has_ipv6

from gateway.edge.accepting import Accept, accepting
from gateway.edge.listener import AT_ONCE, EXHAUSTED, Listener
from gateway.edge.native import READER
from infra.peers import number

MOST = 8


@pytest.fixture(params=["C", "Python"])
def native(request: pytest.FixtureRequest) -> bool:
    if request.param == "C" and not READER.path.exists() and (reason := READER.build()):
        pytest.skip(reason)
    return request.param == "C"


@pytest.fixture
def accept(native: bool) -> Accept:
    return accepting(MOST, use_c=native)


@pytest.fixture
def kept() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(kept: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    made = kept.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    made.bind((host, 0))
    made.listen(MOST * 2)
    made.setblocking(False)
    return made


def connected(kept: ExitStack, to: socket.socket, count: int, source: str = "") -> None:
    for _ in range(count):
        kept.enter_context(socket.create_connection(to.getsockname()[:2], source_address=(source, 0) if source else None))


def test_given_the_native_one_is_built_then_it_is_what_accepts(native: bool, accept: Accept) -> None:
    assert (type(getattr(accept, "__self__", None)).__name__ == "Accepting") == native


def test_given_nobody_waits_then_there_is_none_and_no_error(accept: Accept, kept: ExitStack) -> None:
    assert accept(listening(kept), MOST) == ([], 0)


def test_given_more_wait_than_are_asked_for_then_so_many_come_and_the_rest_later(accept: Accept, kept: ExitStack) -> None:
    server = listening(kept)
    connected(kept, server, MOST + 3)
    first, error = accept(server, MOST)
    rest, later = accept(server, MOST)
    for fd, _ in first + rest:
        kept.enter_context(socket.socket(fileno=fd))
    assert (len(first), error, len(rest), later) == (MOST, 0, 3, 0)
    assert len({fd for fd, _ in first + rest}) == MOST + 3


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.200.7", "::1"])
def test_given_a_connection_then_its_socket_does_not_block_is_no_childs_and_its_address_is_known(
    accept: Accept, kept: ExitStack, source: str
) -> None:
    if ":" in source and not has_ipv6():
        pytest.skip("no IPv6 here")
    server = listening(kept, source if ":" in source else "127.0.0.1")
    connected(kept, server, 1, source)
    [(fd, peer)], _ = accept(server, MOST)
    kept.enter_context(socket.socket(fileno=fd))
    assert peer == number(source)
    assert not os.get_blocking(fd)
    assert not os.get_inheritable(fd)


def test_given_a_socket_of_no_ip_then_its_address_is_unknown(accept: Accept, kept: ExitStack, tmp_path: os.PathLike[str]) -> None:
    server = kept.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(str(tmp_path) + "/s")
    server.listen()
    server.setblocking(False)
    kept.enter_context(socket.socket(socket.AF_UNIX)).connect(server.getsockname())
    if getattr(accept, "__self__", None) is None:
        pytest.skip("Python names such an address by a path, which a room never listens on")
    [(fd, peer)], _ = accept(server, MOST)
    os.close(fd)
    assert peer == 0


def test_given_the_socket_is_no_listener_then_the_error_is_told(accept: Accept, kept: ExitStack) -> None:
    assert accept(kept.enter_context(socket.socket()), MOST) == ([], errno.EINVAL)


async def test_given_one_that_can_not_be_taken_then_the_others_are(native: bool, kept: ExitStack) -> None:
    taken: list[int] = []

    def take(fd: int, peer: int) -> None:
        taken.append(fd)
        if len(taken) == 1:
            raise RuntimeError("the first")

    listener = Listener(take, native=native)
    port = listener.start("127.0.0.1", 0)
    for _ in range(3):
        kept.enter_context(socket.create_connection(("127.0.0.1", port)))
    while len(taken) < 3:  # noqa: ASYNC110 - a listener tells nobody but `take`
        await asyncio.sleep(0.01)
    listener.stop()
    for fd in taken:
        os.close(fd)


async def test_given_many_wait_when_stopped_then_all_are_accepted(native: bool, kept: ExitStack) -> None:
    taken: list[int] = []
    listener = Listener(lambda fd, peer: taken.append(fd), native=native)
    port = listener.start("127.0.0.1", 0)
    for _ in range(2 * AT_ONCE + 3):
        kept.enter_context(socket.create_connection(("127.0.0.1", port)))
    listener.stop()
    for fd in taken:
        os.close(fd)
    assert len(taken) == 2 * AT_ONCE + 3


@pytest.mark.parametrize(("error", "rests"), [*((each, True) for each in sorted(EXHAUSTED)), (errno.ECONNABORTED, False)])
async def test_given_an_error_then_it_rests_only_where_nobody_can_be_accepted(
    monkeypatch: pytest.MonkeyPatch, error: int, rests: bool
) -> None:
    listener = Listener(lambda fd, peer: None)
    listener.start("127.0.0.1", 0)
    [server] = listener._sockets
    monkeypatch.setattr(socket.socket, "accept", _failing(error), raising=False)
    listener._accepting = accepting(AT_ONCE, use_c=False)
    listener._accept(server)
    assert (listener._paused is not None) == rests
    monkeypatch.undo()
    listener.stop()


def _failing(error: int):  # type: ignore[no-untyped-def]
    calls = [OSError(error, os.strerror(error)), BlockingIOError()]

    def accept(self: socket.socket) -> None:
        raise calls.pop(0)

    return accept
