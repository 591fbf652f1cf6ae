"""One request to an endpoint, signed, and what came of it.

2xx takes all of its events. 400, 409, 413 and 422 refuse what is in it: other events may go on. Anything else, a redirect too,
and no answer in time mean that the endpoint is away. A 2xx answer may hold replies to devices, by the ids of their events::

    {"replies": {"<event id>": {"payload": "text"} | {"payload_base64": "…"}, with "content_type" and "properties" as one likes}}
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Protocol

import msgspec
from prometheus_client import Counter, Histogram

from infra.documents.webhooks import Endpoint
from workers.outside import Answer, NoAnswer
from workers.webhooks.events import Batch
from workers.webhooks.signing import signed

ANSWER_BYTES: Final = 1024 * 1024
SAID: Final = 300
REFUSALS: Final = frozenset({400, 409, 413, 422})

requests = Counter("longwire_webhooks_requests_total", "Requests to webhooks", ["outcome"])
SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60)
took = Histogram("longwire_webhooks_request_seconds", "How long webhooks took to answer", buckets=SECONDS)


class Outcome(Enum):
    """What an endpoint made of a request."""

    TAKEN = "taken"
    REFUSED = "refused"
    AWAY = "away"


class Reply(msgspec.Struct, frozen=True):
    """An answer to a device's uplink."""

    payload: str | None = None
    payload_base64: str | None = None
    content_type: str | None = None
    properties: dict[str, str] = {}

    def content(self) -> bytes:
        """The payload; raises ValueError if it is both, or no base64."""
        if self.payload is not None and self.payload_base64 is not None:
            raise ValueError("a reply has payload or payload_base64, not both")
        if self.payload_base64 is not None:
            return base64.b64decode(self.payload_base64, validate=True)
        return (self.payload or "").encode()


class _Body(msgspec.Struct):
    replies: dict[str, msgspec.Raw] = {}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason`: why it was not taken, or why there are no replies though it was; `retry_after`: seconds, if it named any;
    `said`: the beginning of the answer, for a person."""

    outcome: Outcome
    reason: str = ""
    status: int = 0
    retry_after: float = 0.0
    replies: Mapping[str, msgspec.Raw] = field(default_factory=dict)
    said: str = ""


class Caller(Protocol):
    """How URLs are called (workers.outside.Outside)."""

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int,
        within: float = 0.0,
        private: bool = True,
    ) -> Answer:
        """The answer; raises NoAnswer."""


class Sender:
    """Posts batches."""

    def __init__(self, outside: Caller, *, wall: Callable[[], float] = time.time) -> None:
        self._outside = outside
        self._wall = wall

    async def post(self, endpoint: Endpoint, batch: Batch, *, within: float) -> Verdict:
        """One attempt."""
        headers = {"Content-Type": "application/json", **signed(batch.id, int(self._wall()), batch.body, endpoint.secrets)}
        started = time.monotonic()
        try:
            answer = await self._outside.ask(
                "POST", endpoint.url, body=batch.body, headers=headers, most=ANSWER_BYTES, within=within, private=endpoint.private
            )
        except NoAnswer as error:
            verdict = Verdict(Outcome.AWAY, str(error))
        else:
            verdict = verdict_of(answer)
        took.observe(time.monotonic() - started)
        requests.labels(verdict.outcome.value).inc()
        return verdict


def verdict_of(answer: Answer) -> Verdict:
    """What an answer means."""
    said = answer.body[:SAID].decode(errors="replace")
    return replace(_judged(answer), said="".join(char if char.isprintable() else " " for char in said).strip())


def _judged(answer: Answer) -> Verdict:
    status = answer.status
    if status in REFUSALS:
        return Verdict(Outcome.REFUSED, f"it answered {status}", status)
    if not answer.good:
        return Verdict(Outcome.AWAY, f"it answered {status}", status, _seconds(answer.headers.get("retry-after", "")))
    if not answer.whole:
        return Verdict(Outcome.TAKEN, f"its answer has more than {ANSWER_BYTES} bytes", status)
    if not answer.body.strip() or "json" not in answer.headers.get("content-type", ""):
        return Verdict(Outcome.TAKEN, status=status)
    try:
        return Verdict(Outcome.TAKEN, status=status, replies=msgspec.json.decode(answer.body, type=_Body).replies)
    except (msgspec.DecodeError, RecursionError):
        return Verdict(Outcome.TAKEN, "its answer is no JSON object with replies", status)


def reply_of(verdict: Verdict, event: str) -> Reply | None:
    """The reply to an event, None if there is none; raises ValueError where it makes no sense."""
    if verdict.reason:
        raise ValueError(verdict.reason)
    raw = verdict.replies.get(event)
    try:
        return msgspec.json.decode(raw, type=Reply) if raw is not None else None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"its reply does not fit: {error}"[:200]) from None


def _seconds(value: str) -> float:
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 6 else 0.0
