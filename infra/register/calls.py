"""How each script is called: names of keys and packed arguments, in the order that the script's head says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from infra.register.slots import due_key, slot_of_client
from infra.register.views import LastSession, Parking, SessionView, Settlement, StoreItem
from infra.wire import (
    NOTICED,
    Ack,
    BindItem,
    ConnectItem,
    DisconnectItem,
    JobNumber,
    ProductWindow,
    PullItem,
    SettledJob,
    SyncItem,
    UnbindItem,
)
from schemas import names
from schemas.codes import Mode, State

PAGE_BYTES: Final = 64 * 1024
"""Bytes of bodies in one page, about; one message always fits."""

PEEK_BYTES: Final = 256 * 1024
"""Bytes of bodies that are looked at for one list."""

Call = tuple[str, list[str], list[Any]]
"""Script, keys, arguments."""

pack: Final = msgspec.msgpack.Encoder().encode


def connect_call(i: ConnectItem) -> Call:
    """`connect.lua`, or `open.lua` where there is a bind to it."""
    arguments: list[Any] = [i.room, i.epoch, i.connection, *i.seen, i.until_ms]
    if (first := i.first) is None:
        return "connect", [names.session_key(i.key), names.counter_key(i.key)], arguments
    arguments += pack([first.bind.product, [], first.limit, PAGE_BYTES, False]), pack(first.bind)
    return "open", _bind_keys(i.key, first.bind.product), arguments


def bind_call(i: BindItem) -> Call:
    """`bind.lua`."""
    arguments = [_me(i), [i.bind.product, i.window, i.limit, PAGE_BYTES, i.whole]]
    return "bind", _bind_keys(i.key, i.bind.product), [pack(arguments), pack(i.bind)]


def _bind_keys(key: str, product: str) -> list[str]:
    return [
        names.session_key(key),
        names.counter_key(key),
        names.owed_key(key),
        names.first_bind_key(key, product),
        *_product_keys(key, product),
    ]


def sync_call(i: SyncItem) -> Call:
    """`sync.lua`, or `acks.lua` where there is nothing else to it."""
    if i.only_acks:
        return _acks_call(i)
    products = _places(i.products, [*(ack.product for ack in i.acks), *(job.product for job in i.jobs)])
    arguments = [
        _me(i),
        list(products),
        [item.window for item in i.products],
        [item.limit for item in i.products],
        PAGE_BYTES,
        _acks(products, i.acks),
        _jobs(products, i.jobs),
        _noticed(products, i.acks),
        i.whole,
    ]
    return "sync", _client_keys(i.key, products), [pack(arguments), *(pack(item.bind) for item in i.products)]


def _acks_call(i: SyncItem) -> Call:
    products = _places((), [*(ack.product for ack in i.acks), *(job.product for job in i.jobs)])
    session, _, owed, *rest = _client_keys(i.key, products)
    arguments = [_me(i), list(products), _acks(products, i.acks), _jobs(products, i.jobs), _noticed(products, i.acks)]
    return "acks", [session, owed, *rest], [pack(arguments)]


def disconnect_call(i: DisconnectItem, parking: Parking) -> Call:
    """`disconnect.lua`."""
    touched = [*(ack.product for ack in i.acks), *(job.product for job in i.jobs), *(product for product, _ in i.unacked)]
    products = _places((), touched)
    unacked = [[products[product], message_id] for product, message_id in i.unacked]
    bounds = [parking.connections, int(parking.seconds * 1000)]
    settled = _acks(products, i.acks), _jobs(products, i.jobs)
    arguments = [_me(i), list(products), *settled, unacked, i.fruitless, i.acked, bounds]
    session, counter, owed, *rest = _client_keys(i.key, products)
    return "disconnect", [session, counter, owed, names.guard_key(i.key), *rest], [pack(arguments)]


def unbind_call(i: UnbindItem) -> Call:
    """`unbind.lua`."""
    keys = [names.session_key(i.key), names.counter_key(i.key), names.first_bind_key(i.key, i.product)]
    return "unbind", keys, [pack([_me(i), i.product])]


def holding_call(key: str, product: str) -> Call:
    """`holding.lua`."""
    return "holding", [names.session_key(key), names.counter_key(key), names.first_bind_key(key, product)], [product]


def leave_call(key: str, product: str, mark: str) -> Call:
    """`leave.lua`."""
    return "leave", [names.session_key(key), names.first_bind_key(key, product)], [product, mark]


def store_call(i: StoreItem) -> Call:
    """`store.lua`."""
    keys = [names.session_key(i.key), names.owed_key(i.key), *_product_keys(i.key, i.product)]
    apart = [m for m in i.messages if m.body.mode == Mode.PULL]
    messages: list[list[Any]] = [[m.id, m.priority, m.expires_ms, m.collapse_key] for m in i.messages]
    for m, message in zip(i.messages, messages, strict=True):
        if m.body.mode != Mode.PUSH:
            message.append(1 + len(messages) + apart.index(m) + 1 if m in apart else 0)
        elif m.due_ms is not None:
            message.append(False)  # no notice
        if m.due_ms is not None:
            message.append(m.due_ms)
    return "store", keys, [pack([i.product, i.cap, messages]), *(pack(m.body) for m in i.messages), *(m.apart for m in apart)]


def pull_call(i: PullItem) -> Call:
    """`pull.lua`."""
    keys = [names.session_key(i.key), *_product_keys(i.key, i.product)]
    return "pull", keys, [pack([i.generation, i.number, i.id])]


def peek_call(key: str, product: str, limit: int, after: int) -> Call:
    """`peek.lua`."""
    return "peek", _product_keys(key, product), [limit, PEEK_BYTES, after]


def state_call(key: str, product: str, message_id: str) -> Call:
    """`state.lua`."""
    return "state", _product_keys(key, product), [message_id]


def _me(item: BindItem | SyncItem | UnbindItem | DisconnectItem) -> list[Any]:
    return [item.room, item.epoch, getattr(item, "connection", 0), item.generation, item.number]


def _product_keys(key: str, product: str) -> list[str]:
    return [
        names.pending_key(key, product),
        names.bodies_key(key, product),
        names.number_key(key, product),
        names.settled_key(key, product),
        names.collapse_index_key(key, product),
        names.settled_jobs_key(key, product),
        due_key(slot_of_client(key)),
    ]


def _places(first: Sequence[ProductWindow], more: Sequence[str]) -> dict[str, int]:
    """Every product of a call with its place, from 1 as Lua counts; the bound ones come first."""
    order = dict.fromkeys([*(item.bind.product for item in first), *more])
    return {product: place for place, product in enumerate(order, 1)}


def _client_keys(key: str, products: dict[str, int]) -> list[str]:
    keys = [names.session_key(key), names.counter_key(key), names.owed_key(key)]
    for product in products:
        keys += _product_keys(key, product)
    return keys


def _acks(products: dict[str, int], acks: Sequence[Ack]) -> list[list[Any]]:
    return [
        [products[ack.product], ack.id] if ack.state == State.ACKED else [products[ack.product], ack.id, ack.state]
        for ack in acks
        if ack.state != NOTICED
    ]


def _noticed(products: dict[str, int], acks: Sequence[Ack]) -> list[list[Any]]:
    return [[products[ack.product], ack.id] for ack in acks if ack.state == NOTICED]


def _jobs(products: dict[str, int], jobs: Sequence[SettledJob]) -> list[list[Any]]:
    """One set holds both, by how many parts a name has: settled (partition:offset) and written lately (…:second)."""
    return [[products[job.product], _job_name(job), max(job.remember_s, job.counts_s) * 1000] for job in jobs]


def _job_name(job: SettledJob) -> str:
    return f"{job.partition}:{job.offset}:{job.sent_s}" if job.sent_s else f"{job.partition}:{job.offset}"


# --- folding Kafka into it again ---------------------------------------------------------------------------------------


def settle_call(key: str, product: str, settled: Sequence[Settlement], *, told: bool = True) -> Call:
    """`settle.lua`, in order; not `told`: acks that the register has not heard of before."""
    ids, times, states = zip(*settled, strict=True) if settled else ((), (), ())
    arguments = [product, ids, times, states, told]
    return "settle", [names.owed_key(key), *_product_keys(key, product)], [pack(arguments)]


def restore_call(session: LastSession) -> Call:
    """`restore.lua`."""
    products = _places((), [job.product for job in session.jobs])
    where = [session.room, session.epoch, -1, session.generation, session.number]
    arguments = [session.online, where, list(products), _jobs(products, session.jobs)]
    return "restore", _client_keys(session.key, products), [pack(arguments)]


# --- fallback ----------------------------------------------------------------------------------------------------------


def hand_call(key: str, product: str, ids: Sequence[str], claim_ms: int) -> Call:
    """`hand.lua`."""
    keys = [names.owed_key(key), names.first_bind_key(key, product), *_product_keys(key, product)]
    return "hand", keys, [pack([product, ids, claim_ms])]


def handed_call(key: str, product: str, ids: Sequence[str]) -> Call:
    """`handed.lua`."""
    return "handed", _product_keys(key, product), list(ids)


def settled_job_call(key: str, product: str, number: JobNumber) -> Call:
    """`settledjob.lua`."""
    return "settledjob", [names.settled_jobs_key(key, product)], [f"{number[0]}:{number[1]}"]


# --- the sweep ---------------------------------------------------------------------------------------------------------


def sweep_call(key: str, session: SessionView) -> Call:
    """`sweep.lua`."""
    return "sweep", [names.session_key(key)], [session.room, session.epoch, session.generation, session.number]


def expire_call(key: str, product: str) -> Call:
    """`expire.lua`."""
    return "expire", [names.owed_key(key), *_product_keys(key, product)], [product]
