"""`GET /v1/clients/{client}`: where a client is, what it is bound to, and what waits for it."""

from __future__ import annotations

import time
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from infra.register import ClientView
from schemas import names
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.content import ProductName, Text, product_of
from workers.center.devices.unbind import unbind
from workers.center.ports import Parts
from workers.center.web.examples import example, example_of
from workers.center.web.problems import Problem, responses

KICK_TRIES: Final = 3

ReasonString = Annotated[Text, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]


LastSeen = Annotated[
    int | None,
    Field(
        examples=[1795880406190],
        description="Now while its session is live; else when its last session ended, ms; null where that is not known: its room"
        " is silent, it is bound to nothing any more, or Redis has lost it.",
    ),
]


class Session(BaseModel):
    """The register's session. `live`: its room's lease is young; without it, the client is on its way elsewhere or gone."""

    model_config = example(room="r1", epoch=7, generation=1, number=12, connection=3, live=True)

    room: str
    epoch: int
    generation: int
    number: int
    connection: int
    live: bool


class Bind(BaseModel):
    """A bind, with the granted QoS, the joined groups, and user and attributes by the token."""

    model_config = example(qos=1, groups=["news"], user="ann", attrs={"platform": "ios"})

    qos: int
    groups: list[str]
    user: str
    attrs: dict[str, str]


class Client(BaseModel):
    """A client. `pending`: product → messages stored and not settled."""

    model_config = example(
        client="phone-1",
        realm="main",
        session=example_of(Session),
        last_seen_ms=1755582462555,
        binds={"demo": example_of(Bind)},
        pending={"demo": 3},
    )

    client: str
    realm: str
    session: Session | None
    last_seen_ms: LastSeen
    binds: dict[str, Bind]
    pending: dict[str, int] = Field(examples=[{"demo": 3}])


class Order(BaseModel):
    """How to end a session."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "the phone was lost"}]})

    reason: ReasonString = Field(default="", description="Told to the client as Reason String.")


class UnbindOrder(BaseModel):
    """Out of which product."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"product": "demo"}]})

    product: ProductName


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["clients"])
    problems = responses("bad-input", "unauthorized", "unknown-client", "register-down")

    @routes.get("/v1/clients/{client}", dependencies=needs(Role.READ), response_model=Client, responses=problems)
    async def show_client(who: Who, client: str, realm: str = names.DEFAULT_REALM) -> Client:
        """A client's session, binds and pending counts, by the register."""
        key = names.client_key(names.realm(realm), names.client(client))
        view = _seen(who, await parts.clients.show(key, who.seen(parts.documents.products)))
        if view is None:
            raise Problem("unknown-client", f"client {client} is not known in realm {realm}")
        return _client(parts, client, realm, view)

    @routes.post(
        "/v1/clients/{client}/kick",
        dependencies=needs(Role.OPERATE),
        status_code=204,
        responses={**problems, **responses("not-connected", "bus-down")},
    )
    async def kick_client(who: Who, client: str, order: Order, realm: str = names.DEFAULT_REALM) -> None:
        """End a client's session: DISCONNECT 0x98, which tells it not to come back by itself. What is pending stays.

        It does not lock the client out: that is up to who gives it tokens.
        """
        key = names.client_key(names.realm(realm), names.client(client))
        if not await kick(parts, who, key, order.reason):
            raise Problem("not-connected", f"client {client} has no session in realm {realm}")

    @routes.post(
        "/v1/clients/{client}/unbind",
        dependencies=needs(Role.OPERATE),
        status_code=204,
        responses=responses(
            "bad-input", "unauthorized", "unknown-product", "not-bound", "register-down", "bus-down", "not-unbound"
        ),
    )
    async def unbind_client(who: Who, client: str, order: UnbindOrder, realm: str = names.DEFAULT_REALM) -> None:
        """Take a client out of a product and its groups, connected or not, as its own UNSUBSCRIBE does. What is pending stays.

        A connected client is not told, MQTT has no word for it; and it may bind again, if its token lets it: revoke that first.
        """
        key = names.client_key(names.realm(realm), names.client(client))
        product = product_of(parts, who, order.product).name
        if not await unbind(parts, key, product):
            raise Problem("not-bound", f"client {client} is not bound to {product} in realm {realm}")

    return routes


async def kick(parts: Parts, who: Caller, key: str, reason: str) -> bool:
    """End a client's session; False if it has none that the caller sees. Raises a Problem, RegisterDown."""
    for _ in range(KICK_TRIES):  # it may be on its way to another room
        view = _seen(who, await parts.clients.show(key))
        if view is None or view.session is None:
            return False
        if await parts.kicks.kick(key, view.session, reason):
            return True
    return False


def _seen(who: Caller, view: ClientView | None) -> ClientView | None:
    """What the caller sees of a client; None where that is nothing: it has nothing to do with the caller's products."""
    if view is None or who.products is None:
        return view
    binds = {name: bind for name, bind in view.binds.items() if who.sees(name)}
    pending = {name: count for name, count in view.pending.items() if who.sees(name)}
    left = {name: at for name, at in view.left.items() if who.sees(name)}
    seen = binds or any(pending.values()) or left
    return msgspec.structs.replace(view, binds=binds, pending=pending, left=left) if seen else None


def _client(parts: Parts, client: str, realm: str, view: ClientView) -> Client:
    binds = {name: Bind(qos=bind.qos, groups=bind.groups, user=bind.user, attrs=bind.attrs) for name, bind in view.binds.items()}
    pending = {name: count for name, count in view.pending.items() if count or name in binds}
    session = session_of(parts, view)
    return Client(
        client=client, realm=realm, session=session, last_seen_ms=last_seen_ms(session, view), binds=binds, pending=pending
    )


def last_seen_ms(session: Session | None, view: ClientView) -> int | None:
    """When a client was seen last, ms. One whose room is silent may have left at any time; it has when the room is swept."""
    if session is not None:
        return int(time.time() * 1000) if session.live else None
    return max(view.left.values(), default=None)


def session_of(parts: Parts, view: ClientView) -> Session | None:
    """A client's session as it is shown."""
    found = view.session
    if found is None:
        return None
    return Session(
        room=found.room,
        epoch=found.epoch,
        generation=found.generation,
        number=found.number,
        connection=found.connection,
        live=parts.rooms.alive(found.room, found.epoch),
    )
