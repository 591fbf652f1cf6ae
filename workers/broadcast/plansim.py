"""A broadcast before it is sent: the owner's real planner over simulated rooms, in simulated time (`pushctl plan broadcast`).

`pacing.py` decides here as it does in the owner, so the number of orders is the real one. Rooms are densities, clients
spread evenly over the slots: 300 million cost no more than their orders. What would go to rooms and to Kafka is encoded by the
real encoders and counted. CPU is these counts times what was measured (`COSTS`). Who comes late is not in it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final

from infra.wire import ACK_BOUNDS_MS, Announce, ControlReply, Counts, JobContent, Slice, SliceReply, encoder
from schemas import codec
from schemas.broadcasts import JobRecord
from schemas.codes import SLOTS
from schemas.jobs import JobState
from workers.broadcast.cursor import cursor
from workers.broadcast.job import SAVE, TICK
from workers.broadcast.pace import Pace
from workers.broadcast.pacing import JobPlan, Order, RoomKey, RoomPlan
from workers.broadcast.rooms import SLICE_AGE_MS

WAY: Final = 0.003
"""Seconds that an order and its reply take together, on the wire and in both processes."""
JOB: Final = "00000000-0000-7000-8000-000000000000"
"""As long as a real id."""
PRODUCT: Final = "product"
EPOCH: Final = 1_800_000_000_000
DAY_MS: Final = 24 * 3600 * 1000
MAX_ROOM_SECONDS: Final = 500_000.0
"""Rooms × seconds of a simulation, at most: about a minute of CPU."""


class NoPlan(ValueError):
    """This broadcast can't be sent like that; the text says why."""


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU, µs. `slice_us`: the owner, for a slice, from the order to the confirmed reply. `save_us`: the owner, for a cursor to
    Kafka and to the readers' bucket; `cursor_us`: for each room in it. `look_us`: the owner, for a room each time that the loop
    looks at its rooms. `delivery_us`: a room, for a person at QoS 0 and at QoS 1, acknowledgement included.
    """

    slice_us: float
    save_us: float
    look_us: float
    cursor_us: float
    delivery_us: tuple[float, float]


COSTS: Final = Costs(slice_us=260.0, save_us=4_300.0, look_us=1.3, cursor_us=12.2, delivery_us=(14.0, 30.0))
"""Measured on 2026-11-28 by `make bench-broadcast` (means of two runs), which prints its own beside these; the method is in
docs/benchmarks.md."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """Who is to get what, how fast: `rate` in persons per second, `payload` in bytes; clients are spread evenly over rooms."""

    clients: int
    rooms: int
    rate: int
    payload: int = 256
    qos: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What it takes, from the first order to the last room's end.

    Messages are those published; each has one receiver. `nats_bytes` are payloads. `slices`, `announces` and their replies are
    `nats_messages`; a put to the readers' bucket for each of `cursors` comes beside them. `cursor_bytes`: the largest record.
    Cores are CPU-seconds in a second.
    """

    seconds: float
    first_room_s: float
    persons: int
    persons_per_s: float
    slices: int
    slices_per_s: float
    announces: int
    nats_messages: int
    nats_messages_per_s: float
    nats_bytes: int
    nats_bytes_per_s: float
    cursors: int
    cursor_bytes: int
    kafka_bytes_per_s: float
    looks: int
    owner_cores: float
    room_cores: float
    rooms_cpu_s: float


class DenseRoom:
    """One room (gateway/broadcast/fanout.py) whose clients are spread evenly over the slots; all of them are eligible."""

    def __init__(self, clients: int, *, qos: int = 0, delivery_s: float = 0.0) -> None:
        """`delivery_s`: CPU-seconds of one delivery, which a slice can't beat."""
        self.clients = clients
        self.cursor = 0
        self.sent = 0
        self._qos = qos
        self._delivery_s = delivery_s

    def answer(self, order: Order | Slice) -> tuple[float, SliceReply]:
        """Walk a slice; returns how many seconds that takes, and the reply."""
        wanted = max(0, order.hi - self.cursor)
        self.cursor += min(wanted, self._slots_of(order.most)) if order.most else wanted
        before, self.sent = self.sent, self.clients * self.cursor // SLOTS
        persons = self.sent - before
        part = min(1.0, persons / order.most) if order.most else float(wanted > 0)
        spread = order.spread_ms / 1000 * part
        reply = SliceReply("ok", order.seq, self.cursor, persons, self._counts())
        return max(spread, persons * self._delivery_s), reply

    def _slots_of(self, persons: int) -> int:
        """Whole slots from the cursor on that hold so many persons; all that are left, if they do not."""
        if not self.clients:
            return SLOTS - self.cursor
        return min(SLOTS, -(-(self.sent + persons) * SLOTS // self.clients)) - self.cursor

    def _counts(self) -> Counts:
        """Everything is settled at once; acknowledgements take their times, each bucket half of the one before."""
        if not self._qos:
            return Counts(sent=self.sent, written=self.sent)
        times = [self.sent >> (bucket + 1) for bucket in range(len(ACK_BOUNDS_MS) + 1)]
        return Counts(sent=self.sent, acked=self.sent, ack_times=times)


@dataclass(slots=True)
class _Traffic:
    """What was sent, counted."""

    slices: int = 0
    announces: int = 0
    bytes: int = 0
    cursors: int = 0
    cursor_bytes: int = 0
    largest_cursor: int = 0
    looks: int = 0
    persons: int = 0
    ended: list[float] = field(default_factory=list)


class Simulation:
    """One broadcast, alone in its product. The loop is that of `run.py`."""

    def __init__(self, campaign: Campaign, costs: Costs = COSTS) -> None:
        """Raises NoPlan."""
        room_seconds = campaign.clients / campaign.rate * campaign.rooms
        if room_seconds > MAX_ROOM_SECONDS:
            text = f"{campaign.rooms} rooms for {campaign.clients / campaign.rate:,.0f} s are too much to simulate"
            raise NoPlan(f"{text}: ask for fewer clients, the figures per second are the same")
        self._campaign = campaign
        self._costs = costs
        self._now = 0.0
        self._save_at = 0.0
        self._pace = Pace(campaign.rate, 0.0)
        self._traffic = _Traffic()
        self._encode = encoder().encode
        self._replies: list[tuple[float, int, Order, SliceReply]] = []
        self._rooms = self._spread()
        self._live = {key: room.clients for key, room in self._rooms.items()}
        self._plan = JobPlan(JOB)
        for (name, epoch), room in self._rooms.items():
            plan = RoomPlan(name, epoch, slot=0, bound=room.clients, start=room.clients, next_at=0.0)
            self._plan.rooms[plan.key] = plan

    def _spread(self) -> dict[RoomKey, DenseRoom]:
        campaign = self._campaign
        each, more = divmod(campaign.clients, campaign.rooms)
        delivery_s = self._costs.delivery_us[campaign.qos] / 1e6
        counts = [each + (number < more) for number in range(campaign.rooms)]
        return {
            (f"room-{number:04}", EPOCH): DenseRoom(count, qos=campaign.qos, delivery_s=delivery_s)
            for number, count in enumerate(counts)
        }

    def run(self) -> Forecast:
        """To the end of the last room; raises NoPlan."""
        self._plan.see(self._live, self._now)  # the owner does so at each turn; here no room comes or goes
        while not self._plan.walked(self._now):
            self._turn()
            self._rest()
            self._hear()
        self._save()
        return self._forecast()

    # --- the owner's loop ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Send what is due, keep the cursor once a second."""
        self._pace.ask(JOB, float(self._campaign.rate) if self._plan.busy() else 0.0, self._now)
        for order in self._plan.due(self._pace, self._now):
            self._send(order)
        self._traffic.looks += len(self._rooms)
        if self._now >= self._save_at:
            self._save_at = self._now + SAVE
            self._save()

    def _rest(self) -> None:
        """Until the next order may be due; a reply ends it, and then others come soon. The looking itself takes time, too."""
        pause = min(max(self._plan.next_at(self._now) - self._now, TICK[0]), TICK[1])
        if self._replies and self._replies[0][0] <= self._now + pause:
            pause = max(0.0, self._replies[0][0] - self._now) + TICK[0]
        self._now += pause + len(self._rooms) * self._costs.look_us / 1e6

    def _send(self, order: Order) -> None:
        plan, way = self._plan.rooms[order.room, order.epoch], WAY
        if not plan.announced:
            plan.announced, way = True, 2 * WAY
            self._announce()
        seconds, reply = self._rooms[plan.key].answer(order)
        self._traffic.slices += 1
        self._traffic.persons += reply.persons
        self._traffic.bytes += len(self._encode(self._slice(order))) + len(self._encode(reply))
        heapq.heappush(self._replies, (self._now + seconds + way, self._traffic.slices, order, reply))

    def _hear(self) -> None:
        """Take the replies that have come."""
        while self._replies and self._replies[0][0] <= self._now:
            at, _, order, reply = heapq.heappop(self._replies)
            plan = self._plan.confirmed(order, reply, self._pace)
            if plan is not None and plan.walked and reply.persons:
                self._traffic.ended.append(at)

    # --- what it would send -------------------------------------------------------------------------------------------

    def _slice(self, order: Order) -> Slice:
        deadline_ms = int(self._now * 1000) + SLICE_AGE_MS + DAY_MS
        return Slice(
            JOB, (0, 1), 1, order.seq, order.lo, order.hi, order.spread_ms, order.late, deadline_ms, order.most
        )  # fmt: skip

    def _announce(self) -> None:
        content = JobContent(JOB, (0, 1), PRODUCT, [], bytes(self._campaign.payload), DAY_MS, EPOCH)
        self._traffic.announces += 1
        self._traffic.bytes += len(self._encode(Announce(content, 1, 0))) + len(self._encode(ControlReply("ok")))

    def _save(self) -> None:
        record = JobRecord(
            job=JOB, product=PRODUCT, state=JobState.RUNNING, number_partition=0, number_offset=1, source_partition=0,
            source_offset=1, rate=self._campaign.rate, started_ms=EPOCH, expires_ms=EPOCH + DAY_MS,
            rooms=tuple(cursor(plan) for plan in self._plan.rooms.values()),
        )  # fmt: skip
        try:
            size = len(codec.encode(record))
        except ValueError as error:
            raise NoPlan(f"the cursor of a job with {self._campaign.rooms} rooms can't be kept: {error}") from error
        self._traffic.cursors += 1
        self._traffic.cursor_bytes += size
        self._traffic.largest_cursor = max(self._traffic.largest_cursor, size)

    # --- what it comes to ---------------------------------------------------------------------------------------------

    def _forecast(self) -> Forecast:
        traffic, costs = self._traffic, self._costs
        seconds = max(traffic.ended, default=self._now)
        rooms = len(self._rooms)
        owner_us = (
            traffic.slices * costs.slice_us
            + traffic.cursors * (costs.save_us + rooms * costs.cursor_us)
            + traffic.looks * costs.look_us
        )
        rooms_cpu_s = traffic.persons * costs.delivery_us[self._campaign.qos] / 1e6
        messages = 2 * (traffic.slices + traffic.announces)
        return Forecast(
            seconds=seconds,
            first_room_s=min(traffic.ended, default=seconds),
            persons=traffic.persons,
            persons_per_s=traffic.persons / seconds,
            slices=traffic.slices,
            slices_per_s=traffic.slices / seconds,
            announces=traffic.announces,
            nats_messages=messages,
            nats_messages_per_s=messages / seconds,
            nats_bytes=traffic.bytes,
            nats_bytes_per_s=traffic.bytes / seconds,
            cursors=traffic.cursors,
            cursor_bytes=traffic.largest_cursor,
            kafka_bytes_per_s=traffic.cursor_bytes / seconds,
            looks=traffic.looks,
            owner_cores=owner_us / 1e6 / seconds,
            room_cores=rooms_cpu_s / rooms / seconds,
            rooms_cpu_s=rooms_cpu_s,
        )
