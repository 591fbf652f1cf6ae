"""`pushctl tail`, `dlq` and `replay` on real topics, below the command line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from core import Core, eventually, unique
from msgspec.structs import replace

from infra.ops import again, logs
from infra.settings import Settings
from infra.wire import Ack
from schemas import names
from schemas.codes import State
from schemas.records import DeadLetter, PushMessage


@pytest_asyncio.fixture(scope="module")
async def core(settings: Settings) -> AsyncIterator[Core]:
    running = Core(settings)
    await running.start()
    yield running
    await running.stop()


def message(product: str, client: str, number: int, **more: object) -> PushMessage:
    return PushMessage(id=f"{client}-{number}", product=product, client=client, payload=b"%d" % number, **more)  # type: ignore[arg-type]


def now_ms() -> int:
    return int(time.time() * 1000) - 1000


async def ids(core: Core, client: str, product: str) -> list[str]:
    device = await (await core.room()).connect(client)
    return [item.id for item in (await device.bind(product, limit=100)).page.items]


async def pending(core: Core, client: str, product: str, count: int) -> bool:
    return await core.pending(client, product) == count


async def test_given_records_and_bytes_that_are_none_when_tailed_then_each_has_its_line(core: Core) -> None:
    product, client, since = await core.product(), unique("c"), now_ms()
    await core.push(message(product, client, 1, properties={"who": "a\u001bb"}))
    producer = AIOKafkaProducer(bootstrap_servers=core.settings.kafka.bootstrap)
    await producer.start()
    try:
        await producer.send_and_wait(names.MESSAGES, b"no record", key=client.encode(), partition=0)
        await producer.send_and_wait(names.CLIENTS, None, key=client.encode(), partition=0)
    finally:
        await producer.stop()
    found = [item async for item in logs.read(core.settings.kafka, names.MESSAGES, since=since)]
    [mine] = [item for item in found if logs.matching(client=client)(item)]
    assert f"id={client}-1" in logs.line(mine)
    assert "\u001b" not in logs.line(mine)
    assert mine.document()["record"]["payload"] == "1"
    assert any(item.error and "undecodable" in logs.line(item) for item in found)
    tombstones = [item async for item in logs.read(core.settings.kafka, names.CLIENTS, since=since)]
    assert any(item.value is None and "tombstone" in logs.line(item) for item in tombstones)


async def test_given_a_dead_letter_when_redriven_then_it_is_delivered_under_a_new_id_and_a_repeat_adds_nothing(
    core: Core,
) -> None:
    product, client, since = await core.product(max_payload=1), unique("c"), now_ms()
    kafka = core.settings.kafka
    await core.push(replace(message(product, client, 1), payload=b"too large"))

    async def letters() -> list[logs.Found]:
        return [item async for item in again.letters(kafka, since=since, product=product)]

    [letter] = await eventually(letters, what="the dead letter")
    assert isinstance(letter.record, DeadLetter)
    assert (await again.redrive(kafka, [letter], dry_run=True, rate=10)).produced == 1
    await core.keeper.put(f"products.{product}", core.keeper.products[product].model_copy(update={"max_payload": 100}))
    await eventually(lambda: core.keeper.products[product].max_payload == 100, what="the product's new bound")
    for _ in range(2):
        outcome = await again.redrive(kafka, [letter], dry_run=False, rate=10)
        assert outcome.produced == 1
    await eventually(lambda: pending(core, client, product, 1), what="the message")
    assert await ids(core, client, product) == [again.derived(f"{client}-1", "again")]
    assert await logs.at(kafka, names.DEAD, letter.partition, letter.offset) == letter


async def test_given_acked_pending_and_evicted_messages_when_replayed_then_only_the_evicted_goes_out_once(core: Core) -> None:
    product, client, since = await core.product(max_pending=2), unique("c"), now_ms()
    device = await (await core.room()).connect(client)
    await device.bind(product)
    await core.push(message(product, client, 1))
    await eventually(lambda: pending(core, client, product, 1), what="the first")
    await device.sync(product, acks=[Ack(product, f"{client}-1", State.ACKED)])
    await core.push(*[message(product, client, number) for number in (2, 3, 4)])

    async def outcome(*, dry_run: bool, everything: bool = False) -> again.Outcome:
        wanted = again.Wanted(since=since, client=client, everything=everything)
        return await again.replay(core.settings.kafka, wanted, dry_run=dry_run, rate=100)

    async def evicted() -> bool:
        return (await outcome(dry_run=True)).produced == 1

    await eventually(evicted, what="the eviction's receipt")
    found = await outcome(dry_run=True)
    assert found.skipped == {"delivered": 1, "still pending, or on its way": 2}
    assert (await outcome(dry_run=True, everything=True)).produced == 4
    assert (await outcome(dry_run=False)).produced == 1  # by the cap it evicts the oldest that is pending
    replayed = again.derived(f"{client}-2", f"replay-{since // 1000:x}")

    async def there() -> bool:
        return (await ids(core, client, product))[-1] == replayed

    await eventually(there, what="the replayed message, last")
    assert await core.pending(client, product) == 2


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("2h", 7200), ("3d", 259200)])
def test_given_a_time_ago_then_it_counts_from_now(text: str, seconds: int) -> None:
    assert logs.since_ms(text, now=1_000_000) == (1_000_000 - seconds) * 1000


def test_given_other_times_then_iso_is_utc_and_nonsense_says_what_can_be_given() -> None:
    assert logs.since_ms("beginning") == 0
    assert logs.since_ms("1970-01-01T00:01") == 60_000
    assert logs.since_ms("1970-01-01T01:00+01:00") == 0
    with pytest.raises(logs.BadTime, match="give 10m"):
        logs.since_ms("yesterday")
    with pytest.raises(logs.NoTopic, match=r"push\.messages"):
        logs.topic_name("secrets")


def test_given_a_long_id_then_the_derived_one_is_within_the_bound_and_differs_by_what_was_cut() -> None:
    long = ["a" * 63 + end for end in "xy"]
    new = [again.derived(message, "replay-6b056020") for message in long]
    assert new[0] != new[1]
    assert all(names.message_id(item) and len(item) <= again.LONGEST_ID for item in new)
