"""What would reach many persons is asked for twice: they are counted, and the second request shows the token of the first one."""

from __future__ import annotations

import time

from pydantic import BaseModel

from infra.documents import Product
from schemas.broadcasts import Broadcast
from workers.center.callers.approval import approved, limit_of, token_of
from workers.center.callers.auth import Caller
from workers.center.campaigns.persons import UNKNOWN, persons_of
from workers.center.ports import Parts
from workers.center.web.problems import Problem


async def confirmation(
    parts: Parts,
    who: Caller,
    product: Product,
    *,
    record: Broadcast | None,
    request: BaseModel,
    token: str | None,
    key: str,
) -> str | None:
    """The id that a good token gives; None if none is needed: the record is for no more persons than may be reached unasked.

    Else raises a Problem (409). `record` None: whom it means is not known; `key`: what else the token is of (see `token_of`).
    """
    limit = limit_of(who, product.confirm_over)
    if limit is None:
        return None
    wrong = ""
    if token is not None:
        own = approved(await parts.approvals.current(), token, who, request, time.time(), key=key)
        if own is not None:
            return own
        wrong = "what was given is of another request, or too old; "
    persons = UNKNOWN if record is None else await persons_of(parts, record)
    if persons.sure and persons.number is not None and persons.number <= limit:
        return None
    about = "as many persons as can't be told now" if persons.number is None else f"about {persons.number} persons"
    detail = f"{wrong}it is for {about}, and more than {limit} have to be confirmed: ask again with `confirm`"
    fresh = token_of(await parts.approvals.current(), who, request, time.time(), key=key)
    raise Problem("confirm-needed", detail, estimate=persons.number, confirm=fresh)
