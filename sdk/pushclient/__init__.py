"""The device side of Longwire: one MQTT 5 connection that binds, receives, acknowledges, sends, and comes back.

>>> async with PushClient(client_id="c1", token=token, dispatch="https://push.example.com") as client:
...     await client.bind("demo", groups=("news",))
...     async for message in client.messages():
...         print(message.id, message.payload)
"""

from .address import Address
from .backoff import Backoff
from .client import PushClient
from .errors import (
    BadCredentials,
    Banned,
    BindRefused,
    ClientClosed,
    ClientIdNotValid,
    DispatchError,
    Kicked,
    NotAuthorized,
    NotBound,
    NotConnected,
    ProtocolViolation,
    PullRefused,
    PullTimeout,
    PushError,
    RequestTimeout,
    SessionEnded,
    TakenOver,
    UplinkRefused,
)
from .link import Timeouts
from .messages import PushMessage
from .notifications import Notification
from .state import ConnectionState, Stats

__all__ = [
    "Address",
    "Backoff",
    "BadCredentials",
    "Banned",
    "BindRefused",
    "ClientClosed",
    "ClientIdNotValid",
    "ConnectionState",
    "DispatchError",
    "Kicked",
    "NotAuthorized",
    "NotBound",
    "NotConnected",
    "Notification",
    "ProtocolViolation",
    "PullRefused",
    "PullTimeout",
    "PushClient",
    "PushError",
    "PushMessage",
    "RequestTimeout",
    "SessionEnded",
    "Stats",
    "TakenOver",
    "Timeouts",
    "UplinkRefused",
]
