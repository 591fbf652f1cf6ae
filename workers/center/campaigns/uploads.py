"""An upload of an audience on its way into `push.audiences`: ids become chunks, and the last chunk seals.

Every chunk is acknowledged by Kafka before the next piece of the body is read, so a sender is as fast as Kafka takes it, and
nothing grows. The seal comes last: an upload that breaks off is never an audience.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import uuid4

from infra.journal import Entry
from schemas import names
from schemas.broadcasts import MAX_AUDIENCE, MAX_CHUNK, AudienceChunk
from workers.center.callers.auth import Caller
from workers.center.callers.places import Places
from workers.center.ports import Producer
from workers.center.web.problems import RETRY_AFTER_S, Problem

MAX_UPLOADS: Final = 4
"""Uploads at a time in one process: each takes a part of its CPU."""
MAX_OF_ONE: Final = 2
"""Of one key's."""


class Upload:
    """One upload. An id that comes twice in a chunk is there once."""

    def __init__(self, journal: Producer, *, audience: str, product: str, realm: str) -> None:
        self._journal = journal
        self._audience = audience
        self._product = product
        self._realm = realm
        self._key = names.audience_key(product, audience)
        self._waiting: dict[str, None] = {}
        self.id = uuid4().hex
        self.clients = 0
        self.chunks = 0

    async def add(self, clients: Iterable[str]) -> None:
        """Take ids; what fills chunks is in Kafka on return. Raises JournalDown, and a Problem if there are too many ids."""
        full: list[Entry] = []
        for client in clients:
            self._waiting[client] = None
            if len(self._waiting) == MAX_CHUNK:
                full.append(self._chunk())
        await self._journal.produce(full)

    async def seal(self) -> None:
        """Produce the rest with the seal: the audience can be used from now on. Raises like `add`."""
        await self._journal.produce([self._chunk(seal=True)])

    @property
    def empty(self) -> bool:
        """Has no id come?"""
        return not self.clients and not self._waiting

    def _chunk(self, *, seal: bool = False) -> Entry:
        clients, self._waiting = tuple(self._waiting), {}
        number, self.chunks = self.chunks, self.chunks + 1
        self.clients += len(clients)
        if self.clients > MAX_AUDIENCE:
            raise Problem("too-large", f"an audience may have {MAX_AUDIENCE} ids")
        record = AudienceChunk(
            audience=self._audience,
            product=self._product,
            realm=self._realm,
            upload=self.id,
            number=number,
            clients=clients,
            sealed=self.clients if seal else None,
        )
        return Entry(names.AUDIENCES, self._key, record)


class Slots:
    """Which audiences are being uploaded here: so many at a time, and each once."""

    def __init__(self, most: int = MAX_UPLOADS, of_one: int = MAX_OF_ONE) -> None:
        self._places = Places("uploads", most=most, of_one=of_one)
        self._full = Problem("busy", f"{most} audiences are being uploaded; ask again", retry_after_s=RETRY_AFTER_S)
        self._taken: set[str] = set()

    @contextmanager
    def take(self, who: Caller, product: str, audience: str) -> Iterator[None]:
        """A place for as long as the block; raises a Problem (409, 429, 503)."""
        key = names.audience_key(product, audience)
        if key in self._taken:
            raise Problem("audience-sealed", f"audience {audience} of product {product} is being uploaded")
        with self._places.take(who, self._full):
            self._taken.add(key)
            try:
                yield
            finally:
                self._taken.discard(key)
