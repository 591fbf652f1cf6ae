"""A schema registry by Confluent's HTTP API: which id is which schema, and the ids of ours.

An id means the same for ever, so what was asked once is never asked again. A registry that does not answer is asked again by
whoever needed it; meanwhile what is known goes on. An id that the registry does not have is told apart from that: such a record
is poison (docs/adr/0026).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from typing import Any, Final

import httpx
from prometheus_client import Counter

from infra.settings import KafkaSettings, SubjectStrategy
from schemas import codec, confluent
from schemas.records import Record
from schemas.topics import TOPICS, records_of

TIMEOUT: Final = 5.0
REST: Final = 1.0
"""Seconds after a failure in which the registry is not asked: many records may wait for it."""
MOST_IDS: Final = 1000
MAX_ANSWER: Final = 1024 * 1024
UNKNOWN_FOR: Final = 30.0
"""Seconds for which an id that the registry did not have is not asked for again."""
_CONTENT: Final = "application/vnd.schemaregistry.v1+json"

asked = Counter("longwire_registry_requests_total", "Requests to the schema registry", ["outcome"])


class RegistryDown(Exception):
    """The registry did not answer, or not with what its API says: ask again."""


class SchemaRefused(Exception):
    """The registry does not take a schema of ours: it is not compatible with what is there, or not there and not to be added."""


def subject_of(strategy: SubjectStrategy, topic: str, record: type[Record]) -> str:
    """What a record's schema is registered under. A topic with several kinds of records has a subject for each, in any case."""
    document = codec.load_schema(record.SCHEMA)
    name = f"{document['namespace']}.{document['name']}"
    if strategy == "record":
        return name
    return f"{topic}-{name}" if strategy == "topic-record" or len(records_of(topic)) > 1 else f"{topic}-value"


class Registry:
    """One process's or consumer's view of the registry. Nothing is asked before it is needed, but by `check`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._http: httpx.AsyncClient | None = None
        self._headers: OrderedDict[int, tuple[bytes | None, float]] = OrderedDict()
        self._ids: dict[tuple[str, type[Record]], int] = {}
        self._asking = asyncio.Lock()
        self._rests_until = 0.0

    async def stop(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def check(self) -> None:
        """Have the ids of all that Longwire writes; raises SchemaRefused with the subject, and RegistryDown."""
        for topic in TOPICS:
            for record in topic.records:
                await self.id_of(topic.name, record)

    # --- writing -------------------------------------------------------------------------------------------------------

    async def frame(self, topic: str, record: Record) -> bytes:
        """A record's bytes for a topic, in Confluent's wire format; raises RegistryDown, SchemaRefused, and as codec.encode."""
        return confluent.framed(await self.id_of(topic, type(record)), codec.encode(record))

    async def id_of(self, topic: str, record: type[Record]) -> int:
        """The id of a record's newest schema under its subject; raises RegistryDown, SchemaRefused."""
        found = self._ids.get((topic, record))
        if found is None:
            async with self._asking:
                found = self._ids.get((topic, record)) or await self._register(topic, record)
            self._ids[topic, record] = found
        return found

    async def _register(self, topic: str, record: type[Record]) -> int:
        subject = subject_of(self._settings.registry_subjects, topic, record)
        path = f"/subjects/{subject}/versions" if self._settings.registry_register else f"/subjects/{subject}"
        status, answer = await self._ask("POST", path, {"schema": json.dumps(codec.load_schema(record.SCHEMA))})
        if status == httpx.codes.OK and isinstance(answer.get("id"), int):
            return int(answer["id"])
        asked.labels("refused").inc()
        raise SchemaRefused(
            f"the schema registry answers {status} for {record.SCHEMA} under {subject}: {answer.get('message', '')!s:.300}"
        )

    # --- reading -------------------------------------------------------------------------------------------------------

    async def plain(self, data: bytes) -> bytes:
        """A record in single-object encoding, whichever it came in; as it came, if its id is no schema of ours: what decodes it
        says so. Raises RegistryDown."""
        schema = confluent.schema_id(data)
        header = None if schema is None else await self._header(schema)
        return data if header is None else confluent.unframed(header, data)

    async def _header(self, schema: int) -> bytes | None:
        known = self._known(schema)
        if known is None:
            async with self._asking:
                known = self._known(schema) or await self._resolve(schema)
        return known[0]

    def _known(self, schema: int) -> tuple[bytes | None, float] | None:
        known = self._headers.get(schema)
        if known is None or time.monotonic() > known[1]:
            return None
        self._headers.move_to_end(schema)
        return known

    async def _resolve(self, schema: int) -> tuple[bytes | None, float]:
        status, answer = await self._ask("GET", f"/schemas/ids/{schema}")
        header = _header_of(answer) if status == httpx.codes.OK else None
        known = header, float("inf") if status == httpx.codes.OK else time.monotonic() + UNKNOWN_FOR
        self._headers[schema] = known
        if len(self._headers) > MOST_IDS:
            self._headers.popitem(last=False)
        asked.labels("unknown" if header is None else "found").inc()
        return known

    # --- HTTP ----------------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and document of an answer below 500; raises RegistryDown."""
        if time.monotonic() < self._rests_until:
            raise RegistryDown("the schema registry did not answer a moment ago")
        if self._http is None:
            self._http = httpx.AsyncClient(
                base_url=self._settings.registry_url, timeout=TIMEOUT, headers={"Accept": _CONTENT}, trust_env=False
            )
        try:
            async with asyncio.timeout(TIMEOUT):
                status, data = await self._send(self._http, method, path, body)
            answer = json.loads(data)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError) as error:
            raise self._down(f"{type(error).__name__}: {error}") from error
        if not isinstance(answer, dict) or (status >= 400 and status not in (404, 409, 422)):
            raise self._down(f"answers {status}")
        return status, answer

    async def _send(self, http: httpx.AsyncClient, method: str, path: str, body: Any) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body).encode()
        async with http.stream(method, path, content=content, headers={"Content-Type": _CONTENT}) as response:
            data = bytearray()
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MAX_ANSWER:
                    raise ValueError(f"an answer of more than {MAX_ANSWER} bytes")
            return response.status_code, bytes(data)

    def _down(self, reason: str) -> RegistryDown:
        self._rests_until = time.monotonic() + REST
        asked.labels("down").inc()
        return RegistryDown(f"the schema registry {reason[:300]}")


def _header_of(answer: dict[str, Any]) -> bytes | None:
    """The header of the schema in an answer; None: it is none of ours."""
    if answer.get("schemaType", "AVRO") != "AVRO":
        return None
    try:
        return codec.header_of(json.loads(answer["schema"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
