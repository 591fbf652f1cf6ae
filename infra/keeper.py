"""Configuration that changes at run time: typed documents in the KV bucket `keeper`, in sync in every process.

A document that does not parse is refused with its reason and the last good one stays. All good documents are kept on disk, so a
process that starts while NATS's store is away or wiped goes on with what it knew. Keys: `products.<product>`, `issuers.<issuer>`,
`keysets.<hash>`, `policy`, `access`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import structlog
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from prometheus_client import Counter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer, model_validator

from infra.access import MAX_CLIENTS, MAX_NETWORKS, MAX_PATTERNS, NOT_COUNTED, network, pattern
from infra.bus import Bus, BusDown
from infra.mirror import Mirror
from infra.settings import Seconds
from infra.signatures import MAX_PEM, PUBLIC, SECRET_BYTES, BadKey, Key, public_key, secret_key
from infra.telemetry import write_json
from schemas import names
from schemas.checks import MAX_TTL_S
from schemas.codes import MAX_PAYLOAD

log = structlog.get_logger("keeper")
refused = Counter("longwire_keeper_refused_total", "Documents that did not parse", ["kind"])

POLICY: Final = "policy"
ACCESS: Final = "access"
MAX_QUEUE_RATE: Final = 10_000_000
"""Messages per second of a product's own queue, at most."""
MAX_KID: Final = 256
MAX_SET: Final = 16
"""Keys of a JWKS that are used, at most."""
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
MAX_PENDING: Final = 100_000
"""Messages that may be pending for a client and product, in any product."""
D = TypeVar("D", bound="Document")


class Unreadable(KeyError):
    """What is in the bucket under a key, at `revision`, does not parse: every process goes by the last good document."""

    def __init__(self, key: str, revision: int) -> None:
        super().__init__(key)
        self.revision = revision


class Document(BaseModel):
    """A document of the keeper: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Health(Document):
    """A URL of the product's that is asked every `interval` while its broadcasts run: where it does not answer 2xx or 3xx
    within `slow_after`, the rate is halved each time, down to 1/16; where it does, it comes back as it went."""

    url: str = Field(pattern=r"^https?://", max_length=2048)
    interval: Seconds = 1.0
    slow_after: Seconds = 1.0


class FrequencyCap(Document):
    """At most `count` broadcasts for a client within `per`; transactional ones (priority `high`) are not counted."""

    count: int = Field(ge=1, le=32)
    per: Seconds = 86_400.0


class Queue(Document):
    """A large product's own queue, `push.messages.<product>`: `rate` messages per second over all delivery workers; none
    while it is `paused`."""

    rate: int = Field(ge=1, le=MAX_QUEUE_RATE)
    paused: bool = False


def _webhook(value: str) -> str:
    return _outward(value, "a webhook")


def _outward(value: str, what: str) -> str:
    """An https URL, or http to this very machine; no user, password or fragment."""
    url = urlsplit(value)
    if not value.isascii() or not value.isprintable() or " " in value or not url.hostname or url.port == 0:
        raise ValueError("is not a URL")
    if url.username is not None or url.fragment:
        raise ValueError(f"the URL of {what} has no user, password or fragment")
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in LOOPBACK):
        raise ValueError(f"{what} is https, or http on a loopback address")
    return value


Webhook = Annotated[str, Field(max_length=2048), AfterValidator(_webhook)]


class Product(Document):
    """A tenant: limits and routes. `rate`: persons per second for its broadcasts; `services`: uplink types that a NATS
    service `app.<product>.<type>` answers; `queue`: its unicast has a topic and a pace of its own; `fallback_webhook`: where
    what is in `push.fallback` is posted."""

    name: Annotated[str, AfterValidator(names.product)]
    ttl_s: int = Field(default=7 * 24 * 3600, ge=1, le=MAX_TTL_S)
    max_payload: int = Field(default=16 * 1024, ge=1, le=MAX_PAYLOAD)
    max_pending: int = Field(default=1000, ge=1, le=MAX_PENDING)
    rate: int = Field(default=10_000, ge=1)
    services: tuple[Annotated[str, AfterValidator(names.uplink_type)], ...] = ()
    service_timeout: Seconds = 3.0
    health: Health | None = None
    frequency_cap: FrequencyCap | None = None
    queue: Queue | None = None
    fallback_webhook: Webhook | None = None


def _jwks_url(value: str) -> str:
    return _outward(value, "a JWKS")


class SigningKey(Document):
    """A key of an issuer: a `secret` (HS256, HS384) or a `public_key` in PEM (RS256, ES256, EdDSA). The algorithm is pinned to
    the key: a token that names another one is refused."""

    kid: str = Field(default="", max_length=MAX_KID)
    alg: Literal["HS256", "HS384", "RS256", "ES256", "EdDSA"] = "HS256"
    secret: SecretStr | None = None
    public_key: str | None = Field(default=None, max_length=MAX_PEM)

    @field_serializer("secret", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        """The bucket is where the secret lives; logs and dumps show stars."""
        return None if secret is None else secret.get_secret_value()

    @model_validator(mode="after")
    def _check(self) -> SigningKey:
        self.verifier()
        return self

    def verifier(self) -> Key:
        """What verifies by it; raises BadKey for material that does not fit the algorithm."""
        if self.alg in SECRET_BYTES and self.secret is not None and self.public_key is None:
            return secret_key(self.alg, self.secret.get_secret_value())
        if self.alg in PUBLIC and self.public_key is not None and self.secret is None:
            return public_key(self.alg, self.public_key)
        raise BadKey(f"a key for {self.alg} has a {'secret' if self.alg in SECRET_BYTES else 'public_key'}, and nothing else")


class Issuer(Document):
    """Who signs tokens (`iss`): its keys sign only its own products, its client ids live in its realm. `products` empty: all.

    `jwks`: a URL of further, public keys, asked every `jwks_interval` (RFC 7517); `max_lifetime`: how long after its `iat` a
    token may expire, at most. None: any time, and `iat` may be absent.
    """

    iss: str = Field(min_length=1, max_length=256)
    realm: Annotated[str, AfterValidator(names.realm)] = names.DEFAULT_REALM
    audience: str = "longwire"
    keys: tuple[SigningKey, ...] = Field(default=(), max_length=4)
    products: tuple[Annotated[str, AfterValidator(names.product)], ...] = ()
    jwks: Annotated[str, Field(max_length=2048), AfterValidator(_jwks_url)] | None = None
    jwks_interval: Annotated[Seconds, Field(ge=60, le=86_400)] = 300.0
    max_lifetime: Seconds | None = None

    @model_validator(mode="after")
    def _check(self) -> Issuer:
        if not self.keys and self.jwks is None:
            raise ValueError("an issuer has keys, or the URL of a JWKS")
        check_kids(self.keys)
        return self


class KeySet(Document):
    """What an issuer's JWKS held when it was fetched last: written by a coordinator, never by hand (workers/jwks.py).

    `url`: where from; keys of another URL than the issuer's document has now are not used. Times in seconds since the epoch.
    `error`: why the last attempt, at `tried_at`, brought nothing; the keys are those of `fetched_at` then.
    """

    iss: str = Field(min_length=1, max_length=256)
    url: str
    fetched_at: float
    tried_at: float
    error: str = Field(default="", max_length=200)
    keys: tuple[SigningKey, ...] = Field(default=(), max_length=MAX_SET)

    @model_validator(mode="after")
    def _check(self) -> KeySet:
        if any(key.secret is not None for key in self.keys):
            raise ValueError("a key set is public, and has no secrets")
        check_kids(self.keys)
        return self


def check_kids(keys: Sequence[SigningKey]) -> None:
    """Raises ValueError if two keys have one `kid`. Keys without one may be several: each of an algorithm is tried."""
    kids = [key.kid for key in keys if key.kid]
    for kid in kids:
        if kids.count(kid) > 1:
            raise ValueError(f"kid {kid[:64]!a} is there twice")


class Policy(Document):
    """How the cluster treats connections. Keep Alive is by the network that a client names in CONNECT (`wifi`, `4g`, …).

    `sweep_grace`: how long a room is dead before its sessions are removed; `flash_window_s`: the longest Session Expiry Interval
    that is granted (0: none); `connect_rate`, `resync_rate`: CONNECTs admitted and clients synced again, per second and room;
    `connect_ramp`: a room that starts admits `connect_ramp_from` of that rate, and all of it so long after;
    `connections_per_*`, `accepts_per_address`: open sockets, and new ones per second (`accept_burst` seconds' worth at once), of
    an IPv4 address or an IPv6 /64 in a room, and of an IPv6 /48 (site); `accept_rate`: new sockets of all, per second and room;
    `flapping_*`: a client that was let in more than so often in a window is banned for that long; `publish_*`: uplinks and pulls
    of a client per second, how many at once, and for how long it may want more before it is closed;
    `park_after_*`: a message that was written in so many connections over at least that time, none of which acknowledged
    anything, is a dead letter.
    """

    keep_alive: dict[str, int] = Field(default_factory=lambda: {"2g": 300, "3g": 300, "4g": 480, "wifi": 480})
    keep_alive_default: int = Field(default=480, ge=5, le=3600)
    sync_interval: Seconds = 300.0
    ack_timeout: Seconds = 30.0
    window: int = Field(default=32, ge=1, le=1024)
    binds_per_connection: int = Field(default=32, ge=1, le=1024)
    groups_per_bind: int = Field(default=64, ge=0, le=1024)
    lease_interval: Seconds = 3.0
    lease_dead_after: Seconds = 10.0
    sweep_grace: Seconds = 30.0
    sweep_interval: Seconds = 3600.0
    flash_window_s: int = Field(default=60, ge=0, le=3600)
    connect_rate: int = Field(default=2_000, ge=1)
    connect_ramp: Seconds = 20.0
    connect_ramp_from: float = Field(default=0.25, gt=0, le=1)
    connections_per_address: int = Field(default=1_000, ge=1)
    connections_per_site: int = Field(default=4_000, ge=1)
    accepts_per_address: int = Field(default=100, ge=1)
    accept_burst: Seconds = 5.0
    accept_rate: int = Field(default=20_000, ge=1)
    flapping_connects: int = Field(default=30, ge=1)
    flapping_window: Seconds = 60.0
    flapping_ban: Seconds = 300.0
    publish_rate: int = Field(default=50, ge=1)
    publish_burst: int = Field(default=100, ge=1)
    publish_patience: Seconds = 120.0
    resync_rate: int = Field(default=2_000, ge=1)
    park_after_connections: int = Field(default=10, ge=2, le=1000)
    park_after: Seconds = 1800.0
    dispatch_ttl_s: int = Field(default=300, ge=1)
    backoff_base: Seconds = 0.5
    backoff_cap: Seconds = 30.0


Network = Annotated[str, Field(max_length=64), AfterValidator(network)]


class Rules(Document):
    """Whom a list means: by address, by client id (in whatever realm), or by a pattern of ids (`*` any characters, `?` one)."""

    networks: tuple[Network, ...] = Field(default=(), max_length=MAX_NETWORKS)
    clients: tuple[Annotated[str, AfterValidator(names.client)], ...] = Field(default=(), max_length=MAX_CLIENTS)
    patterns: tuple[Annotated[str, AfterValidator(pattern)], ...] = Field(default=(), max_length=MAX_PATTERNS)


class Access(Document):
    """Who may connect. `deny` wins. Where `allow` has networks, an address must be in one of them; where it has clients or
    patterns, an id must be meant by one. Addresses of `uncounted` have no limits of their own."""

    allow: Rules = Rules()
    deny: Rules = Rules()
    uncounted: tuple[Network, ...] = Field(default=NOT_COUNTED, max_length=MAX_NETWORKS)


def _document_class(key: str) -> type[Document] | None:
    kind = key.partition(".")[0]
    kinds: dict[str, type[Document]] = {
        "products": Product, "issuers": Issuer, "keysets": KeySet, POLICY: Policy, ACCESS: Access,
    }  # fmt: skip
    return kinds.get(kind)


def product_key(product: str) -> str:
    """The key of a product's document."""
    return f"products.{names.product(product)}"


def issuer_key(name: str) -> str:
    """The key of an issuer's document; `name` is a label, the `iss` claim is inside."""
    return f"issuers.{names.product(name)}"


def key_set_key(iss: str) -> str:
    """The key of what an issuer's JWKS held; an `iss` may be any text."""
    return f"keysets.{blake2b(iss.encode(), digest_size=16).hexdigest()}"


class Keeper:
    """All documents, typed, as they are now.

    `products`, `issuers` and `key_sets` (by `iss`), `policy` and `access` are replaced as a whole on a change, never mutated: a
    reader may keep a reference for as long as one decision takes.
    """

    def __init__(self, bus: Bus, *, disk: Path, refill: bool = False, fail: Callable[[str], None] = lambda reason: None) -> None:
        """`disk`: a folder for the last known good documents, readable by the owner only (it holds signing keys); `refill`: put
        them back where the bucket's store was wiped (a room may not write there)."""
        self.products: dict[str, Product] = {}
        self.issuers: dict[str, Issuer] = {}
        self.key_sets: dict[str, KeySet] = {}
        self.policy = Policy()
        self.access = Access()
        self.on_change: list[Callable[[], None]] = []
        self._bus = bus
        self._file = disk / "keeper.json"
        self._documents: dict[str, Document] = {}
        self._mirror = Mirror(bus, names.KV_KEEPER, on_change=self._take, keep_when_empty=True, refill=refill, fail=fail)

    async def start(self) -> None:
        """Load the last known good, then the bucket; a bucket that can't be read is only a warning if there is one on disk."""
        self._load_disk()
        try:
            await self._mirror.start()
        except Exception as error:
            if not self._documents:
                raise
            log.warning("keeper not readable, going on with what is on disk", error=type(error).__name__)

    async def stop(self) -> None:
        """Stop following the bucket."""
        await self._mirror.stop()

    def queue_of(self, product: str) -> Queue | None:
        """The own queue of a product, None if it has none now."""
        found = self.products.get(product)
        return found.queue if found else None

    @property
    def current(self) -> bool:
        """Was the bucket read lately? Only then a product that is not in `products` is known not to exist."""
        return self._mirror.current

    async def put(self, key: str, document: Document) -> None:
        """Write a document; every process has it within a moment. Raises BusDown or a NATS error."""
        bucket = await self._bus.bucket(names.KV_KEEPER)
        await bucket.put(key, document.model_dump_json().encode())

    async def read(self, key: str) -> tuple[Document, int]:
        """A document as it is in the bucket now, and its revision for `replace`; raises KeyError, BusDown or a NATS error."""
        document, revision = await self.latest(key)
        if document is None:
            raise KeyError(key)
        return document, revision

    async def latest(self, key: str) -> tuple[Document | None, int]:
        """As `read`, where there may be no document: None then, with the revision of its removal, or 0 if it never was there.

        Raises Unreadable; BusDown, too, while the bucket's store was wiped and is not filled again: a first entry in it would be
        all that the others find.
        """
        bucket = await self._bus.bucket(names.KV_KEEPER)
        try:
            entry = await bucket.get(key)
        except KeyNotFoundError as error:
            revision = error.entry.revision if error.entry is not None else 0
            if not revision and self._documents and not (await bucket.status()).stream_info.state.last_seq:
                raise BusDown("the keeper's bucket is empty, and not filled again yet") from None
            return None, revision or 0
        document = self._parse(key, entry.value or b"")
        assert entry.revision is not None
        if document is None:
            raise Unreadable(key, entry.revision)
        return document, entry.revision

    async def replace(self, key: str, document: Document, revision: int) -> bool:
        """Write a document over the revision that was read (0: nothing); False if somebody was faster. Raises BusDown or a NATS
        error."""
        bucket = await self._bus.bucket(names.KV_KEEPER)
        try:
            await bucket.update(key, document.model_dump_json().encode(), last=revision)
        except KeyWrongLastSequenceError:
            return False
        return True

    async def remove(self, key: str) -> None:
        """Remove a document. Raises BusDown or a NATS error."""
        bucket = await self._bus.bucket(names.KV_KEEPER)
        await bucket.delete(key)

    def _take(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._documents.pop(key, None)
        else:
            document = self._parse(key, value)
            if document is None:
                return
            self._documents[key] = document
        self._publish()
        self._save_disk()

    def _parse(self, key: str, value: bytes | str) -> Document | None:
        model = _document_class(key)
        try:
            if model is None:
                raise ValueError("no such kind of document")
            return model.model_validate_json(value)
        except ValueError as error:
            kind = key.partition(".")[0]
            refused.labels(kind if model else "unknown").inc()
            shown = error.errors(include_input=False, include_url=False) if isinstance(error, ValidationError) else str(error)
            log.error("document refused, the last good one stays", key=key, errors=str(shown)[:500])
            return None

    def _publish(self) -> None:
        documents = self._documents.values()
        self.products = {item.name: item for item in documents if isinstance(item, Product)}
        self.issuers = {item.iss: item for item in documents if isinstance(item, Issuer)}
        self.key_sets = {item.iss: item for item in documents if isinstance(item, KeySet)}
        self.policy = next((item for item in documents if isinstance(item, Policy)), Policy())
        self.access = next((item for item in documents if isinstance(item, Access)), Access())
        for call in self.on_change:
            call()

    def _save_disk(self) -> None:
        try:
            write_json(self._file, {key: json.loads(item.model_dump_json()) for key, item in self._documents.items()})
        except OSError as error:
            log.warning("last known good not saved", file=str(self._file), error=str(error))

    def _load_disk(self) -> None:
        try:
            saved: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return
        for key, value in saved.items():
            text = json.dumps(value)
            document = self._parse(key, text)
            if document is not None:
                self._documents[key] = document
                self._mirror.entries[key] = text.encode()  # so that what was removed meanwhile is seen to be gone
        self._publish()
