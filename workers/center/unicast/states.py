"""`GET /v1/messages/{id}`: what became of a message; `GET /v1/clients/{client}/messages`: what is pending for a client."""

from __future__ import annotations

import time
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from infra.register import RegisterDown
from schemas import names
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.content import product_of
from workers.center.ids import KEYED, time_of
from workers.center.ports import Parts
from workers.center.unicast.inquiry import ClientState, Outcome, StateName, inquire
from workers.center.unicast.pull import MAX_LISTED, Pending, without_body
from workers.center.unicast.sightings import BEFORE_MS, Asked
from workers.center.web.examples import example, example_of
from workers.center.web.paging import Cursor, bad_cursor, cursor_of, place_of
from workers.center.web.problems import Problem, bad_input, responses

MAX_PLACE: Final = 1 << 53
"""Beyond any place in a queue: a score is a double, and they are exact."""

MessageId = Annotated[str, Path(alias="id")]


class Happened(BaseModel):
    """A receipt of the message: an end, or a note (`moved`, `expanded`, `fallback`). `at_ms`: by the worker that wrote it."""

    state: str = Field(examples=["acked"])
    at_ms: int
    detail: str | None


class ForClient(BaseModel):
    """How the message stands with one client."""

    model_config = example(client="phone-1", state="acked", at_ms=1755582462769, detail=None, expires_ms=None, handed_over=False)

    client: str
    state: StateName
    at_ms: int | None = Field(description="When it came to this; null for `accepted`, `stored` and `unknown`.")
    detail: str | None = Field(description="The reason, of `rejected` and `dead`.")
    expires_ms: int | None = Field(description="When it expires, while it is stored.")
    handed_over: bool = Field(description="Another channel has it as well (`push.fallback`).")
    trace: list[Happened] | None = Field(default=None, description="With `trace=true`: its receipts, oldest first.")


class MessageState(BaseModel):
    """What became of a message. Of one to a client `state` is the client's; of one to a user it is `accepted`, `moved`,
    `expanded` (each client has its own) or `dead` (there were none)."""

    model_config = example(
        id="0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e",
        product="demo",
        realm="main",
        user=None,
        qos=1,
        state="acked",
        at_ms=1755582462769,
        detail=None,
        accepted_ms=1755582462558,
        as_of_ms=1755582522555,
        clients=[example_of(ForClient)],
        clients_total=1,
        whole=True,
    )

    id: str
    product: str
    realm: str
    user: str | None
    qos: int | None
    state: StateName
    at_ms: int | None
    detail: str | None
    accepted_ms: int | None = Field(description="When Kafka took it; null where its record was not found any more.")
    as_of_ms: int = Field(description="The time for which this is true.")
    clients: list[ForClient] = Field(description="At most the first 100 of a user's.")
    clients_total: int | None = Field(description="How many clients it is for; null as long as a user's is not expanded.")
    whole: bool = Field(description="False: a bound on reading was hit; what could not be told is `unknown`.")


class ClientMessages(BaseModel):
    """A page of what is pending for a client; `next` is the cursor of the next one."""

    model_config = example(items=[example_of(Pending)], next=None)

    items: list[Pending]
    next: str | None


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["messages"])
    problems = responses("bad-input", "unauthorized", "unknown-product", "register-down", "busy")
    not_found = responses(
        "bad-input", "client-needed", "unknown-product", "unknown-message", "register-down", "journal-down", "busy"
    )

    @routes.get(
        "/v1/messages/{id}",
        dependencies=needs(Role.READ),
        response_model=MessageState,
        response_model_exclude_unset=True,
        responses={**problems, **not_found},
    )
    async def show_message(
        who: Who,
        message: MessageId,
        *,
        product: Annotated[str | None, Query(description="Only a message of this product.")] = None,
        client: Annotated[str | None, Query(description="Whose it is: found sooner, and whatever its id.")] = None,
        user: Annotated[str | None, Query(description="The user that it is for.")] = None,
        realm: Annotated[str | None, Query(description="The realm of client or user; default: main.")] = None,
        trace: Annotated[bool, Query(description="Also all receipts.")] = False,
    ) -> MessageState:
        """What became of a message, for each of its clients. Read from Kafka and the register when it is asked for: for a look at
        one message, not for following them all, which webhooks and `push.receipts` do."""
        asked = await _asked(parts, who, message, product=product, client=client, user=user, realm=realm)
        found = await inquire(parts, asked, trace=trace)
        if isinstance(found, bool):
            raise _unknown(parts, who, asked, whole=found)
        return _shown(found, trace=trace)

    @routes.get("/v1/clients/{client}/messages", dependencies=needs(Role.READ), response_model=ClientMessages, responses=problems)
    async def list_client_messages(
        who: Who,
        client: str,
        *,
        product: str,
        realm: str = names.DEFAULT_REALM,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        cursor: Cursor = "",
    ) -> ClientMessages:
        """What is pending for a client in a product, in the order in which it would be pushed, without bodies. What comes with a
        higher priority while pages are read is not among them."""
        key = names.client_key(names.realm(realm), names.client(client))
        product_of(parts, who, names.product(product))
        page = await parts.pending.peek(key, product, limit, _place(cursor))
        items = [without_body(item) for item in page.items]
        return ClientMessages(items=items, next=cursor_of(page.last) if page.more else None)

    return routes


def _place(cursor: str) -> int:
    [place] = place_of(cursor, int) or [0]
    if not 0 <= place < MAX_PLACE:
        raise bad_cursor(cursor)
    return int(place)


async def _asked(
    parts: Parts, who: Caller, message: str, *, product: str | None, client: str | None, user: str | None, realm: str | None
) -> Asked:
    """What is looked for, and where; raises a Problem for what can't be found so."""
    if client is not None and user is not None:
        raise bad_input("user", user, "give the client or the user, not both")
    if product is not None:
        product_of(parts, who, names.product(product))
    products = frozenset([product] if product is not None else who.seen(parts.documents.products))
    named = client if client is not None else user
    times = await _times(parts, sorted(products), names.message_id(message))
    if named is None and not times:
        raise _client_needed(f"no time is known for the id {message} (it is the sender's own, or its key is over a day old)")
    return Asked(
        id=message,
        products=products,
        topics=await parts.topics.topics(),
        realm=names.realm(realm or names.DEFAULT_REALM) if realm is not None or named is not None else None,
        client=None if client is None else names.client(client),
        user=None if user is None else names.user(user),
        times_ms=times,
    )


async def _times(parts: Parts, products: list[str], message: str) -> tuple[int, ...]:
    """About when it may have been produced: a UUIDv7 says it, and an idempotency key is remembered for a day."""
    if message.startswith(KEYED):
        try:
            return await parts.keys.times(products, message)
        except RegisterDown:
            return ()
    at = time_of(message)
    return () if at is None or at > time.time_ns() // 1_000_000 + BEFORE_MS else (at,)


def _client_needed(why: str) -> Problem:
    return Problem("client-needed", f"{why}: ask again with `client` or `user`, whose message it is")


def _unknown(parts: Parts, who: Caller, asked: Asked, *, whole: bool) -> Problem:
    job = parts.jobs.known(names.kv_job_key(asked.id))
    if job is not None and job.get("job") == asked.id and who.sees(str(job.get("product"))) and asked.key is None:
        detail = f"{asked.id} is a broadcast: GET /v1/broadcasts/{asked.id}, or name the client of a list that it went to"
        return Problem("unknown-message", detail, whole=True)
    if not whole and asked.key is None:
        return _client_needed(f"message {asked.id} was not among the records that a search may look at")
    more = "" if whole else ", as far as the search went: it may exist all the same"
    return Problem("unknown-message", f"message {asked.id} is not known{more}; messages are kept for 30 days", whole=whole)


def _shown(found: Outcome, *, trace: bool) -> MessageState:
    return MessageState(
        id=found.id,
        product=found.product,
        realm=found.realm,
        user=found.user,
        qos=found.qos,
        state=found.state,
        at_ms=found.at_ms,
        detail=found.detail,
        accepted_ms=found.accepted_ms,
        as_of_ms=found.as_of_ms,
        clients=[_client(each, trace=trace) for each in found.clients],
        clients_total=found.total,
        whole=found.whole,
    )


def _client(found: ClientState, *, trace: bool) -> ForClient:
    events = [Happened(state=each.state, at_ms=each.at_ms, detail=each.detail) for each in found.events]
    shown = {"trace": events} if trace else {}
    return ForClient(
        client=found.client,
        state=found.state,
        at_ms=found.at_ms,
        detail=found.detail,
        expires_ms=found.expires_ms,
        handed_over=found.handed_over,
        **shown,
    )
