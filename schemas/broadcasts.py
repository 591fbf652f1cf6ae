"""The records of broadcasts: the command, its transitions, the owner's cursor, and the audit of both.

One class a record, one `.avsc` file a version (`schemas/records.py` has the rules). Shares of a whole are basis points: 10,000 is
everyone. Times in ms are since the epoch.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from schemas import names
from schemas.checks import MAX_TTL_S, check_content, check_range, check_ttl
from schemas.codes import WHOLE, Priority
from schemas.jobs import Action

MAX_SEGMENT = 4_096
"""Characters of a segment expression, at most."""
MAX_RAMP_S = 24 * 3600
MAX_RATE = 10_000_000
"""Persons per second, at most."""
MAX_GROUPS = 64
MAX_BY = 128
"""Characters of who did it, and of why."""
MAX_CHUNK = 1_000
"""Client ids in a chunk of an audience, at most; with 128 bytes each they stay below half of what a record may have."""
MAX_AUDIENCE = 10_000_000
"""Client ids in an audience, at most."""

_ACTIONS = frozenset(action.value for action in Action)


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """The first `share_bp` of everyone, then a wait of `wait_s`; the job goes on only while, of what was sent `wait_s` ago,
    at least `min_acked_bp` are settled by the device, and at most `max_failed_bp` of all were refused."""

    share_bp: int
    wait_s: int
    min_acked_bp: int = 0
    max_failed_bp: int = WHOLE

    def check(self) -> None:
        """Raise ValueError if a field is out of its bounds."""
        check_range("canary share_bp", self.share_bp, 1, WHOLE)
        check_range("canary wait_s", self.wait_s, 1, 24 * 3600)
        check_range("canary min_acked_bp", self.min_acked_bp, 0, WHOLE)
        check_range("canary max_failed_bp", self.max_failed_bp, 0, WHOLE)


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """Quiet hours by the client's own clock (attribute `tz`, an IANA zone; else `zone`): minutes of the day, from ≤ t < to; a
    range that ends before it begins goes over midnight. Who is in them waits until they are over, or the job is."""

    from_minute: int
    to_minute: int
    zone: str = "UTC"

    def check(self) -> None:
        """Raise ValueError if a field is out of its bounds; that the zone exists is for who reads it."""
        check_range("quiet from_minute", self.from_minute, 0, 1439)
        check_range("quiet to_minute", self.to_minute, 0, 1439)
        if self.from_minute == self.to_minute:
            raise ValueError("quiet hours that begin when they end")
        if not 0 < len(self.zone) <= 64:
            raise ValueError("quiet zone is empty or has more than 64 characters")


class Broadcast(msgspec.Struct, frozen=True, kw_only=True):
    """`push.broadcasts`: one content for everyone bound to the product, or for who matches every condition that is given.

    `groups`: in any of them, or with `every_group` in all; `segment`: an expression over client attributes
    (infra/segments.py); `sample_bp`: a stable share by hash of client and `sample_seed` (default: the job's id). `rate` is
    persons per second, 0 the product's; `ramp_s` how long it takes to get there. `start_ms` schedules; a `draft` waits for a
    Transition `start`. `audience` names an explicit list in `push.audiences`, and excludes every
    other choice. `fallback_after_s`: what is unsettled then is
    handed to another channel.
    """

    SCHEMA: ClassVar[str] = "Broadcast.v2"
    OLDER: ClassVar[tuple[str, ...]] = ("Broadcast.v1",)

    id: str
    product: str
    realm: str = names.DEFAULT_REALM
    groups: tuple[str, ...] = ()
    payload: bytes = b""
    content_type: str | None = None
    properties: dict[str, str] = {}
    rate: int = 0
    ttl_s: int | None = None
    include_new: bool = False
    every_group: bool = False
    segment: str | None = None
    sample_bp: int = WHOLE
    sample_seed: str | None = None
    priority: int = Priority.NORMAL
    ramp_s: int = 0
    draft: bool = False
    start_ms: int | None = None
    canary: Canary | None = None
    quiet: Quiet | None = None
    audience: str | None = None
    fallback_after_s: int | None = None
    by: str | None = None

    def check(self) -> None:
        """Raise ValueError if a field is out of its bounds."""
        names.message_id(self.id)
        names.product(self.product)
        names.realm(self.realm)
        for name in self.groups:
            names.group(name)
        if len(self.groups) > MAX_GROUPS:
            raise ValueError(f"{len(self.groups)} groups, more than {MAX_GROUPS}")
        check_range("rate", self.rate, 0, MAX_RATE)
        check_range("ramp_s", self.ramp_s, 0, MAX_RAMP_S)
        check_range("sample_bp", self.sample_bp, 1, WHOLE)
        check_range("priority", self.priority, 0, 2)
        if self.segment is not None and not 0 < len(self.segment) <= MAX_SEGMENT:
            raise ValueError(f"segment is empty or has more than {MAX_SEGMENT} characters")
        for text in (self.audience, self.sample_seed):
            if text is not None:
                names.message_id(text)
        if self.audience is not None:
            self._check_listed()
        for part in (self.canary, self.quiet):
            if part is not None:
                part.check()
        if self.fallback_after_s is not None:
            check_range("fallback_after_s", self.fallback_after_s, 1, MAX_TTL_S)
        _check_words(self.by)
        check_ttl(self.ttl_s)
        check_content(self.payload, self.properties, self.content_type)

    def _check_listed(self) -> None:
        """A list says who gets it: whatever else would choose among clients is refused, since nobody would look at it."""
        given = {
            "groups": bool(self.groups),
            "segment": self.segment is not None,
            "a sample": self.sample_bp != WHOLE,
            "quiet hours": self.quiet is not None,
            "include_new": self.include_new,
        }
        if any(given.values()):
            found = ", ".join(name for name, there in given.items() if there)
            raise ValueError(f"an audience is who gets it, whatever else would choose: leave out {found}, or the audience")


class AudienceChunk(msgspec.Struct, frozen=True, kw_only=True):
    """`push.audiences`, key `names.audience_key`: a piece of an explicit list of clients, in order.

    `number` counts the chunks of one `upload` from 0. The last one carries `sealed`, the number of ids in all of them; until
    then the audience can't be used. An id is once in a chunk, and may be in several: a message is stored once by its id.
    """

    SCHEMA: ClassVar[str] = "AudienceChunk.v1"

    audience: str
    product: str
    realm: str = names.DEFAULT_REALM
    upload: str
    number: int
    clients: tuple[str, ...] = ()
    sealed: int | None = None

    def check(self) -> None:
        """Raise ValueError if a field is out of its bounds."""
        names.message_id(self.audience)
        names.product(self.product)
        names.realm(self.realm)
        names.message_id(self.upload)
        check_range("number", self.number, 0, MAX_AUDIENCE)
        if len(self.clients) > MAX_CHUNK:
            raise ValueError(f"{len(self.clients)} clients in a chunk, more than {MAX_CHUNK}")
        for client in self.clients:
            names.client(client)
        if self.sealed is not None:
            check_range("sealed", self.sealed, 1, MAX_AUDIENCE)


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """`push.broadcasts`, key product: what is asked of a job (schemas/jobs.py has the table). `rate` belongs to action `rate`."""

    SCHEMA: ClassVar[str] = "Transition.v1"

    job: str
    product: str
    action: str
    rate: int | None = None
    by: str | None = None
    reason: str | None = None

    def check(self) -> None:
        """Raise ValueError if a field is out of its bounds."""
        names.message_id(self.job)
        names.product(self.product)
        if self.action not in _ACTIONS:
            raise ValueError(f"action {self.action[:16]!a} is not one of {', '.join(sorted(_ACTIONS))}")
        if (self.rate is not None) != (self.action == Action.RATE):
            raise ValueError("a rate belongs to the action rate, and to no other")
        if self.rate is not None:
            check_range("rate", self.rate, 1, MAX_RATE)
        _check_words(self.by)
        _check_words(self.reason)


def _check_words(text: str | None) -> None:
    if text is not None and (len(text) > MAX_BY or not text.isprintable()):
        raise ValueError(f"a text of who or why has more than {MAX_BY} characters, or control characters")


class RoomCursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job came in one room: every slot below `slot` was confirmed."""

    room: str
    epoch: int
    slot: int
    counts: dict[str, int] = {}


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`push.jobs`, key (job, term): the claim and each second's cursor of a job's owner.

    `number` is the (partition, offset) of the job's first record in this topic; it is (−1, −1) in that first record itself,
    which is its own number. `source` is the (partition, offset) of the Broadcast in `push.broadcasts`. `applied` is the offset
    of the last Transition that this state includes. `canary_passed`: the walk may go beyond the canary's share. `handed`: how
    many clients went to another channel (`fallback_after_s`), None until that was done.
    """

    SCHEMA: ClassVar[str] = "JobRecord.v2"
    OLDER: ClassVar[tuple[str, ...]] = ("JobRecord.v1",)

    job: str
    product: str
    state: str
    number_partition: int
    number_offset: int
    source_partition: int
    source_offset: int
    rate: int
    started_ms: int
    expires_ms: int
    rooms: tuple[RoomCursor, ...] = ()
    completed_ms: int | None = None
    reason: str | None = None
    applied: int = -1
    canary_passed: bool = False
    handed: int | None = None


NO_PRODUCT: Final = "-"
"""The product of an audit record for what is of none."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """`push.audit`, key product: what was done to what, by whom and why, from where to where."""

    SCHEMA: ClassVar[str] = "Audit.v1"

    product: str
    subject: str
    action: str
    by: str
    at_ms: int
    before: str
    after: str
    reason: str | None = None
