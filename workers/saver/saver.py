"""The saver answers rooms: `connect, bind, sync, unbind, disconnect, pull`; and center: `confirm`.

It is the only writer of sessions, of `push.status` and `push.clients`, and of per-client receipts for acks. The order is always
the same: what must be in Kafka first (receipts), the script, what follows from it in Kafka, the answer. A failure between leaves
the room asking again, and every step bears a repeat.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import structlog

from infra.bus import Bus, BusError
from infra.journal import Entry, Journal
from infra.keeper import Keeper
from infra.register import Bound, Connected, Parking, PendingItem, PendingPage, Pulled, Register, Settlement
from infra.wire import (
    MAX_BYTES,
    NOTICED,
    OK,
    RETRY,
    Ack,
    Bind,
    BindItem,
    BindResult,
    ConfirmItem,
    ConnectItem,
    ConnectResult,
    DisconnectItem,
    DoneResult,
    Downlink,
    Kick,
    Page,
    PullItem,
    PullResult,
    SettledJob,
    SyncItem,
    SyncResult,
    UnbindItem,
    size_of,
)
from schemas import names
from schemas.codes import Mode, State, Status
from schemas.records import ClientProduct, ClientRecord, Receipt, StatusEvent
from workers.owed import park, pay
from workers.responder import respond

TAKEN_OVER: Final = 0x8E
PULLS_AT_ONCE: Final = 64
"""Bodies read for one answer, at most: each may have 64 KiB."""

log = structlog.get_logger("saver")


class Saver:
    """The answers."""

    def __init__(self, bus: Bus, journal: Journal, register: Register, keeper: Keeper) -> None:
        self._bus = bus
        self._keeper = keeper
        self._journal = journal
        self._register = register
        self._encode = msgspec.msgpack.Encoder().encode

    async def start(self) -> None:
        """Serve the subjects."""
        queue = names.SAVER_QUEUE
        await respond(self._bus, "connect", subject=names.SAVER_CONNECT, queue=queue, item=ConnectItem, handle=self.connect)
        await respond(self._bus, "bind", subject=names.SAVER_BIND, queue=queue, item=BindItem, handle=self.bind)
        await respond(
            self._bus, "sync", subject=names.SAVER_SYNC, queue=queue, item=SyncItem, handle=self.sync, plain=SyncResult(OK)
        )
        await respond(self._bus, "unbind", subject=names.SAVER_UNBIND, queue=queue, item=UnbindItem, handle=self.unbind)
        await respond(
            self._bus, "disconnect", subject=names.SAVER_DISCONNECT, queue=queue, item=DisconnectItem, handle=self.disconnect
        )
        await respond(self._bus, "pull", subject=names.SAVER_PULL, queue=queue, item=PullItem, handle=self.pull)
        await respond(self._bus, "confirm", subject=names.SAVER_CONFIRM, queue=queue, item=ConfirmItem, handle=self.confirm)

    async def stop(self) -> None:
        """The bus stops the handlers."""

    # --- sessions ------------------------------------------------------------------------------------------------------

    async def connect(self, items: Sequence[ConnectItem]) -> list[ConnectResult]:
        """Number the sessions, tell `push.status`, and tell the rooms that lost one; and what `bind` does, for what is asked for
        with it."""
        results = await self._register.connect(items)
        online = [
            _by_client(names.STATUS, _event(item, Status.ONLINE, (result.generation, result.number)))
            for item, result in zip(items, results, strict=True)
            if result.status == OK
        ]
        await self._tell_binds(
            [(_first(item, result), result.bound) for item, result in zip(items, results, strict=True) if result.bound], online
        )
        for item, result in zip(items, results, strict=True):
            await self._tell_old_room(item.key, result)
        budget = _Budget()
        return [
            ConnectResult(
                result.status,
                result.generation,
                result.number,
                result.now_ms,
                None if result.bound is None else budget.bound(result.bound),
            )
            for result in results
        ]

    async def bind(self, items: Sequence[BindItem]) -> list[BindResult]:
        """Register binds; the durable registry gets what it does not have yet."""
        results = await self._register.bind(items)
        await self._tell_binds(list(zip(items, results, strict=True)))
        budget = _Budget()
        return [budget.bound(result, whole=item.whole) for item, result in zip(items, results, strict=True)]

    async def _tell_binds(self, bound: Sequence[tuple[BindItem, Bound]], before: Sequence[Entry] = ()) -> None:
        """Kafka hears of `before`, then of these binds; and then the register, of those whose document Kafka has."""
        good = [(item, result) for item, result in bound if result.status == OK]
        changed = [(item, result) for item, result in good if result.document_changed]
        entries = [
            *before,
            *(
                _by_client(names.STATUS, _bound(item, item.bind, changed=result.document_changed, again=result.registered))
                for item, result in good
            ),
            *(_client_entry(item.key, item.bind, result.first_bind_ms) for item, result in changed),
        ]
        await self._journal.produce(entries)
        await self._register.registered([(item.key, item.bind, result.user_before) for item, result in changed])
        await pay(self._journal, self._register, [owed for _, result in bound for owed in result.owed])

    async def sync(self, items: Sequence[SyncItem]) -> list[SyncResult]:
        """Receipts for the acks, then settle them and page what is next."""
        await self._receipt_acks((item.key, item.acks) for item in items)
        results = await self._register.sync(items)
        back = [
            event for item, result in zip(items, results, strict=True) if result.registered for event in _registered_again(item)
        ]
        await self._journal.produce([_by_client(names.STATUS, event) for event in back])
        await pay(self._journal, self._register, [owed for result in results for owed in result.owed])
        budget = _Budget()
        return [
            SyncResult(
                result.status,
                [page for raw in result.pages if (page := budget.page(raw, whole=item.whole)) is not None],
                result.missing,
            )
            for item, result in zip(items, results, strict=True)
        ]

    async def unbind(self, items: Sequence[UnbindItem]) -> list[DoneResult]:
        """The client left the product: no user's message is expanded to it any more. What is pending stays."""
        results = await self._register.unbind(items)
        over = [(item, result) for item, result in zip(items, results, strict=True) if result.status == OK]
        entries = []
        for item, result in over:
            realm, client = names.split_client_key(item.key)
            session = (item.generation, item.number)
            event = _event(item, Status.UNBIND, session, product=item.product, user=result.user or None)
            entries.append(_by_client(names.STATUS, event))
            entries.append(Entry(names.CLIENTS, _registry_key(realm, client, item.product), None, by=client))
        await self._journal.produce(entries)
        done = [(item, result) for item, result in zip(items, results, strict=True) if result.status != RETRY]
        again = await self._register.left([(item.key, item.product, result) for item, result in done])
        # Bound again since, perhaps by a newer session: our tombstone may have come after that bind's record, now or at a first
        # try, and our removal from the user's set after its place there.
        await self._journal.produce([_client_entry(each.key, each.bind, each.first_bind_ms) for each in again])
        await self._register.registered([(each.key, each.bind, "") for each in again])
        return [DoneResult(result.status) for result in results]

    async def disconnect(self, items: Sequence[DisconnectItem]) -> list[DoneResult]:
        """Settle the last acks, remove the session, tell `push.status` with the broadcasts that the client has settled."""
        await self._receipt_acks((item.key, item.acks) for item in items)
        events = [
            _event(item, Status.OFFLINE, (item.generation, item.number), reason=item.reason, jobs=item.jobs) for item in items
        ]
        await self._journal.produce([_by_client(names.STATUS, event) for event in events])
        policy = self._keeper.policy
        parking = Parking(policy.park_after_connections, policy.park_after)
        results = await self._register.disconnect(items, parking)
        await pay(self._journal, self._register, [owed for result in results for owed in result.owed])
        await park(self._journal, self._register, [parked for result in results for parked in result.parked], parking)
        return [DoneResult(result.status) for result in results]

    # --- bodies that are pulled ---------------------------------------------------------------------------------------

    async def pull(self, items: Sequence[PullItem]) -> list[PullResult]:
        """The bodies, as far as they fit one answer; who is left out asks again. What is read changes nothing."""
        found = await self._register.pull(items[:PULLS_AT_ONCE])
        budget = _Budget()
        results = [_pulled(each, budget) for each in found]
        return [*results, *(PullResult(RETRY) for _ in items[PULLS_AT_ONCE:])]

    async def confirm(self, items: Sequence[ConfirmItem]) -> list[DoneResult]:
        """What a client had by HTTP: its receipt, then it is settled. Only what is pending can be confirmed."""
        found = await self._register.pull([PullItem(item.key, 0, 0, item.ack.product, item.ack.id) for item in items])
        good = [item for item, each in zip(items, found, strict=True) if each.status == OK]
        await self._receipt_acks((item.key, [item.ack]) for item in good)
        now = _now_ms()
        settled = [(item.key, item.ack.product, [Settlement(item.ack.id, now, State.ACKED)]) for item in good]
        await pay(self._journal, self._register, await self._register.settle(settled, told=False))
        return [DoneResult(each.status) for each in found]

    # --- parts ---------------------------------------------------------------------------------------------------------

    async def _receipt_acks(self, acks: Iterable[tuple[str, list[Ack]]]) -> None:
        now = _now_ms()
        settled = [(key, ack) for key, group in acks for ack in group if ack.state != NOTICED]
        entries = [_by_client(names.RECEIPTS, _receipt(key, ack, now)) for key, ack in settled]
        await self._journal.produce(entries)

    async def _tell_old_room(self, key: str, result: Connected) -> None:
        """A hint: the old room's next sync is told as well."""
        old = result.old
        if old is None:
            return
        kick = Kick(key, old.generation, old.number, TAKEN_OVER, "the client connected elsewhere")
        try:
            await self._bus.publish(names.room_control(old.room), self._encode(kick))
        except BusError:
            log.debug("old room not told", room=old.room)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _by_client(topic: str, record: StatusEvent | Receipt) -> Entry:
    return Entry(topic, record.client, record)


def _registry_key(realm: str, client: str, product: str) -> str:
    return f"{names.client_key(realm, client)} {product}"


def _client_entry(key: str, bind: Bind, first_bind_ms: int) -> Entry:
    realm, client = names.split_client_key(key)
    document = ClientProduct(
        user=bind.user or None,
        groups=tuple(bind.groups),
        attrs=bind.attrs,
        qos=bind.qos,
        first_bind_ms=first_bind_ms,
    )
    record = ClientRecord(realm=realm, client=client, product=bind.product, bind=document)
    return Entry(names.CLIENTS, _registry_key(realm, client, bind.product), record, by=client)


def _event(
    item: ConnectItem | BindItem | SyncItem | UnbindItem | DisconnectItem,
    event: Status,
    session: tuple[int, int],
    *,
    product: str | None = None,
    reason: str | None = None,
    jobs: Sequence[SettledJob] = (),
    user: str | None = None,
    changed: bool = False,
    again: bool = False,
) -> StatusEvent:
    realm, client = names.split_client_key(item.key)
    return StatusEvent(
        realm=realm,
        client=client,
        event=event,
        generation=session[0],
        session=session[1],
        room=item.room,
        epoch=item.epoch,
        at_ms=_now_ms(),
        product=product,
        reason=reason,
        settled_jobs=tuple(f"{job.product}:{job.partition}:{job.offset}" for job in jobs if job.remember_s),
        user=user,
        changed=changed,
        again=again,
    )


def _bound(item: BindItem | SyncItem, bind: Bind, *, changed: bool, again: bool) -> StatusEvent:
    session = (item.generation, item.number)
    return _event(item, Status.BIND, session, product=bind.product, user=bind.user or None, changed=changed, again=again)


def _first(item: ConnectItem, result: Connected) -> BindItem:
    """The bind that was asked for with a session, as if it had been asked for after it."""
    assert item.first is not None
    session = (item.connection, result.generation, result.number)
    return BindItem(item.key, item.room, item.epoch, *session, item.first.bind, [], item.first.limit)


def _registered_again(item: SyncItem) -> list[StatusEvent]:
    """The session had been missing, and its end perhaps been told: all of it is there."""
    online = _event(item, Status.ONLINE, (item.generation, item.number), again=True)
    return [online, *(_bound(item, each.bind, changed=False, again=True) for each in item.products)]


def _receipt(key: str, ack: Ack, at_ms: int) -> Receipt:
    realm, client = names.split_client_key(key)
    return Receipt(
        id=ack.id,
        product=ack.product,
        realm=realm,
        client=client,
        state=State(ack.state),
        at_ms=at_ms,
        detail=ack.detail or None,
    )


def _pulled(found: Pulled, budget: _Budget) -> PullResult:
    if found.item is None:
        return PullResult(found.status)
    message = _downlink(found.item, whole=True)
    return PullResult(found.status, message) if budget.takes(message) else PullResult(RETRY)


class _Budget:
    """The bytes that the pages of one reply may have together (a reply beyond NATS's limit would never arrive).

    What does not fit is cut and `more` is set: the room syncs again. The first message of a reply always fits, so each reply
    brings somebody on.
    """

    def __init__(self) -> None:
        self._left = MAX_BYTES

    def takes(self, message: Downlink) -> bool:
        """Does it fit? Then its bytes are taken."""
        size = size_of(message)
        if size > self._left and self._left < MAX_BYTES:
            return False
        self._left -= size
        return True

    def bound(self, result: Bound, *, whole: bool = False) -> BindResult:
        """The answer to a bind, with its page."""
        page = self.page(result.page, whole=whole)
        return BindResult(result.status, result.first_bind_ms, page, result.settled_jobs, result.recent_jobs)

    def page(self, page: PendingPage | None, *, whole: bool = False) -> Page | None:
        """The page as the wire has it, as far as it fits."""
        if page is None:
            return None
        items: list[Downlink] = []
        for item in page.items:
            message = _downlink(item, whole=whole)
            if not self.takes(message):
                break
            items.append(message)
        return Page(page.product, page.n, items, page.more or len(items) < len(page.items))


def _downlink(item: PendingItem, *, whole: bool = False) -> Downlink:
    """A pending message as a room writes it: in mode `pull` its notice, unless the `whole` was asked for."""
    body = item.body
    return Downlink(
        item.id, item.n, body.payload, item.expires_in_s, body.group, body.content_type, body.correlation, body.properties,
        -1 if whole or body.mode != Mode.PULL else body.size,
        not whole and body.mode == Mode.BOTH,
        body.pull_after_ms,
    )  # fmt: skip
