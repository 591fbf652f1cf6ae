"""One MQTT 5 connection of the push profile, without a socket or a clock: bytes in, packets out, and the reverse.

The shell feeds `receive_data` and handles what it returns, in order; every other method returns the bytes to write. An
object serves one connection and is then thrown away.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import mqtt5

from .errors import ProtocolViolation

MALFORMED, PROTOCOL_ERROR, RECEIVE_MAX, ALIAS, TOO_LARGE = 0x81, 0x82, 0x93, 0x94, 0x95

ServerPacket = (
    mqtt5.ConnAckPacket
    | mqtt5.PublishPacket
    | mqtt5.PubAckPacket
    | mqtt5.SubAckPacket
    | mqtt5.UnsubAckPacket
    | mqtt5.PingRespPacket
    | mqtt5.DisconnectPacket
    | mqtt5.AuthPacket
)
Event = ServerPacket | ProtocolViolation


class State(enum.Enum):
    CONNECTING = "waiting for CONNACK"
    OPEN = "accepted"
    CLOSED = "nothing more may be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What CONNECT says. `keep_alive` and `session_expiry` in seconds, `max_packet_size` in bytes."""

    client_id: str
    token: str
    network: str
    clean_start: bool
    session_expiry: int
    keep_alive: int
    receive_max: int
    max_packet_size: int
    method: str | None = None

    def write(self) -> bytes:
        """The token goes in the password, no user name. `method`: the Authentication Method by which it may be renewed."""
        return mqtt5.ConnectPacket(
            self.client_id,
            password=self.token.encode(),
            clean_start=self.clean_start,
            keep_alive=self.keep_alive,
            session_expiry_interval=self.session_expiry,
            receive_max=self.receive_max,
            max_packet_size=self.max_packet_size,
            authentication_method=self.method,
            user_properties=[("network", self.network)],
        ).write()


class Connection:
    """The rules of one connection: who may speak when, how large, how many unacknowledged."""

    __slots__ = ("_max_packet_size", "_receive_max", "_rest", "_unacked", "renewing", "state")

    def __init__(self, *, receive_max: int, max_packet_size: int) -> None:
        self.renewing = False  # an AUTH of ours has no answer yet
        self.state = State.CONNECTING
        self._receive_max = receive_max
        self._max_packet_size = max_packet_size
        self._rest = b""
        self._unacked: set[int] = set()

    def receive_data(self, data: bytes) -> list[Event]:
        """The packets that `data` completes, in order.

        After a violation, which is the last event, or a DISCONNECT nothing more is read: the caller closes.
        """
        events: list[Event] = []
        data = self._rest + data if self._rest else data
        offset = 0
        try:
            while self.state is not State.CLOSED and (size := self._packet_size(data, offset)):
                event = self._checked(decode(memoryview(data)[offset : offset + size]))
                events.append(event)
                offset += size
        except ProtocolViolation as violation:
            self.state = State.CLOSED
            events.append(violation)
        self._rest = b"" if self.state is State.CLOSED else data[offset:]
        return events

    def acknowledge(self, packet_id: int, code: int = 0, reason: str = "") -> bytes:
        """PUBACK: frees the packet's place in the window."""
        self._unacked.discard(packet_id)
        if not code:
            return mqtt5.PubAckPacket(packet_id).write()
        refusal = mqtt5.PubAckReasonCode(code)
        return mqtt5.PubAckPacket(packet_id, reason_code=refusal, reason_str=reason or None).write()

    def _packet_size(self, data: bytes, offset: int) -> int:
        """Of the packet at `offset`, if it is here as a whole, else 0. Judged before anything is kept."""
        size = announced_size(data, offset)
        if size > self._max_packet_size:
            raise ProtocolViolation(TOO_LARGE, f"a packet of {size} bytes, more than our {self._max_packet_size}")
        return size if size and len(data) - offset >= size else 0

    def _checked(self, packet: mqtt5.Packet) -> ServerPacket:
        if (self.state is State.CONNECTING) != isinstance(packet, mqtt5.ConnAckPacket):
            raise ProtocolViolation(PROTOCOL_ERROR, f"{type(packet).__name__} while {self.state.value}")
        if isinstance(packet, mqtt5.PublishPacket):
            self._check_publish(packet)
        elif isinstance(packet, mqtt5.ConnAckPacket):
            self.state = State.OPEN if int(packet.reason_code) == 0 else State.CLOSED
        elif isinstance(packet, mqtt5.DisconnectPacket):
            self.state = State.CLOSED
        elif isinstance(packet, mqtt5.AuthPacket):
            if not self.renewing or packet.reason_code != mqtt5.AuthReasonCode.SUCCESS:
                raise ProtocolViolation(PROTOCOL_ERROR, "AUTH that answers nothing of ours")
            self.renewing = False
        elif not isinstance(packet, ServerPacket):
            raise ProtocolViolation(PROTOCOL_ERROR, f"{type(packet).__name__} is not a server's to send")
        return packet

    def _check_publish(self, packet: mqtt5.PublishPacket) -> None:
        if packet.topic_alias is not None:
            raise ProtocolViolation(ALIAS, f"topic alias {packet.topic_alias}, and we offered none")
        if packet.qos == mqtt5.QoS.AT_MOST_ONCE:
            return
        if packet.qos == mqtt5.QoS.EXACTLY_ONCE or not packet.packet_id:
            raise ProtocolViolation(PROTOCOL_ERROR, f"PUBLISH with QoS {int(packet.qos)}, id {packet.packet_id}")
        self._unacked.add(packet.packet_id)
        if len(self._unacked) > self._receive_max:
            raise ProtocolViolation(RECEIVE_MAX, f"more than {self._receive_max} messages unacknowledged")


def announced_size(data: bytes, offset: int) -> int:
    """Of the packet that begins at `offset`, header included; 0 if its header is not here yet (MQTT 5, 2.1.4)."""
    remaining = 0
    for i in range(1, 5):
        if offset + i >= len(data):
            return 0
        byte = data[offset + i]
        remaining |= (byte & 0x7F) << 7 * (i - 1)
        if byte < 0x80:
            return remaining + i + 1
    raise ProtocolViolation(MALFORMED, "a packet length of more than four bytes")


def decode(frame: memoryview) -> mqtt5.Packet:
    """Exactly one packet. Raises ProtocolViolation where the bytes are not one."""
    try:
        packet, size = mqtt5.read(frame)
    except (IndexError, ValueError) as error:
        raise ProtocolViolation(MALFORMED, f"malformed packet: {error}") from error
    except BaseException as error:
        # The codec panics on a string that is not UTF-8, and a panic is no Exception: handlers for those miss it.
        if type(error).__name__ != "PanicException":
            raise
        raise ProtocolViolation(MALFORMED, "malformed packet: a string that is not UTF-8") from None
    if size != len(frame):
        raise ProtocolViolation(MALFORMED, f"a packet of {size} bytes in {len(frame)}")
    return packet


def disconnect(code: int, *, session_expiry: int | None = None) -> bytes:
    """DISCONNECT: 0x00 on leaving, or a violation's code. `session_expiry` 0 ends a session that would be kept."""
    reason = mqtt5.DisconnectReasonCode(code)
    return mqtt5.DisconnectPacket(reason_code=reason, session_expiry_interval=session_expiry).write()
