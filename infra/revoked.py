"""Tokens that are revoked: of a client, of a user in a product, or a single one by its `jti`. Pure.

A revocation of a client or a user is of what was issued until it was made, so a later token is good; it ends when the longest
token that it covers has expired. What is looked up for each connect is four dicts.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, Literal

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from infra.grants import Grant, mark_of
from schemas import names

MAX_REVOCATIONS: Final = 10_000
"""That hold at one time: center takes no more."""
MAX_TAKEN: Final = 2 * MAX_REVOCATIONS
MAX_S: Final = 366 * 24 * 3600
"""Seconds for which one holds, at most."""

log = structlog.get_logger("revoked")
refused = Counter("longwire_revocations_refused_total", "Revocations that were not read, or were too many", ["reason"])
held = Gauge("longwire_revocations", "Revocations that this process knows")


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One revocation, as it lies in the KV. `scope`: the realm of a client or user, the `iss` of a token (`subject`: its `jti`).
    Times in seconds since the epoch: tokens with `iat` up to `before` (or without one), until `until`."""

    kind: Literal["client", "user", "token"]
    scope: str
    subject: str
    product: str = ""
    before: float
    until: float
    by: str = ""
    reason: str = ""

    @property
    def id(self) -> str:
        """Its key: one for whom it is about, so that a repeat replaces it."""
        whole = msgspec.json.encode((self.kind, self.scope, self.product, self.subject))
        return blake2b(whole, digest_size=12).hexdigest()

    @property
    def text(self) -> str:
        """Whom it is about, for a person."""
        match self.kind:
            case "client":
                return f"client {names.client_key(self.scope, self.subject)}"
            case "user":
                return f"user {self.subject} of {self.product} in realm {self.scope}"
            case _:
                return f"token {self.subject!a} of {self.scope!a}"


class Revoked:
    """All revocations that a process knows, as `put` told it."""

    def __init__(self) -> None:
        self.entries: dict[str, Revocation] = {}
        self._clients: dict[str, Revocation] = {}
        self._users: dict[str, dict[tuple[str, str], Revocation]] = {}
        self._marks: dict[int, Revocation] = {}
        self._decode = msgspec.json.Decoder(Revocation).decode

    def put(self, key: str, value: bytes | None) -> bool:
        """Take an entry of the KV, None for one that is gone; False if it was not taken: what was there stays then."""
        if value is None:
            self._drop(key)
            return True
        try:
            entry = self._decode(value)
            if entry.id != key:
                raise ValueError("its key is another's")
        except (msgspec.MsgspecError, ValueError) as error:
            refused.labels("form").inc()
            log.error("revocation not read", key=key[:64], error=str(error)[:200])
            return False
        if key not in self.entries and len(self.entries) >= MAX_TAKEN:
            refused.labels("too many").inc()
            log.error("revocation not taken: there are too many", key=key, most=MAX_TAKEN)
            return False
        self._drop(key)
        self.entries[key] = entry
        match entry.kind:
            case "client":
                self._clients[names.client_key(entry.scope, entry.subject)] = entry
            case "user":
                self._users.setdefault(entry.subject, {})[entry.scope, entry.product] = entry
            case _:
                self._marks[mark_of(entry.scope, entry.subject)] = entry
        held.set(len(self.entries))
        return True

    def covers(self, grant: Grant, wall: float) -> bool:
        """Is the token of this grant revoked at `wall` (seconds since the epoch)?"""
        if not self.entries:
            return False
        if _holds(self._clients.get(grant.key), grant, wall):
            return True
        if grant.mark and (found := self._marks.get(grant.mark)) is not None and wall < found.until:
            return True
        if self._users:
            realm = grant.key.partition(":")[0]
            for product, granted in grant.products.items():
                users = self._users.get(granted.user)
                if users is not None and _holds(users.get((realm, product)), grant, wall):
                    return True
        return False

    def expired(self, wall: float) -> list[str]:
        """The keys of those that hold no more."""
        return [key for key, entry in self.entries.items() if entry.until <= wall]

    def _drop(self, key: str) -> None:
        old = self.entries.pop(key, None)
        if old is None:
            return
        match old.kind:
            case "client":
                del self._clients[names.client_key(old.scope, old.subject)]
            case "user":
                users = self._users[old.subject]
                del users[old.scope, old.product]
                if not users:
                    del self._users[old.subject]
            case _:
                self._marks.pop(mark_of(old.scope, old.subject), None)
        held.set(len(self.entries))


def _holds(entry: Revocation | None, grant: Grant, wall: float) -> bool:
    return entry is not None and wall < entry.until and grant.issued_at <= entry.before
