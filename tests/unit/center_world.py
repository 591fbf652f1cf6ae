"""Center's application in process: twins at its ports, and an HTTP client that shows the API key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from infra.audiences import Audience
from infra.bus import BusDown
from infra.documents import Access, Document, Issuer, KeySet, Policy, Product
from infra.journal import JournalDown
from infra.keeper import Unreadable
from infra.meant import of_registry
from infra.register import (
    ClientView,
    Holding,
    PendingItem,
    PendingPage,
    Pulled,
    RegisterDown,
    RegisterNotReady,
    SessionView,
    Standing,
)
from infra.register.idempotency import Claim
from infra.register.limits import Taken
from infra.revoked import Revocation
from infra.rooms import RoomView
from infra.settings import OutsideSettings
from infra.tokens import Verifier
from infra.wire import JobContent, Lease, PullItem, RoomEntry
from schemas import codec, names
from schemas.broadcasts import AudienceChunk, Audit
from schemas.records import PushMessage, Receipt
from tests.unit.center_routes import application
from tests.unit.journal_twin import APPEND_MS, JournalTwin
from workers.center.callers.apikey import ApiKey, new_id, new_secret
from workers.center.callers.auth import Role
from workers.center.callers.keyring import KeyRing
from workers.center.callers.keysmith import dropped, rotated
from workers.center.callers.limits import Limits
from workers.center.callers.oidc import ApiTokens
from workers.center.campaigns.census import Known, RoomAnswer
from workers.center.campaigns.jobs import JobIndex
from workers.center.dispatch.askers import Askers
from workers.center.dispatch.regions import Regions
from workers.center.operating.access_change import AccessWriter
from workers.center.operating.shelf import Shelf
from workers.center.operating.switch import changed
from workers.center.operating.trail import AuditPage, TrailPage
from workers.center.ports import DrainOrder, KeyOrder, Parts, QueueChange
from workers.center.unicast.sightings import Asked, Receipts, Sighting, Wanted
from workers.center.web.problems import Problem, bus_down
from workers.center.web.streams import Streams
from workers.outside import Outside
from workers.webhooks import Sender

KEY = "a-secret-key"
NOW_MS = APPEND_MS + 60_000
"""Redis's clock: a minute after Kafka took everything."""


def room(
    name: str,
    *,
    port: int = 1883,
    state: str = "open",
    epoch: int = 7,
    labels: dict[str, str] | None = None,
    connections: int = 3,
    capacity: int = 0,
    bound: dict[str, int] | None = None,
) -> RoomView:
    bound = {"shop": 2} if bound is None else bound
    entry = RoomEntry(name, epoch, "10.0.0.1", port, {"zone": "a"} if labels is None else labels)
    return RoomView(entry, Lease(name, epoch, 1000, state, connections, bound, capacity=capacity), time.monotonic())


@dataclass
class DocumentsTwin:
    products: dict[str, Product] = field(
        default_factory=lambda: {"shop": Product(name="shop", max_payload=1000, rate=500, ttl_s=60)}
    )
    policy: Policy = field(default_factory=Policy)
    issuers: dict[str, Issuer] = field(default_factory=dict)
    key_sets: dict[str, KeySet] = field(default_factory=dict)
    access: Access = field(default_factory=Access)


@dataclass
class RoomsTwin:
    views: list[RoomView] = field(default_factory=list)

    def live(self) -> list[RoomView]:
        return self.views

    def alive(self, name: str, epoch: int) -> bool:
        return any(view.entry.room == name and view.entry.epoch == epoch for view in self.views)


@dataclass
class ClientsTwin:
    """`registered`: (key, product) that the registry has."""

    views: dict[str, ClientView] = field(default_factory=dict)
    registered: set[tuple[str, str]] = field(default_factory=set)
    down: bool = False

    async def show(self, key: str, products: Sequence[str] = ()) -> ClientView | None:
        if self.down:
            raise RegisterDown("the twin is down")
        return self.views.get(key)

    async def holding(self, key: str, product: str) -> Holding:
        if self.down:
            raise RegisterDown("the twin is down")
        view = self.views.get(key)
        if view is None or view.session is None:
            return Holding(1, 4, "", 0, False, (key, product) in self.registered)
        at = view.session
        return Holding(at.generation, at.number, at.room, at.epoch, product in view.binds, (key, product) in self.registered)

    async def clients_of(self, realm: str, product: str, user: str) -> list[str]:
        if self.down:
            raise RegisterDown("the twin is down")
        keys = [key for key, view in self.views.items() if (bind := view.binds.get(product)) and bind.user == user]
        return [client for of, client in map(names.split_client_key, keys) if of == realm]


@dataclass
class PendingTwin:
    """What is pending, by (key, product); also who confirms it."""

    items: dict[tuple[str, str], list[PendingItem]] = field(default_factory=dict)
    status: str = "ok"
    confirmed: list[tuple[str, str, str]] = field(default_factory=list)

    async def peek(self, key: str, product: str, limit: int, after: int = 0) -> PendingPage:
        found = [item for item in self.items.get((key, product), []) if item.n > after]
        page = found[:limit]
        return PendingPage(product, len(found), len(found) > limit, page, page[-1].n if page else after)

    async def pull(self, items: Sequence[PullItem]) -> list[Pulled]:
        if self.status != "ok":
            return [Pulled(self.status)] * len(items)
        return [self._one(item) for item in items]

    def _one(self, item: PullItem) -> Pulled:
        found = [each for each in self.items.get((item.key, item.product), []) if each.id == item.id]
        return Pulled("ok", found[0]) if found else Pulled("gone")

    async def confirm(self, key: str, product: str, message_id: str) -> bool:
        if self.status != "ok":
            raise Problem("not-confirmed", "the twin is down")
        self.confirmed.append((key, product, message_id))
        return any(item.id == message_id for item in self.items.get((key, product), []))


@dataclass
class KicksTwin:
    """`gone`: so many times the room answers that it does not have the session."""

    asked: list[tuple[str, str, str]] = field(default_factory=list)
    gone: int = 0

    async def kick(self, key: str, session: SessionView, reason: str) -> bool:
        self.asked.append((key, session.room, reason))
        self.gone -= 1
        return self.gone < 0


@dataclass
class UnbindsTwin:
    """A room, and a saver, that do it: the room the `late`-th time that it is asked, for that client's connection was away."""

    clients: ClientsTwin
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    late: int = 1

    async def leave(self, key: str, product: str, held: Holding) -> None:
        self.asked.append(("room", held.room, key, product))
        self.late -= 1
        if not self.late:
            self._gone(key, product)

    async def forget(self, key: str, product: str, held: Holding) -> None:
        self.asked.append(("saver", f"{held.generation}.{held.number}", key, product))
        self._gone(key, product)

    def _gone(self, key: str, product: str) -> None:
        self.clients.registered.discard((key, product))
        if (view := self.clients.views.get(key)) is not None:
            view.binds.pop(product, None)


@dataclass
class DrainsTwin:
    orders: list[tuple[str, DrainOrder]] = field(default_factory=list)

    async def drain(self, name: str, order: DrainOrder) -> None:
        self.orders.append((name, order))


@dataclass
class JobsTwin:
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)

    index: JobIndex = field(default_factory=JobIndex)

    def put(self, **document: Any) -> None:
        """As an owner writes it."""
        self.documents[document["job"]] = document
        self.index.take(names.kv_job_key(document["job"]), json.dumps(document).encode())

    async def get(self, job: str) -> dict[str, Any] | None:
        return self.documents.get(job)

    def known(self, key: str) -> dict[str, Any] | None:
        return next((each for job, each in self.documents.items() if names.kv_job_key(job) == key), None)

    async def announce(self, document: dict[str, Any]) -> None:
        if document["job"] not in self.documents:
            self.put(**document)


class AudiencesTwin:
    """What the journal's twin holds of audiences: the first that was sealed, else the last that began."""

    def __init__(self, journal: JournalTwin) -> None:
        self._journal = journal
        self.down = False

    async def find(self, product: str, audience: str, *, deadline: float = 60.0) -> Audience | None:
        if self.down or self._journal.down:
            raise JournalDown("the twin is down")
        uploads: dict[str, Audience] = {}
        for offset, record in enumerate(self._journal.records):
            if isinstance(record, AudienceChunk) and (record.product, record.audience) == (product, audience):
                found = uploads.setdefault(record.upload, Audience(audience, product, record.realm, record.upload, offset))
                found.clients += len(record.clients)
                found.chunks += 1
                found.sealed = record.sealed == found.clients
                if found.sealed:
                    return found
        return next(reversed(uploads.values()), None)


@dataclass
class KeysTwin:
    found: dict[tuple[str, str], str] = field(default_factory=dict)
    down: bool = False
    claimed_ms: int = APPEND_MS

    async def claim(self, claims: Sequence[Claim]) -> list[bool]:
        if self.down:
            raise RegisterDown("away")
        return [self.found.setdefault((each.product, each.record), each.digest) == each.digest for each in claims]

    async def times(self, products: Sequence[str], record: str) -> tuple[int, ...]:
        if self.down:
            raise RegisterDown("away")
        return tuple(self.claimed_ms for product in products if (product, record) in self.found)


@dataclass
class LogTwin:
    """Kafka as it is searched: what the journal's twin holds, and receipts. `whole` False: a search hits its bound; `asked`: the
    keys of each look for receipts."""

    journal: JournalTwin
    written: list[Receipt] = field(default_factory=list)
    whole: bool = True
    down: bool = False
    asked: list[Wanted] = field(default_factory=list)
    searched: list[Asked] = field(default_factory=list)

    async def find(self, asked: Asked) -> Sighting:
        if self.down:
            raise JournalDown("the twin is down")
        self.searched.append(asked)
        for record in self.journal.records:
            if isinstance(record, PushMessage) and asked.is_it(record):
                return Sighting(record, record.accepted_ms or APPEND_MS, self.whole)
        return Sighting(None, 0, self.whole)

    async def receipts(self, message_id: str, wanted: Wanted, enough: Callable[[list[Receipt]], bool]) -> Receipts:
        self.asked.append(dict(wanted))
        found: list[Receipt] = []
        for receipt in (codec.decode_as(Receipt, codec.encode(each)) for each in self.written):
            if receipt.id == message_id and (not receipt.client or receipt.client in wanted):
                found.append(receipt)
                if enough(found):
                    return Receipts(found, True)
        return Receipts(found, self.whole)


@dataclass
class StandingsTwin:
    """How messages stand, by (key, product, id)."""

    found: dict[tuple[str, str, str], Standing] = field(default_factory=dict)
    down: bool = False

    async def standing(self, items: Sequence[tuple[str, str, str]]) -> list[Standing]:
        if self.down:
            raise RegisterNotReady("the twin is being folded")
        return [self.found.get(item, Standing(NOW_MS)) for item in items]


@dataclass
class CensusTwin:
    """`persons`: what a room answers; None: it does not. `found` None: Kafka is down."""

    persons: dict[str, int | None] = field(default_factory=dict)
    found: Known | None = None
    asked: list[JobContent] = field(default_factory=list)

    async def online(self, rooms: list[str], content: JobContent) -> list[RoomAnswer]:
        self.asked.append(content)
        return [RoomAnswer(room, self.persons.get(room), None if room in self.persons else "no answer") for room in rooms]

    async def known(self, content: JobContent) -> Known:
        of_registry(content)
        if self.found is None:
            raise JournalDown("the twin is down")
        return self.found


@dataclass
class TrailTwin:
    records: list[Audit] = field(default_factory=list)

    async def of(self, product: str, job: str) -> AuditPage:
        return AuditPage([each for each in self.records if (each.product, each.subject) == (product, job)], whole=True)

    async def page(self, product: str, subject: str, limit: int, before: int | None) -> TrailPage:
        """Looks at three records at a time."""
        end = len(self.records) if before is None else min(before, len(self.records))
        begin = max(0, end - 3)
        fits = [n for n in range(begin, end) if self.records[n].product == product and subject in ("", self.records[n].subject)]
        shown = fits[-limit:]
        older = shown[0] if len(fits) > limit else begin or None
        return TrailPage([self.records[n] for n in reversed(shown)], older)


@dataclass
class QueuesTwin:
    """Own queues by document; a change is taken as it is, and kept."""

    documents: DocumentsTwin
    changes: list[QueueChange] = field(default_factory=list)

    async def topic_of(self, product: Product) -> str:
        return names.queue_topic(product.name) if product.queue else names.MESSAGES

    async def topics(self) -> tuple[str, ...]:
        own = [names.queue_topic(name) for name, product in self.documents.products.items() if product.queue]
        return (names.MESSAGES, *own)

    async def change(self, product: str, change: QueueChange) -> Product:
        self.changes.append(change)
        before = self.documents.products[product]
        after = before.model_copy(update={"queue": changed(before.name, before.queue, change, others=0)})
        self.documents.products[product] = after
        return after


@dataclass
class RevocationsTwin:
    entries: dict[str, Revocation] = field(default_factory=dict)

    def known(self) -> list[Revocation]:
        return list(self.entries.values())

    async def revoke(self, entry: Revocation) -> Revocation:
        self.entries[entry.id] = entry
        return entry

    async def lift(self, key: str, *, by: str, reason: str | None) -> Revocation:
        if key not in self.entries:
            raise Problem("unknown-revocation", key)
        return self.entries.pop(key)


@dataclass
class AccessTwin:
    """The keeper with its document `access`. `overtaken`: what others write, just before we do; `down`: NATS is."""

    documents: DocumentsTwin
    stored: Access | None = None
    revision: int = 0
    readable: bool = True
    overtaken: list[Access] = field(default_factory=list)
    down: bool = False

    @property
    def access(self) -> Access:
        return self.documents.access

    def put(self, document: Access) -> None:
        self.stored = self.documents.access = document
        self.revision += 1
        self.readable = True

    async def latest(self, key: str) -> tuple[Document | None, int]:
        if self.down:
            raise BusDown("the twin is down")
        if not self.readable:
            raise Unreadable(key, self.revision)
        return self.stored, self.revision

    async def replace(self, key: str, document: Document, revision: int) -> bool:
        if self.overtaken:
            self.put(self.overtaken.pop(0))
        assert isinstance(document, Access)
        if revision != self.revision:
            return False
        self.put(document)
        return True


@dataclass
class ApprovalsTwin:
    """A secret that is there; `down`: NATS is."""

    secret: bytes = b"s" * 32
    down: bool = False

    async def current(self) -> bytes:
        if self.down:
            raise bus_down()
        return self.secret


@dataclass
class SharedTwin:
    """What Redis grants of each key: always what is asked for, or, when `left` is set, no more than that."""

    left: int | None = None
    down: bool = False
    asked: list[tuple[str, int, int, int]] = field(default_factory=list)

    async def take(self, name: str, *, rate: int, burst: int, most: int) -> Taken:
        self.asked.append((name, rate, burst, most))
        if self.down:
            raise RegisterDown("the twin is down")
        granted = most if self.left is None else min(most, self.left)
        if self.left is not None:
            self.left -= granted
        return Taken(granted, 0.0 if granted else 2.5)


@dataclass
class ApiKeysTwin:
    """The ring's own keys. `used`: each key's id at each request."""

    ring: KeyRing
    used: list[str] = field(default_factory=list)
    orders: list[tuple[str, KeyOrder]] = field(default_factory=list)

    def known(self) -> list[ApiKey]:
        return sorted(self.ring.keys.values(), key=lambda key: key.id)

    async def last_used(self, keys: list[str]) -> dict[str, float]:
        return {key: 1_000.0 for key in keys if key in self.used}

    async def create(self, key: ApiKey, order: KeyOrder) -> tuple[ApiKey, str]:
        key_id = new_id()
        shown, secret = new_secret(key_id, time.time())
        return self._put("create", msgspec.structs.replace(key, id=key_id, secrets=(secret,)), order), shown

    async def rotate(self, key_id: str, grace_s: float, order: KeyOrder) -> tuple[ApiKey, str]:
        now = time.time()
        shown, secret = new_secret(key_id, now)
        return self._put("rotate", rotated(self.ring.keys[key_id], secret, grace_s, now), order), shown

    async def drop(self, key_id: str, order: KeyOrder) -> ApiKey:
        return self._put("drop", dropped(self.ring.keys[key_id]), order)

    async def revoke(self, key_id: str, order: KeyOrder) -> ApiKey:
        return self._put("revoke", msgspec.structs.replace(self.ring.keys[key_id], revoked_at=time.time()), order)

    def _put(self, action: str, key: ApiKey, order: KeyOrder) -> ApiKey:
        self.orders.append((action, order))
        assert self.ring.put(key.id, msgspec.json.encode(key))
        return key


@dataclass
class StoreTwin:
    """The keeper's bucket. `overtaken`: what others write under a key just before we do; `down`: NATS is."""

    documents: DocumentsTwin
    entries: dict[str, tuple[Document | None, int]] = field(default_factory=dict)
    revision: int = 0
    unreadable: set[str] = field(default_factory=set)
    overtaken: list[Document] = field(default_factory=list)
    down: bool = False

    def put(self, key: str, document: Document | None) -> int:
        self.revision += 1
        self.entries[key] = document, self.revision
        self.unreadable.discard(key)
        if isinstance(document, Policy):
            self.documents.policy = document
        elif isinstance(document, Product):
            self.documents.products[document.name] = document
        elif document is None:
            self.documents.products.pop(key.partition(".")[2], None)
        return self.revision

    async def latest(self, key: str) -> tuple[Document | None, int]:
        if self.down:
            raise BusDown("the twin is down")
        document, revision = self.entries.get(key, (None, 0))
        if key in self.unreadable:
            raise Unreadable(key, revision)
        return document, revision

    async def replace(self, key: str, document: Document, revision: int) -> int:
        return self.put(key, document) if self._still(key, revision) else 0

    async def withdraw(self, key: str, revision: int) -> bool:
        return self._still(key, revision) and bool(self.put(key, None))

    def _still(self, key: str, revision: int) -> bool:
        if self.overtaken:
            self.put(key, self.overtaken.pop(0))
        return self.entries.get(key, (None, 0))[1] == revision


@dataclass
class HealthTwin:
    found: dict[str, str] = field(default_factory=dict)

    def reasons(self) -> dict[str, str]:
        return self.found


class World:
    """One application with its twins. Without `key` the client shows none."""

    def __init__(self) -> None:
        self.journal = JournalTwin()
        self.documents = DocumentsTwin()
        self.rooms = RoomsTwin()
        self.clients = ClientsTwin()
        self.keys = KeysTwin()
        self.log = LogTwin(self.journal)
        self.standings = StandingsTwin()
        self.pending = PendingTwin()
        self.kicks = KicksTwin()
        self.unbinds = UnbindsTwin(self.clients)
        self.drains = DrainsTwin()
        self.tokens = Verifier()
        self.jobs = JobsTwin()
        self.audiences = AudiencesTwin(self.journal)
        self.queues = QueuesTwin(self.documents)
        self.outside = Outside(OutsideSettings.model_validate({"private": ["127.0.0.0/8"]}))
        self.revocations = RevocationsTwin()
        self.access = AccessTwin(self.documents)
        self.store = StoreTwin(self.documents)
        self.health = HealthTwin()
        self.census = CensusTwin()
        self.trail = TrailTwin()
        self.clock = 100.0
        self.shared = SharedTwin()
        self.approvals = ApprovalsTwin()
        self.api_tokens = ApiTokens()
        self.ring = KeyRing()
        self.api_keys = ApiKeysTwin(self.ring)
        self.streams = Streams(most=2, keep_alive=0.02)
        self.balancers: list[str] = []
        self.regions = Regions({})

    @property
    def parts(self) -> Parts:
        return Parts(
            journal=self.journal,
            documents=self.documents,
            rooms=self.rooms,
            clients=self.clients,
            pending=self.pending,
            confirmations=self.pending,
            kicks=self.kicks,
            unbinds=self.unbinds,
            drains=self.drains,
            tokens=self.tokens,
            keys=self.keys,
            log=self.log,
            standings=self.standings,
            jobs=self.jobs,
            audiences=self.audiences,
            topics=self.queues,
            switch=self.queues,
            hooks=Sender(self.outside),
            revocations=self.revocations,
            access=AccessWriter(self.access, self.journal),
            shelf=Shelf(self.store, self.journal),
            health=self.health,
            census=self.census,
            trail=self.trail,
            streams=self.streams,
            askers=Askers(
                lambda: self.documents.policy, lambda: self.documents.access, balancers=self.balancers, regions=self.regions
            ),
            api_key=KEY,
            ring=self.ring,
            api_tokens=self.api_tokens,
            api_keys=self.api_keys,
            used=self.api_keys.used.append,
            approvals=self.approvals,
            limits=Limits(self.shared, clock=lambda: self.clock, most=2),
        )

    def key(self, *roles: Role, products: tuple[str, ...] | None = ("shop",), key_id: str = "", **more: Any) -> str:
        """A key of the ring, as it is shown."""
        key_id = key_id or new_id()
        shown, secret = new_secret(key_id, time.time())
        made = ApiKey(
            id=key_id,
            name="a test",
            products=products,
            roles=roles,
            created_at=time.time(),
            created_by="ann",
            secrets=(secret,),
            **more,
        )
        assert self.ring.put(key_id, msgspec.json.encode(made))
        return shown

    def client(self, *, key: str = KEY) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(application(self.parts))
        headers = {"X-API-Key": key} if key else {}
        return httpx.AsyncClient(transport=transport, base_url="http://center", headers=headers)
