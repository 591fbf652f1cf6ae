"""The reason codes that a room says (MQTT 5 §2.4), and why a connection ended, as the offline event tells it."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Reason(IntEnum):
    """Reason codes of CONNACK, PUBACK, SUBACK, UNSUBACK and DISCONNECT, one name a code."""

    SUCCESS = 0x00
    NO_SUBSCRIPTION = 0x11
    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION = 0x83
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID_NOT_VALID = 0x85
    BAD_TOKEN = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    BAD_AUTH_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    RECEIVE_MAXIMUM = 0x93
    TOPIC_ALIAS = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE = 0x98
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SHARED_NOT_SUPPORTED = 0x9E
    SUBSCRIPTION_ID_NOT_SUPPORTED = 0xA1
    CONNECTION_RATE = 0x9F
    WILDCARD_NOT_SUPPORTED = 0xA2


class End(StrEnum):
    """Why a connection ended: the `reason` of `saver.disconnect`, and the label of the counter."""

    NORMAL = "normal"
    SOCKET = "socket_closed"
    PROTOCOL = "protocol_error"
    KEEP_ALIVE = "keepalive_timeout"
    PACKET_TIMEOUT = "packet_timeout"
    CONNECT_TIMEOUT = "connect_timeout"
    ACK_TIMEOUT = "ack_timeout"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a reason, not a token
    REVOKED = "token_revoked"
    TAKEN_OVER = "taken_over"
    KICKED = "kicked"
    DENIED = "denied"
    PUBLISH_RATE = "publish_rate"
    SLOW = "slow"
    MOVING = "moving"
    REFUSED = "refused"
    UNAVAILABLE = "saver_unavailable"
