"""`/v1/users/{user}`: a user's clients, online or not; and all of their sessions ended."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from infra.register import ClientView
from schemas import names
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.content import ProductName, product_of
from workers.center.devices.clients import LastSeen, ReasonString, Session, kick, last_seen_ms, session_of
from workers.center.ports import Parts
from workers.center.web.examples import example, example_of
from workers.center.web.paging import Cursor, Limit, after_name, page_of
from workers.center.web.problems import Problem, responses

AT_ONCE: Final = 16
"""Clients that are kicked at the same time."""
MOST_KICKED: Final = 1000

UserId = Annotated[str, Path(alias="user")]
Product = Annotated[ProductName, Query(description="A user is an account of a product.")]


class UserClient(BaseModel):
    """One client of a user. `session` null: it is not connected; `bound`: to the product, now."""

    model_config = example(client="phone-1", session=example_of(Session), last_seen_ms=1755582462555, bound=True, pending=3)

    client: str
    session: Session | None
    last_seen_ms: LastSeen
    bound: bool
    pending: int = Field(description="Messages of the product, stored and not settled.")


class User(BaseModel):
    """A user's clients by their ids, as the register has them; `next` is the cursor of the next page, null on the last."""

    model_config = example(user="ann", product="demo", realm="main", clients_total=1, clients=[example_of(UserClient)], next=None)

    user: str
    product: str
    realm: str
    clients_total: int
    clients: list[UserClient]
    next: str | None


class KickOrder(BaseModel):
    """Whose sessions are ended."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"product": "demo", "reason": "the account was closed"}]}
    )

    product: ProductName
    realm: str = names.DEFAULT_REALM
    reason: ReasonString = Field(default="", description="Told to the clients as Reason String.")


class Kicked(BaseModel):
    """What became of each client: `kicked` had a session that was ended, `absent` had none; those that `failed` could not be
    asked: ask again."""

    model_config = example(kicked=["phone-1"], absent=["tablet-1"], failed=[])

    kicked: list[str]
    absent: list[str]
    failed: list[str]


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["users"])
    problems = responses("bad-input", "unauthorized", "unknown-product", "unknown-user", "register-down")

    @routes.get("/v1/users/{user}", dependencies=needs(Role.READ), response_model=User, responses=problems)
    async def show_user(
        who: Who, user: UserId, product: Product, realm: str = names.DEFAULT_REALM, *, limit: Limit = 50, cursor: Cursor = ""
    ) -> User:
        """The clients of a user in a product."""
        product_of(parts, who, product)
        clients = await _clients(parts, realm, product, user)
        page, more = page_of(after_name(clients, cursor), limit)
        keys = [names.client_key(realm, client) for client in page]
        views = await asyncio.gather(*(parts.clients.show(key, [product]) for key in keys))
        shown = [_client(parts, product, client, view) for client, view in zip(page, views, strict=True)]
        return User(user=user, product=product, realm=realm, clients_total=len(clients), clients=shown, next=more)

    @routes.post("/v1/users/{user}/kick", dependencies=needs(Role.OPERATE), response_model=Kicked, responses=problems)
    async def kick_user(who: Who, user: UserId, order: KickOrder) -> Kicked:
        """End the sessions of all of a user's clients (DISCONNECT 0x98), the first 1,000 of them; those that are bound to other
        products as well lose the same connection. It does not lock them out: revoke the user's tokens for that."""
        product_of(parts, who, order.product)
        clients = (await _clients(parts, order.realm, order.product, user))[:MOST_KICKED]
        found: dict[str, list[str]] = {"kicked": [], "absent": [], "failed": []}
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(client: str) -> None:
            async with turns:
                found[await _kick(parts, who, names.client_key(order.realm, client), order.reason)].append(client)

        await asyncio.gather(*map(one, clients))
        return Kicked(**{outcome: sorted(names_) for outcome, names_ in found.items()})

    return routes


async def _clients(parts: Parts, realm: str, product: str, user: str) -> list[str]:
    """All of a user's clients, sorted; raises a Problem (404) where there is none."""
    found = await parts.clients.clients_of(names.realm(realm), product, names.user(user))
    if not found:
        raise Problem("unknown-user", f"no client of product {product} was bound by user {user} in realm {realm}")
    return sorted(found)


async def _kick(parts: Parts, who: Caller, key: str, reason: str) -> str:
    try:
        return "kicked" if await kick(parts, who, key, reason) else "absent"
    except Problem:
        return "failed"


def _client(parts: Parts, product: str, client: str, view: ClientView | None) -> UserClient:
    if view is None:
        return UserClient(client=client, session=None, last_seen_ms=None, bound=False, pending=0)
    session = session_of(parts, view)
    return UserClient(
        client=client,
        session=session,
        last_seen_ms=last_seen_ms(session, view),
        bound=product in view.binds,
        pending=view.pending.get(product, 0),
    )
