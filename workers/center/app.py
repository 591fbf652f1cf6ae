"""The ASGI application: the nouns' routes, behind the gate and the API key."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel
from starlette.types import ASGIApp

from infra import asyncapi
from workers.center.callers import keys
from workers.center.callers.keycheck import KeyCheck, Keys
from workers.center.campaigns import audiences, broadcasts, estimate, steering, watching
from workers.center.devices import clients, groups, users
from workers.center.dispatch import route as dispatch
from workers.center.fcm import send as fcm
from workers.center.fcm.errors import GoogleErrors
from workers.center.operating import access, audit, config, products, queues, revocations, rooms, webhooks
from workers.center.ports import Parts
from workers.center.unicast import batch, messages, pull, states
from workers.center.web import document, page, problems
from workers.center.web.bodies import Bodies
from workers.center.web.examples import example
from workers.center.web.gate import Gate

DESCRIPTION: Final = "Push to one device, to a user's devices, or to everyone at a controlled rate."


def build(parts: Parts, *, version: str) -> ASGIApp:
    """The whole application; raises keycheck.NoKey if no API key is configured."""
    dispatcher = dispatch.Dispatcher(parts)
    return guarded(api(parts, dispatcher, version=version), parts, dispatcher)


def guarded(routes: ASGIApp, parts: Parts, dispatcher: dispatch.Dispatcher) -> ASGIApp:
    """The routes, behind the gate, the dispatcher, the API key and the body's bounds; raises keycheck.NoKey."""
    bodies = Bodies(routes, streamed=audiences.STREAMED, large=batch.LARGE)
    checked = KeyCheck(bodies, parts, Keys(parts.ring, parts.api_tokens, operator=parts.api_key))
    return GoogleErrors(Gate(dispatch.Front(checked, dispatcher)))


def api(parts: Parts, dispatcher: dispatch.Dispatcher, *, version: str) -> FastAPI:
    """The routes and their OpenAPI document, without the gate and the key."""
    app = FastAPI(
        title="Longwire",
        version=version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    problems.install(app)
    for noun in (
        messages,
        batch,
        states,
        fcm,
        broadcasts,
        estimate,
        steering,
        watching,
        audiences,
        products,
        queues,
        webhooks,
        config,
        clients,
        users,
        groups,
        audit,
        pull,
        rooms,
        revocations,
        access,
        keys,
    ):
        app.include_router(noun.router(parts))
    app.include_router(dispatch.router(dispatcher))
    app.include_router(_operations(parts))
    document.describe(app)

    @cache  # asked by who has no key: they are made once
    def the_page() -> str:
        return page.render(app.openapi())

    @cache
    def the_topics() -> bytes:
        return msgspec.json.encode(asyncapi.document(version))

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(the_page(), headers=page.HEADERS)

    @app.get("/asyncapi.json", include_in_schema=False)
    async def show_asyncapi() -> Response:
        return Response(the_topics(), media_type="application/json")

    return app


class Alive(BaseModel):
    """The process answers."""

    model_config = example(status="ok", process="center")

    status: Literal["ok"] = "ok"
    process: Literal["center"] = "center"


class Ready(BaseModel):
    """Can it serve? `reasons`: the brokers that can't be used."""

    model_config = example(status="ok", process="center", reasons={})

    status: Literal["ok", "not ready"]
    process: Literal["center"] = "center"
    reasons: dict[str, str]


def _operations(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz")
    async def alive() -> Alive:
        """The process is alive."""
        return Alive()

    @routes.get(
        "/readyz",
        response_model=Ready,
        responses={503: {"model": Ready, "description": "A broker can't be used; the body says which."}},
    )
    async def ready(response: Response) -> Ready:
        """Kafka, NATS and Redis can be used; else 503 with those that can't. Why is told by the internal listener alone."""
        reasons = dict.fromkeys(parts.health.reasons(), "can't be used")
        response.status_code = 503 if reasons else 200
        return Ready(status="not ready" if reasons else "ok", reasons=reasons)

    return routes
