"""HAProxy in front of two rooms, by the example that is shipped: clients by their source, and the drain of a room."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import pytest_asyncio
from system import PRODUCT, WITHIN, Stand, eventually, unique

from infra.documents import ACCESS, Access, Policy, Rules
from infra.keeper import Keeper
from infra.local.ports import HOST, PortLease
from infra.local.process import Child
from infra.ops.up import RunningSystem
from infra.settings import load
from infra.system import RoomAddress
from pushclient import ConnectionState, PushClient, PushMessage

EXAMPLE: Final = Path(__file__).parents[2] / "infra" / "deploy" / "haproxy.cfg"
HAPROXY: Final = shutil.which("haproxy")
SOURCES: Final = tuple(f"127.0.0.{number}" for number in range(10, 22))
UNWANTED: Final = "127.0.0.66"
DRAIN: Final = 4.0
USE_ANOTHER_SERVER, ADMINISTRATIVE = 0x9C, 0x98

pytestmark = [
    pytest.mark.xdist_group("demo"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(HAPROXY is None, reason="no haproxy on PATH"),
]

source_address: contextvars.ContextVar[str] = contextvars.ContextVar("source_address")


class Front(NamedTuple):
    """Two rooms, and the balancer that clients know."""

    running: RunningSystem
    stand: Stand
    balancer: RoomAddress


def derived(port: int, rooms: dict[str, tuple[int, int]]) -> str:
    """The example with addresses of this machine, and without what needs root. `rooms`: name → its port, its internal one."""
    changes = [
        (r"bind :1883\n", f"bind {HOST}:{port}\n"),
        (r"    (user|group) haproxy\n", ""),
        (r"maxconn \d+", "maxconn 400"),
        *(
            (rf"server {name} \S+ port 9100\n", f"server {name} {HOST}:{own} addr {HOST} port {internal}\n")
            for name, (own, internal) in rooms.items()
        ),
    ]
    text = EXAMPLE.read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count, f"{pattern!r} is not in the example"
    return text


@pytest.fixture
async def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of the SDK begin at `source_address`, where that is set."""
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def from_there(*args: Any, **more: Any) -> Any:
        if source := source_address.get(""):
            more["local_addr"] = (source, 0)
        return await connect(*args, **more)

    monkeypatch.setattr(loop, "create_connection", from_there)


@pytest_asyncio.fixture
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """A system of its own, since a room of it is going to end, whose rooms take connections from the balancer alone."""
    data = tmp_path_factory.mktemp("balancer")
    lease = PortLease("haproxy")
    balancer = Child("haproxy", data / "haproxy.log")
    behind = {
        "LONGWIRE_ROOM__PROXY": "true",
        "LONGWIRE_ROOM__BALANCERS": json.dumps([f"{HOST}/32"]),
        "LONGWIRE_ROOM__ADVERTISE": f"{HOST}:{lease.port}",
        "LONGWIRE_ROOM__DRAIN": str(DRAIN),
    }
    settings = load(data=data)
    running = RunningSystem(settings, rooms=2, policy=Policy(sync_interval=60.0, lease_interval=1.0), changes=lambda name: behind)
    stand = None
    try:
        stand = Stand(await running.start(), settings.kafka.partitions)
        await stand.start()
        reports = {name: running.agent.processes[name].report for name in ("r1", "r2")}
        internal = {name: int(report["internal"].rpartition(":")[2]) for name, report in reports.items()}
        config = data / "haproxy.cfg"
        config.write_text(derived(lease.port, {name: (report["port"], internal[name]) for name, report in reports.items()}))
        assert HAPROXY is not None
        lease.hand_over()
        await balancer.start([HAPROXY, "-db", "-f", str(config)])
        yield Front(running, stand, RoomAddress("haproxy", HOST, lease.port))
    finally:
        await balancer.stop(5.0)
        lease.close()
        if stand is not None:
            await stand.stop()
        await running.stop()


class Caller:
    """A device at an address of its own that knows the balancer alone, and what it saw."""

    def __init__(self, front: Front, source: str) -> None:
        self.client = unique("caller")
        self.source = source
        self.sent: list[str] = []
        self.got: list[str] = []
        self.told: list[tuple[int | None, float]] = []
        self._stand = front.stand
        self._balancer = (front.balancer.host, front.balancer.port)
        self.push = PushClient(
            client_id=self.client,
            token=front.stand.token(self.client),
            servers=[self._balancer],
            on_state=self._state,
            on_message=self._take,
        )

    def _state(self, now: ConnectionState) -> None:
        if now.connected:
            assert now.address == self._balancer
        else:
            self.told.append((now.code, time.monotonic()))

    def _take(self, message: PushMessage) -> None:
        self.got.append(str(message.id))

    @contextmanager
    def _there(self) -> Iterator[None]:
        token = source_address.set(self.source)
        try:
            yield
        finally:
            source_address.reset(token)

    async def __aenter__(self) -> Caller:
        with self._there():
            async with asyncio.timeout(WITHIN):
                await self.push.start()
                await self.push.bind(PRODUCT)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.push.close()

    def reconnect(self) -> None:
        """Drop the connection, and make another from the same address."""
        with self._there():
            self.push.reconnect()

    async def room(self) -> str:
        """The room that has it, by the register; "" while none has."""
        session = (await self._stand.center.get(f"/v1/clients/{self.client}"))["session"]
        return str(session["room"]) if session else ""

    async def send(self) -> None:
        """A message is pushed to it."""
        self.sent.append(await self._stand.send(self.client, "x"))

    @property
    def complete(self) -> bool:
        """Has it all that was sent?"""
        return set(self.sent) == set(self.got)


async def rooms_of(callers: list[Caller]) -> list[str]:
    return [await caller.room() for caller in callers]


async def connected(front: Front, stack: AsyncExitStack) -> list[Caller]:
    """A new device at each address."""
    return [await stack.enter_async_context(Caller(front, source)) for source in SOURCES]


async def first_unready(front: Front, room: str) -> float:
    """When `/readyz` of the room began to say that it drains."""
    url = front.running.agent.processes[room].report["internal"]
    while True:
        answer = await front.stand.http.get(f"{url}/readyz")
        if answer.status_code == 503:
            assert answer.json()["status"] == "draining"
            return time.monotonic()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def pushing(callers: list[Caller]) -> AsyncIterator[None]:
    """What happens inside happens while each gets a message, again and again."""
    over = asyncio.Event()

    async def push() -> None:
        while not over.is_set():
            for caller in callers:
                await caller.send()
            await asyncio.sleep(0.3)

    task = asyncio.create_task(push())
    try:
        yield
    finally:
        over.set()
        await task


@pytest.mark.usefixtures("sources")
async def test_given_rooms_behind_haproxy_then_a_source_has_a_room_which_sees_that_address_and_a_drain_loses_nothing(
    front: Front,
) -> None:
    async with AsyncExitStack() as stack:
        callers = await connected(front, stack)
        rooms = await rooms_of(callers)
        assert set(rooms) == {"r1", "r2"}

        # The same source, the same room: for the same client and for another one.
        for caller in callers:
            caller.reconnect()

        async def back() -> bool:
            return all(caller.push.stats.connects == 2 and caller.push.connected for caller in callers)

        await eventually(back, what="all clients connected again")
        assert await rooms_of(callers) == rooms
        assert await rooms_of(await connected(front, stack)) == rooms

        await _is_denied_alone(front, stack, callers)
        await _drained(front, stack, callers, rooms)


async def _is_denied_alone(front: Front, stack: AsyncExitStack, others: list[Caller]) -> None:
    """The rooms see whom a connection is from: one address is denied, and those that came through the same balancer stay."""
    unwanted = await stack.enter_async_context(Caller(front, UNWANTED))
    room = await unwanted.room()
    before = [len(caller.told) for caller in others]
    deny = Access(deny=Rules(networks=(f"{UNWANTED}/32",)))
    await Keeper(front.stand.bus, disk=front.running.data / "operator").put(ACCESS, deny)

    async def told() -> bool:
        return bool(unwanted.told)

    await eventually(told, what="the denied client is told")
    assert unwanted.told[0][0] == ADMINISTRATIVE
    async with front.stand.counted(room, "longwire_gateway_turned_away_total", reason="denied"):
        reader, writer = await asyncio.open_connection(HOST, front.balancer.port, local_addr=(UNWANTED, 0))
        with suppress(ConnectionResetError):
            async with asyncio.timeout(WITHIN):
                assert await reader.read() == b""
        writer.transport.abort()
    assert [len(caller.told) for caller in others] == before
    assert all(caller.push.connected for caller in others)


async def _drained(front: Front, stack: AsyncExitStack, callers: list[Caller], rooms: list[str]) -> None:
    """The first room ends, and stays down; meanwhile each client is pushed to."""
    movers = [caller for caller, room in zip(callers, rooms, strict=True) if room == "r1"]
    others = [caller for caller in callers if caller not in movers]
    for caller in callers:
        caller.told.clear()
    item = front.running.agent.processes["r1"]
    item.leave = True
    async with pushing(callers):
        await asyncio.sleep(0.5)
        unready = asyncio.create_task(first_unready(front, "r1"))
        assert item.child.pid is not None
        os.kill(item.child.pid, signal.SIGTERM)
        async with asyncio.timeout(WITHIN):
            began = await unready
        late = await connected(front, stack)  # the first room still has clients: nobody new
        assert item.child.running
        assert set(await rooms_of(late)) == {"r2"}

        async def moved() -> bool:
            return set(await rooms_of(movers)) == {"r2"} and all(caller.push.connected for caller in movers)

        await eventually(moved, what="all clients in the other room")
        async with asyncio.timeout(WITHIN):
            assert (await item.child.exited()).code == 0
    assert [[code for code, _ in caller.told] for caller in movers] == [[USE_ANOTHER_SERVER]] * len(movers)
    assert began < min(at for caller in movers for _, at in caller.told)
    assert not any(caller.told for caller in others)
    assert set(await rooms_of(await connected(front, stack))) == {"r2"}

    async def complete() -> bool:
        return all(caller.complete for caller in callers)

    await eventually(complete, what="every message at its client")
    for caller in callers:
        assert len(caller.sent) > 3
        await front.stand.settled(caller.client, *caller.sent)
        assert len(caller.got) == len(set(caller.got))
