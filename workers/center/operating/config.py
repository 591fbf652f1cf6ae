"""`/v1/config`: how the cluster treats connections, the keeper's document `policy`, read and written with preconditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Response
from pydantic import ConfigDict, RootModel

from infra.documents import POLICY, Document, Policy
from schemas.broadcasts import NO_PRODUCT
from workers.center.callers.auth import Role, needs
from workers.center.operating.shelf import Json, merged, parsed, shown, written
from workers.center.ports import Change, Parts
from workers.center.web.etags import Asked, Writing, tag_of
from workers.center.web.problems import responses

SUBJECT: Final = "config"
EXAMPLE: Final[Any] = {"connect_rate": 1000, "keep_alive_default": 300, "window": 16}


class PolicyDocument(RootModel[dict[str, Any]]):
    """The policy, in part or whole. What is left out has its default; durations are seconds, or text like `30s`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["config"])
    read = responses("bad-input", "unauthorized", "unreadable", "bus-down")
    write = {**read, **responses("precondition-failed", "changed-meanwhile", "journal-down", "bus-down")}

    @routes.get("/v1/config", dependencies=needs(Role.READ), response_model=PolicyDocument, responses=read)
    async def show_config(response: Response) -> Json:
        """The policy that is in force, with every field. The `ETag` is for `If-Match`; none where nobody wrote one."""
        document, revision = await parts.shelf.read(POLICY)
        if document is not None:
            response.headers["ETag"] = tag_of(revision)
        return shown(document or Policy())

    @routes.put("/v1/config", dependencies=needs(Role.ADMIN, everywhere=True), response_model=PolicyDocument, responses=write)
    async def put_config(asked: Asked, request: PolicyDocument, response: Response) -> Json:
        """Write the policy, whole. Every process goes by it within a moment."""
        return await written(parts, _change(asked, "put", lambda before: request.root), response)

    @routes.patch("/v1/config", dependencies=needs(Role.ADMIN, everywhere=True), response_model=PolicyDocument, responses=write)
    async def patch_config(asked: Asked, request: PolicyDocument, response: Response) -> Json:
        """Change some fields of the policy, as a JSON merge patch (RFC 7396): null puts a field back to its default."""
        return await written(
            parts, _change(asked, "patch", lambda before: merged(shown(before or Policy()), request.root)), response
        )

    return routes


def _change(asked: Writing, action: str, given: Callable[[Document | None], Json]) -> Change:
    def make(before: Document | None) -> Policy:
        return parsed(Policy, given(before))

    return Change(key=POLICY, product=NO_PRODUCT, subject=SUBJECT, action=action, asked=asked, make=make)
