"""The model's parts, and what it does to Redis behind the register's back: tests/property/test_register_machine.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from infra.register import LastSession, Register, SessionView, Stored, StoreMessage
from infra.register.fold import Fold, incarnate
from infra.register.marker import OPEN
from infra.register.shards import Shard
from infra.register.slots import due_key, slot_of_client
from schemas import names
from schemas.codes import Status
from schemas.records import StatusEvent
from workers.saver.refold import fold_session

REALMS: Final = ["main", "other"]
PRODUCT: Final = "demo"
CAP: Final = 6
FUTURE: Final = 1 << 45
LIMIT: Final = 4
PARK_AFTER: Final = 3
BEFORE: Final = "of before"
"""The run id of a server that is no more."""
LONG: Final = 3_600_000
"""Longer than a run, ms."""
LONG_AGO: Final = 1 << 40
"""A time of day, ms."""


@dataclass
class Message:
    """A message of the model. `state` is empty while it is pending; `noticed`: the session that has its notice; `fallback`: it
    has one; `waits`: for it, in the due-index; `due`: its time has come; `marked`: somebody claimed it for another channel;
    `handed`: how often it went there; `crashes`: hand-overs that were not ended."""

    id: str
    priority: int
    collapse: str
    pull: bool
    fallback: bool
    n: int
    state: str = ""
    noticed: tuple[int, int] = (0, 0)
    waits: bool = False
    due: bool = False
    marked: bool = False
    handed: int = 0
    crashes: int = 0


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
class Kept:
    """A message as Redis had it when the tail began that was lost."""

    n: int
    noticed: tuple[int, int]
    waits: bool
    due: bool
    marked: bool


@dataclass
class Snapshot:
    """Redis as it was, and what the model knew of it. `log`: messages that were stored by then."""

    redis: Dump
    log: int
    n: int
    messages: dict[str, Kept]
    guard: dict[str, int]
    owing: list[tuple[str, str, str]]


@dataclass
class Dump:
    """What Redis had of a client: its keys as Redis dumps them, its members of the due-index, and the note of its slot."""

    keys: dict[str, bytes]
    due: dict[str, float]
    note: float | None


def a_message(message_id: str, priority: int, collapse: str, pull: bool, due_ms: int | None) -> StoreMessage:
    """Its body is its number, which in mode `pull` lies apart."""
    body = message_id[1:].encode()
    if pull:
        return StoreMessage(message_id, priority, FUTURE, collapse, Stored(b"", mode="pull", size=len(body)), body, due_ms)
    return StoreMessage(message_id, priority, FUTURE, collapse, Stored(body), due_ms=due_ms)


def last(events: list[LastSession]) -> LastSession:
    """What the fold makes of these events."""
    found: LastSession | None = None
    for each in events:
        realm, client = names.split_client_key(each.key)
        event = StatusEvent(
            realm=realm,
            client=client,
            event=Status.ONLINE if each.online else Status.OFFLINE,
            generation=each.generation,
            session=each.number,
            room=each.room,
            epoch=1,
            at_ms=1,
        )
        found = fold_session(found, each.key, event)
    assert found is not None
    return found


# --- Redis -------------------------------------------------------------------------------------------------------------


def only_shard(register: Register) -> Shard:
    [shard] = register.shards.all
    return shard


async def begin_fold(register: Register) -> Fold:
    """A new incarnation of the only shard, ready to be folded."""
    shard = only_shard(register)
    run_id, marker = await shard.look()
    await incarnate(shard, run_id, marker, 1)
    _, marker = await shard.look()
    assert marker is not None
    fold = Fold(shard, marker)
    await fold.begin()
    return fold


async def opened(register: Register) -> None:
    """Open it, unless it is: a machine that failed may have left it closed."""
    shard = only_shard(register)
    run_id, marker = await shard.look()
    if marker is None or marker.state != OPEN or marker.incarnation.run_id != run_id:
        if marker is not None:
            await shard.pipe([("HSET", shard.marker_key, "run_id", BEFORE)])
        assert await (await begin_fold(register)).done("0", 1, 0, [])


async def counter_of(register: Register, key: str) -> int:
    [value] = await only_shard(register).pipe([("GET", names.counter_key(key))])
    return int(value or 0)


async def made_due(register: Register, key: str, ids: list[str]) -> None:
    """Time goes by for these messages: their expiry, which their bodies begin with, is over."""
    shard, bodies = only_shard(register), names.bodies_key(key, PRODUCT)
    for each in ids:
        [body] = await shard.pipe([("HGET", bodies, each)])
        await shard.pipe([("HSET", bodies, each, body.replace(b"%d|" % FUTURE, b"1|", 1))])


async def due_of(register: Register, key: str) -> dict[str, float]:
    """A client's members of the due-index, with their times."""
    [found] = await only_shard(register).pipe([("ZRANGE", due_key(slot_of_client(key)), 0, -1, "WITHSCORES")])
    pairs = zip(found[::2], found[1::2], strict=True)
    members = {member.decode(): float(at) for member, at in pairs}
    return {member: at for member, at in members.items() if names.parse_due_member(member)[0] == key}


async def dumped(register: Register, key: str) -> Dump:
    """Everything that Redis has of a client."""
    shard = only_shard(register)
    found = sorted({name async for some in register.walk(shard, f"*{{{key}}}*") for name in some})
    *values, note = await shard.pipe(
        [*(("DUMP", name) for name in found), ("ZSCORE", names.due_slots_key(shard.marker_key), slot_of_client(key))]
    )
    keys = dict(zip(found, values, strict=True))
    return Dump(keys, await due_of(register, key), None if note is None else float(note))


async def rolled_back(register: Register, key: str, kept: Dump) -> None:
    """What Redis has of the client is what it had before, and the server is a new one."""
    shard, slot = only_shard(register), slot_of_client(key)
    now = await dumped(register, key)
    index, notes = due_key(slot), names.due_slots_key(shard.marker_key)
    await shard.pipe(
        [
            *(("DEL", name) for name in now.keys),
            *(("RESTORE", name, 0, value) for name, value in kept.keys.items()),
            *(("ZREM", index, member) for member in now.due),
            *(("ZADD", index, at, member) for member, at in kept.due.items()),
            ("ZREM", notes, slot) if kept.note is None else ("ZADD", notes, kept.note, slot),
            ("HSET", shard.marker_key, "run_id", BEFORE),
        ]
    )


async def wiped(register: Register) -> None:
    """Kafka's offsets only grow: the next generation is above the last, though Redis has forgotten it."""
    shard = only_shard(register)
    [generation] = await shard.pipe([("HGET", shard.marker_key, "generation")])
    await shard.pipe([("FLUSHALL",), ("HSET", shard.marker_key, "generation", generation)])
