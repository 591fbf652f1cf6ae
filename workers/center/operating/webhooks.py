"""`/v1/products/{product}/webhooks/{endpoint}/test`: one signed event to a webhook, and what it said."""

from __future__ import annotations

import time
from typing import Annotated, Final
from uuid import uuid4

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, Field

from infra.documents import Endpoint
from schemas import names
from schemas.codes import WEBHOOK_TEST
from workers.center.callers.auth import Role, Who, needs
from workers.center.content import ProductName, product_of
from workers.center.ports import Parts
from workers.center.web.examples import example
from workers.center.web.problems import Problem, responses
from workers.webhooks import Event
from workers.webhooks.events import batches
from workers.webhooks.sender import Outcome

WITHIN: Final = 10.0
"""Seconds that the one who asks waits, at most."""

EndpointName = Annotated[str, Field(examples=["main"]), AfterValidator(names.endpoint)]


class TestResult(BaseModel):
    """What the webhook made of it. `status` null: it did not answer, and `reason` says why."""

    model_config = example(taken=True, status=204, reason="", milliseconds=38, said="")

    taken: bool
    status: int | None = Field(examples=[204])
    reason: str = Field(description="Why it was not taken, else empty.")
    milliseconds: int
    said: str = Field(description="The beginning of what it answered, without control characters.")


def router(parts: Parts) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["webhooks"])

    @routes.post(
        "/v1/products/{product}/webhooks/{endpoint}/test",
        dependencies=needs(Role.OPERATE),
        response_model=TestResult,
        responses=responses("bad-input", "unauthorized", "unknown-product", "unknown-webhook"),
    )
    async def test_webhook(
        who: Who, name: Annotated[ProductName, Path(alias="product")], endpoint: Annotated[EndpointName, Path()]
    ) -> TestResult:
        """Post one event of type `webhook.test`, signed as all are. It is not tried again."""
        product = product_of(parts, who, name)
        found = [each for each in product.webhooks if each.name == endpoint]
        if not found:
            raise Problem("unknown-webhook", f"product {name} has no webhook {endpoint}")
        return await _tested(parts, product.name, found[0])

    return routes


async def _tested(parts: Parts, product: str, endpoint: Endpoint) -> TestResult:
    now = time.time()
    event = Event(f"test-{uuid4().hex}", WEBHOOK_TEST, product, WEBHOOK_TEST, int(now * 1000), {"endpoint": endpoint.name})
    [batch] = batches([event], 1)
    started = time.monotonic()
    verdict = await parts.hooks.post(endpoint, batch, within=min(endpoint.timeout, WITHIN))
    return TestResult(
        taken=verdict.outcome is Outcome.TAKEN,
        status=verdict.status or None,
        reason="" if verdict.outcome is Outcome.TAKEN else verdict.reason,
        milliseconds=int((time.monotonic() - started) * 1000),
        said=verdict.said,
    )
