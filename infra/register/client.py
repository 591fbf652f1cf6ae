"""The register's client: one script a client, pipelined, side by side on every shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from infra.register import answers, due
from infra.register.answers import SESSION, text
from infra.register.calls import (
    Call,
    bind_call,
    connect_call,
    disconnect_call,
    expire_call,
    hand_call,
    handed_call,
    holding_call,
    leave_call,
    pack,
    peek_call,
    pull_call,
    settle_call,
    settled_job_call,
    state_call,
    store_call,
    sweep_call,
    sync_call,
    unbind_call,
)
from infra.register.scripts import Command
from infra.register.shards import RegisterDown, RegisterNotReady, Shard, Shards
from infra.register.views import (
    Bound,
    Claimed,
    ClientView,
    Connected,
    Gone,
    Holding,
    Located,
    Owed,
    Parking,
    PendingPage,
    Pulled,
    Rebound,
    SessionView,
    Settlement,
    Standing,
    StoreItem,
    StoreOutcome,
    Synced,
    Unbound,
)
from infra.settings import RedisSettings
from infra.wire import RETRY, Bind, BindItem, ConnectItem, DisconnectItem, JobNumber, PullItem, SyncItem, UnbindItem
from schemas import names

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class Register:
    """The register's client. One instance a process; calls may run side by side.

    What rooms ask for is answered item by item: where a shard is away or not ready, its clients get the status `retry`, the
    others their answers. What delivery asks for is done as a whole, or raises RegisterDown.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.shards = Shards(settings)

    async def start(self) -> None:
        """Connect; raises RegisterDown with the address. Whether the shards are open is seen with the first call."""
        await self.shards.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self.shards.stop()

    async def ping(self) -> None:
        """Raise RegisterDown if a shard does not answer."""
        await asyncio.gather(*(shard.pipe([("PING",)]) for shard in self.shards.all))

    def incarnations(self) -> list[object]:
        """Which life of each shard this process has been using: what was stored counts only while it stays the same."""
        return [shard.incarnation for shard in self.shards.all]

    # --- for the saver -------------------------------------------------------------------------------------------------

    async def connect(self, items: Sequence[ConnectItem]) -> list[Connected]:
        """Give each connection a session number."""
        return await self._each(items, connect_call, answers.connected, lambda: Connected(RETRY))

    async def bind(self, items: Sequence[BindItem]) -> list[Bound]:
        """Register binds and page what is pending, in one step."""
        return await self._each(items, bind_call, answers.bound, lambda: Bound(RETRY))

    async def sync(self, items: Sequence[SyncItem]) -> list[Synced]:
        """Settle acks (their receipts are in Kafka), save settled jobs, renew the session and its binds, page every product."""
        return await self._each(items, sync_call, answers.synced, lambda: Synced(RETRY))

    async def unbind(self, items: Sequence[UnbindItem]) -> list[Unbound]:
        """Forget binds in the session; what the registry knows of them goes by `left`, when Kafka knows."""
        return await self._each(items, unbind_call, answers.unbound, lambda: Unbound(RETRY))

    async def disconnect(self, items: Sequence[DisconnectItem], parking: Parking = Parking()) -> list[Gone]:  # noqa: B008 - frozen
        """Settle acks, save settled jobs, count what was never acknowledged, and remove the session if it is still this one."""
        return await self._each(items, lambda item: disconnect_call(item, parking), answers.gone, lambda: Gone(RETRY))

    async def pull(self, items: Sequence[PullItem]) -> list[Pulled]:
        """The pending messages of these ids, each with its payload. Nothing is changed."""
        return await self._each(items, pull_call, answers.pulled, lambda: Pulled(RETRY))

    async def settle(self, items: Sequence[tuple[str, str, list[Settlement]]], *, told: bool = True) -> list[Owed]:
        """Receipts are in Kafka: these of (key, product) are no longer pending; not `told`: they are acks that are new to it.

        Returns what is owed.
        """
        found = await self._run([settle_call(*item, told=told) for item in items])
        return [each for (key, *_), answer in zip(items, found, strict=True) for each in answers.owed(key, answer)]

    async def registered(self, items: Sequence[tuple[str, Bind, str]]) -> None:
        """After the ClientRecord is in Kafka: (key, bind, user before) → keep the users' sets, then remember the bind.

        In this order, and in two steps: as long as the bind is not remembered, a repeat does all of it again.
        """

        await self.users(items)
        await self._pipe(
            [
                ("HSET", names.first_bind_key(key, bind.product), "document", pack(bind), "user", bind.user)
                for key, bind, _ in items
            ]
        )

    async def users(self, items: Sequence[tuple[str, Bind, str]]) -> None:
        """Keep the users' sets: (key, bind, user before)."""
        sets: list[Command] = []
        for key, bind, before in items:
            realm, client = names.split_client_key(key)
            if before and before != bind.user:
                sets.append(("SREM", names.user_key(realm, bind.product, before), client))
            if bind.user:
                sets.append(("SADD", names.user_key(realm, bind.product, bind.user), client))
        await self._pipe(sets)

    async def left(self, items: Sequence[tuple[str, str, Unbound]]) -> list[Rebound]:
        """After Kafka knows that these binds are over: (key, product, …) → the users' sets, then the binds themselves.

        Returns those that were bound again meanwhile: the caller tells Kafka again, then `registered`.
        """
        await self._leave_sets([(key, product, over.user) for key, product, over in items])
        found = await self._run([leave_call(key, product, over.mark) for key, product, over in items])
        return [answers.rebound(key, answer) for (key, _, _), answer in zip(items, found, strict=True) if answer and answer[1]]

    async def unregistered(self, items: Sequence[tuple[str, str, str]]) -> None:
        """After Kafka knows that the bind is over: (key, product, user or "") → the user's set, then the bind itself."""

        await self._leave_sets(items)
        await self._pipe([("DEL", names.first_bind_key(key, product)) for key, product, _ in items])

    async def _leave_sets(self, items: Sequence[tuple[str, str, str]]) -> None:
        sets: list[Command] = []
        for key, product, user in items:
            realm, client = names.split_client_key(key)
            if user:
                sets.append(("SREM", names.user_key(realm, product, user), client))
        await self._pipe(sets)

    async def forgotten(self, items: Sequence[tuple[str, str]]) -> None:
        """(key, product) that left, as Kafka tells: their documents, and their places in users' sets, go if they are there."""
        users = await self.users_of(items)
        await self.unregistered([(*pair, users[pair]) for pair in items])

    async def users_of(self, items: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(key, product) → the user that its document names now, "" for none; whether the shard is open or not."""
        found = await self._pipe([("HGET", names.first_bind_key(key, product), "user") for key, product in items])
        return {pair: text(user) if user else "" for pair, user in zip(items, found, strict=True)}

    async def paid(self, owed: Sequence[Owed]) -> None:
        """These receipts are in Kafka."""

        await self._pipe([("HDEL", names.owed_key(item.key), f"{item.product} {item.id}") for item in owed])

    # --- for delivery --------------------------------------------------------------------------------------------------

    async def store(self, items: Sequence[StoreItem]) -> list[StoreOutcome]:
        """Store messages and locate their clients, in one step each."""
        found = await self._run([store_call(item) for item in items])
        await self._remind(items)
        return [answers.stored(item, answer) for item, answer in zip(items, found, strict=True)]

    async def locate(self, items: Sequence[tuple[str, str]]) -> list[Located | None]:
        """(key, product) → where each one is, without storing anything; None for those whose shard does not answer."""
        calls: list[Command] = [("HMGET", names.session_key(key), *SESSION, f"b:{product}") for key, product in items]
        groups = self.shards.grouped(names.session_key(key) for key, _ in items)

        async def ask(shard: Shard, places: list[int]) -> list[Located]:
            (seconds, micros), *found = await shard.pipe([("TIME",), *(calls[place] for place in places)])
            now = int(seconds) * 1000 + int(micros) // 1000
            return [Located(now, answers.session(each), answers.bind(each[5])) for each in found]

        found = await asyncio.gather(*(ask(shard, places) for shard, places in groups), return_exceptions=True)
        replies = await self._merged(len(items), groups, found)
        return [None if isinstance(reply, RegisterDown) else reply for reply in replies]

    async def clients_of(self, realm: str, product: str, user: str) -> list[str]:
        """The client ids of a user in a product, sorted. Behind the fence, so whole: RegisterNotReady while it is folded.

        The set only proposes, each client's own bind decides: a set that lost its tail may name a client that is another
        user's by now. What the set names too much stays there: taking it out would race with a bind that is being written.
        """
        [found] = await self._run([("members", [names.user_key(realm, product, user)], [])])
        clients = sorted(text(item) for item in found)
        keys = [names.first_bind_key(names.client_key(realm, client), product) for client in clients]
        users = await self._run([("user", [key], []) for key in keys])
        return [client for client, now in zip(clients, users, strict=True) if text(now) == user]

    # --- for the fallback ----------------------------------------------------------------------------------------------

    async def _remind(self, items: Sequence[StoreItem]) -> None:
        """Note the slots in which something is due. After the store: where this fails the batch is stored, and noted, again."""
        times = due.times_of(items)
        for shard, places in self.shards.grouped(names.session_key(item.key) for item in items) if times else ():
            await due.remind(shard, due.times_of([items[place] for place in places]))

    async def hand(self, items: Sequence[tuple[str, str, list[str]]], claim_ms: int) -> list[Claimed]:
        """(key, product, ids): claim what of it is due and unsettled; unless `handed` it is due again after `claim_ms`."""
        found = await self._run([hand_call(*item, claim_ms) for item in items])
        return [answers.claimed(key, product, answer) for (key, product, _), answer in zip(items, found, strict=True)]

    async def handed(self, items: Sequence[tuple[str, str, list[str]]]) -> None:
        """(key, product, ids) are in `push.fallback`, with their receipts."""
        await self._run([handed_call(*item) for item in items])

    async def settled_job(self, keys: Sequence[str], product: str, number: JobNumber) -> list[bool]:
        """Which of these clients have settled a broadcast, as far as their rooms have saved it."""
        return [bool(found) for found in await self._run([settled_job_call(key, product, number) for key in keys])]

    # --- for readers ---------------------------------------------------------------------------------------------------

    async def show(self, key: str, products: Sequence[str] = ()) -> ClientView | None:
        """A client's session, binds, and pending counts (of what is bound, and of `products`); None if nothing is known. Where it
        has no session, also when it left the `products`."""

        [raw] = await self._pipe([("HGETALL", names.session_key(key))])
        fields = {text(name): value for name, value in raw.items()}
        binds = {name[2:]: bind for name, value in fields.items() if name.startswith("b:") and (bind := answers.bind(value))}
        wanted = sorted({*binds, *products})

        known, *counts = await self._pipe(
            [("EXISTS", names.counter_key(key)), *(("ZCARD", names.pending_key(key, product)) for product in wanted)]
        )
        pending = {product: int(count) for product, count in zip(wanted, counts, strict=True)}
        left = {} if fields else await self._left(key, wanted)
        if not fields and not known and not any(pending.values()) and not left:
            return None
        return ClientView(answers.session([fields.get(name) for name in SESSION]), binds, pending, left)

    async def _left(self, key: str, products: Sequence[str]) -> dict[str, int]:
        """When the last session that was bound to a product ended, ms, for those that are known."""
        found = await self._pipe([("HGET", names.first_bind_key(key, product), "left") for product in products])
        return {product: int(at) for product, at in zip(products, found, strict=True) if at}

    async def holding(self, key: str, product: str) -> Holding:
        """Who has the client's bind to the product; raises RegisterDown."""
        [answer] = await self._run([holding_call(key, product)])
        return answers.holding(answer)

    async def peek(self, key: str, product: str, limit: int, after: int = 0) -> PendingPage:
        """What is pending, as a page would bring it, at most `limit` messages behind the one that was `last`; nothing is changed.
        Raises RegisterDown."""
        [answer] = await self._run([peek_call(key, product, limit, after)])
        now, raw, last = answer
        return replace(answers.page(product, raw, int(now)), last=int(last))

    async def standing(self, items: Sequence[tuple[str, str, str]]) -> list[Standing]:
        """(key, product, id): how each message stands now. Behind the fence: RegisterNotReady while it is folded."""
        return [answers.standing(answer) for answer in await self._run([state_call(*item) for item in items])]

    # --- for the sweep -------------------------------------------------------------------------------------------------

    async def walk(self, shard: Shard, pattern: str, step: int = 1000) -> AsyncIterator[list[str]]:
        """The keys of a shard that match, some at a time, some of them twice; raises RegisterDown."""
        cursor = 0
        while True:
            [(cursor, found)] = await shard.pipe([("SCAN", cursor, "MATCH", pattern, "COUNT", step)])
            yield [text(key) for key in found]
            if not int(cursor):
                return

    async def sessions(self, keys: Sequence[str]) -> list[SessionView | None]:
        """The sessions of these clients."""
        return [answers.session(each) for each in await self._pipe([("HMGET", names.session_key(key), *SESSION) for key in keys])]

    async def sweep(self, items: Sequence[tuple[str, SessionView]]) -> None:
        """Remove sessions of rooms that are dead, each only if it is still that one."""
        await self._run([sweep_call(key, session) for key, session in items])

    async def expire(self, items: Sequence[tuple[str, str]]) -> list[Owed]:
        """(key, product): end what has expired and nobody touched; returns what is owed for it."""
        found = await self._run([expire_call(key, product) for key, product in items])
        return [each for (key, _), answer in zip(items, found, strict=True) for each in answers.owed(key, answer)]

    # --- calls ---------------------------------------------------------------------------------------------------------

    async def _each(
        self, items: Sequence[I], call: Callable[[I], Call], read: Callable[[I, Any], O], again: Callable[[], O]
    ) -> list[O]:
        """One script an item; `again()` for those whose shard can't be used now. Raises RegisterDown if none can."""
        replies = await self._tried([call(item) for item in items])
        failed = [reply for reply in replies if isinstance(reply, RegisterDown)]
        if failed and len(failed) == len(replies):
            raise failed[0]
        return [
            again() if isinstance(reply, RegisterDown) else read(item, reply) for item, reply in zip(items, replies, strict=True)
        ]

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Scripts of what is kept beside the sessions (infra.register.told); raises RegisterDown."""
        return await self._run(calls) if calls else []

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        """Scripts on all their shards; raises the first failure once all shards are done."""
        replies = await self._tried(calls)
        for reply in replies:
            if isinstance(reply, RegisterDown):
                raise reply
        return replies

    async def _tried(self, calls: Sequence[Call]) -> list[Any]:
        """The answer of each script, or the RegisterDown of its shard."""
        groups = self.shards.grouped(call[1][0] for call in calls)
        found = await asyncio.gather(
            *(shard.evaluate([calls[place] for place in places]) for shard, places in groups), return_exceptions=True
        )
        return await self._merged(len(calls), groups, found)

    async def _pipe(self, commands: Sequence[Command]) -> list[Any]:
        """Plain commands (the key comes second) on their shards; raises RegisterDown."""
        if not commands:
            return []
        groups = self.shards.grouped(str(command[1]) for command in commands)
        found = await asyncio.gather(
            *(shard.pipe([commands[place] for place in places]) for shard, places in groups), return_exceptions=True
        )
        replies = await self._merged(len(commands), groups, found)
        for reply in replies:
            if isinstance(reply, RegisterDown):
                raise reply
        return replies

    async def _merged(self, count: int, groups: list[tuple[Shard, list[int]]], found: Sequence[Any]) -> list[Any]:
        replies: list[Any] = [None] * count
        for (_, places), outcome in zip(groups, found, strict=True):
            if isinstance(outcome, RegisterDown):
                if not isinstance(outcome, RegisterNotReady):
                    await self.shards.refresh()
                for place in places:
                    replies[place] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                for place, answer in zip(places, outcome, strict=True):
                    replies[place] = answer
        return replies
