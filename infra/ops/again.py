"""Messages once more: dead letters, and what was sent since a time. Each goes out under an id of its own, derived from the old.

The old id is settled for its client, in the register and in every fold of Kafka: under it nothing would be delivered. The new
one is always the same for the same request, so whoever repeats it adds nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence, Sized
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import replace

from infra.journal import Entry, Journal
from infra.ops import logs
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.codes import State
from schemas.records import DeadLetter, PushMessage, Receipt

LONGEST_ID: Final = 64
REMEMBERED: Final = 1_000_000
"""Receipts and messages that one replay looks at, at most: about 200 MB."""
_REPLAYED: Final = re.compile(r"\.replay-[0-9a-f]{1,10}$")
UNDELIVERED: Final = frozenset({State.EXPIRED, State.REPLACED, State.EVICTED, State.DEAD})
DELIVERED: Final = frozenset({State.ACKED, State.WRITTEN, State.REJECTED})
SHOWN: Final = 5


class TooMany(Exception):
    """More than one replay can look at; the text says what to do."""


@dataclass(slots=True)
class Outcome:
    """What a redrive or a replay did, or would do: counts, refusals with their reasons, the first few ids."""

    matched: int = 0
    produced: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    first: list[dict[str, str]] = field(default_factory=list)

    def skip(self, reason: str) -> None:
        """One that is left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def take(self, old: PushMessage, new: PushMessage) -> None:
        """One that goes out."""
        self.produced += 1
        if len(self.first) < SHOWN:
            self.first.append({"id": old.id, "as": new.id, "client": new.client or f"user {new.user}", "product": new.product})

    def document(self, *, dry_run: bool) -> dict[str, Any]:
        """For `--json`."""
        return {
            "matched": self.matched,
            "produced": 0 if dry_run else self.produced,
            "would_produce": self.produced if dry_run else 0,
            "skipped": self.skipped,
            "first": self.first,
        }


def text(document: dict[str, Any]) -> str:
    """A few lines for a terminal."""
    done = f"{document['produced']} sent again" if document["produced"] else f"{document['would_produce']} would be sent again"
    lines = [f"{document['matched']} found, {done}"]
    lines += [f"  {count} left out: {reason}" for reason, count in document["skipped"].items()]
    lines += [f"  {item['id']} as {item['as']}, to {item['client']} in {item['product']}" for item in document["first"]]
    return "\n".join(logs.safe(line) for line in lines)


def derived(message: str, suffix: str) -> str:
    """A new id that shows the old one, within the bound of an id; one that would be too long is cut, with a digest of it all."""
    whole = f"{message}.{suffix}"
    if len(whole) <= LONGEST_ID:
        return whole
    digest = sha256(whole.encode()).hexdigest()[:12]
    return f"{message[: LONGEST_ID - len(suffix) - 14]}.{digest}.{suffix}"


# --- dead letters ------------------------------------------------------------------------------------------------------


async def letters(kafka: KafkaSettings, *, since: int, product: str = "", reason: str = "") -> AsyncIterator[logs.Found]:
    """Dead letters since a time, of a product, with a text in the reason; raises JournalDown."""
    async for found in logs.read(kafka, names.DEAD, since=since):
        letter = found.record
        if isinstance(letter, DeadLetter) and (not product or letter.product == product) and reason in letter.reason:
            yield found


async def redrive(kafka: KafkaSettings, chosen: Sequence[logs.Found], *, dry_run: bool, rate: int) -> Outcome:
    """Produce the messages of these dead letters again; raises JournalDown: then repeat it."""
    outcome = Outcome()
    async with _Sender(kafka, dry_run=dry_run, rate=rate) as sender:
        for found in chosen:
            outcome.matched += 1
            letter = found.record
            assert isinstance(letter, DeadLetter)
            message = _message_of(letter, outcome)
            if message is not None:
                again = replace(message, id=derived(message.id, "again"), accepted_ms=None)
                outcome.take(message, again)
                await sender.send(again)
    return outcome


def _message_of(letter: DeadLetter, outcome: Outcome) -> PushMessage | None:
    if not logs.is_messages(letter.topic):
        outcome.skip(f"it came from {letter.topic}: only messages are redriven")
        return None
    try:
        record = codec.decode(letter.value or b"")
    except codec.Undecodable as error:
        outcome.skip(f"it is no record: {error}")
        return None
    if not isinstance(record, PushMessage):
        outcome.skip(f"it is a {type(record).__name__}, no message")
        return None
    return record


# --- replay ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to replay: from `since` (ms) and before `until`, of a client or product.

    `everything`: also what was delivered, what is pending, and what a newer message replaced.
    """

    since: int
    until: int | None = None
    client: str = ""
    product: str = ""
    everything: bool = False


async def replay(kafka: KafkaSettings, wanted: Wanted, *, dry_run: bool, rate: int) -> Outcome:
    """Messages once more; by default those that ended undelivered (expired, evicted, dead).

    What has no receipt is pending or on its way, and comes anyway. A message for a user counts by its copies, one a client.
    Raises TooMany, and JournalDown: then repeat it.
    """
    states = {} if wanted.everything else await _states(kafka, wanted)
    outcome, seen = Outcome(), set[tuple[str, str, str]]()
    fits = logs.matching(client=wanted.client, product=wanted.product)
    async with _Sender(kafka, dry_run=dry_run, rate=rate) as sender:
        async for found in _sent(kafka, wanted):
            message = found.record
            if not isinstance(message, PushMessage) or message.client is None or not fits(found):
                continue
            pair = (message.product, message.client, message.id)
            if pair in seen:
                continue
            seen.add(_bounded(seen, pair))
            outcome.matched += 1
            new = derived(message.id, f"replay-{wanted.since // 1000:x}")
            reason = _left_out(message, states.get(pair), states.get((*pair[:2], new)), everything=wanted.everything)
            if reason:
                outcome.skip(reason)
                continue
            again = replace(message, id=new, accepted_ms=None, collapse_key=None)  # it must not replace what is newer
            outcome.take(message, again)
            await sender.send(again)
    return outcome


async def _sent(kafka: KafkaSettings, wanted: Wanted) -> AsyncIterator[logs.Found]:
    """The shared topic, then own queues: one that was moved lies in both."""
    for topic in await logs.messages_topics(kafka.bootstrap, wanted.product):
        async for found in logs.read(kafka, topic, since=wanted.since, until=wanted.until):
            yield found


async def _states(kafka: KafkaSettings, wanted: Wanted) -> dict[tuple[str, str, str], State]:
    """(product, client, id) → how it ended; delivered counts for more than anything else."""
    fits = logs.matching(client=wanted.client, product=wanted.product)
    states: dict[tuple[str, str, str], State] = {}
    async for found in logs.read(kafka, names.RECEIPTS, since=wanted.since):
        receipt = found.record
        if isinstance(receipt, Receipt) and receipt.state in DELIVERED | UNDELIVERED and fits(found):
            pair = (receipt.product, receipt.client, receipt.id)
            if states.get(_bounded(states, pair)) not in DELIVERED:
                states[pair] = State(receipt.state)
    return states


def _left_out(message: PushMessage, state: State | None, replayed: State | None, *, everything: bool) -> str:
    """Why a message is not replayed; "" if it is."""
    reasons = [
        (message.qos == 0, "fire-and-forget"),
        (_REPLAYED.search(message.id) is not None, "a replay itself"),
        (not everything and replayed is not None, "replayed before"),
        (not everything and state in DELIVERED, "delivered"),
        (not everything and state is None, "still pending, or on its way"),
        (not everything and state == State.REPLACED, "replaced by a newer one"),
    ]
    return next((reason for applies, reason in reasons if applies), "")


def _bounded(held: Sized, pair: tuple[str, str, str]) -> tuple[str, str, str]:
    if len(held) >= REMEMBERED:
        raise TooMany(f"more than {REMEMBERED:,} records: take a later --since, or one --client")
    return pair


class _Sender:
    """Produces at a bounded rate, or not at all."""

    def __init__(self, kafka: KafkaSettings, *, dry_run: bool, rate: int) -> None:
        self._journal = None if dry_run else Journal(kafka, name="pushctl")
        self._chunk = max(1, rate // 10)
        self._waiting: list[Entry] = []

    async def __aenter__(self) -> _Sender:
        if self._journal is not None:
            await self._journal.start()
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        try:
            if kind is None:
                await self._flush()
        finally:
            if self._journal is not None:
                await self._journal.stop()

    async def send(self, message: PushMessage) -> None:
        self._waiting.append(Entry(names.MESSAGES, message.client or message.user or "", message))
        if len(self._waiting) >= self._chunk:
            await self._flush()
            if self._journal is not None:
                await asyncio.sleep(0.1)

    async def _flush(self) -> None:
        if self._journal is not None:
            await self._journal.produce(self._waiting)
        self._waiting = []
