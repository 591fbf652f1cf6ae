"""API keys on real brokers, with two centers: made at one, good at both; rotated, revoked, audited; no secret anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from core import TopicReader, unique
from worker_process import running, until

from infra.bus import Bus
from infra.documents import Product, product_key
from infra.keeper import Keeper
from infra.settings import Settings
from schemas import names
from schemas.broadcasts import Audit

pytestmark = pytest.mark.xdist_group("local-brokers")

KEY = "operators-key"
MAIN = "workers.center.main:main"
SHOP, CAFE = "keys-shop", "keys-cafe"


class Centers:
    """Two centers on the same brokers, with the folders of their processes."""

    def __init__(self, urls: list[str], folders: list[Path]) -> None:
        self.urls = urls
        self.folders = folders

    def http(self, key: str, center: int = 0) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.urls[center], headers={"Authorization": f"Bearer {key}"}, timeout=10)

    async def make(self, **more: Any) -> tuple[str, str]:
        """A key of the shop's, as (id, key)."""
        asked = {"name": "a test", "products": [SHOP], "roles": ["send", "read", "operate"], "by": "ann", **more}
        async with self.http(KEY) as http:
            answer = await http.post("/v1/keys", json=asked)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], answer.json()["key"]

    async def status(self, key: str, center: int = 0) -> int:
        async with self.http(key, center) as http:
            return (await http.get("/v1/rooms")).status_code

    async def becomes(self, key: str, status: int) -> None:
        """At both centers, within a moment."""
        for center in range(2):

            async def there(center: int = center) -> bool:
                return await self.status(key, center) == status

            await until(there, deadline=10)


@pytest_asyncio.fixture(scope="module")
async def centers(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Centers]:
    folder = tmp_path_factory.mktemp("keys")
    bus = Bus(settings.nats, name="test-keys", version="0.0.0")
    await bus.start()
    keeper = Keeper(bus, disk=folder / "keeper")
    for product in (SHOP, CAFE):
        await keeper.put(product_key(product), Product(name=product))
    folders = [folder / "one", folder / "two"]
    async with AsyncExitStack() as stack:
        reports = [
            await stack.enter_async_context(running(MAIN, settings, each, LONGWIRE_CENTER__API_KEY=KEY)) for each in folders
        ]
        yield Centers([report["url"] for report in reports], folders)
    await bus.stop()


async def test_given_a_key_made_at_one_center_then_it_is_good_at_both_for_its_product_alone(centers: Centers) -> None:
    _, key = await centers.make()
    await centers.becomes(key, 200)
    for center in range(2):
        async with centers.http(key, center) as http:
            asked = {"client": "phone-1", "payload": "x"}
            assert (await http.post("/v1/messages", json={**asked, "product": SHOP})).status_code == 202
            answers = [await http.post("/v1/messages", json={**asked, "product": name}) for name in (CAFE, "nowhere")]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].json()["detail"] == answers[1].json()["detail"].replace("nowhere", CAFE)
            answer = await http.post("/v1/broadcasts", json={"product": SHOP, "payload": "x"})
            assert (answer.status_code, answer.json()["missing"]) == (403, "broadcast")


async def test_given_a_rotation_and_a_revocation_then_both_centers_follow_and_all_is_audited(
    centers: Centers, settings: Settings
) -> None:
    async with TopicReader(settings, names.AUDIT).open() as audit:
        key_id, old = await centers.make(reason="a new server")
        await centers.becomes(old, 200)
        async with centers.http(KEY, 1) as http:
            fresh = (await http.post(f"/v1/keys/{key_id}/rotate", json={"by": "bob"})).json()["key"]
            await centers.becomes(fresh, 200)
            await centers.becomes(old, 200)
            assert (await http.post(f"/v1/keys/{key_id}/drop", json={"by": "bob"})).json()["secrets"] == 1
            await centers.becomes(old, 401)
            await centers.becomes(fresh, 200)
        async with centers.http(KEY, 0) as http:
            assert (await http.post(f"/v1/keys/{key_id}/revoke", json={"by": "eve", "reason": "it leaked"})).is_success
        await centers.becomes(fresh, 401)

        def audits() -> list[Audit]:
            return [item for item in audit.records if isinstance(item, Audit) and key_id in item.after]

        found = await until(lambda: audits() if len(audits()) == 4 else [])
    assert [(item.product, item.subject, item.action, item.by) for item in found] == [
        (SHOP, "key", "create", "ann (key operator)"),
        (SHOP, "key", "rotate", "bob (key operator)"),
        (SHOP, "key", "drop", "bob (key operator)"),
        (SHOP, "key", "revoke", "eve (key operator)"),
    ]
    assert (found[0].before, found[0].reason, found[3].reason) == ("none", "a new server", "it leaked")
    secrets = [key.rpartition("_")[2] for key in (old, fresh)]
    texts = [repr(found)] + [path.read_text(errors="replace") for folder in centers.folders for path in _files(folder)]
    assert [secret for secret in secrets for text in texts if secret in text] == []


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_given_keys_on_disk_then_their_file_has_hashes_and_is_the_owners(centers: Centers) -> None:
    key_id, key = await centers.make()
    await centers.becomes(key, 200)
    for folder in centers.folders:
        file = folder / "center" / "api-keys.json"
        kept: dict[str, str] = await until(
            lambda file=file: file.exists() and key_id in file.read_text() and json.loads(file.read_text())
        )  # type: ignore[misc]
        assert len(json.loads(kept[key_id])["secrets"][0]["hash"]) == 64
        assert key.rpartition("_")[2] not in file.read_text()
        assert os.stat(file).st_mode & 0o077 == 0


async def test_given_a_key_that_is_used_then_its_last_use_is_shown(centers: Centers) -> None:
    key_id, key = await centers.make()
    await centers.becomes(key, 200)
    async with centers.http(KEY) as http:
        listed = {row["id"]: row for row in (await http.get("/v1/keys?limit=1000")).json()["keys"]}
    assert listed[key_id]["last_used_at"] is not None
    never = await centers.make()
    async with centers.http(KEY) as http:
        listed = {row["id"]: row for row in (await http.get("/v1/keys?limit=1000")).json()["keys"]}
    assert listed[never[0]]["last_used_at"] is None


async def test_given_a_rate_then_two_centers_together_keep_to_it(centers: Centers) -> None:
    _, key = await centers.make(rate=10)
    await centers.becomes(key, 200)
    await asyncio.sleep(1.5)  # the bucket is full again
    began = time.monotonic()
    async with centers.http(key, 0) as one, centers.http(key, 1) as two:
        answers = await asyncio.gather(*(http.get("/v1/rooms") for http in (one, two) for _ in range(40)))
    most = 10 + 10 * (time.monotonic() - began) + 1
    good = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(good) + len(refused), 5 <= len(good) <= most) == (80, True)
    assert {answer.json()["type"] for answer in refused} == {"urn:longwire:problem:too-fast"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert await centers.status(KEY) == 200


async def test_given_a_token_of_one_center_then_the_other_takes_the_confirmed_broadcast_once(centers: Centers) -> None:
    _, key = await centers.make(roles=["broadcast", "read"], confirm_over=1)
    await centers.becomes(key, 200)
    audience = unique("list")
    sale = {"product": SHOP, "payload": "sale", "audience": audience}
    async with centers.http(key, 0) as one, centers.http(key, 1) as two:
        headers = {"Content-Type": "text/plain"}
        uploaded = await one.put(f"/v1/audiences/{audience}?product={SHOP}", content="c1\nc2\n", headers=headers)
        assert uploaded.status_code == 201
        asked = await one.post("/v1/broadcasts", json=sale)
        assert (asked.status_code, asked.json()["estimate"]) == (409, 2)
        confirmed = {**sale, "confirm": asked.json()["confirm"]}
        assert (await two.post("/v1/broadcasts", json={**confirmed, "payload": "another"})).status_code == 409
        answers = [await http.post("/v1/broadcasts", json=confirmed) for http in (two, one)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_given_a_wiped_store_when_a_center_starts_then_it_knows_the_keys_from_its_disk_and_puts_them_back(
    centers: Centers, settings: Settings, tmp_path: Path
) -> None:
    key_id, key = await centers.make()
    await centers.becomes(key, 200)
    async with running(MAIN, settings, tmp_path / "a", LONGWIRE_CENTER__API_KEY=KEY) as report:
        centers_here = Centers([report["url"], report["url"]], [])
        await centers_here.becomes(key, 200)
    bus = Bus(settings.nats, name="test-keys", version="0.0.0")
    await bus.start()
    try:
        await bus._client.jetstream().delete_key_value(names.KV_API_KEYS)
        (tmp_path / "a" / "report.json").unlink()
        async with running(MAIN, settings, tmp_path / "a", LONGWIRE_CENTER__API_KEY=KEY) as report:
            again = Centers([report["url"], report["url"]], [])
            await again.becomes(key, 200)

            async def filled() -> bool:
                bucket = await bus.bucket(names.KV_API_KEYS)
                return key_id in await bucket.keys()

            await until(filled)
    finally:
        await bus.stop()
