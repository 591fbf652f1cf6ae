"""A webhook tried by the API: signed, as it is, and nothing of its secrets in what the API says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from center_world import World

from infra.documents import Product
from infra.documents.webhooks import new_secret
from infra.ops.webhook_commands import outcome_text

SECRET = new_secret()


@asynccontextmanager
async def a_hook(status: str, body: bytes = b"") -> AsyncIterator[tuple[str, list[str]]]:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/hook?token=s3cr3t", asked


def with_hook(url: str) -> World:
    world = World()
    endpoint = {"name": "main", "url": url, "secrets": [SECRET], "events": ["*"], "private": True}
    world.documents.products["shop"] = Product.model_validate({"name": "shop", "webhooks": [endpoint]})
    return world


@pytest.mark.parametrize(
    ("status", "body", "taken", "line"),
    [
        ("204 No Content", b"", True, "taken (status 204, "),
        ("500 No", b"out of\x1b[31m luck\n", False, "not taken: it answered 500 (status 500, "),
    ],
)
async def test_given_a_webhook_when_tried_then_what_it_made_of_a_signed_event(
    status: str, body: bytes, taken: bool, line: str
) -> None:
    async with a_hook(status, body) as (url, asked), (world := with_hook(url)).client() as http:
        found = (await http.post("/v1/products/shop/webhooks/main/test")).json()
        await world.outside.stop()
    assert (found["taken"], found["status"]) == (taken, int(status[:3]))
    assert found["said"] == ("" if taken else "out of [31m luck")
    assert outcome_text(found).startswith(line)
    [head] = asked
    assert "webhook-signature: v1," in head
    assert "webhook-id: test-" in head


async def test_given_a_webhook_where_nobody_is_then_the_reason_and_no_secret() -> None:
    async with a_hook("204 No Content") as (url, _):
        pass
    async with with_hook(url).client() as http:
        answer = await http.post("/v1/products/shop/webhooks/main/test")
    assert answer.json()["status"] is None
    assert answer.json()["reason"]
    assert "s3cr3t" not in answer.text
    assert SECRET not in answer.text


async def test_given_another_products_webhook_or_none_then_it_is_not_there() -> None:
    async with with_hook("https://shop.example/").client() as http:
        assert (await http.post("/v1/products/other/webhooks/main/test")).json()["type"].endswith("unknown-product")
        answer = await http.post("/v1/products/shop/webhooks/else/test")
        assert (answer.status_code, answer.json()["type"].endswith("unknown-webhook")) == (404, True)
        assert (await http.post("/v1/products/shop/webhooks/Bad*/test")).status_code == 400
