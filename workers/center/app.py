"""The ASGI application: the nouns' routes, behind the gate and the API key."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from infra import asyncapi
from workers.center import (
    access,
    audiences,
    broadcasts,
    clients,
    document,
    estimate,
    messages,
    page,
    problems,
    pull,
    queues,
    revocations,
    rooms,
    states,
    steering,
    watching,
)
from workers.center.auth import KeyCheck
from workers.center.dispatch import route as dispatch
from workers.center.gate import Gate
from workers.center.ports import Parts

DESCRIPTION: Final = "Push to one device, to a user's devices, or to everyone at a controlled rate."


def build(parts: Parts, *, version: str) -> ASGIApp:
    """The whole application; raises auth.NoKey if no API key is configured."""
    dispatcher = dispatch.Dispatcher(parts)
    app = api(parts, dispatcher, version=version)
    return Gate(dispatch.Front(KeyCheck(app, key=parts.api_key), dispatcher), streamed=audiences.STREAMED)


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
        states,
        broadcasts,
        estimate,
        steering,
        watching,
        audiences,
        queues,
        clients,
        pull,
        rooms,
        revocations,
        access,
    ):
        app.include_router(noun.router(parts))
    app.include_router(dispatch.router(dispatcher))
    app.include_router(_operations(parts))
    document.describe(app)

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page.render(app.openapi()), headers=page.HEADERS)

    @app.get("/asyncapi.json", include_in_schema=False)
    async def show_asyncapi() -> JSONResponse:
        return JSONResponse(asyncapi.document(version))

    return app


def _operations(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok", "process": "center"}

    @routes.get("/readyz", responses={503: {"description": "A broker can't be reached; the body says which and why."}})
    async def ready() -> JSONResponse:
        """Kafka, NATS and Redis can be reached; else 503 with each reason."""
        reasons = parts.health.reasons()
        body = {"status": "not ready" if reasons else "ok", "process": "center", "reasons": reasons}
        return JSONResponse(body, 503 if reasons else 200)

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text format: counts only."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return routes
