"""Many rooms that only answer: what a broadcast's owner has to do at full size, on one machine.

`python -m bench.standins URL ROOMS CLIENTS PRODUCT`: each has a lease, an entry and its part of the clients, and answers slices
when a room would. Prints a line when all are there, and ends when stdin does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from infra import wire
from schemas import names
from workers.broadcast.plansim import DenseRoom

LEASE_S: Final = 3.0


class StandIn:
    """One room."""

    def __init__(self, client: Client, room: str, clients: int, product: str) -> None:
        self._client = client
        self._room = room
        self._epoch = time.time_ns() // 1_000_000
        self._dense = DenseRoom(clients, qos=1)
        self._product = product
        self._encode = wire.encoder().encode
        self._slice = msgspec.msgpack.Decoder(wire.Slice).decode
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Be there."""
        await self._client.subscribe(names.room_slice(self._room), cb=self._answer)
        await self._client.subscribe(names.room_control(self._room), cb=self._agree)
        bucket = await self._client.jetstream().key_value(names.KV_ROOMS)
        entry = wire.RoomEntry(self._room, self._epoch, "127.0.0.1", 9)
        await bucket.put(self._room, msgspec.json.encode(entry))

    async def lease(self) -> None:
        """Say that it lives."""
        bound = {self._product: self._dense.clients}
        lease = wire.Lease(self._room, self._epoch, int(time.monotonic() * 1000), "open", self._dense.clients, bound)
        await self._client.publish(names.ROOMS_LEASE, self._encode(lease))

    async def _agree(self, message: Msg) -> None:
        await message.respond(self._encode(wire.ControlReply("ok")))

    async def _answer(self, message: Msg) -> None:
        seconds, reply = self._dense.answer(self._slice(message.data))
        task = asyncio.create_task(self._later(message, seconds, self._encode(reply)))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _later(self, message: Msg, seconds: float, data: bytes) -> None:
        """Answer when the slice would be written."""
        await asyncio.sleep(seconds)
        await message.respond(data)


async def main(url: str, rooms: int, clients: int, product: str) -> None:
    """Run them until stdin ends."""
    client = await nats.connect(url, name="standins")
    each, more = divmod(clients, rooms)
    found = [StandIn(client, f"stand-in-{number:04}", each + (number < more), product) for number in range(rooms)]
    for item in found:
        await item.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)  # nothing comes there but its end
    sys.stdout.write(f"{rooms} rooms\n")
    sys.stdout.flush()
    while not ended.is_set():
        for item in found:
            await item.lease()
            await asyncio.sleep(LEASE_S / rooms)
    await client.close()


if __name__ == "__main__":
    _, address, count, everyone, name = sys.argv
    uvloop.run(main(address, int(count), int(everyone), name))
