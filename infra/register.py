"""The register: sessions, binds and what is pending, in Redis. An index, never the truth (docs/design.md, principle 1).

Each method takes a batch and runs one Lua script a client, pipelined; every script is idempotent, because a timeout leaves its
outcome unknown and the caller repeats it. A script touches the keys of one client only, which share a slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import resources
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from infra.settings import RedisSettings
from infra.wire import (
    Bind,
    BindItem,
    ConnectItem,
    DisconnectItem,
    JobNumber,
    ProductWindow,
    SettledJob,
    SyncItem,
    UnbindItem,
)
from schemas import names

PAGE_BYTES: Final = 64 * 1024
"""Bytes of bodies in one page, about; one message always fits."""
PIPELINE: Final = 100
"""Scripts in one pipeline, at most."""
GENERATION_KEY: Final = "longwire:generation"

log = structlog.get_logger("register")
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack_bind: Final = msgspec.msgpack.Decoder(Bind)


class RegisterDown(Exception):
    """Redis did not answer in time, or refused: the outcome is unknown. Repeat it."""


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """What is kept of a pending message besides its id, number and expiry."""

    payload: bytes
    group: str = ""
    content_type: str = ""
    correlation: bytes | None = None
    properties: list[tuple[str, str]] = []


_unpack_stored: Final = msgspec.msgpack.Decoder(Stored)


@dataclass(frozen=True, slots=True)
class SessionView:
    """Where a client is: session (generation, number) in (room, epoch)."""

    generation: int
    number: int
    room: str
    epoch: int
    connection: int


@dataclass(frozen=True, slots=True)
class ClientView:
    """A client as the register knows it. `pending`: product → count, for the products bound or asked for."""

    session: SessionView | None
    binds: dict[str, Bind]
    pending: dict[str, int]


@dataclass(frozen=True, slots=True)
class Owed:
    """A receipt that a script owes to Kafka."""

    key: str
    product: str
    id: str
    state: str


@dataclass(frozen=True, slots=True)
class PendingItem:
    """A pending message in a page. `expires_in_s` ≥ 1: whole seconds that remain, by Redis TIME."""

    n: int
    id: str
    body: Stored
    expires_in_s: int


@dataclass(frozen=True, slots=True)
class PendingPage:
    """The first pending messages outside the window; `n` is the product's last store number."""

    product: str
    n: int
    more: bool
    items: list[PendingItem]


@dataclass(frozen=True, slots=True)
class Connected:
    """The answer to connect; `old` is the session that it took over, if that was in another (room, epoch)."""

    status: str
    generation: int = 0
    number: int = 0
    old: SessionView | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """The answer to bind. `document_changed`: the durable registry does not have this bind yet."""

    status: str
    first_bind_ms: int = 0
    document_changed: bool = False
    user_before: str = ""
    page: PendingPage | None = None
    settled_jobs: list[JobNumber] = field(default_factory=list)
    owed: list[Owed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to sync and disconnect."""

    status: str
    pages: list[PendingPage] = field(default_factory=list)
    owed: list[Owed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StoreMessage:
    """One message to store. `expires_ms` by Kafka's append time plus the TTL."""

    id: str
    priority: int
    expires_ms: int
    collapse_key: str
    body: Stored


@dataclass(frozen=True, slots=True)
class StoreItem:
    """Messages of one (client, product), in order; `cap`: pending messages at most."""

    key: str
    product: str
    cap: int
    messages: list[StoreMessage]


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """`numbers`: the store number of each message, 0 where it was known, expired or settled: nothing to hint."""

    session: SessionView | None
    bind: Bind | None
    now_ms: int
    numbers: list[int]
    owed: list[Owed]


class _Script:
    def __init__(self, name: str) -> None:
        folder = resources.files("infra") / "lua"
        self.text = (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_SCRIPTS: Final = {name: _Script(name) for name in ("connect", "bind", "sync", "unbind", "disconnect", "store")}


class Register:
    """The register's client. One instance a process; calls may run side by side."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        pool = BlockingConnectionPool.from_url(
            settings.url,
            max_connections=settings.connections,
            timeout=settings.timeout,
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            retry=Retry(NoBackoff(), 0),  # a timeout is unknown, and a blind repeat applied twice (PITFALLS)
            protocol=2,
        )
        self._redis: Redis = Redis(connection_pool=pool)
        self.generation = 0

    async def start(self) -> None:
        """Load the scripts and read the generation; raises RegisterDown with the address."""
        try:
            await self._load()
            await self._redis.set(GENERATION_KEY, 1, nx=True)
            self.generation = int(await self._redis.get(GENERATION_KEY) or 1)
        except (RedisError, OSError, TimeoutError) as error:
            raise RegisterDown(f"Redis at {_address(self._settings.url)} can't be used: {error}") from error

    async def stop(self) -> None:
        """Close the connections."""
        await self._redis.aclose(close_connection_pool=True)

    async def ping(self) -> None:
        """Raise RegisterDown if Redis does not answer."""
        try:
            await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            raise RegisterDown(str(error)) from error

    # --- for the saver -------------------------------------------------------------------------------------------------

    async def connect(self, items: Sequence[ConnectItem]) -> list[Connected]:
        """Give each connection a session number."""
        calls = [
            ("connect", [names.session_key(i.key), names.counter_key(i.key)], [i.room, i.epoch, i.connection, self.generation])
            for i in items
        ]
        return [_connected(item, answer) for item, answer in zip(items, await self._run(calls), strict=True)]

    async def bind(self, items: Sequence[BindItem]) -> list[Bound]:
        """Register binds and page what is pending, in one step."""
        answers = await self._run([self._bind_call(item) for item in items])
        return [_bound(item, answer) for item, answer in zip(items, answers, strict=True)]

    async def sync(self, items: Sequence[SyncItem]) -> list[Synced]:
        """Settle acks (their receipts are in Kafka), save settled jobs, renew the session and its binds, page every product."""
        answers = await self._run([self._sync_call(item) for item in items])
        return [_synced(item, answer) for item, answer in zip(items, answers, strict=True)]

    async def unbind(self, items: Sequence[UnbindItem]) -> list[tuple[str, str]]:
        """Forget binds; (status, the user that the client had in the product)."""
        calls = [
            (
                "unbind",
                [names.session_key(i.key), names.counter_key(i.key), names.first_bind_key(i.key, i.product)],
                [_pack([_me(i), i.product])],
            )
            for i in items
        ]
        return [(_text(answer[0]), _text(answer[1])) for answer in await self._run(calls)]

    async def disconnect(self, items: Sequence[DisconnectItem]) -> list[Synced]:
        """Settle acks, save settled jobs, and remove the session if it is still this one."""
        answers = await self._run([self._disconnect_call(item) for item in items])
        return [Synced(_text(answer[0]), [], _owed(item.key, answer[1])) for item, answer in zip(items, answers, strict=True)]

    async def registered(self, items: Sequence[tuple[str, Bind, str]]) -> None:
        """After the ClientRecord is in Kafka: (key, bind, user before) → remember the document, and keep the users' sets."""

        async def fill(pipe: Any) -> None:
            for key, bind, before in items:
                pipe.hset(names.first_bind_key(key, bind.product), "document", _pack(bind))
                realm, client = names.split_client_key(key)
                if before and before != bind.user:
                    pipe.srem(names.user_key(realm, bind.product, before), client)
                if bind.user:
                    pipe.sadd(names.user_key(realm, bind.product, bind.user), client)

        await self._pipe(fill)

    async def unregistered(self, items: Sequence[tuple[str, str, str]]) -> None:
        """(key, product, user): the client is no longer one of the user's in the product."""

        async def fill(pipe: Any) -> None:
            for key, product, user in items:
                realm, client = names.split_client_key(key)
                pipe.srem(names.user_key(realm, product, user), client)

        await self._pipe(fill)

    async def paid(self, owed: Sequence[Owed]) -> None:
        """These receipts are in Kafka."""

        async def fill(pipe: Any) -> None:
            for item in owed:
                pipe.hdel(names.owed_key(item.key), f"{item.product} {item.id}")

        await self._pipe(fill)

    # --- for delivery --------------------------------------------------------------------------------------------------

    async def store(self, items: Sequence[StoreItem]) -> list[StoreOutcome]:
        """Store messages and locate their clients, in one step each."""
        calls = []
        for i in items:
            keys = [names.session_key(i.key), names.owed_key(i.key), *_product_keys(i.key, i.product)]
            messages = [[m.id, m.priority, m.expires_ms, m.collapse_key] for m in i.messages]
            calls.append(("store", keys, [_pack([i.product, i.cap, messages]), *(_pack(m.body) for m in i.messages)]))
        return [_stored(item, answer) for item, answer in zip(items, await self._run(calls), strict=True)]

    async def locate(self, items: Sequence[tuple[str, str]]) -> list[tuple[SessionView | None, Bind | None]]:
        """(key, product) → session and bind, without storing anything."""

        async def fill(pipe: Any) -> None:
            for key, product in items:
                pipe.hmget(names.session_key(key), [*_SESSION, f"b:{product}"])

        return [(_session(answer), _bind(answer[5])) for answer in await self._pipe(fill)]

    async def clients_of(self, realm: str, product: str, user: str) -> list[str]:
        """The client ids of a user in a product, sorted."""

        async def fill(pipe: Any) -> None:
            pipe.smembers(names.user_key(realm, product, user))

        [found] = await self._pipe(fill)
        return sorted(_text(item) for item in found)

    # --- for readers ---------------------------------------------------------------------------------------------------

    async def show(self, key: str, products: Sequence[str] = ()) -> ClientView | None:
        """A client's session, binds, and pending counts (of what is bound, and of `products`); None if nothing is known."""

        async def first(pipe: Any) -> None:
            pipe.hgetall(names.session_key(key))

        [raw] = await self._pipe(first)
        fields = {_text(name): value for name, value in raw.items()}
        binds = {name[2:]: bind for name, value in fields.items() if name.startswith("b:") and (bind := _bind(value))}
        wanted = sorted({*binds, *products})

        async def second(pipe: Any) -> None:
            pipe.exists(names.counter_key(key))
            for product in wanted:
                pipe.zcard(names.pending_key(key, product))

        known, *counts = await self._pipe(second)
        pending = {product: int(count) for product, count in zip(wanted, counts, strict=True)}
        if not fields and not known and not any(pending.values()):
            return None
        return ClientView(_session([fields.get(name) for name in _SESSION]), binds, pending)

    # --- calls ---------------------------------------------------------------------------------------------------------

    def _bind_call(self, i: BindItem) -> tuple[str, list[str], list[Any]]:
        keys = [
            names.session_key(i.key),
            names.counter_key(i.key),
            names.owed_key(i.key),
            names.first_bind_key(i.key, i.bind.product),
            *_product_keys(i.key, i.bind.product),
        ]
        arguments = [_me(i), i.bind.product, i.bind.user, i.window, i.limit, PAGE_BYTES]
        return "bind", keys, [_pack(arguments), _pack(i.bind)]

    def _sync_call(self, i: SyncItem) -> tuple[str, list[str], list[Any]]:
        products = _places(i.products, [*(ack.product for ack in i.acks), *(job.product for job in i.jobs)])
        arguments = [
            _me(i),
            list(products),
            [item.window for item in i.products],
            [item.limit for item in i.products],
            PAGE_BYTES,
            [[products[ack.product], ack.id] for ack in i.acks],
            _jobs(products, i.jobs),
        ]
        return "sync", _client_keys(i.key, products), [_pack(arguments), *(_pack(item.bind) for item in i.products)]

    def _disconnect_call(self, i: DisconnectItem) -> tuple[str, list[str], list[Any]]:
        products = _places((), [*(ack.product for ack in i.acks), *(job.product for job in i.jobs)])
        acks = [[products[ack.product], ack.id] for ack in i.acks]
        return "disconnect", _client_keys(i.key, products), [_pack([_me(i), list(products), acks, _jobs(products, i.jobs)])]

    async def _run(self, calls: Sequence[tuple[str, list[str], list[Any]]]) -> list[Any]:
        """Run scripts in pipelines of `PIPELINE`; a server that lost the scripts gets them again, once."""
        answers: list[Any] = []
        for start in range(0, len(calls), PIPELINE):
            part = calls[start : start + PIPELINE]

            async def fill(pipe: Any, part: Sequence[tuple[str, list[str], list[Any]]] = part) -> None:
                for name, keys, arguments in part:
                    pipe.evalsha(_SCRIPTS[name].sha, len(keys), *keys, *arguments)

            try:
                answers += await self._pipe(fill)
            except NoScriptError:
                await self._load()
                answers += await self._pipe(fill)
        return answers

    async def _pipe(self, fill: Any) -> list[Any]:
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                await fill(pipe)
                return list(await pipe.execute()) if len(pipe) else []
        except NoScriptError:
            raise
        except (RedisError, OSError, TimeoutError) as error:
            raise RegisterDown(f"{type(error).__name__}: {error}") from error

    async def _load(self) -> None:
        for script in _SCRIPTS.values():
            await self._redis.script_load(script.text)


_SESSION: Final = ("generation", "number", "room", "epoch", "connection")


def _address(url: str) -> str:
    return url.rpartition("@")[2]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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


def _jobs(products: dict[str, int], jobs: Sequence[SettledJob]) -> list[list[Any]]:
    return [[products[job.product], f"{job.partition}:{job.offset}", job.remember_s * 1000] for job in jobs]


def _session(values: Sequence[Any]) -> SessionView | None:
    if values[0] is None:
        return None
    return SessionView(int(values[0]), int(values[1]), _text(values[2]), int(values[3]), int(values[4]))


def _bind(value: bytes | None) -> Bind | None:
    return _unpack_bind.decode(value) if value else None


def _owed(key: str, flat: Sequence[Any]) -> list[Owed]:
    owed = []
    for name, state in zip(flat[::2], flat[1::2], strict=True):
        product, _, message_id = _text(name).partition(" ")
        owed.append(Owed(key, product, message_id, _text(state)))
    return owed


def _page(product: str, raw: Sequence[Any], now_ms: int) -> PendingPage:
    n, more, flat = raw
    items = []
    for number, message_id, packed in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        expires, _, body = packed.split(b"|", 2)
        remaining = -((now_ms - int(expires)) // 1000)
        items.append(PendingItem(int(number), _text(message_id), _unpack_stored.decode(body), max(1, remaining)))
    return PendingPage(product, int(n), bool(int(more)), items)


def _connected(item: ConnectItem, answer: Sequence[Any]) -> Connected:
    status, generation, number, room, epoch, old_generation, old_number = answer
    old = None
    if room and (_text(room), int(epoch)) != (item.room, item.epoch):
        old = SessionView(int(old_generation), int(old_number), _text(room), int(epoch), 0)
    return Connected(_text(status), int(generation), int(number), old)


def _bound(item: BindItem, answer: Sequence[Any]) -> Bound:
    if len(answer) == 1:
        return Bound(_text(answer[0]))
    status, now, first, document, user_before, page, jobs, owed = answer
    numbers = [tuple(int(part) for part in _text(job).split(":")) for job in jobs]
    return Bound(
        _text(status),
        int(first),
        bytes(document) != _pack(item.bind),
        _text(user_before),
        _page(item.bind.product, page, int(now)),
        [(number[0], number[1]) for number in numbers],
        _owed(item.key, owed),
    )


def _synced(item: SyncItem, answer: Sequence[Any]) -> Synced:
    if len(answer) == 1:
        return Synced(_text(answer[0]))
    status, now, raw, owed = answer
    pages = [_page(entry.bind.product, page, int(now)) for entry, page in zip(item.products, raw, strict=True)]
    return Synced(_text(status), pages, _owed(item.key, owed))


def _stored(item: StoreItem, answer: Sequence[Any]) -> StoreOutcome:
    session, bind, now, numbers, owed = answer
    return StoreOutcome(_session(session), _bind(bind), int(now), [int(n) for n in numbers], _owed(item.key, owed))
