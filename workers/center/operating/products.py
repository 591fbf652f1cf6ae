"""`/v1/products`: tenants. Their documents in the keeper, read and written with preconditions, and what they use now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field, RootModel

from infra.documents import Document, Product, product_key
from schemas.codes import PLACES
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.content import ProductName, product_of, unknown_product
from workers.center.operating.shelf import Json, merged, parsed, shown, unhidden, written
from workers.center.operating.switch import MAX_QUEUES
from workers.center.ports import Change, Parts
from workers.center.web.etags import Asked, Writing, tag_of
from workers.center.web.examples import example, example_of
from workers.center.web.paging import Cursor, Limit, after_name, page_of
from workers.center.web.problems import Problem, bad_input, responses

SUBJECT: Final = "product"
EXAMPLE: Final[Any] = {"ttl_s": 86400, "max_payload": 8192, "max_pending": 500, "rate": 1000, "services": ["echo"]}

_LOCATION: Final = {"Location": {"schema": {"type": "string"}, "description": "Where it is."}}

Name = Annotated[ProductName, Path(alias="product")]


class ProductDocument(RootModel[dict[str, Any]]):
    """A product's document without its name, which the path says. What is left out has its default. Secrets are shown as stars;
    stars that are given stand for the secret that is there."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


class ProductView(RootModel[dict[str, Any]]):
    """A product's document, with every field, and stars for secrets. The header `ETag` is for `If-Match`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "demo", **EXAMPLE}]})


class ProductSummary(BaseModel):
    """A product of the list."""

    model_config = example(name="demo", rate=1000, queue=False, bound=1200)

    name: str = Field(examples=["demo"])
    rate: int
    queue: bool = Field(description="Has it a queue of its own?")
    bound: int = Field(description="Clients bound in live rooms.")


class ProductList(BaseModel):
    """Products by name; `next` is the cursor of the next page, null on the last."""

    model_config = example(products=[example_of(ProductSummary)], next=None)

    products: list[ProductSummary]
    next: str | None


class Broadcasts(BaseModel):
    """Places for broadcasts that are begun and not over."""

    active: int
    most: int


class Usage(BaseModel):
    """What a product uses now, by the rooms' last leases (a few seconds old) and by this center's mirror of broadcasts."""

    model_config = example(
        product="demo", as_of_ms=1755582462555, bound=1200, rooms={"r1": 1200}, broadcasts={"active": 1, "most": PLACES}
    )

    product: str
    as_of_ms: int
    bound: int = Field(description="Clients bound in live rooms.")
    rooms: dict[str, int] = Field(description="Room → clients bound there.", examples=[{"r1": 1200}])
    broadcasts: Broadcasts


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["products"])
    read = responses("bad-input", "unauthorized", "unknown-product", "unreadable", "bus-down")
    write = {**read, **responses("precondition-failed", "changed-meanwhile", "too-many-queues", "journal-down", "bus-down")}

    @routes.get(
        "/v1/products",
        dependencies=needs(Role.READ),
        response_model=ProductList,
        responses=responses("bad-input", "unauthorized"),
    )
    async def list_products(who: Who, limit: Limit = 50, cursor: Cursor = "") -> ProductList:
        """The products that the key sees, by name."""
        products, bound = parts.documents.products, _bound(parts)
        page, more = page_of(after_name(who.seen(products), cursor), limit)
        return ProductList(products=[_summary(products[name], bound) for name in page], next=more)

    @routes.get("/v1/products/{product}", dependencies=needs(Role.READ), response_model=ProductView, responses=read)
    async def show_product(who: Who, name: Name, response: Response) -> Json:
        """A product's document as the keeper has it now."""
        _check_seen(who, name)
        document, revision = await parts.shelf.read(product_key(name))
        response.headers["ETag"] = tag_of(revision)
        return shown(_there(name, document))

    @routes.put(
        "/v1/products/{product}",
        dependencies=needs(Role.ADMIN),
        response_model=ProductView,
        responses={201: {"model": ProductView, "description": "It is new", "headers": _LOCATION}, **write},
    )
    async def put_product(asked: Asked, name: Name, request: ProductDocument, response: Response) -> Json:
        """Write a product's document, whole; with `If-None-Match: *` only a new one, with `If-Match` only over what was read."""

        def make(before: Document | None) -> Product:
            return _made(parts, name, request.root, before)

        return await written(parts, _change(asked, name, "put", make), response, location=f"/v1/products/{name}")

    @routes.patch("/v1/products/{product}", dependencies=needs(Role.ADMIN), response_model=ProductView, responses=write)
    async def patch_product(asked: Asked, name: Name, request: ProductDocument, response: Response) -> Json:
        """Change some fields of a product's document, as a JSON merge patch (RFC 7396): null puts a field back to its default."""

        def make(before: Document | None) -> Product:
            return _made(parts, name, merged(shown(_there(name, before)), request.root), before)

        return await written(parts, _change(asked, name, "patch", make), response)

    @routes.delete("/v1/products/{product}", dependencies=needs(Role.ADMIN), status_code=204, responses=write)
    async def delete_product(asked: Asked, name: Name) -> None:
        """Remove a product: nobody can send to it or bind it any more. What is pending expires; who is bound stays so until the
        connection ends."""

        def make(before: Document | None) -> None:
            _there(name, before)

        await parts.shelf.change(_change(asked, name, "delete", make))

    @routes.get(
        "/v1/products/{product}/usage",
        dependencies=needs(Role.READ),
        response_model=Usage,
        responses=responses("bad-input", "unauthorized", "unknown-product"),
    )
    async def show_usage(who: Who, name: Name) -> Usage:
        """What a product uses now."""
        product_of(parts, who, name)
        return _usage(parts, name, time.time_ns() // 1_000_000)

    return routes


def _summary(product: Product, bound: dict[str, int]) -> ProductSummary:
    return ProductSummary(name=product.name, rate=product.rate, queue=product.queue is not None, bound=bound.get(product.name, 0))


def _usage(parts: Parts, name: str, now_ms: int) -> Usage:
    rooms = {view.entry.room: view.lease.bound[name] for view in parts.rooms.live() if view.lease.bound.get(name)}
    broadcasts = Broadcasts(active=parts.jobs.index.active(name, now_ms, besides=""), most=PLACES)
    return Usage(product=name, as_of_ms=now_ms, bound=sum(rooms.values()), rooms=rooms, broadcasts=broadcasts)


def _check_seen(who: Caller, name: str) -> None:
    if not who.sees(name):
        raise unknown_product(name)


def _made(parts: Parts, name: str, given: Json, before: Document | None) -> Product:
    """The document that was asked for; raises a Problem."""
    if given.get("name", name) != name:
        raise bad_input("name", given["name"], "is another than the path says")
    product = parsed(Product, unhidden({**given, "name": name}, before))
    others = [other for other in parts.documents.products.values() if other.queue is not None and other.name != name]
    if product.queue is not None and len(others) >= MAX_QUEUES:
        raise Problem("too-many-queues", f"{len(others)} products have one, as many as there may be; switch another one off")
    return product


def _there(name: str, document: Document | None) -> Document:
    """Raises a Problem (404) where it is not."""
    if document is None:
        raise unknown_product(name)
    return document


def _change(asked: Writing, name: str, action: str, make: Callable[[Document | None], Document | None]) -> Change:
    _check_seen(asked.who, name)
    return Change(key=product_key(name), product=name, subject=SUBJECT, action=action, asked=asked, make=make)


def _bound(parts: Parts) -> dict[str, int]:
    """Product → clients bound in live rooms."""
    found: dict[str, int] = {}
    for view in parts.rooms.live():
        for product, count in view.lease.bound.items():
            found[product] = found.get(product, 0) + count
    return found
