"""How many clients a broadcast would mean: the live rooms are asked for those online, `push.clients` is read for all others.

Nothing is sent, written or kept. The registry may have many millions of records, so only its tail is read; beyond that, the
answer is an estimate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from infra.bus import Bus, BusError
from infra.meant import of_registry
from infra.settings import KafkaSettings
from infra.wire import OK, ControlReply, Estimate, JobContent
from schemas import codec, names
from schemas.records import ClientRecord
from workers.center.campaigns.tail import read_tail
from workers.center.web.problems import RETRY_AFTER_S, Problem

ROOM_TIMEOUT: Final = 3.0
"""How long a room may take to look at each of its clients, s."""
AT_ONCE: Final = 128
"""Rooms that are asked at the same time."""
MOST_READ: Final = 50_000
READERS: Final = 2

log = structlog.get_logger("center")


@dataclass(frozen=True, slots=True)
class RoomAnswer:
    """`persons`, or why there is no answer."""

    room: str
    persons: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """Clients that have bound the product, and those of them that are meant. `exact`: all records were read."""

    clients: int
    meant: int
    exact: bool


class Census:
    """`workers.center.ports.Counter` on NATS and Kafka. `partitions(topic)`: how many it has."""

    def __init__(
        self, bus: Bus, settings: KafkaSettings, partitions: Callable[[str], Awaitable[int]], *, most: int = MOST_READ
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._partitions = partitions
        self._most = most
        self._asking = asyncio.Semaphore(AT_ONCE)
        self._readers = asyncio.Semaphore(READERS)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ControlReply).decode

    async def online(self, rooms: list[str], content: JobContent) -> list[RoomAnswer]:
        """See the port."""
        order = self._encode(Estimate(content))
        return await asyncio.gather(*(self._ask(room, order) for room in rooms))

    async def _ask(self, room: str, order: bytes) -> RoomAnswer:
        async with self._asking:
            try:
                answer = await self._bus.request(names.room_control(room), order, timeout=ROOM_TIMEOUT)
                reply = self._decode(answer)
            except (BusError, msgspec.MsgspecError) as error:
                log.warning("room not asked", room=room, error=type(error).__name__)
                return RoomAnswer(room, None, f"no answer: {type(error).__name__}")
        return RoomAnswer(room, reply.persons, None) if reply.status == OK else RoomAnswer(room, None, reply.status)

    async def known(self, content: JobContent) -> Known:
        """See the port."""
        if self._readers.locked():
            raise Problem("busy", "others are counting clients; ask again", retry_after_s=RETRY_AFTER_S)
        meant, suffix = of_registry(content), f" {content.product}".encode()
        found: dict[bytes, bool] = {}

        def take(key: bytes | None, value: bytes | None) -> None:
            if key is None or not key.endswith(suffix):
                return
            if value is None:
                found.pop(key, None)
            elif (record := _decoded(value)) is not None:
                found[key] = meant(record)

        async with self._readers:
            partitions = range(await self._partitions(names.CLIENTS))
            covered = await read_tail(self._settings, names.CLIENTS, partitions, most=self._most, take=take)
        scale = covered.total / covered.read if covered.read else 1.0
        return Known(round(len(found) * scale), round(sum(found.values()) * scale), covered.whole)


def _decoded(value: bytes) -> ClientRecord | None:
    try:
        return codec.decode_as(ClientRecord, value)
    except codec.Undecodable as error:
        log.warning("client record not readable", error=str(error)[:200])
        return None
