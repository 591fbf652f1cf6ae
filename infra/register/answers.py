"""What the scripts answer, as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from infra.register.calls import pack
from infra.register.views import (
    Bound,
    Claimed,
    Connected,
    Gone,
    Holding,
    Owed,
    Parked,
    PendingItem,
    PendingPage,
    Pulled,
    Rebound,
    SessionView,
    Standing,
    Stored,
    StoreItem,
    StoreOutcome,
    Synced,
    Unbound,
    Unsettled,
)
from infra.wire import Bind, BindItem, ConnectItem, DisconnectItem, PullItem, SyncItem, UnbindItem
from schemas.codes import State

SETTLED_AS: Final = (None, State.ACKED, State.WRITTEN, State.REJECTED, State.EXPIRED, State.REPLACED, State.EVICTED, State.DEAD)
"""By the code in a settled id's score (`common.lua`)."""
BARE_TIME: Final = 10**13
"""A score below is a time, ms, without a code, as they were before."""
SESSION: Final = ("generation", "number", "room", "epoch", "connection")

_unpack_bind: Final = msgspec.msgpack.Decoder(Bind)
_unpack_stored: Final = msgspec.msgpack.Decoder(Stored)


def text(value: Any) -> str:
    """A reply as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def session(values: Sequence[Any]) -> SessionView | None:
    """The session fields of a HASH, None where there is none."""
    if values[0] is None:
        return None
    return SessionView(int(values[0]), int(values[1]), text(values[2]), int(values[3]), int(values[4]))


def bind(value: bytes | None) -> Bind | None:
    """A packed bind."""
    return _unpack_bind.decode(value) if value else None


def owed(key: str, flat: Sequence[Any]) -> list[Owed]:
    """What a script owes: `<product> <id>`, `<state>[ <detail>]`, …"""
    found = []
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        product, _, message_id = text(name).partition(" ")
        state, _, detail = text(value).partition(" ")
        found.append(Owed(key, product, message_id, state, detail))
    return found


def page(product: str, raw: Sequence[Any], now_ms: int) -> PendingPage:
    """A page as `common.lua` gives it: n, more, then n, id, body, …, then id, payload, … of what lies apart and was asked for."""
    n, more, flat, *rest = raw
    payloads = rest[0] if rest else ()
    apart = dict(zip(payloads[::2], payloads[1::2], strict=True))
    items = []
    for number, message_id, packed in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        items.append(_item(number, message_id, packed, now_ms, apart.get(message_id)))
    return PendingPage(product, int(n), bool(int(more)), items)


def standing(answer: Sequence[Any]) -> Standing:
    """Of `state.lua`."""
    now, expires, handed, settled = answer
    if expires:
        return Standing(int(now), int(expires), bool(handed))
    if not settled:
        return Standing(int(now))
    score = int(settled)
    if score < BARE_TIME:
        return Standing(int(now), settled_ms=score)
    return Standing(int(now), settled_ms=score // 16, state=SETTLED_AS[score % 16])


def _item(number: Any, message_id: Any, packed: bytes, now_ms: int, apart: bytes | None = None) -> PendingItem:
    """A pending message: `<flags n, f><expires>|<collapse key>|<Stored>`, its payload perhaps apart."""
    expires, _, body = packed.split(b"|", 2)
    remaining = -((now_ms - int(expires.lstrip(b"nf"))) // 1000)
    return PendingItem(int(number), text(message_id), _stored(body, apart), max(1, remaining))


def _stored(packed: bytes, apart: bytes | None) -> Stored:
    stored = _unpack_stored.decode(packed)
    return stored if apart is None else msgspec.structs.replace(stored, payload=apart)


def connected(item: ConnectItem, answer: Sequence[Any]) -> Connected:
    """Of `connect.lua`, or `open.lua`."""
    first = None
    if item.first is not None:
        answer, *more = answer
        first = _bound(item.key, item.first.bind, more[0]) if more else None
    status, generation, number, room, epoch, old_generation, old_number, now = answer
    old = None
    if room and (text(room), int(epoch)) != (item.room, item.epoch):
        old = SessionView(int(old_generation), int(old_number), text(room), int(epoch), 0)
    return Connected(text(status), int(generation), int(number), old, int(now), first)


def bound(item: BindItem, answer: Sequence[Any]) -> Bound:
    """Of `bind.lua`."""
    return Bound(text(answer[0])) if len(answer) == 1 else _bound(item.key, item.bind, answer)


def _bound(key: str, asked: Bind, answer: Sequence[Any]) -> Bound:
    status, now, first, document, user_before, raw, jobs, due, registered = answer
    numbers = [tuple(int(part) for part in text(job).split(":")) for job in jobs]
    return Bound(
        text(status),
        int(first),
        bytes(document) != pack(asked),
        text(user_before),
        page(asked.product, raw, int(now)),
        [(number[0], number[1]) for number in numbers if len(number) == 2],
        owed(key, due),
        [(number[0], number[1], number[2]) for number in numbers if len(number) == 3],
        bool(registered),
    )


def unbound(item: UnbindItem, answer: Sequence[Any]) -> Unbound:
    """Of `unbind.lua`."""
    status, user, mark = answer
    return Unbound(text(status), text(user), text(mark))


def holding(answer: Sequence[Any]) -> Holding:
    """Of `holding.lua`."""
    generation, number, room, epoch, here, known = answer
    return Holding(int(generation), int(number), text(room), int(epoch), bool(here), bool(known))


def rebound(key: str, answer: Sequence[Any]) -> Rebound:
    """Of `leave.lua`, where something has bound since."""
    first, document = answer
    return Rebound(key, _unpack_bind.decode(document), int(first))


def synced(item: SyncItem, answer: Sequence[Any]) -> Synced:
    """Of `sync.lua`, or `acks.lua`."""
    if len(answer) == 1:
        return Synced(text(answer[0]))
    if item.only_acks:
        status, due, missing = answer
        return Synced(text(status), owed=owed(item.key, due), missing=bool(missing))
    status, now, raw, due, registered = answer
    pages = [page(entry.bind.product, one, int(now)) for entry, one in zip(item.products, raw, strict=True)]
    return Synced(text(status), pages, owed(item.key, due), bool(registered))


def pulled(item: PullItem, answer: Sequence[Any]) -> Pulled:
    """Of `pull.lua`."""
    if len(answer) == 1:
        return Pulled(text(answer[0]))
    status, now, number, packed, apart = answer
    return Pulled(text(status), _item(number, item.id, packed, int(now), apart))


def stored(item: StoreItem, answer: Sequence[Any]) -> StoreOutcome:
    """Of `store.lua`."""
    where, packed, now, numbers, due = answer
    return StoreOutcome(session(where), bind(packed), int(now), [int(n) for n in numbers], owed(item.key, due))


def gone(item: DisconnectItem, answer: Sequence[Any]) -> Gone:
    """Of `disconnect.lua`."""
    status, due, flat = answer
    products = list(
        dict.fromkeys([*(a.product for a in item.acks), *(j.product for j in item.jobs), *(p for p, _ in item.unacked)])
    )
    parked = [
        Parked(item.key, products[int(place) - 1], text(message_id), _stored(packed.split(b"|", 2)[2], apart))
        for place, message_id, packed, apart in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
    ]
    return Gone(text(status), owed(item.key, due), parked)


def claimed(key: str, product: str, answer: Sequence[Any]) -> Claimed:
    """Of `hand.lua`."""
    now, user, flat, due = answer
    messages = [
        Unsettled(text(message_id), _stored(packed.split(b"|", 2)[2], apart))
        for message_id, packed, apart in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    ]
    return Claimed(key, product, int(now), text(user), messages, owed(key, due))
