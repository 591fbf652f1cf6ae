"""The topics that this client wants, brought in line with the server's session on every connection."""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import mqtt5

from .errors import BindRefused, ProtocolViolation, PushError
from .link import Link
from .packet_ids import PacketIds
from .state import Stats

log = logging.getLogger("pushclient")

MAX_TOPICS = 1_000
_TOPICS_A_PACKET = 50


class Step(enum.Enum):
    DUE = "to be sent"
    SENT = "sent, not answered"
    SETTLED = "answered"


@dataclass(slots=True, eq=False)
class Bind:
    """What is wanted of one topic: `qos` 0 or 1, or None to leave it. `done` gives the granted QoS."""

    topic: str
    qos: int | None
    step: Step = Step.DUE
    done: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Binds:
    """One entry a topic. A newer wish replaces an older one, and answers to the older are then of no interest."""

    def __init__(self, ids: PacketIds, stats: Stats) -> None:
        self._ids = ids
        self._stats = stats
        self._topics: dict[str, Bind] = {}
        self._in_flight: dict[int, list[Bind]] = {}
        self._link: Link | None = None
        self._over: Callable[[], PushError] | None = None

    def wants(self, topic: str) -> bool:
        bind = self._topics.get(topic)
        return bind is not None and bind.qos is not None

    def topics_of(self, product_topic: str) -> list[str]:
        """The product's topic and those of its groups, as far as they are wanted."""
        under = product_topic + "/"
        return [t for t in self._topics if self.wants(t) and (t == product_topic or t.startswith(under))]

    async def change(self, topics: Iterable[str], qos: int | None) -> dict[str, int | None]:
        """Bind (or, with None, leave) the topics; returns what was granted, when all is answered.

        Cancelled or timed out, the wish remains. Raises BindRefused, or what `end` was given.
        """
        if self._over is not None:
            raise self._over()
        binds = [self._wish(topic, qos) for topic in topics]
        self._send_due()
        if pending := [bind.done for bind in binds if not bind.done.done()]:
            await asyncio.wait(pending)
        if self._over is not None and any(bind.done.cancelled() for bind in binds):
            raise self._over()
        return self._granted(binds)

    def with_connect(self, room: int) -> bytes:
        """A SUBSCRIBE to all that is wanted, to go in one write with CONNECT (MQTT 5, 3.1.4); nothing where that is more than one
        packet, or more than `room` bytes. Then `opened` or `lost` follows."""
        wanted = [bind for bind in self._topics.values() if bind.qos is not None]
        if not 0 < len(wanted) <= _TOPICS_A_PACKET:
            return b""
        packet_id = self._ids.take()
        data = _subscribe(packet_id, wanted)
        if len(data) > room:
            self._ids.release(packet_id)
            return b""
        self._sent(packet_id, wanted)
        return data

    def opened(self, link: Link, *, session_present: bool) -> None:
        """Without a session the server knows none of our topics but those that went with CONNECT; with one, only what it did not
        answer is repeated."""
        self._link = link
        with_connect = {bind.topic: bind for binds in self._in_flight.values() for bind in binds}
        for bind in list(self._topics.values()):
            if with_connect.get(bind.topic) is bind:
                continue
            if bind.qos is None and not session_present and bind.topic not in with_connect:
                self._settle(bind, None)
            elif bind.step is Step.SENT or not session_present:
                bind.step = Step.DUE
        self._send_due()

    def lost(self) -> None:
        self._link = None
        for packet_id in self._in_flight:
            self._ids.release(packet_id)
        self._in_flight.clear()

    def acknowledged(self, packet: mqtt5.SubAckPacket | mqtt5.UnsubAckPacket) -> None:
        """A SUBACK or UNSUBACK: one reason code for each topic, in the order of the request (MQTT 5, 3.9.3).

        Raises ProtocolViolation where they are not that.
        """
        asked = self._in_flight.pop(packet.packet_id, [])
        if len(asked) != len(packet.reason_codes):
            raise ProtocolViolation(0x82, f"{len(packet.reason_codes)} answers to {len(asked)} topics")
        self._ids.release(packet.packet_id)
        for bind, code in zip(asked, packet.reason_codes, strict=True):
            if self._topics.get(bind.topic) is bind:
                self._settle(bind, int(code))

    def end(self, over: Callable[[], PushError]) -> None:
        self._over = over
        self._link = None
        for bind in self._topics.values():
            bind.done.cancel()

    def _wish(self, topic: str, qos: int | None) -> Bind:
        bind = self._topics.get(topic)
        if bind is not None and bind.qos == qos:
            return bind
        if bind is None and len(self._topics) >= MAX_TOPICS:
            raise ValueError(f"bind to {topic}: more than {MAX_TOPICS} topics; unbind some first")
        if bind is not None:
            bind.done.cancel()
        new = Bind(topic, qos)
        if bind is None and qos is None:
            new.done.set_result(None)
        else:
            self._topics[topic] = new
        return new

    def _settle(self, bind: Bind, code: int | None) -> None:
        bind.step = Step.SETTLED
        refused = bind.qos is not None and (code or 0) >= 0x80
        if refused or bind.qos is None:
            del self._topics[bind.topic]
        if not bind.done.done():
            bind.done.set_result(code)
        elif refused:
            log.warning("bind to %r, granted before, is refused now: 0x%02x", bind.topic, code)
            self._stats.binds_refused += 1

    def _send_due(self) -> None:
        if self._link is None:
            return
        due = [bind for bind in self._topics.values() if bind.step is Step.DUE]
        for leaving, same in itertools.groupby(due, key=lambda bind: bind.qos is None):
            for part in _parts(list(same)):
                self._send(self._link, part, leaving=leaving)

    def _send(self, link: Link, binds: list[Bind], *, leaving: bool) -> None:
        packet_id = self._ids.take()
        self._sent(packet_id, binds)
        if leaving:
            return link.send(mqtt5.UnsubscribePacket(packet_id, [bind.topic for bind in binds]).write())
        return link.send(_subscribe(packet_id, binds))

    def _sent(self, packet_id: int, binds: list[Bind]) -> None:
        self._in_flight[packet_id] = binds
        for bind in binds:
            bind.step = Step.SENT

    def _granted(self, binds: list[Bind]) -> dict[str, int | None]:
        if any(bind.done.cancelled() for bind in binds):
            raise PushError("another call changed these binds meanwhile: bind() and unbind() of a topic, one at a time")
        answers = {bind.topic: bind.done.result() for bind in binds}
        refused = {t: code for t, code in answers.items() if code is not None and code >= 0x80}
        if refused:
            raise BindRefused(refused)
        return answers


def _parts(binds: list[Bind]) -> Iterable[list[Bind]]:
    """Small enough for any server's Maximum Packet Size."""
    return (binds[i : i + _TOPICS_A_PACKET] for i in range(0, len(binds), _TOPICS_A_PACKET))


def _subscribe(packet_id: int, binds: list[Bind]) -> bytes:
    filters = [mqtt5.TopicFilter(bind.topic, max_qos=mqtt5.QoS(bind.qos or 0), retain_as_published=False) for bind in binds]
    return mqtt5.SubscribePacket(packet_id, filters).write()
