"""Unicast messages on one connection: what is written, what of it is unacknowledged, what is settled and not yet confirmed.

Pure but for what is written: whether something may be written is asked of `Delivery`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import msgspec

from gateway import metrics
from gateway.client import FIRST_BROADCAST_ID, BindState, Client, Inflight
from gateway.mqtt.publish import publish, topic_field
from gateway.ports import Shell
from gateway.sessions.outbox import Outbox
from infra.wire import MAX_BYTES, NOTICED, Ack, Downlink
from schemas import names
from schemas.codes import State

WRITTEN_0: Final = metrics.written.labels("0")
WRITTEN_1: Final = metrics.written.labels("1")
SETTLED: Final = {state: metrics.settled.labels(state) for state in (*State, NOTICED)}
"""Found once: these are counted for each message."""

ACKED: Final = State.ACKED
"""For each message: an enum's attribute is looked up each time."""

ACKS_BYTES: Final = MAX_BYTES // 2
"""Of one request; the rest of it is the client's binds with their windows."""

TOPICS: Final = 1024
"""Topics whose bytes are remembered: a product's, and those of its groups that get something."""

TOO_LARGE: Final = "larger than the client's Maximum Packet Size"


def move(client: Client, shell: Shell) -> set[str]:
    """The client has another socket, or none. Returns the products of which something had not drained: it comes again."""
    undrained, client.drain = client.drain, None
    client.shell = shell
    return {ack.product for ack in undrained or ()}


def space(client: Client) -> int:
    """Bytes that may be buffered yet; below 0: nothing is to be written now."""
    return client.soft_cap - client.shell.buffered()


def may_write(client: Client, bind: BindState, more: int = 0) -> bool:
    """Is there a place, and room in the buffer (`more` bytes are composed already)?"""
    if bind.qos and client.unicast_places() <= 0:
        return False
    shell = client.shell
    if shell.direct >= 0 and not more:
        return True  # nothing is buffered
    return shell.buffered() + more <= client.soft_cap


def has_place(client: Client, bind: BindState) -> bool:
    """Is there a place, whatever is buffered?"""
    return bind.qos == 0 or client.unicast_places() > 0


def compose(client: Client, bind: BindState, message: Downlink, now: float) -> bytes:
    """The PUBLISH for a message, which is from here on in the window (or, at QoS 0, waits for the buffer to drain).

    Empty bytes where the client can't take it, and no notice of it either: it is settled as dead at once.
    """
    packet_id = _next_id(client) if bind.qos else None
    notice = message.size >= 0
    try:
        data = _packet(bind, message, bind.qos, packet_id)
        if len(data) > client.max_packet and message.or_notice:
            data, notice = _packet(bind, _notice_of(message), bind.qos, packet_id), True
    except ValueError as error:
        return _dead(client, bind, message, f"MQTT can't carry it: {error}")
    if len(data) > client.max_packet:
        return _dead(client, bind, message, TOO_LARGE)
    _take(client, bind, message, packet_id, now=now, data=data, notice=notice)
    return data


def compose_pulled(client: Client, bind: BindState, message: Downlink, now: float) -> bytes:
    """The same for a body that the client asked for; empty where it is too large, and then nothing is settled."""
    packet_id = _next_id(client) if bind.qos else None
    data = _packet(bind, message, bind.qos, packet_id)
    if len(data) > client.max_packet:
        return b""
    _take(client, bind, message, packet_id, now=now, data=data, notice=False)
    return data


def on_its_way(client: Client, product: str, message_id: str) -> bool:
    """Was the body written, and not acknowledged yet?"""
    inflight = client.inflight.values() if client.inflight else ()
    if any(item.id == message_id and item.product == product and not item.notice for item in inflight):
        return True
    return any(ack.id == message_id and ack.product == product and ack.state != NOTICED for ack in client.drain or ())


def settled_here(client: Client, product: str, message_id: str) -> bool:
    """Was it settled, and the saver not told yet?"""
    acks = client.acks or ()
    return any(ack.id == message_id and ack.product == product and ack.state != NOTICED for ack in acks)


def fire(client: Client, bind: BindState, message: Downlink, out: Outbox) -> bool:
    """Write a message that was never stored, at QoS 0; False if the buffer is too full for it or the packet too large."""
    if client.shell.buffered() > client.soft_cap:
        return False
    try:
        data = _packet(bind, message, 0, None)
    except ValueError:
        return False
    if len(data) > client.max_packet:
        return False
    out.add(client, data)
    WRITTEN_0.value += 1
    return True


def settle(client: Client, packet_id: int, reason: int) -> bool:
    """A PUBACK for unicast; False if no packet of ours has this id."""
    inflight = client.inflight
    entry = inflight.pop(packet_id, None) if inflight else None
    if entry is None:
        return False
    if not inflight:
        client.inflight = None
    if reason < 0x80:
        _settled(client, Ack(entry.product, entry.id, NOTICED if entry.notice else ACKED))
    else:
        _settled(client, Ack(entry.product, entry.id, State.REJECTED, f"0x{reason:02X}"))
    return True


def drained(client: Client) -> None:
    """The buffer is empty: what was written at QoS 0 is settled."""
    waiting, client.drain = client.drain, None
    for ack in waiting or ():
        _settled(client, ack)


def unconfirmed(client: Client) -> int:
    """How many are settled, or will be by themselves, and were not sent to the saver yet."""
    return len(client.acks or ()) + len(client.drain or ())


def take_acks(client: Client) -> list[Ack]:
    """Acks that were not sent to the saver yet, as many as a request carries; they are the caller's now, the rest is left."""
    most = ACKS_BYTES
    acks, client.acks = client.acks or [], None
    if len(acks) < 2:
        return acks
    for count, ack in enumerate(acks):
        most -= _size_of(ack)
        if most < 0 and count:
            client.acks = acks[count:]
            return acks[:count]
    return acks


def held(client: Client, product: str) -> list[str]:
    """Ids of a product that are in the room's hands: unacknowledged, or settled and not confirmed."""
    ids = [item.id for item in client.inflight.values() if item.product == product] if client.inflight else []
    ids += [ack.id for ack in client.acks or () if ack.product == product]
    ids += [ack.id for ack in client.drain or () if ack.product == product]
    return ids


def oldest(client: Client) -> float:
    """When the oldest unacknowledged message was written; `inf` if all are acknowledged."""
    inflight = client.inflight
    return next(iter(inflight.values())).sent_at if inflight else math.inf


def _take(
    client: Client, bind: BindState, message: Downlink, packet_id: int | None, *, now: float, data: bytes, notice: bool
) -> None:
    if notice:
        metrics.notices.inc()
    if packet_id is None:
        WRITTEN_0.value += 1
        if client.drain is None:
            client.drain = []
        client.drain.append(Ack(bind.product, message.id, NOTICED if notice else State.WRITTEN))
        return
    WRITTEN_1.value += 1
    if client.inflight is None:
        client.inflight = {}
    client.inflight[packet_id] = Inflight(bind.product, message.id, message.n, now, data, notice=notice)


def _dead(client: Client, bind: BindState, message: Downlink, detail: str) -> bytes:
    _settled(client, Ack(bind.product, message.id, State.DEAD, detail))
    return b""


def _settled(client: Client, ack: Ack) -> None:
    SETTLED[ack.state].value += 1
    if client.acks is None:
        client.acks = []
    client.acks.append(ack)


def _next_id(client: Client) -> int:
    inflight = client.inflight
    while True:
        packet_id = client.next_packet_id
        client.next_packet_id = packet_id % (FIRST_BROADCAST_ID - 1) + 1
        if not inflight or packet_id not in inflight:
            return packet_id


def _size_of(ack: Ack) -> int:
    """Bytes in a request, at most."""
    return len(ack.product) + len(ack.id) + len(ack.state) + 4 * len(ack.detail) + 8


def _notice_of(message: Downlink) -> Downlink:
    return msgspec.structs.replace(message, payload=b"", size=len(message.payload))


def _packet(bind: BindState, message: Downlink, qos: int, packet_id: int | None) -> bytes:
    """The PUBLISH; a notice says by its properties what is to be pulled (docs/protocol.md)."""
    properties, group = message.properties, message.group
    if group and group not in bind.groups:
        group = ""
    if message.size >= 0:
        after = [("pull-after", f"{message.pull_after_ms / 1000:g}")] if message.pull_after_ms else []
        properties = [("pull", message.id), ("size", str(message.size)), *after, *properties]
    return publish(
        _topic(bind.product, group),
        message.payload,
        id=message.id,
        qos=qos,
        packet_id=packet_id,
        expires_in_s=message.expires_in_s,
        content_type=message.content_type,
        correlation=message.correlation,
        properties=properties,
    )


@lru_cache(maxsize=TOPICS)
def _topic(product: str, group: str) -> bytes:
    return topic_field(names.push_topic(product, group))
