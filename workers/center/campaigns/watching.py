"""`GET /v1/broadcasts/{id}/events|audit`: a broadcast as it goes, and what was done to it.

The events are server-sent events, one at each change of its document.
A stream that can't be written to holds nothing: what it gets next is the document as it is then. Places are bounded, and a
place is free again when the broadcast is over, the reader leaves, or the process ends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from schemas import names
from schemas.broadcasts import Audit
from schemas.jobs import OVER
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.campaigns.broadcasts import JobId, document_of
from workers.center.campaigns.jobs import Document
from workers.center.campaigns.jobview import JobView, view
from workers.center.ports import JobBoard, Parts
from workers.center.web.examples import example, example_of
from workers.center.web.problems import RETRY_AFTER_S, responses
from workers.center.web.streams import Streams

MEDIA_TYPE: Final = "text/event-stream"


class EventStream(Response):
    """The answer that goes on. The place is taken here, and not before: a request that is never answered must hold none."""

    media_type = MEDIA_TYPE

    def __init__(self, streams: Streams, who: Caller, events: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._streams = streams
        self._who = who
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, or raise a Problem (429)."""
        with self._streams.place(self._who):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._streams.serve(self._events, receive, send)


class AuditRecord(BaseModel):
    """What was done: `before` and `after` are states, or rates."""

    model_config = example(
        at_ms=1755582471555, action="pause", before="running, 100/s", after="paused, 100/s", by="ann", reason="a wrong link"
    )

    at_ms: int
    action: str
    before: str
    after: str
    by: str
    reason: str | None


class AuditList(BaseModel):
    """Newest last. `whole`: nothing older was left out (the last 10,000 records of the product's partition are read)."""

    model_config = example(id="0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e", records=[example_of(AuditRecord)], whole=True)

    id: str
    records: list[AuditRecord]
    whole: bool


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["broadcasts"])
    shown = example_of(JobView)
    described = responses("bad-input", "unauthorized", "unknown-broadcast", "too-many-streams", "too-many-at-once", "bus-down")

    @routes.get(
        "/v1/broadcasts/{id}/events",
        dependencies=needs(Role.READ),
        response_class=Response,
        responses={
            **described,
            200: {
                "content": {MEDIA_TYPE: {"example": _event({**shown, "job": shown["id"]}).decode()}},
                "description": "Events `job`, each with the whole document.",
            },
        },
    )
    async def watch_broadcast(who: Who, job: JobId) -> Response:
        """The broadcast now, then at each change, as server-sent events, until it is over."""
        document = await document_of(parts, who, job)
        return EventStream(parts.streams, who, events(parts.jobs, document, parts.streams.keep_alive))

    @routes.get(
        "/v1/broadcasts/{id}/audit",
        dependencies=needs(Role.READ),
        response_model=AuditList,
        responses=responses("bad-input", "unauthorized", "unknown-broadcast", "journal-down", "bus-down", "busy"),
    )
    async def show_audit(who: Who, job: JobId) -> AuditList:
        """Who did what to the broadcast, when and why."""
        document = await document_of(parts, who, job)
        page = await parts.trail.of(document["product"], job)
        return AuditList(id=job, records=[_audit(record) for record in page.records], whole=page.whole)

    return routes


async def events(jobs: JobBoard, document: Document, keep_alive: float) -> AsyncGenerator[bytes]:
    """A job's events: the document, then each that differs from the last; a comment where none came for `keep_alive` seconds."""
    yield f"retry: {RETRY_AFTER_S * 1000}\n\n".encode()
    key = names.kv_job_key(document["job"])
    with jobs.index.changes(document["job"]) as changed:
        shown = document
        yield _event(document)
        while shown.get("state") not in OVER:
            try:
                async with asyncio.timeout(keep_alive):
                    await changed.wait()
            except TimeoutError:
                yield b": nothing new\n\n"
            changed.clear()
            now = jobs.known(key)  # none: accepted a moment ago and not mirrored yet, or the bucket was wiped and will be filled
            if now is not None and now != shown:
                shown = now
                yield _event(now)


def _audit(record: Audit) -> AuditRecord:
    return AuditRecord(
        at_ms=record.at_ms,
        action=record.action,
        before=record.before,
        after=record.after,
        by=record.by,
        reason=record.reason,
    )


def _event(document: Document) -> bytes:
    shown = JobView.model_validate(view(document)).model_dump(mode="json")
    return f"event: job\ndata: {json.dumps(shown, separators=(',', ':'))}\n\n".encode()
