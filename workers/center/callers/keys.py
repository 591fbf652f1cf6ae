"""`/v1/keys`: who may ask this API for what. A key's secret is shown once, when it is made; nobody can look it up."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from infra.settings import Seconds
from workers.center.callers.apikey import DEFAULT_RATE, ApiKey
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.callers.keysmith import unknown_key
from workers.center.content import ProductName, no_bool, product_of
from workers.center.ports import KeyOrder, Parts
from workers.center.web.etags import Words
from workers.center.web.examples import example, example_of
from workers.center.web.problems import Problem, responses

MAX_PRODUCTS: Final = 64
MAX_RATE: Final = 10_000
MAX_LISTED: Final = 1000
MAX_GRACE_S: Final = 30 * 24 * 3600
MAX_LIFE_S: Final = 10 * 366 * 24 * 3600
DEFAULT_GRACE_S: Final = 24 * 3600.0

KeyId = Annotated[str, Path(alias="id", max_length=256)]


def _each_once(roles: tuple[Role, ...]) -> tuple[Role, ...]:
    return tuple(role for role in Role if role in roles)


class KeyRequest(BaseModel):
    """A key as it is asked for. Who asks for it may give it no product but its own."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"name": "the shop's backend", "products": ["demo"], "roles": ["send", "read"], "by": "ann"}]
        },
    )

    name: Words = Field(description="What it is for.")
    products: tuple[ProductName, ...] | None = Field(min_length=1, max_length=MAX_PRODUCTS, description="null: all of them.")
    roles: Annotated[tuple[Role, ...], AfterValidator(_each_once)] = Field(min_length=1, max_length=16)
    rate: int = Field(default=DEFAULT_RATE, ge=1, le=MAX_RATE, strict=True, description="Requests per second.")
    confirm_over: int | None = Field(
        default=None, ge=0, strict=True, description="Persons of a broadcast above which it has to be confirmed."
    )
    expires_in: Annotated[Seconds, Field(le=MAX_LIFE_S, allow_inf_nan=False), BeforeValidator(no_bool)] | None = Field(
        default=None, description="Seconds, or text like `90d`; default: never."
    )
    by: Words = Field(default="api", description="Who: it is kept in `push.audit`.")
    reason: Words | None = None


class Order(BaseModel):
    """Who asks, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"by": "ann", "reason": "it leaked"}]})

    by: Words = "api"
    reason: Words | None = None


class RotateOrder(Order):
    """How long the secret so far stays good beside the new one."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"grace": "24h", "by": "ann"}]})

    grace: Annotated[Literal[0] | Annotated[Seconds, Field(le=MAX_GRACE_S, allow_inf_nan=False)], BeforeValidator(no_bool)] = (
        Field(default=DEFAULT_GRACE_S, description="Seconds, or text like `24h`; 0: not at all.")
    )


class KeyView(BaseModel):
    """A key, without its secrets. Times in seconds since the epoch."""

    model_config = example(
        id="0f1e2d3c4b5a",
        name="backend",
        products=["demo"],
        roles=["send", "read"],
        rate=100,
        confirm_over=None,
        created_at=1755582462.555,
        created_by="ann (key operator)",
        expires_at=None,
        revoked_at=None,
        secrets=1,
        old_secret_until=None,
        last_used_at=1755586062.555,
    )

    id: str = Field(examples=["0f1e2d3c4b5a"])
    name: str
    products: list[str] | None = Field(description="null: all of them.")
    roles: list[Role]
    rate: int
    confirm_over: int | None
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    secrets: int = Field(description="That are good now: two while it is rotated.")
    old_secret_until: float | None = Field(description="While it is rotated: how long the older one is good.")
    last_used_at: float | None = Field(description="As of a minute ago; null: never, or not known now.")


class MadeKey(KeyView):
    """A key with a fresh secret."""

    model_config = example(**example_of(KeyView), key="lw_0f1e2d3c4b5a_…")

    key: str = Field(description="The key itself. It is shown this once.", examples=["lw_0f1e2d3c4b5a_…"])


class KeyList(BaseModel):
    """Keys by their ids. `next`: the cursor of the page after this one, null on the last."""

    model_config = example(keys=[example_of(KeyView)], next=None)

    keys: list[KeyView]
    next: str | None


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["keys"])
    changing = responses("bad-input", "unauthorized", "unknown-key", "changed-meanwhile", "journal-down", "bus-down")

    def found(who: Caller, key_id: str) -> ApiKey:
        """One that the caller may change; raises a Problem (404)."""
        for key in parts.api_keys.known():
            if key.id == key_id and _may(who, key):
                return key
        raise unknown_key()

    @routes.get(
        "/v1/keys",
        dependencies=needs(Role.ADMIN),
        response_model=KeyList,
        responses=responses("bad-input", "unauthorized"),
    )
    async def list_keys(
        who: Who,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        cursor: Annotated[str, Query(max_length=64, description="`next` of the page before.")] = "",
    ) -> dict[str, Any]:
        """The keys of the products that the caller's own key is for."""
        keys = [key for key in parts.api_keys.known() if key.id > cursor and _may(who, key)]
        page = keys[:limit]
        used = await parts.api_keys.last_used([key.id for key in page])
        more = len(keys) > limit
        return {"keys": [_view(key, used.get(key.id)) for key in page], "next": page[-1].id if more else None}

    @routes.post(
        "/v1/keys",
        dependencies=needs(Role.ADMIN),
        status_code=201,
        response_model=MadeKey,
        responses=responses("bad-input", "unauthorized", "unknown-product", "too-many-keys", "journal-down", "bus-down"),
    )
    async def create_key(who: Who, request: KeyRequest, response: Response) -> dict[str, Any]:
        """Make a key. Every center knows it within a moment."""
        key, shown = await parts.api_keys.create(_asked(parts, who, request), KeyOrder(who.signed(request.by), request.reason))
        return _made(response, key, shown)

    @routes.post(
        "/v1/keys/{id}/rotate",
        dependencies=needs(Role.ADMIN),
        response_model=MadeKey,
        responses=changing | responses("two-secrets", "changed-meanwhile"),
    )
    async def rotate_key(who: Who, key_id: KeyId, order: RotateOrder, response: Response) -> dict[str, Any]:
        """Give it a second secret; the one before stays good for `grace`. With a grace of 0 none but the new one is."""
        key = found(who, key_id)
        made, shown = await parts.api_keys.rotate(key.id, float(order.grace), KeyOrder(who.signed(order.by), order.reason))
        return _made(response, made, shown)

    @routes.post("/v1/keys/{id}/drop", dependencies=needs(Role.ADMIN), response_model=KeyView, responses=changing)
    async def drop_old_secret(who: Who, key_id: KeyId, order: Order) -> dict[str, Any]:
        """End the older of its two secrets now."""
        key = found(who, key_id)
        return _view(await parts.api_keys.drop(key.id, KeyOrder(who.signed(order.by), order.reason)), None)

    @routes.post("/v1/keys/{id}/revoke", dependencies=needs(Role.ADMIN), response_model=KeyView, responses=changing)
    async def revoke_key(who: Who, key_id: KeyId, order: Order) -> dict[str, Any]:
        """End it for good, within a moment."""
        key = found(who, key_id)
        return _view(await parts.api_keys.revoke(key.id, KeyOrder(who.signed(order.by), order.reason)), None)

    return routes


def _may(who: Caller, key: ApiKey) -> bool:
    """Is the key for no product that the caller does not see?"""
    return who.products is None or (key.products is not None and who.products.issuperset(key.products))


def _asked(parts: Parts, who: Caller, request: KeyRequest) -> ApiKey:
    """The key to make; raises a Problem where it would see more than who asks for it."""
    if request.products is None and who.products is not None:
        raise Problem("forbidden", f"the key {who.key} is for some products, and can make none for all", missing=Role.ADMIN)
    now = time.time()
    return ApiKey(
        id="",
        name=request.name,
        products=request.products and tuple(sorted({product_of(parts, who, name).name for name in request.products})),
        roles=request.roles,
        rate=request.rate,
        confirm_over=request.confirm_over,
        created_at=now,
        created_by=request.by,
        expires_at=None if request.expires_in is None else now + request.expires_in,
        secrets=(),
    )


def _made(response: Response, key: ApiKey, shown: str) -> dict[str, Any]:
    response.headers["Cache-Control"] = "no-store"
    return {**_view(key, None), "key": shown}


def _view(key: ApiKey, used: float | None) -> dict[str, Any]:
    live = key.live(time.time())
    return {
        "id": key.id,
        "name": key.name,
        "products": None if key.products is None else list(key.products),
        "roles": list(key.roles),
        "rate": key.rate,
        "confirm_over": key.confirm_over,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "secrets": len(live),
        "old_secret_until": live[0].until if len(live) > 1 else None,
        "last_used_at": used,
    }
