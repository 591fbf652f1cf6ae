"""Configuration that changes at run time: typed documents (infra/documents) in the KV bucket `keeper`, in sync in every process.

A document that does not parse is refused with its reason and the last good one stays. All good documents are kept on disk, so a
process that starts while NATS's store is away or wiped goes on with what it knew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
from nats.js.errors import BadRequestError, KeyNotFoundError, KeyWrongLastSequenceError
from prometheus_client import Counter
from pydantic import ValidationError

from infra.bus import Bus, BusDown
from infra.documents import Access, ApiIssuer, Document, Issuer, KeySet, Policy, Product, Queue, document_class
from infra.mirror import Mirror
from infra.telemetry import write_json
from schemas import names

WRONG_LAST_SEQUENCE: Final = (10071, 10164)
"""JetStream's error codes where an entry is at another revision than the request says."""

log = structlog.get_logger("keeper")
refused = Counter("longwire_keeper_refused_total", "Documents that did not parse", ["kind"])


class Unreadable(KeyError):
    """What is in the bucket under a key, at `revision`, does not parse: every process goes by the last good document."""

    def __init__(self, key: str, revision: int) -> None:
        super().__init__(key)
        self.revision = revision


class Keeper:
    """All documents, typed, as they are now.

    `products`, `issuers`, `api_issuers` and `key_sets` (by `iss`), `policy` and `access` are replaced as a whole on a change,
    never mutated: a reader may keep a reference for as long as one decision takes.
    """

    def __init__(self, bus: Bus, *, disk: Path, refill: bool = False, fail: Callable[[str], None] = lambda reason: None) -> None:
        """`disk`: a folder for the last known good documents, readable by the owner only (it holds signing keys); `refill`: put
        them back where the bucket's store was wiped (a room may not write there)."""
        self.products: dict[str, Product] = {}
        self.issuers: dict[str, Issuer] = {}
        self.api_issuers: dict[str, ApiIssuer] = {}
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

    async def replace(self, key: str, document: Document, revision: int) -> int:
        """Write a document over the revision that was read (0: nothing); returns the new one, 0 if somebody was faster. Raises
        BusDown or a NATS error."""
        bucket = await self._bus.bucket(names.KV_KEEPER)
        try:
            return await bucket.update(key, document.model_dump_json().encode(), last=revision)
        except KeyWrongLastSequenceError:
            return 0

    async def remove(self, key: str) -> None:
        """Remove a document. Raises BusDown or a NATS error."""
        bucket = await self._bus.bucket(names.KV_KEEPER)
        await bucket.delete(key)

    async def withdraw(self, key: str, revision: int) -> bool:
        """Remove a document at the revision that was read; False if somebody was faster. Raises BusDown or a NATS error."""
        bucket = await self._bus.bucket(names.KV_KEEPER)
        try:
            await bucket.delete(key, last=revision)
        except BadRequestError as error:
            if error.err_code not in WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

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
        model = document_class(key)
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
        self.api_issuers = {item.iss: item for item in documents if isinstance(item, ApiIssuer)}
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
