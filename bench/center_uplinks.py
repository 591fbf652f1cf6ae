"""Uplinks through a room: every device publishes at QoS 1, and has its PUBACK when Kafka has it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import mqtt5

from bench.center_world import Failed, World
from bench.load import Crowd
from bench.load import Failed as Refused
from bench.process import cpu_seconds, pin, until_quiet
from bench.servers import PRODUCT, client_id, subscribe
from infra.documents import product_key
from infra.ops.tokens import make_token

TOPIC: Final = f"up/{PRODUCT.name}/reading"
PAYLOAD: Final = b"x" * 128
DEVICES: Final = 2_000
ROUNDS: Final = 5
TIMES: Final = {1: 5, 8: 1}
"""By how many uplinks a device publishes at once: how often it does in a round."""
WITHIN_S: Final = 60.0
PATIENCE: Final = 20.0


async def measure(world: World) -> dict[str, Any]:
    """`uplinks_*`; raises Failed."""
    await world.put(product_key(PRODUCT.name), PRODUCT)
    try:
        return await asyncio.to_thread(_measured, world)
    except (Refused, TimeoutError, OSError) as error:
        raise Failed(f"uplinks: {error}") from error


def _measured(world: World) -> dict[str, Any]:
    """The room has the core to itself that is center's otherwise."""
    room = world.system.rooms[0]
    pin(world.pid("center"), world.other_cores)
    pin(world.pid(room.id), frozenset([world.core]))
    with Crowd((room.host, room.port)) as crowd:
        _join(world, crowd)
        costs: dict[int, list[tuple[float, float]]] = {at_once: [] for at_once in TIMES}
        _once(world, crowd, 1)
        for _ in range(ROUNDS):
            for at_once, found in costs.items():
                found.append(_once(world, crowd, at_once))
    pin(world.pid("center"), frozenset([world.core]))
    pin(world.pid(room.id), world.other_cores)
    figures: dict[str, Any] = {"uplinks_devices": DEVICES}
    for at_once, found in costs.items():
        name = "uplinks" if at_once == 1 else f"uplinks_by_{at_once}"
        figures |= {
            f"{name}_per_room_cpu_s": round(median(own for own, _ in found)),
            f"{name}_per_room_cpu_s_rounds": [round(own) for own, _ in found],
            f"{name}_per_total_cpu_s": round(median(total for _, total in found)),
        }
    return figures


def _join(world: World, crowd: Crowd) -> None:
    """Everyone, as soon as the room knows the product."""

    def hello(number: int) -> bytes:
        token = make_token(Path(world.system.data), client=client_id(number), product=PRODUCT.name)
        return mqtt5.ConnectPacket(client_id(number), password=token.encode()).write() + subscribe(qos=1)

    deadline = time.monotonic() + PATIENCE
    while not len(crowd):
        try:
            crowd.join(1, hello, qos=1)
        except Refused:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    crowd.join(DEVICES - 1, hello, qos=1)


def _once(world: World, crowd: Crowd, at_once: int) -> tuple[float, float]:
    """Uplinks a CPU-second of the room, and of all processes and brokers. Each device publishes `at_once`, the next when all have
    their PUBACKs. Raises Failed, TimeoutError.

    Parked: the room is stopped while they publish, for some milliseconds, so that its turns are as full as at its limit.
    """
    pid, data = world.pid(world.system.rooms[0].id), publishes(at_once)
    until_quiet([pid, world.pid("coordinator")])
    own, before = cpu_seconds(pid), sum(world.cpu_seconds().values())
    for _ in range(TIMES[at_once]):
        with _stopped(pid):
            crowd.publish(data)
        crowd.accepted(at_once, within=WITHIN_S)
    until_quiet([pid, world.pid("coordinator")])
    count = TIMES[at_once] * at_once * len(crowd)
    return count / (cpu_seconds(pid) - own), count / (sum(world.cpu_seconds().values()) - before)


def publishes(count: int) -> bytes:
    """So many PUBLISH at QoS 1, with packet ids from 1."""
    packets = (mqtt5.PublishPacket(TOPIC, PAYLOAD, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number + 1) for number in range(count))
    return b"".join(packet.write() for packet in packets)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
