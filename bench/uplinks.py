"""Uplinks through a room: every device publishes at QoS 1, and has its PUBACK when Kafka has it."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import mqtt5

from bench.load import Crowd
from bench.process import cpu_seconds, until_quiet
from bench.servers import PRODUCT

TOPIC: Final = f"up/{PRODUCT.name}/reading"
PAYLOAD: Final = b"x" * 128
WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Uplinks a CPU-second: of the room, and of the room with everything behind it (coordinator, nats-server, Kafka)."""

    per_room_cpu_s: float
    per_total_cpu_s: float


def publishes(count: int) -> bytes:
    """So many PUBLISH at QoS 1, with packet ids from 1."""
    packets = (mqtt5.PublishPacket(TOPIC, PAYLOAD, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number + 1) for number in range(count))
    return b"".join(packet.write() for packet in packets)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def sample(crowd: Crowd, *, room: int, behind: Collection[int], times: int, at_once: int) -> Cost:
    """Each connection publishes `at_once`, `times` times, the next when all have their PUBACKs. `room`, `behind`: pids.

    Parked: the room is stopped while they publish, for some milliseconds, so that its turns are as full as at its limit.

    Raises Failed, TimeoutError.
    """
    data = publishes(at_once)
    until_quiet([room, *behind])
    before, before_all = cpu_seconds(room), sum(map(cpu_seconds, [room, *behind]))
    for _ in range(times):
        with stopped(room):
            crowd.publish(data)
        crowd.accepted(at_once, within=WITHIN_S)
    until_quiet([room, *behind])
    count = times * at_once * len(crowd)
    return Cost(count / (cpu_seconds(room) - before), count / (sum(map(cpu_seconds, [room, *behind])) - before_all))
