"""The KV bucket `jobs` as the API reads it: a fold of `push.jobs` that its owners write, for readers only."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import structlog
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from infra.bus import Bus, BusDown, KvErrors
from infra.mirror import Mirror
from schemas import names
from schemas.jobs import JobState
from workers.center.problems import RETRY_AFTER_S, Problem

HINT_TIMEOUT: Final = 1.0

COUNTS: Final = ("sent", "written", "acked", "rejected", "repeated", "skipped", "waiting")

log = structlog.get_logger("center")


def accepted_document(job: str, product: str, rate: int) -> dict[str, Any]:
    """A job that is in Kafka and not yet claimed, in the form in which its owner will write it."""
    return {
        "job": job,
        "product": product,
        "state": JobState.ACCEPTED,
        "rate": rate,
        "started_ms": None,
        "expires_ms": None,
        "completed_ms": None,
        "targeted": 0,
        "progress": 0.0,
        "uncertain": 0,
        "term": 0,
        "totals": dict.fromkeys(COUNTS, 0),
        "rooms": [],
    }


class JobMirror:
    """All jobs, mirrored."""

    def __init__(self, bus: Bus, mirror: Mirror) -> None:
        self._bus = bus
        self._mirror = mirror

    async def get(self, job: str) -> dict[str, Any] | None:
        """A job's document, or None. A job that the mirror does not have is looked up; raises a Problem (503) if NATS is away."""
        key = names.kv_job_key(job)
        value = self._mirror.entries.get(key) or await self._look_up(key)
        return None if value is None else _document(job, value)

    async def announce(self, document: dict[str, Any]) -> None:
        """Create the job's entry if there is none. Only a hint: what fails is logged, the owner writes the entry anyway."""
        try:
            async with asyncio.timeout(HINT_TIMEOUT):
                bucket = await self._bucket()
                await bucket.create(names.kv_job_key(document["job"]), json.dumps(document).encode())
        except KeyWrongLastSequenceError:
            return  # its owner was faster
        except KvErrors as error:
            log.warning("job not announced", job=document["job"], error=type(error).__name__)

    async def _look_up(self, key: str) -> bytes | None:
        try:
            async with asyncio.timeout(HINT_TIMEOUT):
                bucket = await self._bucket()
                return (await bucket.get(key)).value
        except KeyNotFoundError:
            return None
        except KvErrors as error:
            log.warning("job not looked up", error=type(error).__name__)
            raise Problem("bus-down", "NATS did not answer; ask again", retry_after_s=RETRY_AFTER_S) from None

    async def _bucket(self) -> KeyValue:
        if not self._bus.connected:
            raise BusDown(names.KV_JOBS)
        return await self._bus.bucket(names.KV_JOBS)


def _document(job: str, value: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(value)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        log.error("job entry refused", job=job)
        return None
    return document
