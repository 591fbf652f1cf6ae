"""Writing the keeper's documents: made from what is in the bucket now, audited, and written unless somebody was faster."""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import Any, Final, TypeVar

import structlog
from fastapi import Response
from pydantic import ValidationError

from infra.bus import MAX_VALUE, KvErrors
from infra.documents import Document
from infra.journal import Entry
from infra.keeper import Unreadable
from schemas import names
from schemas.broadcasts import Audit
from workers.center.operating.attempts import until_written
from workers.center.ports import Change, DocumentStore, Parts, Producer, Written
from workers.center.web.etags import tag_of
from workers.center.web.problems import Problem, bad_input, bus_down, invalid

HIDDEN: Final = "**********"
SECRETS: Final = "secrets"
MAX_SHOWN: Final = 2_000
"""Characters of what the audit shows of a change."""

log = structlog.get_logger("center")

Json = dict[str, Any]
D = TypeVar("D", bound=Document)


def shown(document: Document) -> Json:
    """A document as it may be shown: with stars for secrets."""
    found = _dumped(document)
    for endpoint in found.get("webhooks", ()):
        endpoint[SECRETS] = [HIDDEN] * len(endpoint[SECRETS])
    return found


def _dumped(document: Document) -> Json:
    found: Json = json.loads(document.model_dump_json())
    return found


def unhidden(given: Json, before: Document | None) -> Json:
    """What was given, with the secrets that stand where it has stars: of the webhook of the same name, at the same place."""
    if not isinstance(given.get("webhooks"), list) or before is None:
        return given
    kept = {endpoint["name"]: endpoint[SECRETS] for endpoint in json.loads(before.model_dump_json()).get("webhooks", ())}
    return {**given, "webhooks": [_unhidden(endpoint, kept) for endpoint in given["webhooks"]]}


def _unhidden(endpoint: Any, kept: dict[str, list[str]]) -> Any:
    if not isinstance(endpoint, dict) or not isinstance(endpoint.get(SECRETS), list) or not isinstance(endpoint.get("name"), str):
        return endpoint
    known = kept.get(endpoint["name"], [])
    secrets = [known[at] if text == HIDDEN and at < len(known) else text for at, text in enumerate(endpoint[SECRETS])]
    return {**endpoint, SECRETS: secrets}


def merged(target: Any, patch: Any) -> Any:
    """A document after a JSON merge patch (RFC 7396 §2)."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def parsed(model: type[D], given: Json) -> D:
    """The document; raises a Problem that names the fields, and shows no value: it may be a secret."""
    try:
        found = model.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from None
    text = found.model_dump_json()
    if (size := len(text.encode())) > MAX_VALUE:
        raise bad_input("body", size, f"a document has {MAX_VALUE} bytes at most")
    try:
        return model.model_validate_json(text)  # as every process will read it
    except ValidationError as error:
        raise invalid(error) from None


def differences(before: Document | None, after: Document | None) -> tuple[str, str]:
    """What a change changes, as the audit shows it: the fields that differ, as they were and as they are. A secret
    that is another one shows as the same stars."""
    was, will_be = (_dumped(document) if document is not None else {} for document in (before, after))
    old, new = (shown(document) if document is not None else {} for document in (before, after))
    changed = [name for name in was | will_be if was.get(name) != will_be.get(name)]
    return _text(before, old, changed), _text(after, new, changed)


def _text(document: Document | None, fields: Json, names: list[str]) -> str:
    if document is None:
        return "none"
    text = json.dumps({name: fields[name] for name in names if name in fields}, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


class Shelf:
    """`workers.center.ports.Documentation` on the keeper's bucket and Kafka."""

    def __init__(self, keeper: DocumentStore, journal: Producer) -> None:
        self._keeper = keeper
        self._journal = journal

    async def read(self, key: str) -> tuple[Document | None, int]:
        """See the port."""
        try:
            return await self._keeper.latest(key)
        except Unreadable as error:
            raise unreadable(error) from None
        except KvErrors as error:
            log.warning("document not read", key=key, error=type(error).__name__)
            raise bus_down() from None

    async def change(self, change: Change) -> Written:
        """See the port. What changes nothing is not audited; one that is overtaken leaves a record for each attempt."""
        return await until_written(lambda: self._attempt(change), f"{change.subject} was")

    async def _attempt(self, change: Change) -> Written | None:
        """None where somebody else was faster."""
        before, revision, readable = await self._before(change)
        change.asked.conditions.check(there=before is not None or not readable, revision=revision)
        after = change.make(before)
        if after == before and readable:
            return Written(after, revision, new=False)
        old, new = differences(before, after)
        record = Audit(
            product=change.product,
            subject=change.subject,
            action=change.action,
            by=change.asked.who.key,
            at_ms=int(time.time() * 1000),
            before=old if readable else "not readable",
            after=new,
            reason=change.asked.reason,
        )
        await self._journal.produce([Entry(names.AUDIT, change.product, record)])
        if after is None:
            return Written(None, revision, new=False) if await self._keeper.withdraw(change.key, revision) else None
        at = await self._keeper.replace(change.key, after, revision)
        return Written(after, at, new=before is None and readable) if at else None

    async def _before(self, change: Change) -> tuple[Document | None, int, bool]:
        """As it is now, its revision, and whether it can be read: one that can't may be written over, and removed."""
        try:
            found, revision = await self._keeper.latest(change.key)
        except Unreadable as error:
            if change.action == "patch":
                raise unreadable(error) from None
            return None, error.revision, False
        return found, revision, True


def unreadable(error: Unreadable) -> Problem:
    """The 409 of a document that does not parse."""
    detail = f"what the bucket has at revision {error.revision} does not parse, and the last good one is in force; PUT another"
    return Problem("unreadable", detail)


async def written(parts: Parts, change: Change, response: Response, *, location: str = "") -> Json:
    """A document as it is after a change that leaves it there, with its entity tag in the response; 201 for a new one, if it has
    a `location`. Raises a Problem."""
    found = await parts.shelf.change(change)
    assert found.document is not None
    response.headers["ETag"] = tag_of(found.revision)
    if found.new and location:
        response.status_code = HTTPStatus.CREATED
        response.headers["Location"] = location
    return shown(found.document)
