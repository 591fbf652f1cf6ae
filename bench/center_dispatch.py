"""What the dispatcher costs, how fast it answers, and how many devices a lost room moves.

The real center, a hundred rooms that are only announced, and devices that only ask.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from statistics import median
from typing import Any, Final

import msgspec
import nats
from nats.aio.client import Client

from bench.center_world import Failed, World
from bench.dispatch_load import Done, Order
from bench.process import before_others, cpu_seconds, pin, waited_seconds
from infra import wire
from infra.documents import Product, product_key
from infra.labels import IDC, POOL, REGION
from schemas import names

ROOMS: Final = 100
PRODUCT: Final = "crowd"
REGION_HERE: Final = "here"
SETTINGS: Final = {"LONGWIRE_CENTER__REGIONS": f'{{"127.0.0.0/8": "{REGION_HERE}", "::1/128": "{REGION_HERE}"}}'}
"""Of center: so that every device's region is looked up."""
CAPACITY: Final = 18_000
LEASE_S: Final = 3.0
ROUNDS: Final = 5
ASKED: Final = 10_000
"""Questions of a round."""
PACED_S: Final = 5.0
CLIENTS: Final = 20_000
"""Devices that are asked for before and after a room is lost."""
PATIENCE: Final = 20.0


class Rooms:
    """Rooms as others see them: an entry each, and leases until `stop`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._epoch = time.time_ns() // 1_000_000
        self._encode = wire.encoder().encode
        self._client: Client
        self._task: asyncio.Task[None] | None = None
        self.names = [f"dispatch-{number:03}" for number in range(ROOMS)]
        self.addresses = [f"127.1.0.{number % 10}:{18_000 + number}" for number in range(ROOMS)]

    async def start(self) -> None:
        """Announce them."""
        self._client = await nats.connect(self._url, name="bench-dispatch")
        bucket = await self._client.jetstream().key_value(names.KV_ROOMS)
        for number, name in enumerate(self.names):
            host, _, port = self.addresses[number].partition(":")
            labels = {POOL: PRODUCT, REGION: REGION_HERE, IDC: f"idc-{number % 3}"}
            await bucket.put(name, msgspec.json.encode(wire.RoomEntry(name, self._epoch, host, int(port), labels)))
        self._task = asyncio.create_task(self._lease())

    async def lose(self, name: str) -> None:
        """One of them ends."""
        self.names.remove(name)
        await self._say(name, "stopped")

    async def stop(self) -> None:
        """All of them end."""
        if self._task is not None:
            self._task.cancel()
        await self._client.close()

    async def _lease(self) -> None:
        while True:
            for name in list(self.names):
                await self._say(name, "open")
            await asyncio.sleep(LEASE_S)

    async def _say(self, name: str, state: str) -> None:
        lease = wire.Lease(name, self._epoch, int(time.monotonic() * 1000), state, CAPACITY // 2, {}, capacity=CAPACITY)
        await self._client.publish(names.ROOMS_LEASE, self._encode(lease))


class LoadProcess:
    """`bench.dispatch_load` as a process on the other cores."""

    def __init__(self, world: World) -> None:
        command = [sys.executable, "-m", "bench.dispatch_load", world.system.center]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        pin(self.pid, world.other_cores)

    async def run(self, order: Order) -> Done:
        """Do it; raises Failed."""
        return await asyncio.to_thread(self._run, order)

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _run(self, order: Order) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the devices that ask the dispatcher ended")
        done = msgspec.json.decode(line.encode(), type=Done)
        if done.statuses != {"200": order.count}:
            raise Failed(f"the dispatcher answered {done.statuses} to {order.count} questions")
        return done


async def measure(world: World) -> dict[str, Any]:
    """`dispatch_*`; raises Failed."""
    await world.put(product_key(PRODUCT), Product(name=PRODUCT, pool=PRODUCT))
    rooms, load = Rooms(world.system.nats), LoadProcess(world)
    try:
        await rooms.start()
        await _until_known(world, ROOMS)
        mixed = Order(count=ASKED, rooms=rooms.names[:], failed=rooms.addresses)
        await load.run(mixed)
        per_cpu_s = [await _per_cpu_s(world, load, mixed) for _ in range(ROUNDS)]
        anew = [await _per_cpu_s(world, load, msgspec.structs.replace(mixed, anew=True)) for _ in range(ROUNDS)]
        half = median(per_cpu_s) / 2
        paced = [
            await _paced(world, load, msgspec.structs.replace(mixed, count=int(half * PACED_S), rate=half)) for _ in range(ROUNDS)
        ]
        moved, spread = await _moved(world, rooms, load)
    finally:
        load.stop()
        await rooms.stop()
    return {
        "dispatch_per_cpu_s": round(median(per_cpu_s)),
        "dispatch_per_cpu_s_rounds": [round(value) for value in per_cpu_s],
        "dispatch_connecting_per_cpu_s": round(median(anew)),
        "dispatch_paced_per_s": round(half),
        "dispatch_p50_ms": round(median(p50 for p50, _, _ in paced), 2),
        "dispatch_p99_ms": round(median(p99 for _, p99, _ in paced), 2),
        "dispatch_p99_ms_rounds": [round(p99, 2) for _, p99, _ in paced],
        "dispatch_waited_for_core": [round(share, 3) for _, _, share in paced],
        "dispatch_moved_fraction": round(moved, 5),
        "dispatch_fullest_room": round(spread, 3),
    }


async def _per_cpu_s(world: World, load: LoadProcess, order: Order) -> float:
    pid = world.pid("center")
    before = cpu_seconds(pid)
    await load.run(order)
    return order.count / (cpu_seconds(pid) - before)


async def _paced(world: World, load: LoadProcess, order: Order) -> tuple[float, float, float]:
    """Median and 99th percentile of the times, ms; and the part of the time for which center or its askers waited for a core that
    others had."""
    pids = (world.pid("center"), load.pid)
    before = sum(map(waited_seconds, pids))
    with before_others(pids):
        done = await load.run(order)
    waited = sum(map(waited_seconds, pids)) - before
    return _quantile(done.took_ms, 0.5), _quantile(done.took_ms, 0.99), waited / done.seconds


async def _moved(world: World, rooms: Rooms, load: LoadProcess) -> tuple[float, float]:
    """The part of the devices whose first address is another one after a room is lost; and how much more than the average the
    fullest room had."""
    order = Order(count=CLIENTS, first=True)
    before = (await load.run(order)).first
    await rooms.lose(rooms.names[0])
    await _until_known(world, ROOMS - 1)
    after = (await load.run(order)).first
    fullest = max(before.count(name) for name in set(before))
    return sum(one != other for one, other in zip(before, after, strict=True)) / CLIENTS, fullest * ROOMS / CLIENTS


async def _until_known(world: World, count: int) -> None:
    """Until center knows so many of the rooms."""
    deadline = time.monotonic() + PATIENCE
    while sum(room["labels"].get(POOL) == PRODUCT for room in (await world.get("/v1/rooms"))["rooms"]) != count:
        if time.monotonic() > deadline:
            raise Failed(f"center does not see {count} rooms after {PATIENCE:.0f} s")
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)  # the dispatcher's own look at them may be older than that


def _quantile(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]
