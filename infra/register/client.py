"""The register's client: one pipelined script a client in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from infra.register import answers
from infra.register.answers import SESSION, text
from infra.register.calls import (
    SCRIPTS,
    Call,
    bind_call,
    connect_call,
    disconnect_call,
    pack,
    store_call,
    sync_call,
    unbind_call,
)
from infra.register.views import Bound, ClientView, Connected, Owed, SessionView, StoreItem, StoreOutcome, Synced
from infra.settings import RedisSettings
from infra.wire import Bind, BindItem, ConnectItem, DisconnectItem, SyncItem, UnbindItem
from schemas import names

PIPELINE: Final = 100
"""Scripts in one pipeline, at most."""
GENERATION_KEY: Final = "longwire:generation"


class RegisterDown(Exception):
    """Redis did not answer in time, or refused: the outcome is unknown. Repeat it."""


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
        found = await self._run([connect_call(item, self.generation) for item in items])
        return [answers.connected(item, answer) for item, answer in zip(items, found, strict=True)]

    async def bind(self, items: Sequence[BindItem]) -> list[Bound]:
        """Register binds and page what is pending, in one step."""
        found = await self._run([bind_call(item) for item in items])
        return [answers.bound(item, answer) for item, answer in zip(items, found, strict=True)]

    async def sync(self, items: Sequence[SyncItem]) -> list[Synced]:
        """Settle acks (their receipts are in Kafka), save settled jobs, renew the session and its binds, page every product."""
        found = await self._run([sync_call(item) for item in items])
        return [answers.synced(item, answer) for item, answer in zip(items, found, strict=True)]

    async def unbind(self, items: Sequence[UnbindItem]) -> list[tuple[str, str]]:
        """Forget binds; (status, the user that the client had in the product)."""
        found = await self._run([unbind_call(item) for item in items])
        return [(text(answer[0]), text(answer[1])) for answer in found]

    async def disconnect(self, items: Sequence[DisconnectItem]) -> list[Synced]:
        """Settle acks, save settled jobs, and remove the session if it is still this one."""
        found = await self._run([disconnect_call(item) for item in items])
        return [Synced(text(answer[0]), [], answers.owed(item.key, answer[1])) for item, answer in zip(items, found, strict=True)]

    async def registered(self, items: Sequence[tuple[str, Bind, str]]) -> None:
        """After the ClientRecord is in Kafka: (key, bind, user before) → keep the users' sets, then remember the bind.

        In this order, and in two steps: as long as the bind is not remembered, a repeat does all of it again.
        """

        async def sets(pipe: Any) -> None:
            for key, bind, before in items:
                realm, client = names.split_client_key(key)
                if before and before != bind.user:
                    pipe.srem(names.user_key(realm, bind.product, before), client)
                if bind.user:
                    pipe.sadd(names.user_key(realm, bind.product, bind.user), client)

        async def documents(pipe: Any) -> None:
            for key, bind, _ in items:
                pipe.hset(names.first_bind_key(key, bind.product), mapping={"document": pack(bind), "user": bind.user})

        await self._pipe(sets)
        await self._pipe(documents)

    async def unregistered(self, items: Sequence[tuple[str, str, str]]) -> None:
        """After Kafka knows that the bind is over: (key, product, user or "") → the user's set, then the bind itself."""

        async def sets(pipe: Any) -> None:
            for key, product, user in items:
                realm, client = names.split_client_key(key)
                if user:
                    pipe.srem(names.user_key(realm, product, user), client)

        async def documents(pipe: Any) -> None:
            for key, product, _ in items:
                pipe.delete(names.first_bind_key(key, product))

        await self._pipe(sets)
        await self._pipe(documents)

    async def paid(self, owed: Sequence[Owed]) -> None:
        """These receipts are in Kafka."""

        async def fill(pipe: Any) -> None:
            for item in owed:
                pipe.hdel(names.owed_key(item.key), f"{item.product} {item.id}")

        await self._pipe(fill)

    # --- for delivery --------------------------------------------------------------------------------------------------

    async def store(self, items: Sequence[StoreItem]) -> list[StoreOutcome]:
        """Store messages and locate their clients, in one step each."""
        found = await self._run([store_call(item) for item in items])
        return [answers.stored(item, answer) for item, answer in zip(items, found, strict=True)]

    async def locate(self, items: Sequence[tuple[str, str]]) -> tuple[int, list[tuple[SessionView | None, Bind | None]]]:
        """(key, product) → Redis's time, ms, and each one's session and bind, without storing anything."""

        async def fill(pipe: Any) -> None:
            pipe.time()
            for key, product in items:
                pipe.hmget(names.session_key(key), [*SESSION, f"b:{product}"])

        (seconds, micros), *found = await self._pipe(fill)
        return int(seconds) * 1000 + int(micros) // 1000, [(answers.session(each), answers.bind(each[5])) for each in found]

    async def clients_of(self, realm: str, product: str, user: str) -> list[str]:
        """The client ids of a user in a product, sorted."""

        async def fill(pipe: Any) -> None:
            pipe.smembers(names.user_key(realm, product, user))

        [found] = await self._pipe(fill)
        return sorted(text(item) for item in found)

    # --- for readers ---------------------------------------------------------------------------------------------------

    async def show(self, key: str, products: Sequence[str] = ()) -> ClientView | None:
        """A client's session, binds, and pending counts (of what is bound, and of `products`); None if nothing is known."""

        async def first(pipe: Any) -> None:
            pipe.hgetall(names.session_key(key))

        [raw] = await self._pipe(first)
        fields = {text(name): value for name, value in raw.items()}
        binds = {name[2:]: bind for name, value in fields.items() if name.startswith("b:") and (bind := answers.bind(value))}
        wanted = sorted({*binds, *products})

        async def second(pipe: Any) -> None:
            pipe.exists(names.counter_key(key))
            for product in wanted:
                pipe.zcard(names.pending_key(key, product))

        known, *counts = await self._pipe(second)
        pending = {product: int(count) for product, count in zip(wanted, counts, strict=True)}
        if not fields and not known and not any(pending.values()):
            return None
        return ClientView(answers.session([fields.get(name) for name in SESSION]), binds, pending)

    # --- calls ---------------------------------------------------------------------------------------------------------

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in pipelines of `PIPELINE`; a server that lost the scripts gets them again, once."""
        replies: list[Any] = []
        for start in range(0, len(calls), PIPELINE):
            part = calls[start : start + PIPELINE]

            async def fill(pipe: Any, part: Sequence[Call] = part) -> None:
                for name, keys, arguments in part:
                    pipe.evalsha(SCRIPTS[name].sha, len(keys), *keys, *arguments)

            try:
                replies += await self._pipe(fill)
            except NoScriptError:
                await self._load()
                replies += await self._pipe(fill)
        return replies

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
        for script in SCRIPTS.values():
            await self._redis.script_load(script.text)


def _address(url: str) -> str:
    return url.rpartition("@")[2]
