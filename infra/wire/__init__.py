"""What rooms and workers say to each other over NATS: versioned msgspec structs, array-like, in msgpack.

Every request is a numbered batch of a sender; a reply has one result an item, in the same order. Requests are idempotent: a
repeat may reach another worker of the queue group, so what makes it harmless is the Redis script, not a memory of numbers.
Bounds: `MAX_ITEMS` items and `MAX_BYTES` bytes a batch, `MAX_UNANSWERED` batches unanswered for each (sender, subject).
New fields are added at the end, with a default: msgspec reads old and new.
"""

from __future__ import annotations

from infra.wire.batch import (
    ITEM_OVERHEAD,
    MAX_BYTES,
    MAX_ITEMS,
    MAX_UNANSWERED,
    VERSION,
    JobNumber,
    Properties,
    Reply,
    Request,
    encoder,
)
from infra.wire.broadcasts import Counts, JobContent, JobRoom, JobView, Slice, SliceReply
from infra.wire.messages import Downlink, Hint, HintResult, Page, size_of
from infra.wire.rooms import Announce, Control, ControlReply, EndJob, Kick, Lease, RoomEntry
from infra.wire.sessions import (
    ELSEWHERE,
    GONE,
    NOTICED,
    OK,
    RETRY,
    SUPERSEDED,
    Ack,
    Bind,
    BindItem,
    BindResult,
    ConfirmItem,
    ConnectItem,
    ConnectResult,
    DisconnectItem,
    DoneResult,
    ProductWindow,
    PullItem,
    PullResult,
    SettledJob,
    SyncItem,
    SyncResult,
    UnbindItem,
)
from infra.wire.uplinks import UplinkItem, UplinkResult

__all__ = [
    "ELSEWHERE",
    "GONE",
    "ITEM_OVERHEAD",
    "MAX_BYTES",
    "MAX_ITEMS",
    "MAX_UNANSWERED",
    "NOTICED",
    "OK",
    "RETRY",
    "SUPERSEDED",
    "VERSION",
    "Ack",
    "Announce",
    "Bind",
    "BindItem",
    "BindResult",
    "ConfirmItem",
    "ConnectItem",
    "ConnectResult",
    "Control",
    "ControlReply",
    "Counts",
    "DisconnectItem",
    "DoneResult",
    "Downlink",
    "EndJob",
    "Hint",
    "HintResult",
    "JobContent",
    "JobNumber",
    "JobRoom",
    "JobView",
    "Kick",
    "Lease",
    "Page",
    "ProductWindow",
    "Properties",
    "PullItem",
    "PullResult",
    "Reply",
    "Request",
    "RoomEntry",
    "SettledJob",
    "Slice",
    "SliceReply",
    "SyncItem",
    "SyncResult",
    "UnbindItem",
    "UplinkItem",
    "UplinkResult",
    "encoder",
    "size_of",
]
