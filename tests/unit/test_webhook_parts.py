"""The parts of webhooks without brokers: the circuit, what waits, what an answer means, and what is sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from journal_twin import PARTITIONS, JournalTwin

from infra.documents import Endpoint
from infra.documents.webhooks import new_secret
from infra.journal import Entry, Position
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.records import DeadLetter, PushMessage, Retry
from workers.outside import Answer, NoAnswer
from workers.webhooks import Event, Outbox, Reply, Sender, Shelf, Waiting
from workers.webhooks import waiting as waiting_module
from workers.webhooks.circuit import FIRST, LONGEST, THRESHOLD, Circuit
from workers.webhooks.heads import Item
from workers.webhooks.outbox import LIVE
from workers.webhooks.sender import ANSWER_BYTES, Outcome, Verdict, reply_of, verdict_of

ROUTE = ("shop", "main")


# --- the circuit -------------------------------------------------------------------------------------------------------


def test_given_failures_in_a_row_then_it_opens_half_opens_and_opens_for_longer() -> None:
    now = [0.0]
    circuit = Circuit(clock=lambda: now[0], chance=lambda: 1.0)
    for _ in range(THRESHOLD - 1):
        circuit.failed(now[0])
        assert circuit.closed
    circuit.failed(now[0])
    assert (circuit.closed, circuit.wait()) == (False, FIRST)
    now[0] += FIRST
    assert (circuit.closed, circuit.wait()) == (False, 0.0)
    circuit.failed(now[0])
    assert circuit.wait() == 2 * FIRST
    for _ in range(50):
        circuit.failed(now[0])
    assert circuit.wait() == LONGEST
    circuit.taken()
    assert circuit.closed


def test_given_a_retry_after_then_it_is_kept_up_to_the_bound() -> None:
    circuit = Circuit(clock=lambda: 0.0)
    circuit.failed(0.0, 7.0)
    assert (circuit.closed, circuit.wait()) == (False, 7.0)
    circuit.failed(0.0, 1e9)
    assert circuit.wait() == LONGEST


def test_given_requests_that_were_under_way_together_when_they_fail_then_they_are_one_failure() -> None:
    now = [0.0]
    circuit = Circuit(clock=lambda: now[0])
    for _ in range(2 * THRESHOLD):
        now[0] += 0.1
        circuit.failed(0.0)
    assert circuit.closed
    circuit.failed(0.0, 7.0)
    assert circuit.wait() == 7.0
    for _ in range(THRESHOLD - 1):
        now[0] += 10.0
        circuit.failed(now[0] - 1.0)
    assert not circuit.closed


# --- what waits --------------------------------------------------------------------------------------------------------


def item(number: int, key: str = "k", **changes: Any) -> Item:
    fields: dict[str, Any] = {"id": f"e{number}", "key": key, "partition": 0, "offset": number, "since_ms": 0, "seen": True}
    return Item(**{**fields, **changes})


def first(waiting: Waiting, most: int = 10, now: float = 1.0) -> list[str]:
    return [each.id for each in waiting.first(ROUTE, lambda partition: partition == 0, now, most)[0]]


def test_given_one_that_is_held_back_then_those_of_its_key_wait_behind_it_and_others_do_not() -> None:
    waiting = Waiting()
    for each in (item(1, "a", due=9.0), item(2, "a"), item(3, "b"), item(4, "c", seen=False), item(5, "c"), item(6, "b")):
        waiting.add(ROUTE, each)
    waiting.add(ROUTE, item(7, "d", partition=1))
    assert first(waiting) == ["e3", "e6"]
    assert waiting.first(ROUTE, lambda partition: True, 1.0, 1)[0][0].id == "e3"
    assert waiting.first(ROUTE, lambda partition: True, 1.0, 10)[1] == 8.0
    assert first(waiting, now=9.0) == ["e1", "e2", "e3", "e6"]


def test_given_a_repeat_then_it_keeps_its_place_and_is_read_where_it_lies_now() -> None:
    waiting = Waiting()
    for each in (item(1, seen=False), item(2), item(1, offset=9)):
        waiting.add(ROUTE, each)
    assert len(waiting) == 2
    assert [(each.id, each.offset) for each in waiting.first(ROUTE, lambda partition: True, 1.0, 9)[0]] == [("e1", 9), ("e2", 2)]


def test_given_the_last_of_a_key_when_it_is_settled_then_the_key_waits_no_longer() -> None:
    waiting = Waiting()
    waiting.add(ROUTE, item(1))
    waiting.add(ROUTE, item(2))
    waiting.remove(ROUTE, "e1")
    waiting.remove(ROUTE, "e1")
    assert waiting.holds(ROUTE, "k")
    waiting.remove(ROUTE, "e2")
    assert (waiting.holds(ROUTE, "k"), len(waiting), list(waiting)) == (False, 0, [])


def test_given_one_that_failed_while_the_endpoint_was_away_then_it_goes_alone_and_tries_last() -> None:
    waiting = Waiting()
    for each in (item(1, "a"), item(2, "a"), item(3, "b")):
        waiting.add(ROUTE, each)
    [tried] = waiting.probe(ROUTE, lambda partition: True)
    waiting.put_off(ROUTE, tried, 5.0, away=1)
    assert [each.id for each in waiting.probe(ROUTE, lambda partition: True)] == ["e3"]
    assert (first(waiting, now=4.0), first(waiting, now=5.0)) == (["e3"], ["e1"])


def test_given_tens_of_thousands_that_are_held_then_what_is_behind_them_goes() -> None:
    waiting = Waiting()
    for number in range(30_000):
        waiting.add(ROUTE, item(number, f"k{number}", due=1000.0 if number % 2 else 0.0, seen=number % 2 == 1))
    waiting.add(ROUTE, item(30_000, "free"))
    assert first(waiting) == ["e30000"]


class ReadBackFirst(JournalTwin):
    """The topic is followed faster than its records are acknowledged: an event was read, told and settled by then."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self._shelf = shelf

    async def produce(self, entries: Sequence[Entry], *, timeout: float | None = None) -> list[Position]:
        places = await super().produce(entries)
        for entry, place in zip(entries, places, strict=True):
            for value in (codec.encode(entry.record) if entry.record is not None else None, None):
                self._shelf.take(
                    SimpleNamespace(partition=place.partition, offset=place.offset, key=entry.key.encode(), value=value)
                )
        return places


async def test_given_an_event_that_is_settled_before_its_acknowledgement_came_then_its_key_is_free() -> None:
    waiting = Waiting()

    async def partitions(topic: str) -> int:
        return PARTITIONS

    journal = ReadBackFirst(Shelf(KafkaSettings(), partitions, waiting))
    await Outbox(journal, Sender(Endpoints(503)), waiting, answered).send(endpoint(), [event(1)])
    assert [type(each) for each in journal.records] == [Retry]
    assert (waiting.holds(ROUTE, "k"), len(waiting)) == (False, 0)


# --- answers -----------------------------------------------------------------------------------------------------------


def answer(status: int, body: bytes = b"", whole: bool = True, **headers: str) -> Answer:
    return Answer(status, {"content-type": "application/json", **headers}, body, whole)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.TAKEN),
        (204, Outcome.TAKEN),
        (302, Outcome.AWAY),
        (400, Outcome.REFUSED),
        (401, Outcome.AWAY),
        (404, Outcome.AWAY),
        (410, Outcome.AWAY),
        (413, Outcome.REFUSED),
        (422, Outcome.REFUSED),
        (429, Outcome.AWAY),
        (500, Outcome.AWAY),
        (503, Outcome.AWAY),
    ],
)
def test_what_a_status_means(status: int, outcome: Outcome) -> None:
    assert verdict_of(answer(status)).outcome is outcome


def test_given_a_retry_after_in_seconds_then_it_is_read_and_anything_else_is_not() -> None:
    found = [verdict_of(answer(503, **{"retry-after": value})).retry_after for value in ("7", "-1", "1e9", "Wed, 21 Oct", "²")]
    assert found == [7.0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"replies": {}}', None),
        (b'{"replies": {"e-1": {"payload": "hi"}}}', b"hi"),
        (b'{"replies": {"e-1": {"payload_base64": "aGk="}}, "more": 1}', b"hi"),
        (b'{"replies": {"e-1": {}}}', b""),
    ],
)
def test_given_an_answer_then_the_reply_in_it(body: bytes, found: bytes | None) -> None:
    reply = reply_of(verdict_of(answer(200, body)), "e-1")
    assert (reply.content() if reply is not None else None) == found


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"no",
        b'{"replies": 1}',
        b'{"replies": {"e-1": 1}}',
        b'{"replies": {"e-1": {"payload": 1}}}',
        b'{"replies": {"e-1": {"payload_base64": "*"}}}',
        b'{"replies": {"e-1": {"payload": "", "payload_base64": ""}}}',
        b'{"replies": {"e-1": {"properties": {"a": 1}}}}',
        b"[" * 100_000,
    ],
)
def test_given_an_answer_that_makes_no_sense_then_it_is_taken_and_the_reply_is_none(body: bytes) -> None:
    verdict = verdict_of(answer(200, body))
    assert verdict.outcome is Outcome.TAKEN
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the reason
        content_of(verdict)


def content_of(verdict: Verdict) -> bytes:
    reply = reply_of(verdict, "e-1")
    assert reply is not None
    return reply.content()


def test_given_an_answer_that_is_too_large_then_its_reason() -> None:
    with pytest.raises(ValueError, match=f"more than {ANSWER_BYTES}"):
        reply_of(verdict_of(answer(200, b"{", whole=False)), "e-1")


# --- what is sent at once ----------------------------------------------------------------------------------------------


class Endpoints:
    """Answers with what `answers` says next, else 200; None: nobody is there."""

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        self.bodies: list[list[str]] = []
        self.within: list[float] = []
        self.takes = self.now = 0.0
        self.together: asyncio.Barrier | None = None

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int,
        within: float = 0.0,
        private: bool = True,
    ) -> Answer:
        events = msgspec.json.decode(body)["events"]
        self.bodies.append([event["id"] for event in events])
        self.within.append(within)
        if self.together is not None:
            await self.together.wait()
        self.now += self.takes
        status = self.answers.pop(0) if self.answers else 200
        if status is None:
            raise NoAnswer("nobody")
        replies = {event["id"]: {"payload": "x" * event["data"].get("size", 1)} for event in events}
        return answer(status, msgspec.json.encode({"replies": replies}))


def endpoint(**changes: Any) -> Endpoint:
    fields = {"name": "main", "url": "https://shop.example/", "secrets": [new_secret()], "events": ["*"], "batch": 2, **changes}
    return Endpoint.model_validate(fields)


def answered(event: Event, reply: Reply) -> Entry:
    if len(reply.content()) > 10:
        raise ValueError("too large")
    return Entry(names.MESSAGES, "c", PushMessage(id=f"re-{event.id}", product="shop", client="c", payload=reply.content()))


class Out:
    """An outbox over a twin of Kafka."""

    def __init__(self, *answers: int | None) -> None:
        self.journal, self.endpoints, self.waiting = JournalTwin(), Endpoints(*answers), Waiting()
        sender = Sender(self.endpoints)
        self.box = Outbox(self.journal, sender, self.waiting, answered, clock=lambda: self.endpoints.now)

    def kept(self) -> list[str]:
        return [each.id for each in self.journal.records if isinstance(each, Retry)]

    def letters(self) -> list[DeadLetter]:
        return [each for each in self.journal.records if isinstance(each, DeadLetter)]


def event(number: int, key: str = "k", **data: Any) -> Event:
    return Event(f"e{number}", "uplink.received", "shop", key, 1, {"client": "c", **data})


async def test_given_an_endpoint_that_takes_them_then_nothing_is_kept_and_replies_are_produced() -> None:
    out = Out()
    await out.box.send(endpoint(), [event(1, wants_reply=True), event(2), event(3, wants_reply=True)])
    assert out.endpoints.bodies == [["e1", "e2"], ["e3"]]
    assert [each.id for each in out.journal.records if isinstance(each, PushMessage)] == ["re-e1", "re-e3"]
    assert out.kept() == []


async def test_given_a_batch_that_fails_then_those_of_its_keys_wait_behind_it_in_order_and_others_go_on() -> None:
    out = Out(503)
    events = [event(1, "a"), event(2, "b"), event(3, "a"), event(4, "c"), event(5, "d"), event(6, "e")]
    await out.box.send(endpoint(), events)
    assert out.endpoints.bodies == [["e1", "e2"], ["e5", "e6"]]
    assert out.kept() == ["e1", "e2", "e3", "e4"]
    await out.box.send(endpoint(), [event(7, "a"), event(8, "z")])
    assert out.endpoints.bodies[2:] == [["e8"]]
    assert out.kept()[4:] == ["e7"]


async def test_given_an_endpoint_that_fails_again_and_again_then_it_is_not_asked_any_more() -> None:
    out = Out(*[None] * 3)
    for number in range(6):
        await out.box.send(endpoint(), [event(number, f"k{number}")])
    assert len(out.endpoints.bodies) == THRESHOLD
    assert out.kept() == [f"e{number}" for number in range(6)]


async def test_given_one_blip_while_many_are_told_then_the_endpoint_is_asked_on() -> None:
    out = Out(*[None] * 5)
    out.endpoints.together = asyncio.Barrier(5)
    out.endpoints.takes = 0.01
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(out.box.send(endpoint(), [event(number, f"k{number}")]))
    out.endpoints.together = None
    await out.box.send(endpoint(), [event(9, "z")])
    assert out.endpoints.bodies[5:] == [["e9"]]


async def test_given_an_endpoint_that_is_slow_then_who_has_an_event_does_not_ask_it_though_lanes_succeed() -> None:
    out = Out(*[None] * 3)
    for number in range(3):
        await out.box.send(endpoint(), [event(number, f"k{number}")])
    out.box.circuit("shop", endpoint()).taken()  # a lane gave it more time
    await out.box.send(endpoint(), [event(9, "z")])
    assert (len(out.endpoints.bodies), out.kept()[-1]) == (3, "e9")


async def test_given_more_than_can_be_told_in_a_second_then_the_rest_is_kept_and_the_endpoint_is_well() -> None:
    out = Out()
    out.endpoints.takes = 0.3
    events = [event(number, f"k{number}") for number in range(1, 10)]
    for _ in range(THRESHOLD + 1):
        await out.box.send(endpoint(), events)
        for each in events:
            out.waiting.remove(ROUTE, each.id)
    assert out.endpoints.bodies == [["e1", "e2"], ["e3", "e4"], ["e5", "e6"]] * (THRESHOLD + 1)
    assert out.kept() == ["e7", "e8", "e9"] * (THRESHOLD + 1)
    assert {each.reason for each in out.journal.records if isinstance(each, Retry)} == {"more than can be told at once"}
    assert out.endpoints.within[:3] == pytest.approx([LIVE, LIVE - 0.3, LIVE - 0.6])


async def test_given_a_reply_that_does_not_fit_then_it_is_a_dead_letter_and_the_event_is_not_kept() -> None:
    out = Out()
    await out.box.send(endpoint(), [event(1, wants_reply=True, size=11)])
    [letter] = out.letters()
    assert (letter.reason, letter.id, letter.client) == ("webhook main: no reply: too large", "e1", "c")
    assert out.kept() == []


async def test_given_as_many_as_may_wait_then_further_ones_are_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "MAX_WAITING", 2)
    out = Out(503)
    await out.box.send(endpoint(batch=10), [event(number) for number in range(4)])
    assert out.kept() == ["e0", "e1"]
    assert [(each.id, each.reason) for each in out.letters()] == [
        (f"e{number}", "webhook main: too many events wait for it") for number in (2, 3)
    ]


async def test_secrets_are_in_no_letter_and_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    out, secret = Out(503, 422), new_secret()
    for number in range(2):
        await out.box.send(endpoint(secrets=[secret], url="https://shop.example/?token=s3cr3t"), [event(number, f"k{number}")])
    seen = capsys.readouterr()
    text = seen.out + seen.err + repr(out.journal.records)
    assert secret not in text
    assert "s3cr3t" not in text
