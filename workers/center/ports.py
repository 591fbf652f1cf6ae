"""What the API needs of the world, as protocols: `main.py` fills them with the adapters, tests with twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

from infra.audiences import SEARCH, Audience
from infra.documents import Access, Document, Endpoint, Issuer, KeySet, Policy, Product, Rules
from infra.journal import Entry, Position
from infra.register import ClientView, Holding, PendingPage, Pulled, SessionView, Standing
from infra.register.idempotency import Claim
from infra.revoked import Revocation
from infra.rooms import RoomView
from infra.tokens import Grant
from infra.wire import JobContent, PullItem
from schemas.records import Receipt
from workers.center.callers.apikey import ApiKey
from workers.center.callers.keyring import KeyRing
from workers.center.callers.limits import Limits
from workers.center.callers.oidc import ApiTokens
from workers.center.campaigns.census import Known, RoomAnswer
from workers.center.campaigns.jobs import JobIndex
from workers.center.dispatch.askers import Askers
from workers.center.operating.trail import AuditPage, TrailPage
from workers.center.unicast.sightings import Asked, Receipts, Sighting, Wanted
from workers.center.web.etags import Writing
from workers.center.web.streams import Streams
from workers.webhooks.events import Batch
from workers.webhooks.sender import Verdict


class Producer(Protocol):
    """Where accepted records go (infra.journal.Journal)."""

    async def produce(self, entries: Sequence[Entry], *, timeout: float | None = None) -> list[Position]:
        """Return when every entry is acknowledged by all in-sync replicas; raises JournalDown: then the outcome is unknown."""


class Documents(Protocol):
    """Products and policy as they are now (infra.keeper.Keeper)."""

    @property
    def products(self) -> Mapping[str, Product]:
        """Products by name."""

    @property
    def issuers(self) -> Mapping[str, Issuer]:
        """Who signs tokens, by `iss`."""

    @property
    def key_sets(self) -> Mapping[str, KeySet]:
        """What their JWKS held, by `iss`."""

    @property
    def policy(self) -> Policy:
        """How the cluster treats connections."""

    @property
    def access(self) -> Access:
        """Who may connect."""


class RoomDirectory(Protocol):
    """Which rooms live (infra.rooms.Rooms)."""

    def live(self) -> list[RoomView]:
        """Rooms with a young lease, in the order of their ids."""

    def alive(self, room: str, epoch: int) -> bool:
        """Does this boot of a room live, as far as its leases tell?"""


class ClientTable(Protocol):
    """The register's reading side (infra.register.Register)."""

    async def show(self, key: str, products: Sequence[str] = ()) -> ClientView | None:
        """A client's session, binds and pending counts, None if nothing is known; raises RegisterDown."""

    async def holding(self, key: str, product: str) -> Holding:
        """Who has the client's bind to the product; raises RegisterDown."""

    async def clients_of(self, realm: str, product: str, user: str) -> list[str]:
        """The client ids of a user in a product; raises RegisterDown."""


class PendingTable(Protocol):
    """What is pending for a client (infra.register.Register)."""

    async def peek(self, key: str, product: str, limit: int, after: int = 0) -> PendingPage:
        """The first messages behind the one that was `last`, as a page would bring them; raises RegisterDown."""

    async def pull(self, items: Sequence[PullItem]) -> list[Pulled]:
        """Messages with their payloads; raises RegisterDown."""


class Kicker(Protocol):
    """Who ends sessions (workers.center.devices.kick.Kicks)."""

    async def kick(self, key: str, session: SessionView, reason: str) -> bool:
        """Close this session; False if its room does not have it any more. Raises problems.Problem if the room can't be asked."""


class Unbinder(Protocol):
    """Who takes clients out of products (workers.center.devices.unbind.Unbinds). Raises problems.Problem where nobody answers."""

    async def leave(self, key: str, product: str, held: Holding) -> None:
        """Ask the room that has the session; it is done in its turn, or the session is gone."""

    async def forget(self, key: str, product: str, held: Holding) -> None:
        """Have the saver forget the bind: the session is in no room that lives, or there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOrder:
    """What is asked of a room: to send away so many clients a second, to these addresses (none: to other rooms); 0: to open
    again. By whom and why; `before`: the state that it was seen in."""

    rate: int
    to: tuple[str, ...]
    by: str
    reason: str | None
    before: str


class RoomDrains(Protocol):
    """Who drains rooms (workers.center.operating.drains.Drains)."""

    async def drain(self, room: str, order: DrainOrder) -> None:
        """Give the order, audited. Raises problems.Problem, JournalDown."""


class Confirmer(Protocol):
    """Who settles what a device had by HTTP (workers.center.unicast.confirm.Confirmations)."""

    async def confirm(self, key: str, product: str, message_id: str) -> bool:
        """Settle it; False if it is not pending. Raises problems.Problem where that can't be done now."""


class TokenCheck(Protocol):
    """Devices' tokens (infra.tokens.Verifier)."""

    def verify(self, token: bytes, client_id: str | None, wall: float) -> Grant:
        """What a token allows; raises BadToken."""


class KeyTable(Protocol):
    """What was asked under an idempotency key (infra.register.idempotency.IdempotencyKeys)."""

    async def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Is this the body that the key stands for, of each in order? Raises RegisterDown."""

    async def times(self, products: Sequence[str], record: str) -> tuple[int, ...]:
        """When this id was asked for under its key, ms, in any of these products; raises RegisterDown."""


class MessageLog(Protocol):
    """Where messages were seen (workers.center.unicast.sightings.Sightings)."""

    async def find(self, asked: Asked) -> Sighting:
        """A message's record; raises JournalDown, or problems.Problem while others ask."""

    async def receipts(self, message_id: str, wanted: Wanted, enough: Callable[[list[Receipt]], bool]) -> Receipts:
        """What receipts with these keys (or none, of whole products) say of an id, until that is `enough`; raises as `find`."""


class StandingTable(Protocol):
    """How messages stand (infra.register.Register)."""

    async def standing(self, items: Sequence[tuple[str, str, str]]) -> list[Standing]:
        """(key, product, id): pending, settled, or not known; raises RegisterDown."""


class JobBoard(Protocol):
    """Jobs as readers see them (workers.center.campaigns.jobs.JobMirror): a fold of `push.jobs`, seconds old at most."""

    async def get(self, job: str) -> dict[str, Any] | None:
        """A job's document, or None; raises problems.Problem if that can't be told now."""

    @property
    def index(self) -> JobIndex:
        """What lists, counts and waits for changes."""

    def known(self, key: str) -> dict[str, Any] | None:
        """The document under a key of the bucket, if it is mirrored."""

    async def announce(self, document: dict[str, Any]) -> None:
        """Show an accepted job before its owner does. Only a hint: never raises, never replaces what is there."""


class Counter(Protocol):
    """How many clients a content means (workers.center.campaigns.census.Census)."""

    async def online(self, rooms: list[str], content: JobContent) -> list[RoomAnswer]:
        """What each room says of its clients, in the same order; a room that does not answer in time has its reason."""

    async def known(self, content: JobContent) -> Known:
        """By the durable registry, connected or not; raises JournalDown, or problems.Problem while others count."""


class AuditTrail(Protocol):
    """What was done to jobs (workers.center.operating.trail.Trail)."""

    async def of(self, product: str, job: str) -> AuditPage:
        """The audit of one job, newest last; raises JournalDown."""

    async def page(self, product: str, subject: str, limit: int, before: int | None) -> TrailPage:
        """The newest records of a product before an offset (None: of all), of one subject ("": of any); raises JournalDown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueChange:
    """What is asked of a product's own queue: `pause`, `resume`, `rate` (switches it on, too), `off`; by whom and why."""

    action: str
    rate: int | None = None
    by: str
    reason: str | None = None


class QueueTopics(Protocol):
    """Where messages go (infra.queues.OwnQueues)."""

    async def topic_of(self, product: Product) -> str:
        """The topic for a product's messages: its own queue, once that is there. Never raises."""

    async def topics(self) -> tuple[str, ...]:
        """Every topic in which messages may lie. Never raises."""


class WebhookSender(Protocol):
    """How a webhook is tried (workers.webhooks.Sender)."""

    async def post(self, endpoint: Endpoint, batch: Batch, *, within: float) -> Verdict:
        """One attempt."""


class QueueSwitch(Protocol):
    """Who changes a product's own queue (workers.center.operating.switch.Switch)."""

    async def change(self, product: str, change: QueueChange) -> Product:
        """Change it in the keeper, audited; returns the product as it is now. Raises problems.Problem, JournalDown."""


class RevocationTable(Protocol):
    """Which tokens hold no more (workers.center.operating.revoker.Revoker)."""

    def known(self) -> list[Revocation]:
        """Those that hold now."""

    async def revoke(self, entry: Revocation) -> Revocation:
        """Add one, or make it longer, audited; returns it as it holds now. Raises problems.Problem, JournalDown."""

    async def lift(self, key: str, *, by: str, reason: str | None) -> Revocation:
        """Take one away, audited; returns it. Raises problems.Problem, JournalDown."""


NOTHING: Final = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessChange:
    """What is asked of a list of the document `access`: entries that come and that leave; by whom and why. `confirm`: even if it
    shuts out more than it names."""

    target: Literal["allow", "deny", "uncounted"]
    add: Rules = NOTHING
    remove: Rules = NOTHING
    by: str
    reason: str | None = None
    confirm: bool = False


class AccessDocument(Protocol):
    """The keeper, as who changes `access` needs it (infra.keeper.Keeper)."""

    @property
    def access(self) -> Access:
        """The lists that this process knows."""

    async def latest(self, key: str) -> tuple[Document | None, int]:
        """A document as it is in the bucket now, and its revision; raises Unreadable, BusDown or a NATS error."""

    async def replace(self, key: str, document: Document, revision: int) -> int:
        """Write over that revision; returns the new one, 0 if somebody was faster. Raises BusDown or a NATS error."""


class DocumentStore(Protocol):
    """The keeper, as who changes any of its documents needs it (infra.keeper.Keeper)."""

    async def latest(self, key: str) -> tuple[Document | None, int]:
        """A document as it is in the bucket now, and its revision; raises Unreadable, BusDown or a NATS error."""

    async def replace(self, key: str, document: Document, revision: int) -> int:
        """Write over that revision; returns the new one, 0 if somebody was faster. Raises BusDown or a NATS error."""

    async def withdraw(self, key: str, revision: int) -> bool:
        """Remove it at that revision; False if somebody was faster. Raises BusDown or a NATS error."""


class AccessLists(Protocol):
    """Who changes who may connect (workers.center.operating.access_change.AccessWriter)."""

    async def change(self, change: AccessChange) -> Access:
        """Change a list, audited; returns all of them as they are then. Raises problems.Problem, JournalDown."""


class KeyOrder(NamedTuple):
    """Who changes an API key, and why."""

    by: str
    reason: str | None


class ApiKeys(Protocol):
    """The API keys, and who makes them (callers.keysmith.KeySmith). What changes raises problems.Problem, JournalDown."""

    def known(self) -> list[ApiKey]:
        """All of them, by their ids, those that ended lately, too."""

    async def last_used(self, keys: list[str]) -> dict[str, float]:
        """Key → when it was used last, seconds since the epoch, where that is known. Never raises."""

    async def create(self, key: ApiKey, order: KeyOrder) -> tuple[ApiKey, str]:
        """Give it an id and a secret, audited; returns it, and the text that is to be shown once."""

    async def rotate(self, key_id: str, grace_s: float, order: KeyOrder) -> tuple[ApiKey, str]:
        """Give it another secret, audited; the one before is good for so long."""

    async def drop(self, key_id: str, order: KeyOrder) -> ApiKey:
        """End the older of two secrets, audited."""

    async def revoke(self, key_id: str, order: KeyOrder) -> ApiKey:
        """End it, audited."""


class ApprovalSecrets(Protocol):
    """By what confirmations of broadcasts are signed (workers.center.callers.approval.Secrets)."""

    async def current(self) -> bytes:
        """The secret of all centers; raises problems.Problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is asked of the document under `key`. `make(before)`: what it is to be, None: gone; it may raise a Problem. The audit
    names `product` and `subject`."""

    key: str
    product: str
    subject: str
    action: str
    asked: Writing
    make: Callable[[Document | None], Document | None]


class Written(NamedTuple):
    """A document after a change, None where it was removed; its revision; and was nothing there before?"""

    document: Document | None
    revision: int
    new: bool


class Documentation(Protocol):
    """Who reads and changes documents of the keeper (workers.center.operating.shelf.Shelf)."""

    async def read(self, key: str) -> tuple[Document | None, int]:
        """A document as it is in the bucket now, and its revision; raises problems.Problem."""

    async def change(self, change: Change) -> Written:
        """Change it, audited; returns it as it is then. Raises problems.Problem, JournalDown."""


class AudienceTable(Protocol):
    """Explicit lists as they lie in Kafka (infra.audiences.Audiences)."""

    async def find(self, product: str, audience: str, *, deadline: float = SEARCH) -> Audience | None:
        """The audience, sealed or not, None if there is nothing of it; raises JournalDown."""


class Health(Protocol):
    """Whether the center can do its work (workers.center.readiness.Readiness)."""

    def reasons(self) -> dict[str, str]:
        """Broker → why it can't be used; empty when all can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that the application is built from."""

    journal: Producer
    documents: Documents
    rooms: RoomDirectory
    clients: ClientTable
    pending: PendingTable
    confirmations: Confirmer
    kicks: Kicker
    unbinds: Unbinder
    drains: RoomDrains
    tokens: TokenCheck
    keys: KeyTable
    log: MessageLog
    standings: StandingTable
    jobs: JobBoard
    audiences: AudienceTable
    topics: QueueTopics
    switch: QueueSwitch
    hooks: WebhookSender
    revocations: RevocationTable
    access: AccessLists
    shelf: Documentation
    health: Health
    census: Counter
    trail: AuditTrail
    streams: Streams
    askers: Askers
    api_key: str
    ring: KeyRing
    api_tokens: ApiTokens
    api_keys: ApiKeys
    used: Callable[[str], None]
    limits: Limits
    approvals: ApprovalSecrets
