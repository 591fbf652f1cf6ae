"""The example of a receiver, really run: what our sender posts is verified, with both keys; what was changed or is old is not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infra.documents import Endpoint
from infra.documents.webhooks import new_secret
from infra.settings import OutsideSettings
from workers.outside import Outside
from workers.webhooks import Event, Sender
from workers.webhooks.events import batches
from workers.webhooks.sender import Outcome, reply_of
from workers.webhooks.signing import signed

EXAMPLE = Path(__file__).parents[2] / "examples" / "webhook_receiver.py"
OLD, NEW, OTHER = new_secret(), new_secret(), new_secret()


@pytest_asyncio.fixture(scope="module")
async def receiver() -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    env = {"PATH": os.environ["PATH"], "WEBHOOK_SECRETS": f"{OLD} {NEW}"}
    process = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLE), "0", env=env, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    yield (await process.stdout.readline()).decode().strip(), process.stdout
    process.kill()
    await process.wait()


@pytest_asyncio.fixture
async def outside() -> AsyncIterator[Outside]:
    made = Outside(OutsideSettings.model_validate({"private": ["127.0.0.0/8"]}))
    yield made
    await made.stop()


def endpoint(url: str, *secrets: str) -> Endpoint:
    return Endpoint.model_validate({"name": "main", "url": url, "secrets": secrets, "events": ["*"], "private": True})


def uplink() -> Event:
    data = {"payload_base64": "aGk=", "wants_reply": True, "client": "c"}
    return Event("up-1", "uplink.received", "shop", "main:c", 1, data)


@pytest.mark.parametrize("secrets", [(OLD,), (NEW,), (OLD, NEW), (OTHER, NEW)], ids=["old", "new", "both", "another-and-new"])
async def test_given_either_secret_in_rotation_then_events_are_verified_and_answered(
    receiver: tuple[str, asyncio.StreamReader], outside: Outside, secrets: tuple[str, ...]
) -> None:
    [batch] = batches([uplink()], 10)
    verdict = await Sender(outside).post(endpoint(receiver[0], *secrets), batch, within=5)
    assert verdict.outcome is Outcome.TAKEN
    reply = reply_of(verdict, "up-1")
    assert reply is not None
    assert (reply.content(), reply.content_type) == (b"HI", "text/plain")
    assert json.loads(await receiver[1].readline())["id"] == "up-1"


@pytest.mark.parametrize("by", [-301, 301])
async def test_given_a_time_more_than_five_minutes_away_then_it_is_refused(
    receiver: tuple[str, asyncio.StreamReader], outside: Outside, by: int
) -> None:
    import time

    [batch] = batches([uplink()], 10)
    sender = Sender(outside, wall=lambda: time.time() + by)
    assert (await sender.post(endpoint(receiver[0], NEW), batch, within=5)).status == 401


async def test_given_another_key_or_a_changed_id_time_or_body_then_it_is_refused(
    receiver: tuple[str, asyncio.StreamReader], outside: Outside
) -> None:
    import time

    [batch], now = batches([uplink()], 10), int(time.time())
    good = signed(batch.id, now, batch.body, endpoint(receiver[0], NEW).secrets)

    async def status(headers: dict[str, Any], body: bytes = batch.body) -> int:
        return (await outside.ask("POST", receiver[0], body=body, headers=headers, most=1000, within=5)).status

    assert await status(good) == 200
    await receiver[1].readline()
    assert await status({**good, "webhook-id": "up-2"}) == 401
    assert await status({**good, "webhook-timestamp": str(now - 1)}) == 401
    assert await status(good, batch.body.replace(b"shop", b"shoq")) == 401
    assert await status({}) == 401
    assert await status({**good, "webhook-signature": ""}) == 401
    assert await status(signed(batch.id, now, batch.body, endpoint(receiver[0], OTHER).secrets)) == 401
