"""The keeper on a real NATS: documents reach every process, bad ones do not, and a wiped bucket wipes nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from core import eventually, unique
from nats.js.errors import KeyNotFoundError

from infra.bus import Bus, BusDown
from infra.documents import ACCESS, Access, Issuer, Policy, Product, SigningKey, issuer_key, product_key
from infra.keeper import Keeper, Unreadable
from infra.mirror import Mirror
from infra.settings import Settings
from schemas import names


async def a_keeper(settings: Settings, disk: Path) -> tuple[Bus, Keeper]:
    bus = Bus(settings.nats, name="test-keeper", version="0.0.1")
    await bus.start()
    keeper = Keeper(bus, disk=disk)
    await keeper.start()
    return bus, keeper


async def test_given_a_document_when_put_then_another_process_has_it(settings: Settings, tmp_path: Path) -> None:
    one, two = await a_keeper(settings, tmp_path / "1"), await a_keeper(settings, tmp_path / "2")
    name = unique("p")
    await one[1].put(product_key(name), Product(name=name, rate=7))
    await eventually(lambda: name in two[1].products, what="the product")
    assert two[1].products[name].rate == 7
    for bus, keeper in (one, two):
        await keeper.stop()
        await bus.stop()


async def test_given_access_lists_when_put_then_every_process_has_them_and_a_bad_entry_changes_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    bus, keeper = await a_keeper(settings, tmp_path)
    await keeper.put(ACCESS, Access.model_validate({"deny": {"networks": ["203.0.113.0/24"], "patterns": ["bot-*"]}}))
    await eventually(lambda: keeper.access.deny.patterns == ("bot-*",), what="the lists")
    bucket = await bus.bucket(names.KV_KEEPER)
    await bucket.put(ACCESS, b'{"deny": {"patterns": ["(a+)+$"]}}')
    marker = unique("p")
    await keeper.put(product_key(marker), Product(name=marker))
    await eventually(lambda: marker in keeper.products)
    assert keeper.access.deny.networks == ("203.0.113.0/24",)
    await bucket.delete(ACCESS)
    await eventually(lambda: keeper.access == Access(), what="no lists")
    await keeper.stop()
    await bus.stop()


async def test_given_a_document_that_comes_and_goes_when_written_over_what_was_read_then_only_the_first_is_taken(
    settings: Settings, tmp_path: Path
) -> None:
    bus, keeper = await a_keeper(settings, tmp_path)
    name = unique("p")
    key = product_key(name)
    for rate in (1, 2):  # where it never was, and where it was removed
        found, revision = await keeper.latest(key)
        assert found is None
        assert await keeper.replace(key, Product(name=name, rate=rate), revision)
        assert not await keeper.replace(key, Product(name=name, rate=9), revision)
        assert (await keeper.latest(key))[0] == Product(name=name, rate=rate)
        await keeper.remove(key)
    bucket = await bus.bucket(names.KV_KEEPER)
    await bucket.put(key, b'{"name": "x", "rate": -1}')
    with pytest.raises(Unreadable):
        await keeper.latest(key)
    await bucket.delete(key)
    await keeper.stop()
    await bus.stop()


async def test_given_a_wiped_store_that_is_not_filled_again_when_read_to_write_then_not_now(
    settings: Settings, tmp_path: Path
) -> None:
    bus, keeper = await a_keeper(settings, tmp_path)
    name = unique("p")
    await keeper.put(product_key(name), Product(name=name))
    await eventually(lambda: name in keeper.products)
    stream = bus._client.jetstream()
    await stream.delete_key_value(names.KV_KEEPER)
    with pytest.raises(BusDown, match="not filled again"):
        await keeper.latest(ACCESS)
    await keeper.put(product_key(name), Product(name=name))
    assert await keeper.latest(ACCESS) == (None, 0)
    await keeper.stop()
    await bus.stop()


async def test_given_a_bad_document_then_the_last_good_one_stays(settings: Settings, tmp_path: Path) -> None:
    bus, keeper = await a_keeper(settings, tmp_path)
    name, later = unique("p"), unique("p")
    await keeper.put(product_key(name), Product(name=name, rate=7))
    await eventually(lambda: name in keeper.products)
    bucket = await bus.bucket(names.KV_KEEPER)
    await bucket.put(product_key(name), b'{"name": "x", "rate": -1}')
    await bucket.put("nonsense.key", b"{}")
    await keeper.put(product_key(later), Product(name=later))
    await eventually(lambda: later in keeper.products)
    assert keeper.products[name].rate == 7
    await keeper.stop()
    await bus.stop()


async def test_given_a_wiped_bucket_then_what_was_known_stays_and_survives_on_disk(settings: Settings, tmp_path: Path) -> None:
    bus, keeper = await a_keeper(settings, tmp_path)
    name, label = unique("p"), unique("i")
    key = SigningKey.model_validate({"kid": "1", "secret": "s" * 40})
    await keeper.put(product_key(name), Product(name=name))
    await keeper.put(issuer_key(label), Issuer(iss=label, keys=(key,)))
    await eventually(lambda: name in keeper.products and label in keeper.issuers)
    stream = bus._client.jetstream()
    await stream.delete_key_value(names.KV_KEEPER)
    keeper._mirror._again.set()
    await eventually(lambda: not keeper._mirror._again.is_set(), what="the full read")
    assert name in keeper.products
    await keeper.stop()
    await bus.stop()

    bus, again = await a_keeper(settings, tmp_path)
    assert name in again.products
    assert again.issuers[label].keys[0].secret.get_secret_value() == "s" * 40
    assert "ssss" not in repr(again.issuers)
    assert (tmp_path / "keeper.json").stat().st_mode & 0o077 == 0
    await again.put("policy", Policy())
    await again.stop()
    await bus.stop()


async def test_given_a_wiped_store_then_a_worker_puts_back_what_it_knows_and_keeps_what_others_did(
    settings: Settings, tmp_path: Path
) -> None:
    bus = Bus(settings.nats, name="test-keeper", version="0.0.1")
    await bus.start()
    name, other, bucket = unique("p"), unique("p"), unique("keeper")
    seen: list[str] = []
    worker = Mirror(bus, bucket, on_change=lambda key, value: seen.append(key), keep_when_empty=True, refill=True)
    await (await bus.bucket(bucket)).put(name, b"one")
    await (await bus.bucket(bucket)).put(other, b"removed")
    await worker.start()
    await (await bus.bucket(bucket)).delete(other)
    await eventually(lambda: worker.entries == {name: b"one"}, what="the removal")
    await bus._client.jetstream().delete_key_value(bucket)
    worker._again.set()

    async def value(key: str) -> bytes | None:
        try:
            return (await (await bus.bucket(bucket)).get(key)).value
        except KeyNotFoundError:
            return None

    async def back() -> bool:
        return await value(name) == b"one"

    await eventually(back, what="the entry, in the new bucket")
    assert await value(other) is None  # what was removed stays removed
    await worker.stop()
    await bus.stop()


async def test_given_the_buckets_then_a_jobs_entry_goes_a_month_after_its_last_put_and_a_document_never(
    settings: Settings,
) -> None:
    bus = Bus(settings.nats, name="test-keeper", version="0.0.1")
    await bus.start()
    jobs, keeper = await bus.bucket(names.KV_JOBS), await bus.bucket(names.KV_KEEPER)
    assert [(await bucket.status()).ttl for bucket in (jobs, keeper)] == [30 * 24 * 3600, 0]
    await bus.stop()
