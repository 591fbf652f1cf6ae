"""The coordinator's two halves without brokers: what is taken and refused, and what becomes of a service's answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from journal_twin import JournalTwin

from infra.bus import Bus, BusDown, BusTimeout, NoResponders, Refused
from infra.documents import Product
from infra.journal import JournalDown
from infra.settings import NatsSettings
from infra.wire import UplinkItem, UplinkResult
from schemas import codec
from schemas.records import PushMessage, Uplink
from workers.coordinator import egress
from workers.coordinator.egress import ATTEMPTS, IN_FLIGHT, Services
from workers.coordinator.ingress import Ingress, refusal, uplink_of
from workers.coordinator.replies import reply_id
from workers.runner import Incoming

NOW = 1_700_000_000_000
SHOP = Product(name="shop", max_payload=1000, services=("echo", "slow"), service_timeout=1.0)


@dataclass
class Documents:
    products: dict[str, Product] = field(default_factory=lambda: {"shop": SHOP})
    current: bool = True


@dataclass
class BusTwin:
    """Asks `services[subject]`; nobody serves what is not there."""

    services: dict[str, Callable[[dict[str, Any]], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    connected: bool = True
    in_flight: int = 0
    most: int = 0

    async def request(self, subject: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        if not self.connected:
            raise BusDown(subject)
        self.asked.append(subject)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0)
            service = self.services.get(subject)
            if service is None:
                raise NoResponders(subject)
            return service(json.loads(payload))
        finally:
            self.in_flight -= 1


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "BACKOFF_S", (0.0, 0.0))


def item(**changes: Any) -> UplinkItem:
    values: dict[str, Any] = {
        "id": "u-1",
        "key": "eu:phone-1",
        "user": "ann",
        "product": "shop",
        "type": "echo",
        "payload": b"hi",
    }
    return UplinkItem(**{**values, "qos": 1, "room": "r1", **changes})


def uplink(**changes: Any) -> Uplink:
    return uplink_of(item(wants_reply=True, group="news", correlation=b"\x01", **changes), NOW)


def incoming(offset: int, record: Uplink | bytes) -> Incoming:
    value = record if isinstance(record, bytes) else codec.encode(record)
    return Incoming("push.uplink", 0, offset, NOW, b"phone-1", value)


def echo(request: dict[str, Any]) -> bytes:
    return base64.b64decode(request["payload_base64"]).upper()


# --- ingress -----------------------------------------------------------------------------------------------------------


def ingress(journal: JournalTwin) -> Ingress:
    return Ingress(Bus(NatsSettings(), name="t", version="0.0.0"), journal, Documents(), clock=lambda: NOW)


async def test_given_a_batch_then_the_good_ones_are_in_kafka_and_each_has_its_answer_in_order() -> None:
    journal = JournalTwin()
    answers = await ingress(journal).take([item(), item(id="u-2", product="nobody"), item(id="u-3", user="")])
    assert [answer.status for answer in answers] == ["ok", "refused", "ok"]
    assert [(entry.topic, entry.key) for entry in journal.entries] == [("push.uplink", "phone-1")] * 2
    first, third = journal.records
    expected = Uplink(
        id="u-1",
        product="shop",
        realm="eu",
        client="phone-1",
        user="ann",
        type="echo",
        payload=b"hi",
        qos=1,
        room="r1",
        received_ms=NOW,
    )
    assert first == expected
    assert isinstance(third, Uplink)
    assert (third.id, third.user) == ("u-3", None)


async def test_given_kafka_is_down_then_nothing_is_answered() -> None:
    journal = JournalTwin()
    journal.down = True
    with pytest.raises(JournalDown):
        await ingress(journal).take([item()])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"product": "*"}, 0x90),
        ({"type": "a.b"}, 0x90),
        ({"type": ""}, 0x90),
        ({"product": "nobody"}, 0x87),
        ({"key": "eu:a b"}, 0x83),
        ({"key": "phone-1"}, 0x83),
        ({"id": "x" * 65}, 0x83),
        ({"user": "\n"}, 0x83),
        ({"group": "A"}, 0x83),
        ({"payload": b"x" * 1001}, 0x97),
        ({"correlation": b"x" * 1025}, 0x97),
        ({"content_type": "x" * 129}, 0x97),
        ({"properties": [("a", "")] * 17}, 0x97),
        ({"properties": [("a", "ü" * 2048)]}, 0x97),
        ({"qos": 2}, 0x97),
    ],
)
def test_given_what_can_never_be_taken_then_the_pubacks_code_says_so(change: dict[str, Any], code: int) -> None:
    result = refusal(item(**change), {"shop": SHOP})
    assert isinstance(result, UplinkResult)
    assert (result.status, result.code) == ("refused", code)
    assert result.reason


def test_given_an_uplink_at_every_bound_then_it_is_taken_and_can_be_encoded() -> None:
    full = item(payload=b"x" * 1000, correlation=b"x" * 1024, content_type="x" * 128, properties=[("a", "b" * 4095)])
    assert refusal(full, {"shop": SHOP}) is None
    assert codec.decode_as(Uplink, codec.encode(uplink_of(full, NOW))).payload == full.payload


# --- egress ------------------------------------------------------------------------------------------------------------


async def test_given_an_answer_then_it_becomes_a_message_with_the_correlation() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}), JournalTwin()
    assert await Services(bus, journal, Documents()).handle(0, [incoming(0, uplink())]) == []
    expected = PushMessage(
        id=reply_id(uplink()), product="shop", client="phone-1", realm="eu", payload=b"HI", group="news", correlation=b"\x01"
    )
    assert journal.records == [expected]
    assert (journal.entries[0].topic, journal.entries[0].key) == ("push.messages", "phone-1")


async def test_given_a_request_then_the_service_sees_the_whole_envelope() -> None:
    seen: list[dict[str, Any]] = []

    def service(request: dict[str, Any]) -> bytes:
        seen.append(request)
        return b""

    await Services(BusTwin({"app.shop.echo": service}), JournalTwin(), Documents()).handle(0, [incoming(0, uplink())])
    assert seen == [
        {
            "id": "u-1",
            "product": "shop",
            "type": "echo",
            "realm": "eu",
            "client": "phone-1",
            "user": "ann",
            "payload_base64": "aGk=",
            "content_type": None,
            "properties": {},
            "qos": 1,
            "room": "r1",
            "received_ms": NOW,
            "wants_reply": True,
        }
    ]


async def test_given_no_reply_is_wanted_then_the_service_is_asked_and_nothing_produced() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}), JournalTwin()
    assert await Services(bus, journal, Documents()).handle(0, [incoming(0, uplink_of(item(), NOW))]) == []
    assert (bus.asked, journal.entries) == (["app.shop.echo"], [])


@pytest.mark.parametrize("change", [{"type": "other"}, {"product": "gone"}])
async def test_given_a_type_without_a_service_then_nobody_is_asked(change: dict[str, str]) -> None:
    bus, journal = BusTwin(), JournalTwin()
    assert await Services(bus, journal, Documents()).handle(0, [incoming(0, uplink(**change))]) == []
    assert (bus.asked, journal.entries) == ([], [])


async def test_given_a_batch_then_replies_are_in_its_order_and_a_repeat_has_the_same_ids() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}), JournalTwin()
    batch = [incoming(i, uplink(id=f"u-{i}")) for i in range(300)]
    for _ in range(2):  # another coordinator goes on after the first
        await Services(bus, journal, Documents()).handle(0, batch)
    ids = [reply_id(uplink(id=f"u-{i}")) for i in range(300)]
    assert [record.id for record in journal.records if isinstance(record, PushMessage)] == ids * 2
    assert len(set(ids)) == 300
    assert bus.most == IN_FLIGHT


async def test_given_a_dead_service_then_its_uplinks_are_dead_letters_and_the_others_are_answered() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}), JournalTwin()
    batch = [incoming(i, uplink(id=f"u-{i}", type="slow" if i % 2 else "echo")) for i in range(10)]
    letters = await Services(bus, journal, Documents()).handle(0, batch)
    assert [letter.record.offset for letter in letters] == [1, 3, 5, 7, 9]
    assert all("app.shop.slow" in letter.reason and "NoResponders" in letter.reason for letter in letters)
    assert (letters[0].id, letters[0].client, letters[0].product) == ("u-1", "phone-1", "shop")
    assert len(journal.records) == 5


async def test_given_a_dead_service_then_later_uplinks_of_a_batch_get_one_attempt() -> None:
    bus = BusTwin()
    batch = [incoming(i, uplink(id=f"u-{i}")) for i in range(3 * IN_FLIGHT)]
    assert len(await Services(bus, JournalTwin(), Documents()).handle(0, batch)) == 3 * IN_FLIGHT
    assert len(bus.asked) == IN_FLIGHT * ATTEMPTS + 2 * IN_FLIGHT


@pytest.mark.parametrize("error", [NoResponders, BusTimeout, Refused])
async def test_given_a_service_that_comes_back_within_the_attempts_then_its_answer_counts(error: type[Exception]) -> None:
    calls = Counter[str]()

    def service(request: dict[str, Any]) -> bytes:
        calls[request["id"]] += 1
        if calls[request["id"]] < ATTEMPTS:
            raise error("not yet")
        return b"ok"

    journal = JournalTwin()
    assert await Services(BusTwin({"app.shop.echo": service}), journal, Documents()).handle(0, [incoming(0, uplink())]) == []
    assert len(journal.records) == 1


async def test_given_our_own_connection_is_down_then_the_batch_is_left_for_later() -> None:
    bus, journal = BusTwin({"app.shop.echo": echo}, connected=False), JournalTwin()
    with pytest.raises(BusDown):
        await Services(bus, journal, Documents()).handle(0, [incoming(0, uplink()), incoming(1, uplink())])
    assert journal.entries == []


async def test_given_kafka_is_down_then_the_batch_is_left_for_later() -> None:
    journal = JournalTwin()
    journal.down = True
    with pytest.raises(JournalDown):
        await Services(BusTwin({"app.shop.echo": echo}), journal, Documents()).handle(0, [incoming(0, uplink())])


async def test_given_an_answer_over_the_products_bound_then_a_dead_letter_with_both_numbers() -> None:
    bus, journal = BusTwin({"app.shop.echo": lambda request: b"x" * 1001}), JournalTwin()
    [letter] = await Services(bus, journal, Documents()).handle(0, [incoming(0, uplink())])
    assert "1001" in letter.reason
    assert "1000" in letter.reason
    assert journal.entries == []


@pytest.mark.parametrize("poison", [b"", b"junk", codec.encode(PushMessage(id="a", product="shop", client="c"))])
async def test_given_poison_then_a_dead_letter_and_the_rest_goes_on(poison: bytes) -> None:
    journal = JournalTwin()
    batch = [incoming(0, poison), incoming(1, uplink())]
    [letter] = await Services(BusTwin({"app.shop.echo": echo}), journal, Documents()).handle(0, batch)
    assert letter.record.offset == 0
    assert len(journal.records) == 1
