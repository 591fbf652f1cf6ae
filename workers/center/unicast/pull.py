"""`/v1/pull/{product}`: a device asks for what is pending for it, shows its own token, and confirms what it has.

Any pending message can be had so, whatever its mode: a device without a connection may poll. What it confirms is settled as
an acknowledgement on its connection would.
"""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from infra.register import PendingItem, RegisterDown
from infra.tokens import BadToken
from infra.wire import OK, RETRY, PullItem
from schemas import names
from workers.center.content import unknown_product
from workers.center.ports import Parts
from workers.center.web.examples import example, example_of
from workers.center.web.problems import Problem, responses

MAX_LISTED: Final = 100
MAX_HEADER: Final = 4096
"""Characters of the properties in a header; many clients take no longer line. The list has them all."""
OCTETS: Final = "application/octet-stream"
_WORD: Final = r"[A-Za-z0-9!#$&^_.+-]{1,64}"
_MEDIA_TYPE: Final = re.compile(rf"{_WORD}/{_WORD}(; ?{_WORD}={_WORD})?")
_TOKEN: Final = Security(HTTPBearer(auto_error=False, scheme_name="token", description="A device's JWT"))


class Pending(BaseModel):
    """A pending message without its body."""

    model_config = example(
        id="0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e",
        size=5,
        expires_in_s=540,
        mode="push",
        pull_after_s=0.0,
        group="",
        content_type="text/plain",
        properties={},
    )

    id: str
    size: int = Field(description="Bytes of the body.")
    expires_in_s: int
    mode: str = Field(description="How it is pushed: `push`, `pull` or `both`.")
    pull_after_s: float
    group: str
    content_type: str
    properties: dict[str, str]


class PendingList(BaseModel):
    """The first pending messages, in the order in which they would be pushed. `more`: confirm some, and ask again."""

    model_config = example(items=[example_of(Pending)], more=False)

    items: list[Pending]
    more: bool


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["pull"], dependencies=[_TOKEN])
    problems = responses("bad-input", "bad-token", "forbidden", "unknown-product", "not-pending", "register-down", "busy")

    def client_of(request: Request, product: str) -> str:
        """The key of the client whose token is shown; raises a Problem."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Problem("bad-token", "give the device's token as `Authorization: Bearer <JWT>`")
        try:
            grant = parts.tokens.verify(token.strip().encode(), None, time.time())
        except BadToken as error:
            raise Problem("forbidden" if error.forbidden else "bad-token", error.text) from None
        if product not in grant.products:
            raise Problem("forbidden", f"the token does not name product {names.product(product)}")
        if product not in parts.documents.products:
            raise unknown_product(product)
        return grant.key

    @routes.get("/v1/pull/{product}", response_model=PendingList, responses=problems)
    async def list_pending(
        product: str, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50, key: str = Depends(client_of)
    ) -> PendingList:
        """What is pending for this device: ids and sizes."""
        page = await parts.pending.peek(key, product, limit)
        return PendingList(items=[without_body(item) for item in page.items], more=page.more)

    @routes.get(
        "/v1/pull/{product}/{message}",
        response_class=Response,
        responses={**problems, 200: {"content": {OCTETS: {"example": "hello"}}}},
    )
    async def pull_body(product: str, message: str, key: str = Depends(client_of)) -> Response:
        """The body of a pending message. It stays pending until it is confirmed."""
        [found] = await parts.pending.pull([PullItem(key, 0, 0, product, names.message_id(message))])
        if found.status == RETRY:
            raise RegisterDown("not ready")
        if found.status != OK or found.item is None:
            raise _not_pending(message)
        return _body(found.item)

    @routes.delete("/v1/pull/{product}/{message}", status_code=204, responses={**problems, **responses("not-confirmed")})
    async def confirm_message(product: str, message: str, key: str = Depends(client_of)) -> None:
        """The device has the message: it is settled (acked), and is not pushed any more."""
        if not await parts.confirmations.confirm(key, product, names.message_id(message)):
            raise _not_pending(message)

    return routes


def _not_pending(message: str) -> Problem:
    return Problem("not-pending", f"message {message} is settled, has expired, or never was for this device")


def without_body(item: PendingItem) -> Pending:
    """A pending message as lists show it."""
    body = item.body
    return Pending(
        id=item.id,
        size=body.size or len(body.payload),
        expires_in_s=item.expires_in_s,
        mode=body.mode,
        pull_after_s=body.pull_after_ms / 1000,
        group=body.group,
        content_type=body.content_type,
        properties=dict(body.properties),
    )


def _body(item: PendingItem) -> Response:
    """The bytes, under the sender's media type where it is one; never to be shown by a browser."""
    body = item.body
    properties = json.dumps(dict(body.properties))
    headers = {
        "Longwire-Id": item.id,
        "Longwire-Expires-In": str(item.expires_in_s),
        "Longwire-Properties": properties if len(properties) <= MAX_HEADER else "{}",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": "attachment",
        "Cache-Control": "no-store",
    }
    kind = body.content_type if _MEDIA_TYPE.fullmatch(body.content_type) else OCTETS
    return Response(body.payload, media_type=kind, headers=headers)
