"""What can go wrong, by what the caller has to do about it.

    PushError
    ├── ClientClosed          the client was closed: nothing more will come
    ├── NotConnected          a QoS 0 uplink with no connection: send it again, or use QoS 1
    ├── NotBound              a request needs a bind for its reply: call bind() first
    ├── BindRefused           the server refused topics: .refused says which, and why
    ├── UplinkRefused         the server refused an uplink: .code says why; do not resend it unchanged
    ├── PullRefused           the server gives no body: .code says why
    ├── PullTimeout           no body in time (a TimeoutError as well); it stays pending
    ├── RequestTimeout        no reply in time (a TimeoutError as well)
    ├── DispatchError         the dispatcher gave no usable answer (the client goes on with what it knows)
    ├── ProtocolViolation     the server broke the protocol (the client reconnects by itself)
    └── SessionEnded          do not come back: .code says why
        ├── ClientIdNotValid  0x85
        ├── BadCredentials    0x86
        ├── NotAuthorized     0x87
        ├── Banned            0x8A
        ├── TakenOver         0x8E, another connection uses this client id
        └── Kicked            0x98, an operator ended the session

Only SessionEnded and ClientClosed are final. Everything else leaves the client working.
"""

from __future__ import annotations

from collections.abc import Mapping


class PushError(Exception):
    """The root of everything this package raises, but for ValueError on a wrong argument."""


class ClientClosed(PushError):
    """The client was closed while, or before, the call waited."""


class NotConnected(PushError):
    """There is no connection, and the call is one that does not wait for the next."""


class NotBound(PushError):
    """A reply needs a bind of this connection as its Response Topic."""


class BindRefused(PushError):
    """The server refused some topics of a bind. `refused` maps each to its reason code (MQTT 5, 3.9.3)."""

    def __init__(self, refused: Mapping[str, int]) -> None:
        self.refused = dict(refused)
        listed = ", ".join(f"{topic} (0x{code:02x})" for topic, code in self.refused.items())
        super().__init__(f"the server refused {listed}; does the token name these products and groups?")


class UplinkRefused(PushError):
    """An uplink that was refused for good: `code` is the PUBACK's (MQTT 5, 3.4.2.1), or 0x95 if it is too large."""

    def __init__(self, topic: str, code: int, reason: str = "") -> None:
        self.topic = topic
        self.code = code
        self.reason = reason
        super().__init__(f"uplink to {topic} refused with 0x{code:02x} {reason}".rstrip())


class RequestTimeout(PushError, TimeoutError):
    """The reply did not come in time. The request itself may have been received."""


class PullRefused(PushError):
    """The server gives no body. `code`: 0x83 it is not pending (settled or expired), 0x87 the product is not bound, 0x97 it is
    larger than this client's `max_packet_size` (by HTTP it can be had), 0x90 the topic."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"pull refused with 0x{code:02x} {reason}".rstrip())
        self.code = code
        self.reason = reason


class PullTimeout(PushError, TimeoutError):
    """The body did not come in time. It stays pending; should it come yet, it is delivered like any message."""


class DispatchError(PushError):
    """No usable answer from the dispatcher. `retry_after_s` is its wish, if it stated one."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class ProtocolViolation(PushError):
    """The server sent what MQTT 5 or this profile does not allow. `code` is what we answer in DISCONNECT."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class SessionEnded(PushError):
    """The server told this client not to come back. `code` is the reason code of the CONNACK or DISCONNECT."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class ClientIdNotValid(SessionEnded):
    """0x85: the client id is not the token's subject, or is malformed."""


class BadCredentials(SessionEnded):
    """0x86: the token is malformed, expired, or signed by an unknown key."""


class NotAuthorized(SessionEnded):
    """0x87: the token is good, but not for this."""


class Banned(SessionEnded):
    """0x8A: this client is banned."""


class TakenOver(SessionEnded):
    """0x8E: another connection uses this client id. Coming back would start a fight that neither wins."""


class Kicked(SessionEnded):
    """0x98: an operator, or the product's server, ended this session."""
