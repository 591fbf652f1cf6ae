"""Center as a process on real brokers: what it answers 202 is in Kafka, and what it shows comes from KV, leases and Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from worker_process import environment, running, start, until

from infra.bus import Bus
from infra.documents import Policy, Product, product_key
from infra.keeper import Keeper
from infra.register import Connected, Register, RegisterNotReady
from infra.settings import Settings
from infra.wire import ConnectItem, Lease, RoomEntry, encoder
from schemas import codec, names
from schemas.broadcasts import Audit, Broadcast, Transition
from schemas.records import PushMessage, Record

pytestmark = pytest.mark.xdist_group("local-brokers")

KEY = "integration-key"
PRODUCT = "center-shop"
MAIN = "workers.center.main:main"


@pytest_asyncio.fixture(scope="module")
async def bus(settings: Settings) -> AsyncIterator[Bus]:
    part = Bus(settings.nats, name="test-center", version="0.0.0")
    await part.start()
    yield part
    await part.stop()


@pytest_asyncio.fixture(scope="module")
async def center(settings: Settings, bus: Bus, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """A running center that already knows the product: where it listens."""
    folder: Path = tmp_path_factory.mktemp("center")
    keeper = Keeper(bus, disk=folder / "keeper")
    await keeper.put(product_key(PRODUCT), Product(name=PRODUCT, rate=100))
    async with running(MAIN, settings, folder / "run", LONGWIRE_CENTER__API_KEY=KEY) as report:
        yield report


@pytest_asyncio.fixture(scope="module")
async def http(center: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with httpx.AsyncClient(base_url=center["url"], headers={"X-API-Key": KEY}, timeout=10) as client:
        yield client


async def read(settings: Settings, topic: str, record_id: str, *, by: str = "id") -> tuple[str | None, Record]:
    """The record with this id (in the field `by`), with its key, wherever in the topic it lies."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, i) for i in range(settings.kafka.partitions)])
        async with asyncio.timeout(20):
            async for item in consumer:
                record = codec.decode(item.value)
                if getattr(record, by, None) == record_id:
                    return item.key and item.key.decode(), record
    finally:
        await consumer.stop()
    raise AssertionError(record_id)


@asynccontextmanager
async def leased(bus: Bus, room: str, *, epoch: int, state: str = "open") -> AsyncIterator[None]:
    """A room as others see it: an entry in KV, and leases until the block ends."""
    entry = RoomEntry(room, epoch, "127.0.0.1", 18_000 + epoch, {"zone": "a"})
    bucket = await bus.bucket(names.KV_ROOMS)
    await bucket.put(room, msgspec.json.encode(entry))

    async def lease() -> None:
        while True:
            await bus.publish(names.ROOMS_LEASE, encoder().encode(Lease(room, epoch, 1, state, 5, {PRODUCT: 4})))
            await asyncio.sleep(0.2)

    task = asyncio.create_task(lease())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.publish(names.ROOMS_LEASE, encoder().encode(Lease(room, epoch, 1, "stopped", 0, {})))
        await bucket.delete(room)


async def test_given_all_brokers_then_ready_and_the_metrics_are_on_the_internal_listener_alone(
    center: dict[str, Any], http: httpx.AsyncClient
) -> None:
    assert (await http.get("/readyz")).json()["reasons"] == {}
    assert (await http.get("/metrics")).status_code == 404
    async with httpx.AsyncClient(base_url=center["internal"], timeout=10) as internal:
        assert "longwire_center_requests_total" in (await internal.get("/metrics")).text
        assert [(await internal.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]


async def test_given_a_202_then_the_message_is_in_kafka_under_its_client(settings: Settings, http: httpx.AsyncClient) -> None:
    body = {"product": PRODUCT, "client": "phone-1", "payload": "hello", "ttl": "1m"}
    response = await http.post("/v1/messages", json=body)
    assert response.status_code == 202
    record_id = response.json()["id"]
    expected = PushMessage(id=record_id, product=PRODUCT, client="phone-1", payload=b"hello", ttl_s=60)
    assert await read(settings, names.MESSAGES, record_id) == ("phone-1", expected)


async def test_given_a_product_put_later_then_center_knows_it_within_a_moment(
    bus: Bus, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    body = {"product": "center-late", "client": "c", "payload": "", "validate_only": True}
    assert (await http.post("/v1/messages", json=body)).status_code == 404
    await Keeper(bus, disk=tmp_path).put(product_key("center-late"), Product(name="center-late"))

    async def known() -> bool:
        return (await http.post("/v1/messages", json=body)).status_code == 200

    await until(known)


async def test_given_a_product_by_the_api_then_it_can_be_sent_to_changed_by_its_tag_and_removed(
    settings: Settings, http: httpx.AsyncClient
) -> None:
    where, body = "/v1/products/center-made", {"product": "center-made", "client": "c", "payload": "", "validate_only": True}
    made = await http.put(where, json={"rate": 70}, headers={"If-None-Match": "*"}, params={"reason": "a-new-product"})
    assert (made.status_code, made.headers.get("Location")) == (201, where), made.text

    async def sent(status: int) -> bool:
        return (await http.post("/v1/messages", json=body)).status_code == status

    await until(lambda: sent(200))
    changes = [http.patch(where, json={"rate": rate}, headers={"If-Match": made.headers["ETag"]}) for rate in (71, 72, 73)]
    answers = await asyncio.gather(*changes)
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412]
    [won] = [answer for answer in answers if answer.status_code == 200]
    shown = await http.get(where)
    assert (shown.json(), shown.headers["ETag"]) == (won.json(), won.headers["ETag"])
    assert (await http.delete(where, headers={"If-Match": made.headers["ETag"]})).status_code == 412
    assert (await http.delete(where, headers={"If-Match": won.headers["ETag"]})).status_code == 204
    await until(lambda: sent(404))
    assert (await http.get(where)).status_code == 404
    key, record = await read(settings, names.AUDIT, "a-new-product", by="reason")
    assert (key, isinstance(record, Audit) and record.action) == ("center-made", "put")
    actions, cursor = [], ""
    while cursor is not None:
        page = (await http.get("/v1/audit", params={"product": "center-made", "limit": 1, "cursor": cursor})).json()
        actions += [each["action"] for each in page["records"]]
        cursor = page["next"]
    assert (actions[0], actions[-1]) == ("delete", "put")
    assert set(actions[1:-1]) == {"patch"}, "each attempt that was overtaken has a record, too"


async def test_given_access_lists_when_changed_then_center_shows_them_and_the_change_is_in_the_audit(
    settings: Settings, http: httpx.AsyncClient
) -> None:
    assert (await http.post("/v1/access", json={"list": "allow", "add": {"clients": ["only-me"]}})).status_code == 409
    body = {"list": "deny", "add": {"networks": ["203.0.113.9"], "clients": ["phone-9"]}, "by": "ann-of-access"}
    changed = await http.post("/v1/access", json=body)
    assert (changed.status_code, changed.json()["deny"]["networks"]) == (200, ["203.0.113.9/32"])

    async def is_shown() -> bool:
        return (await http.get("/v1/access")).json() == changed.json()

    await until(is_shown)
    _, record = await read(settings, names.AUDIT, "ann-of-access (key operator)", by="by")
    assert isinstance(record, Audit)
    assert record.after.endswith(": +203.0.113.9/32 +phone-9")
    lifted = await http.post("/v1/access", json={"list": "deny", "remove": body["add"]})
    assert (lifted.status_code, lifted.json()["deny"]["clients"]) == (200, [])


@pytest.mark.parametrize("own", [None, "job:1", ".dots..and:colons."])
async def test_given_a_broadcast_then_it_is_in_kafka_and_shown_as_its_owner_tells(
    settings: Settings, bus: Bus, http: httpx.AsyncClient, own: str | None
) -> None:
    response = await http.post("/v1/broadcasts", json={"product": PRODUCT, "payload": "sale", "rate": 10, "id": own})
    assert response.status_code == 202
    job, where = response.json()["id"], response.headers["Location"]
    assert await read(settings, names.BROADCASTS, job) == (PRODUCT, Broadcast(id=job, product=PRODUCT, payload=b"sale", rate=10))
    assert (await http.get(where)).json()["state"] == "accepted"

    bucket = await bus.bucket(names.KV_JOBS)
    running_job = {"job": job, "product": PRODUCT, "state": "running", "rate": 10, "totals": {"sent": 3}}
    await bucket.put(names.kv_job_key(job), json.dumps(running_job).encode())

    async def told() -> bool:
        return (await http.get(where)).json()["totals"].get("sent") == 3

    await until(told)
    again = await http.post("/v1/broadcasts", json={"product": PRODUCT, "payload": "sale", "rate": 10, "id": job})
    assert again.status_code == 202
    assert (await http.get(where)).json()["state"] == "running", "a repeat must not set the shown state back"


async def test_given_a_broadcast_when_steered_then_what_is_asked_is_in_kafka_and_each_change_is_an_event(
    settings: Settings, bus: Bus, http: httpx.AsyncClient
) -> None:
    job = (await http.post("/v1/broadcasts", json={"product": PRODUCT, "payload": "sale", "rate": 10})).json()["id"]
    paused = await http.post(f"/v1/broadcasts/{job}/pause", json={"by": "ann", "reason": "a wrong link"})
    assert (paused.status_code, paused.json()["state"]) == (202, "paused")
    key, record = await read(settings, names.BROADCASTS, job, by="job")
    assert (key, record) == (PRODUCT, Transition(job=job, product=PRODUCT, action="pause", by="ann", reason="a wrong link"))

    bucket = await bus.bucket(names.KV_JOBS)
    shown: list[str] = []
    async with asyncio.timeout(20), http.stream("GET", f"/v1/broadcasts/{job}/events") as events:
        async for line in events.aiter_lines():
            if line.startswith("data: "):
                shown.append(json.loads(line[6:])["state"])
                state = {"accepted": "paused", "paused": "cancelled"}.get(shown[-1])
                if state is not None:
                    document = {"job": job, "product": PRODUCT, "state": state, "rate": 10}
                    await bucket.put(names.kv_job_key(job), json.dumps(document).encode())
    assert shown == ["accepted", "paused", "cancelled"], "the stream ends when the job is over"
    assert (await http.post(f"/v1/broadcasts/{job}/resume")).status_code == 409
    listed = (await http.get("/v1/broadcasts", params={"product": PRODUCT, "state": "cancelled"})).json()["broadcasts"]
    assert [each["id"] for each in listed] == [job]
    assert (await http.get(f"/v1/broadcasts/{job}/audit")).json() == {"id": job, "records": [], "whole": True}


async def test_given_a_room_that_is_gone_when_estimated_then_it_has_its_reason(bus: Bus, http: httpx.AsyncClient) -> None:
    async with leased(bus, "center-r8", epoch=8):

        async def told() -> Any:
            answer = (await http.post("/v1/broadcasts/estimate", json={"product": PRODUCT})).json()
            return answer if answer["rooms"] else None

        answer = await until(told)
    assert answer["rooms"] == [{"room": "center-r8", "persons": None, "error": "no answer: NoResponders"}]
    assert (answer["online"], answer["offline"], answer["offline_estimated"]) == (0, 0, False)


async def test_given_rooms_with_leases_then_they_are_listed_and_devices_sent_to_the_open_one(
    bus: Bus, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/v1/dispatch", params={"client": "c1"})).status_code == 503
    async with leased(bus, "center-r1", epoch=1), leased(bus, "center-r2", epoch=2, state="draining"):

        async def both() -> bool:
            return len((await http.get("/v1/rooms")).json()["rooms"]) == 2

        await until(both)

        async def sent() -> dict[str, Any] | None:  # the dispatcher looks at the rooms four times a second
            response = await http.get("/v1/dispatch", params={"client": "c1"})
            return response.json() if response.is_success else None

        answer = await until(sent)
        assert [entry["room"] for entry in answer["addresses"]] == ["center-r1"]
        assert answer["heartbeat_s"] == Policy().keep_alive_default

    async def gone() -> bool:
        return (await http.get("/v1/dispatch", params={"client": "c1"})).status_code == 503

    await until(gone)


async def test_given_a_client_in_the_register_then_its_session_is_shown(
    settings: Settings, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert (await http.get("/v1/clients/center-c1")).status_code == 404
    register = Register(settings.redis)
    await register.start()

    async def connect() -> list[Connected] | None:
        try:
            return await register.connect([ConnectItem("main:center-c1", "r9", 3, 1)])
        except RegisterNotReady:
            return None

    try:
        async with running("workers.main:delivery", settings, tmp_path / "delivery"):  # it opens the register
            [connected] = await until(connect)
    finally:
        await register.stop()
    shown = (await http.get("/v1/clients/center-c1")).json()
    assert shown["session"] == {
        "room": "r9",
        "epoch": 3,
        "generation": connected.generation,
        "number": connected.number,
        "connection": 1,
        "live": False,
    }


async def test_given_an_idempotency_key_when_repeated_then_the_same_id_and_another_body_is_refused(
    http: httpx.AsyncClient,
) -> None:
    body = {"product": PRODUCT, "client": "key-1", "payload": "one"}
    headers = {"Idempotency-Key": "integration 17"}
    answers = [await http.post("/v1/messages", json={**body, "payload": text}, headers=headers) for text in ("one", "one", "two")]
    assert [answer.status_code for answer in answers] == [202, 202, 409]
    assert answers[0].json() == answers[1].json()


async def test_given_no_api_key_then_center_refuses_to_start_and_says_what_to_set(settings: Settings, tmp_path: Path) -> None:
    process = await start(MAIN, tmp_path, environment(settings, tmp_path))
    async with asyncio.timeout(30):
        assert await process.wait() == 1
    assert "LONGWIRE_CENTER__API_KEY" in (tmp_path / "log").read_text()
