"""The model's parts, and what it does to Redis behind the register's back: tests/property/test_register_machine.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from infra.register import LastSession, Register, SessionView, Stored, StoreMessage
from infra.register.fold import Fold, incarnate
from infra.register.shards import OPEN
from schemas import names
from schemas.codes import Status
from schemas.records import StatusEvent
from workers.refold import fold_session

REALMS = ["main", "other"]
PRODUCT = "demo"
CAP = 6
FUTURE = 1 << 45
LIMIT = 4
PARK_AFTER = 3


@dataclass
class Message:
    """A message of the model. `state` is empty while it is pending; `noticed`: the session that has its notice."""

    id: str
    priority: int
    collapse: str
    pull: bool
    n: int
    state: str = ""
    noticed: tuple[int, int] = (0, 0)


@dataclass
class Connection:
    """A connection of the model, in one of three rooms."""

    room: str
    number: int
    generation: int
    serial: int
    bound: bool = False
    window: set[str] = field(default_factory=set)

    @property
    def order(self) -> tuple[int, int]:
        return self.generation, self.number

    @property
    def view(self) -> SessionView:
        return SessionView(self.generation, self.number, self.room, 1, self.serial)


@dataclass
class Snapshot:
    """Redis as it was: the client's keys, and what the model knew of it. `log`: messages that were stored by then."""

    keys: dict[str, bytes]
    log: int
    n: int
    numbers: dict[str, tuple[int, tuple[int, int]]]
    guard: dict[str, int]


def a_message(message_id: str, priority: int, collapse: str, pull: bool) -> StoreMessage:
    """Its body is its number, which in mode `pull` lies apart."""
    body = message_id[1:].encode()
    if pull:
        return StoreMessage(message_id, priority, FUTURE, collapse, Stored(b"", mode="pull", size=len(body)), body)
    return StoreMessage(message_id, priority, FUTURE, collapse, Stored(body))


async def begin_fold(register: Register) -> Fold:
    """A new incarnation of the only shard, ready to be folded."""
    shard = register.shards.all[0]
    run_id, marker = await shard.look()
    await incarnate(shard, run_id, marker, 1)
    _, marker = await shard.look()
    assert marker is not None
    fold = Fold(shard, marker)
    await fold.begin()
    return fold


async def opened(register: Register) -> None:
    """Open it, unless it is: a machine that failed may have left it closed."""
    shard = register.shards.all[0]
    run_id, marker = await shard.look()
    if marker is None or marker.state != OPEN or marker.incarnation.run_id != run_id:
        if marker is not None:
            await shard.pipe([("HSET", shard.marker_key, "run_id", "of before")])
        assert await (await begin_fold(register)).done(0, 1, 0)


def last(events: list[LastSession]) -> LastSession:
    """What the fold makes of these events."""
    found: LastSession | None = None
    for each in events:
        kind = Status.ONLINE if each.online else Status.OFFLINE
        realm, client = names.split_client_key(each.key)
        event = StatusEvent(
            realm=realm,
            client=client,
            event=kind,
            generation=each.generation,
            session=each.number,
            room=each.room,
            epoch=1,
            at_ms=1,
        )
        found = fold_session(found, each.key, event)
    assert found is not None
    return found


async def value_of(register: Register, key: str) -> bytes | None:
    [value] = await register.shards.all[0].pipe([("GET", key)])
    return value  # type: ignore[no-any-return]


async def made_due(register: Register, key: str, ids: list[str]) -> None:
    """Time goes by for these messages: their expiry, which their bodies begin with, is over."""
    shard, bodies = register.shards.all[0], names.bodies_key(key, PRODUCT)
    for each in ids:
        [body] = await shard.pipe([("HGET", bodies, each)])
        await shard.pipe([("HSET", bodies, each, body.replace(b"%d|" % FUTURE, b"1|", 1))])


async def dumped(register: Register, key: str) -> dict[str, bytes]:
    """Every key of a client, as Redis dumps it."""
    shard = register.shards.all[0]
    found = sorted({name async for some in register.walk(shard, f"*{{{key}}}*") for name in some})
    values = await shard.pipe([("DUMP", name) for name in found])
    return dict(zip(found, values, strict=True))


async def rolled_back(register: Register, key: str, keys: dict[str, bytes]) -> None:
    """The client's keys are those of before, and the server is a new one."""
    shard = register.shards.all[0]
    now = await dumped(register, key)
    await shard.pipe([("DEL", name) for name in now] + [("RESTORE", name, 0, value) for name, value in keys.items()])
    await shard.pipe([("HSET", shard.marker_key, "run_id", "of before")])


async def wiped(register: Register) -> None:
    shard = register.shards.all[0]
    [generation] = await shard.pipe([("HGET", shard.marker_key, "generation")])
    await shard.pipe([("FLUSHALL",)])
    # Kafka's offsets only grow: the next generation is above the last, though Redis has forgotten it.
    await shard.pipe([("HSET", shard.marker_key, "generation", generation)])
