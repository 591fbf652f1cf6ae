"""The route: for FastAPI, which documents and checks it, and in front of it for what is asked right, at a third of the cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from prometheus_client import Counter
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.documents import Policy
from infra.labels import WORD
from infra.settings import Transport
from schemas import names
from workers.center.dispatch.askers import Asker
from workers.center.dispatch.board import Board, heartbeat_s
from workers.center.dispatch.choice import Table, Wish
from workers.center.dispatch.failures import Failures
from workers.center.dispatch.query import MAX_ADDRESS, MAX_ATTEMPT, MAX_FAILED, MAX_NETWORK, Ask, read, repeated
from workers.center.ports import Parts
from workers.center.web.examples import example
from workers.center.web.problems import Problem, bad_input, responses

PATH: Final = "/v1/dispatch"
HEADERS: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]

dispatched = Counter("longwire_center_dispatched_total", "Devices sent to a room (or to none)", ["attempt", "outcome"])
complaints = Counter("longwire_center_dispatch_failures_total", "Addresses of live rooms that did not work", ["network"])


class Address(BaseModel):
    """One room's address."""

    host: str
    port: int
    room: str


class Backoff(BaseModel):
    """How long a device waits between attempts: base · 2ⁿ up to the cap, full jitter."""

    base_s: float
    cap_s: float


class Dispatch(BaseModel):
    """Addresses, best first, good for `ttl_s`; and how the device is to behave."""

    model_config = example(
        addresses=[{"host": "203.0.113.7", "port": 1883, "room": "r1"}],
        ttl_s=300,
        heartbeat_s=480,
        backoff={"base_s": 1.0, "cap_s": 60.0},
        region="eu",
    )

    addresses: list[Address] = Field(examples=[[{"host": "203.0.113.7", "port": 1883, "room": "r1"}]])
    ttl_s: int = Field(examples=[300])
    heartbeat_s: int = Field(description="The Keep Alive to ask for, by the network.", examples=[480])
    backoff: Backoff
    region: str | None = Field(description="The region that it was taken to be in.", examples=["eu"])


class Dispatcher:
    """Answers. `clock()`: monotonic, s."""

    def __init__(self, parts: Parts, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._clock = clock
        self._failures = Failures()
        self._board = Board(parts.rooms, self._failures)
        self._full = 0.0  # when the bucket of all askers is full again
        self._counts = {
            (again, outcome): dispatched.labels(again, outcome)
            for again in ("first", "again")
            for outcome in ("room", "none", "limited", "busy")
        }

    def admit(self, scope: Scope) -> Asker:
        """Who asks; raises Problem if that address, or all together, ask too often."""
        now = self._clock()
        asker = self._parts.askers.of(scope, now)
        if not self._parts.askers.may_ask(asker, now):
            self._counts["first", "limited"].inc()
            raise Problem("too-often", "this address asks too often; come back later", retry_after_s=self._later())
        rate = self._parts.documents.policy.dispatch_rate
        full = max(now, self._full) + 1 / rate
        if full - now > 1.0 + 1 / rate:
            self._counts["first", "busy"].inc()
            raise Problem("busy", "more devices ask than can be answered; come back later", retry_after_s=self._later())
        self._full = full
        return asker

    def answer(self, ask: Ask, asker: Asker) -> bytes:
        """The document; raises Problem where there is no room."""
        now, policy = self._clock(), self._parts.documents.policy
        network = ask.network if ask.network in policy.keep_alive else ""
        pool, again = self._pool(ask.product), "again" if ask.attempt else "first"
        table = self._board.table(pool, ask.transport, network, now)
        if ask.failed:
            self._complain(ask, network, table, asker, now)
        if not table:
            self._counts[again, "none"].inc()
            raise self._no_room(pool)
        region = ask.region or asker.region
        chosen = table.choose(Wish(ask.client, region, ask.last, ask.attempt, ask.failed))
        self._counts[again, "room"].inc()
        return msgspec.json.encode(
            {
                "addresses": [{"host": place.host, "port": place.port, "room": place.room} for place in chosen],
                "region": region or None,
                **advice(policy, network),
            }
        )

    def _pool(self, product: str) -> str:
        """An unknown product is told apart from none no more than it has to be: this is asked without a key."""
        found = self._parts.documents.products.get(product) if product else None
        return found.pool if found is not None else ""

    def _complain(self, ask: Ask, network: str, table: Table, asker: Asker, now: float) -> None:
        for address in ask.failed:
            if address in table.addresses:
                self._failures.report(network, address, asker.customer, now)
                complaints.labels(network or "other").inc()

    def _no_room(self, pool: str) -> Problem:
        detail = (
            "every open room is full, or admits nobody now" if self._board.open_rooms(pool) else "no open room has a young lease"
        )
        return Problem("no-room", f"{detail}; come back later", retry_after_s=self._later())

    def _later(self) -> int:
        """Spread: all who come now would come back together."""
        return random.randint(1, max(2, int(self._parts.documents.policy.backoff_cap)))


def advice(policy: Policy, network: str) -> dict[str, object]:
    """How a device is to behave."""
    return {
        "ttl_s": policy.dispatch_ttl_s,
        "heartbeat_s": heartbeat_s(policy, network),
        "backoff": {"base_s": policy.backoff_base, "cap_s": policy.backoff_cap},
    }


class Front:
    """ASGI middleware: answers what is asked right, and passes on everything else."""

    def __init__(self, app: ASGIApp, dispatcher: Dispatcher) -> None:
        self._app = app
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on; raises Problem."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        scope["route"] = ROUTE
        asker = self._dispatcher.admit(scope)
        ask = read(scope["query_string"])
        if ask is None:
            scope["asker"] = asker
            await self._app(scope, receive, send)
            return
        body = self._dispatcher.answer(ask, asker)
        headers = [*HEADERS, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Route(msgspec.Struct, frozen=True):
    """By its path requests are counted (workers/center/web/gate.py)."""

    path: str


ROUTE: Final = _Route(PATH)

Word = Annotated[str, Query(pattern=f"^{WORD}$")]


def router(dispatcher: Dispatcher) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["dispatch"])

    @routes.get(PATH, response_model=Dispatch, responses=responses("bad-input", "too-often", "no-room", "busy"))
    async def find_room(
        request: Request,
        client: str,
        *,
        network: Annotated[
            str, Query(max_length=MAX_NETWORK, description="wifi, 4g, 3g, 2g; anything else gets the default.")
        ] = "",
        region: Annotated[Word | None, Query(description="Where it is; without it: by its address.")] = None,
        product: Annotated[
            str | None, Query(description="Whose rooms it may use, where products have rooms of their own.")
        ] = None,
        transport: Annotated[Transport | None, Query(description="How it connects; without it: each room's own port.")] = None,
        attempt: Annotated[int, Query(ge=0, lt=MAX_ATTEMPT, description="Failures since the last good connection.")] = 0,
        last: Annotated[str | None, Query(description="The room of its last good connection.")] = None,
        failed: Annotated[
            list[Annotated[str, Field(max_length=MAX_ADDRESS)]] | None,
            Query(max_length=MAX_FAILED, description="Addresses that did not work, `host:port`."),
        ] = None,
    ) -> Response:
        """Where this client connects now, and what to try if that fails."""
        if name := repeated(request.query_params.multi_items()):
            raise bad_input(name, request.query_params.getlist(name), "may be given once")
        ask = Ask(
            client=names.client(client),
            network=network,
            region=region or "",
            product="" if product is None else names.product(product),
            transport=transport or "",
            attempt=attempt,
            last="" if last is None else names.room(last),
            failed=tuple(failed or ()),
        )
        asker = request.scope.get("asker") or dispatcher.admit(request.scope)
        return Response(dispatcher.answer(ask, asker), headers={"Cache-Control": "no-store"}, media_type="application/json")

    return routes
