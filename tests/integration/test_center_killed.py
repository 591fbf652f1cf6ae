"""Center is killed between Kafka's acknowledgement and its answer: the sender asks again, and the device has one message."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from core import Core, TopicReader, eventually, unique
from worker_process import environment, running, start, until

from infra.settings import Settings
from infra.wire import Ack
from schemas import names
from schemas.codes import State
from schemas.records import PushMessage
from tests.chaos.proxy import DOWN, Proxy

pytestmark = pytest.mark.xdist_group("local-brokers")

MAIN = "workers.center.main:main"
KEY = {"LONGWIRE_CENTER__API_KEY": "killed-key"}


@pytest_asyncio.fixture(scope="module")
async def core(settings: Settings) -> AsyncIterator[Core]:
    running_core = Core(settings)
    await running_core.start()
    yield running_core
    await running_core.stop()


@asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


def port_of(report: dict[str, Any]) -> int:
    port = urlsplit(report["url"]).port
    assert port is not None
    return port


async def post(http: httpx.AsyncClient, product: str, client: str, key: str, *, batch: bool) -> httpx.Response:
    body = {"product": product, "client": client, "payload": "once"}
    if batch:
        return await http.post("/v1/messages/batch", json={"messages": [{**body, "idempotency_key": key}]})
    return await http.post("/v1/messages", json=body, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("batch", [False, True], ids=["alone", "batch"])
async def test_given_a_center_killed_after_kafkas_ack_when_asked_again_then_the_same_id_and_one_message_at_the_device(
    core: Core, settings: Settings, tmp_path: Path, batch: bool
) -> None:
    product, client, key = await core.product(), unique("c"), unique("key")
    device = await (await core.room()).connect(client)
    await device.bind(product)
    doomed, doomed_port = await started(settings, tmp_path / "doomed")
    async with proxied(doomed_port) as proxy, TopicReader(settings, names.MESSAGES).open() as log:

        def records() -> list[PushMessage]:
            return [each for each in log.records if isinstance(each, PushMessage) and each.client == client]

        async with asker(proxy) as http:
            await knows(http, product)
            proxy.stall(DOWN)  # the answer is held back from here on
            asked = asyncio.create_task(post(http, product, client, key, batch=batch))
            [first] = await eventually(records, what="the message in Kafka")
            assert not asked.done()
            doomed.send_signal(signal.SIGKILL)
            assert await doomed.wait() == -signal.SIGKILL
            proxy.reset()
            with pytest.raises(httpx.TransportError):
                await asked

        async with running(MAIN, settings, tmp_path / "next", **KEY) as report:
            proxy.target = port_of(report)
            proxy.release()
            async with asker(proxy) as http:
                await knows(http, product)
                answer = await post(http, product, client, key, batch=batch)
                assert answer.status_code == 202
                found = answer.json()["results"][0] if batch else answer.json()
                assert found["id"] == first.id
                await eventually(lambda: len(records()) == 2, what="the repeat in Kafka")
                await has_handled_both(core, product, client)
                page = (await device.sync(product)).pages[0]
                assert [item.id for item in page.items] == [first.id]
                after = await device.sync(product, acks=[Ack(product, first.id, State.ACKED)])
                assert after.pages[0].items == []
                state = (await http.get(f"/v1/messages/{first.id}")).json()
                assert (state["state"], len(state["clients"])) == ("acked", 1)


async def started(settings: Settings, folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    """A center that is to be killed."""
    process = await start(MAIN, folder, environment(settings, folder, **KEY))
    report = folder / "report.json"
    await until(report.exists)
    return process, port_of(httpx.Response(200, content=report.read_bytes()).json())


def asker(proxy: Proxy) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", headers={"X-API-Key": "killed-key"}, timeout=30)


async def knows(http: httpx.AsyncClient, product: str) -> None:
    body = {"product": product, "client": "c", "payload": "", "validate_only": True}

    async def known() -> bool:
        return (await http.post("/v1/messages", json=body)).status_code == 200

    await eventually(known, what="center's knowledge of the product")


async def has_handled_both(core: Core, product: str, client: str) -> None:
    """What is pushed now lies behind both in the partition; it is never stored."""
    await core.push(PushMessage(id=unique("last"), product=product, client=client, qos=0))
    await core.handled()
