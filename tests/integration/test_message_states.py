"""The state of a message over HTTP, each one really reached: center is a process, the room is the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from core import Core, Device, eventually, unique
from worker_process import running

from infra.settings import Settings
from infra.wire import Ack
from schemas import names
from schemas.codes import State
from schemas.records import PushMessage
from workers.center.ids import uuid7
from workers.center.unicast.sightings import Asked, Sightings
from workers.center.web.problems import Problem

pytestmark = pytest.mark.xdist_group("local-brokers")


@dataclass
class World:
    """The core, and an API that has it."""

    core: Core
    http: httpx.AsyncClient

    async def product(self, **changes: Any) -> str:
        """A product that center knows, too."""
        name = await self.core.product(**changes)
        await eventually(lambda: self._known(name), what="center's knowledge of the product")
        return name

    async def queued(self, **queue: Any) -> str:
        name = await self.core.queued(**queue)
        await eventually(lambda: self._known(name), what="center's knowledge of the product")
        return name

    async def _known(self, product: str) -> bool:
        body = {"product": product, "client": "c", "payload": "", "validate_only": True}
        return (await self.http.post("/v1/messages", json=body)).status_code == 200

    async def send(self, product: str, *, key: str = "", **body: Any) -> str:
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self.http.post("/v1/messages", json={"product": product, "payload": "x", **body}, headers=headers)
        assert answer.status_code == 202, answer.text
        message: str = answer.json()["id"]
        return message

    async def state(self, message: str, **params: Any) -> dict[str, Any]:
        answer = await self.http.get(f"/v1/messages/{message}", params=params)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def reaches(self, message: str, state: str, **params: Any) -> dict[str, Any]:
        """Its document, once it is in this state."""

        async def reached() -> dict[str, Any] | None:
            found = await self.state(message, **params)
            return found if found["state"] == state else None

        found: dict[str, Any] = await eventually(reached, what=f"{state} of {message}")
        return found

    async def device(self, product: str, client: str, *, user: str = "") -> Device:
        device = await (await self.core.room()).connect(client)
        await device.bind(product, user=user)
        return device

    async def settles(self, device: Device, product: str, message: str, state: State, detail: str = "") -> None:
        """The client's word, once the message is stored."""
        await self.reaches(message, "stored", client=device.client)
        assert (await device.sync(product, acks=[Ack(product, message, state, detail)])).status == "ok"


@pytest_asyncio.fixture(scope="module")
async def world(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    core = Core(settings)
    await core.start()
    folder, key = tmp_path_factory.mktemp("center"), "states-key"
    async with (
        running("workers.center.main:main", settings, folder / "run", LONGWIRE_CENTER__API_KEY=key) as report,
        httpx.AsyncClient(base_url=report["url"], headers={"X-API-Key": key}, timeout=20) as http,
    ):
        yield World(core, http)
    await core.stop()


def plausible(found: dict[str, Any], *times: int) -> None:
    """Accepted, then what came of it, then the answer, all in the last minute; clocks of one host differ by nothing."""
    now = time.time_ns() // 1_000_000
    line = [now - 60_000, found["accepted_ms"], *times, now + 1]
    assert line == sorted(line), line
    assert found["accepted_ms"] <= found["as_of_ms"] <= now + 1


# --- one client --------------------------------------------------------------------------------------------------------


async def test_given_an_offline_client_then_its_message_is_stored(world: World) -> None:
    product, client = await world.product(), unique("c")
    message = await world.send(product, client=client, ttl="1h")
    found = await world.reaches(message, "stored")
    assert (found["at_ms"], found["product"], found["qos"], found["whole"]) == (None, product, 1, True)
    assert found["clients"][0]["expires_ms"] == found["accepted_ms"] + 3_600_000
    plausible(found)


@pytest.mark.parametrize(
    ("end", "detail"),
    [(State.ACKED, None), (State.WRITTEN, None), (State.REJECTED, "0x87: no room for it"), (State.DEAD, "0x95")],
)
async def test_given_the_clients_word_then_that_is_the_state(world: World, end: State, detail: str | None) -> None:
    product, client = await world.product(), unique("c")
    device = await world.device(product, client)
    message = await world.send(product, client=client)
    await world.settles(device, product, message, end, detail or "")
    found = await world.state(message)
    assert (found["state"], found["detail"], found["clients"][0]["client"]) == (end.value, detail, client)
    plausible(found, found["at_ms"])


async def test_given_an_ack_that_the_register_has_forgotten_then_its_receipt_is_found(world: World) -> None:
    product, client = await world.product(), unique("c")
    device = await world.device(product, client)
    message = await world.send(product, client=client)
    await world.settles(device, product, message, State.ACKED)
    before = await world.state(message)
    await world.core.register.shards.of(device.key).pipe([("DEL", names.settled_key(device.key, product))])
    found = await world.state(message)
    assert (found["state"], found["whole"]) == ("acked", True)
    plausible(found, found["at_ms"])
    assert abs(found["at_ms"] - before["at_ms"]) < 5_000


async def test_given_a_short_life_then_it_is_stored_and_then_expired(world: World) -> None:
    product, client = await world.product(), unique("c")
    message = await world.send(product, client=client, ttl="2s")
    await world.reaches(message, "stored")
    found = await world.reaches(message, "expired")
    assert found["at_ms"] == found["accepted_ms"] + 2_000
    await world.device(product, client)  # its bind ends what has expired
    again = await world.reaches(message, "expired")
    assert again["clients"][0]["expires_ms"] is None, "it is not pending any more"
    assert again["at_ms"] >= found["at_ms"]


async def test_given_a_collapse_key_then_the_one_before_is_replaced(world: World) -> None:
    product, client = await world.product(), unique("c")
    first = await world.send(product, client=client, collapse_key="score")
    await world.reaches(first, "stored")
    second = await world.send(product, client=client, collapse_key="score")
    found = await world.reaches(first, "replaced")
    plausible(found, found["at_ms"])
    assert (await world.reaches(second, "stored"))["at_ms"] is None


async def test_given_a_full_queue_then_the_oldest_is_evicted(world: World) -> None:
    product, client = await world.product(max_pending=1), unique("c")
    first = await world.send(product, client=client)
    await world.reaches(first, "stored")
    second = await world.send(product, client=client)
    found = await world.reaches(first, "evicted")
    plausible(found, found["at_ms"])
    await world.reaches(second, "stored")


async def test_given_a_producer_that_keeps_no_bounds_then_its_message_is_dead_with_the_reason(world: World) -> None:
    product, client, message = await world.product(max_payload=10), unique("c"), new_id()
    await world.core.push(PushMessage(id=message, product=product, client=client, payload=b"x" * 11))
    found = await world.reaches(message, "dead")
    assert found["detail"] == "payload has 11 bytes, the product allows 10"
    plausible(found, found["at_ms"])


async def test_given_qos_0_then_its_state_is_unknown(world: World) -> None:
    product, client = await world.product(), unique("c")
    found = await world.state(await world.send(product, client=client, qos=0))
    assert (found["state"], found["qos"]) == ("unknown", 0)
    assert "QoS 0" in found["detail"]


def new_id() -> str:
    """As a producer that is not center makes one."""
    return str(UUID(int=uuid7(time.time_ns() // 1_000_000, unique("r").encode()).int))


# --- users -------------------------------------------------------------------------------------------------------------


async def test_given_a_user_with_two_clients_then_each_has_its_own_state(world: World) -> None:
    product, user = await world.product(), unique("u")
    phone, tablet = [await world.device(product, unique("c"), user=user) for _ in range(2)]
    message = await world.send(product, user=user)
    await world.settles(phone, product, message, State.ACKED)
    await world.reaches(message, "stored", client=tablet.client)
    found = await world.state(message)
    assert (found["state"], found["user"], found["clients_total"], found["whole"]) == ("expanded", user, 2, True)
    assert {each["client"]: each["state"] for each in found["clients"]} == {phone.client: "acked", tablet.client: "stored"}
    plausible(found, found["at_ms"], next(each["at_ms"] for each in found["clients"] if each["state"] == "acked"))
    assert (await world.state(message, user=user))["clients_total"] == 2


async def test_given_a_user_without_clients_then_dead(world: World) -> None:
    product, user = await world.product(), unique("u")
    found = await world.reaches(await world.send(product, user=user), "dead")
    assert (found["detail"], found["clients"]) == (f"user {user} has no clients in {product}", [])


# --- own queues --------------------------------------------------------------------------------------------------------


async def test_given_a_queue_of_its_own_that_is_paused_then_accepted_then_stored(world: World) -> None:
    product, client = await world.queued(rate=1000, paused=True), unique("c")
    await eventually(lambda: own_queue(world, product), what="center's look at the topic")
    message = await world.send(product, client=client)
    assert (await world.state(message))["state"] == "accepted"
    await world.core.queue(product, rate=1000)
    plausible(await world.reaches(message, "stored"))


async def own_queue(world: World, product: str) -> bool:
    """Does center produce to it already? What it put into the shared topic is moved within half a second."""
    probe = await world.send(product, client="probe")
    await asyncio.sleep(0.5)
    return bool((await world.state(probe))["state"] == "accepted")


async def test_given_a_producer_that_does_not_know_the_queue_then_moved_then_stored(world: World) -> None:
    product, client, message = await world.queued(rate=1000, paused=True), unique("c"), new_id()
    await world.core.push(PushMessage(id=message, product=product, client=client, payload=b"x"))
    found = await world.reaches(message, "moved")
    [event] = (await world.state(message, trace=True))["clients"][0]["trace"]
    assert (event["state"], event["detail"]) == ("moved", names.queue_topic(product))
    await world.core.queue(product, rate=1000)
    after = await world.reaches(message, "stored")
    assert after["accepted_ms"] == found["accepted_ms"]


# --- how it is found ---------------------------------------------------------------------------------------------------


async def test_given_an_idempotency_key_then_its_id_is_found_without_its_client(world: World) -> None:
    product, client = await world.product(), unique("c")
    message = await world.send(product, client=client, key=unique("key"))
    assert message.startswith("k-")
    assert (await world.reaches(message, "stored"))["clients"][0]["client"] == client


async def test_given_the_senders_own_id_then_it_is_found_by_its_client(world: World) -> None:
    product, client, message = await world.product(), unique("c"), unique("order")
    await world.send(product, client=client, id=message)
    await world.reaches(message, "stored", client=client)
    answer = await world.http.get(f"/v1/messages/{message}")
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:longwire:problem:client-needed")
    other = await world.http.get(f"/v1/messages/{message}", params={"client": unique("c")})
    assert (other.status_code, other.json()["type"]) == (404, "urn:longwire:problem:unknown-message")


async def test_given_another_product_or_no_message_then_the_same_404(world: World) -> None:
    product, other, client = await world.product(), await world.product(), unique("c")
    message = await world.send(product, client=client)
    for params in ({"product": other}, {"product": other, "client": client}):
        answer = await world.http.get(f"/v1/messages/{message}", params=params)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:longwire:problem:unknown-message")
    assert (await world.http.get(f"/v1/messages/{new_id()}")).json()["whole"]


async def test_given_more_records_than_a_search_may_look_at_then_it_says_so(world: World) -> None:
    product, client, began = await world.product(), unique("c"), time.time_ns() // 1_000_000
    await world.core.push(*[PushMessage(id=f"{client}-{i}", product=product, client=client, payload=b"x") for i in range(200)])
    few, many = [Sightings(world.core.settings.kafka, world.core.journal.partitions, most=most) for most in (50, 100_000)]

    def asked(message: str, *times_ms: int) -> Asked:
        products, topics = frozenset({product}), (names.MESSAGES,)
        return Asked(id=message, products=products, topics=topics, realm="main", client=client, times_ms=times_ms)

    async def found(log: Sightings, *args: Any) -> tuple[bool, bool]:
        sighting = await log.find(asked(*args))
        return sighting.message is not None, sighting.whole

    assert await found(few, f"{client}-0", began) == (True, True), "from its time on it is the first one"
    assert await found(few, f"{client}-199", began) == (False, False)
    assert await found(few, f"{client}-199") == (True, True), "without a time the last ones are looked at"
    assert await found(few, f"{client}-0") == (False, False)
    assert await found(many, f"{client}-0") == (True, True)
    assert await found(many, "nobody's", began) == (False, True)

    answers = await asyncio.gather(*(many.find(asked("nobody's", began)) for _ in range(12)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, Problem)]
    assert [each.status for each in refused] == [503, 503], "two are read for, eight wait"
    assert await found(many, f"{client}-0", began) == (True, True)


# --- what is pending ---------------------------------------------------------------------------------------------------


async def test_given_messages_of_several_priorities_then_they_are_listed_in_their_order_page_by_page(world: World) -> None:
    product, client = await world.product(), unique("c")
    priorities = ["low", "normal", "high", "low", "normal"]
    sent = [await world.send(product, client=client, priority=priority) for priority in priorities]
    await world.core.handled()
    for message in sent:
        await world.reaches(message, "stored")
    listed: list[str] = []
    pages, cursor = 0, ""
    while pages == 0 or cursor:
        params: dict[str, Any] = {"product": product, "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await world.http.get(f"/v1/clients/{client}/messages", params=params)).json()
        listed, pages, cursor = [*listed, *ids(page["items"])], pages + 1, page["next"]
    assert (listed, pages) == ([sent[2], sent[1], sent[4], sent[0], sent[3]], 3)


def ids(items: Sequence[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]
