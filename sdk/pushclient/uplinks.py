"""What this device sends: in order, within the server's Receive Maximum, resent until it is acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import mqtt5

from .errors import NotConnected, PushError, UplinkRefused
from .link import Link
from .packet_ids import PacketIds
from .state import Stats

MAX_PAYLOAD = 1 << 20
_DUP = 0x08
_TOO_LARGE = 0x95


@dataclass(slots=True, eq=False)
class Uplink:
    """One PUBLISH at QoS 1, encoded once: a resend differs in the DUP flag only (MQTT 5, 3.3.1.1)."""

    topic: str
    packet_id: int
    frame: bytes
    done: asyncio.Future[None]
    tries: int = 0

    def next_frame(self) -> bytes:
        self.tries += 1
        return self.frame if self.tries == 1 else bytes((self.frame[0] | _DUP,)) + self.frame[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What an uplink carries, whatever the QoS."""

    topic: str
    payload: bytes
    properties: list[tuple[str, str]]
    expires_in: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None

    def encode(self, packet_id: int | None) -> bytes:
        """At QoS 1 with a packet id, else at QoS 0. Raises ValueError on what MQTT cannot carry."""
        return mqtt5.PublishPacket(
            self.topic,
            self.payload,
            qos=mqtt5.QoS.AT_MOST_ONCE if packet_id is None else mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=packet_id,
            message_expiry_interval=self.expires_in,
            content_type=self.content_type,
            response_topic=self.response_topic,
            correlation_data=self.correlation_data,
            user_properties=self.properties,
        ).write()


class Uplinks:
    """At most `most` unacknowledged; who sends more waits for a place."""

    def __init__(self, ids: PacketIds, stats: Stats, most: int) -> None:
        self._ids = ids
        self._stats = stats
        self._most = most
        self._places = asyncio.Semaphore(most)
        self._queue: deque[Uplink] = deque()
        self._sent: dict[int, Uplink] = {}
        self._link: Link | None = None
        self._window = 0
        self._max_packet_size = 0
        self._over: Callable[[], PushError] | None = None

    async def send(self, content: Content) -> None:
        """At QoS 1: returns after the PUBACK. Raises UplinkRefused, or what `end` was given."""
        async with self._places:
            self._check_over()
            uplink = self._new(content)
            self._queue.append(uplink)
            self._pump()
            try:
                await uplink.done
            finally:
                self._abandon(uplink)

    async def send_once(self, content: Content) -> None:
        """At QoS 0: returns when it is written. Raises NotConnected, UplinkRefused if it is too large."""
        self._check_over()
        frame = content.encode(None)
        if self._link is None:
            raise NotConnected("no connection: an uplink at QoS 0 does not wait for one; wait_connected(), or use QoS 1")
        self._check_size(content.topic, frame)
        self._stats.uplinks += 1
        self._link.send(frame)
        await self._link.drain()

    def opened(self, link: Link, packet: mqtt5.ConnAckPacket) -> None:
        """Send what waits; what the last connection left unacknowledged comes first, with DUP."""
        self._link = link
        self._window = min(packet.receive_max, self._most)
        self._max_packet_size = packet.max_packet_size or 0
        self._pump()

    def lost(self) -> None:
        self._link = None
        for uplink in reversed(self._sent.values()):
            if uplink.done.done():
                self._ids.release(uplink.packet_id)
            else:
                self._queue.appendleft(uplink)
        self._sent.clear()

    def acknowledged(self, packet: mqtt5.PubAckPacket) -> None:
        """A PUBACK. One for nothing of ours is left over from before a resend, and means nothing."""
        uplink = self._sent.pop(packet.packet_id, None)
        if uplink is None:
            return
        code = int(packet.reason_code)
        refusal = UplinkRefused(uplink.topic, code, packet.reason_str or "") if code >= 0x80 else None
        self._finish(uplink, refusal)
        self._pump()

    def end(self, over: Callable[[], PushError]) -> None:
        self._over = over
        self._link = None
        for uplink in (*self._sent.values(), *self._queue):
            self._finish(uplink, over())
        self._sent.clear()
        self._queue.clear()

    def _new(self, content: Content) -> Uplink:
        packet_id = self._ids.take()
        try:
            frame = content.encode(packet_id)
        except BaseException:
            self._ids.release(packet_id)
            raise
        self._stats.uplinks += 1
        return Uplink(content.topic, packet_id, frame, asyncio.get_running_loop().create_future())

    def _pump(self) -> None:
        while self._link is not None and self._queue and len(self._sent) < self._window:
            uplink = self._queue.popleft()
            try:
                self._check_size(uplink.topic, uplink.frame)
            except UplinkRefused as refusal:
                self._finish(uplink, refusal)
                continue
            self._sent[uplink.packet_id] = uplink
            self._stats.resent += uplink.tries > 0
            self._link.send(uplink.next_frame())

    def _abandon(self, uplink: Uplink) -> None:
        """Nobody waits for it any more. One that is on its way keeps its id until the PUBACK, and is not resent."""
        if uplink in self._queue:
            self._queue.remove(uplink)
            self._ids.release(uplink.packet_id)

    def _finish(self, uplink: Uplink, error: PushError | None) -> None:
        self._ids.release(uplink.packet_id)
        if uplink.done.done():
            return
        if error is None:
            uplink.done.set_result(None)
        else:
            uplink.done.set_exception(error)

    def _check_size(self, topic: str, frame: bytes) -> None:
        if self._max_packet_size and len(frame) > self._max_packet_size:
            text = f"{len(frame)} bytes, and this server takes {self._max_packet_size}"
            raise UplinkRefused(topic, _TOO_LARGE, text)

    def _check_over(self) -> None:
        if self._over is not None:
            raise self._over()
