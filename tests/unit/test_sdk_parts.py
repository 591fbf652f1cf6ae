"""The parts of the SDK that need no connection: backoff, reasons, addresses, the inbox, the route."""

from __future__ import annotations

import random

import mqtt5
import pytest

from pushclient import Address, Backoff, DispatchError, ProtocolViolation, PushMessage, Stats, errors, messages, reasons
from pushclient import ending as endings
from pushclient.address import parse, parse_references
from pushclient.backoff import retry_after
from pushclient.dispatch import Answer
from pushclient.inbox import Inbox
from pushclient.packet_ids import LAST, PacketIds
from pushclient.reasons import REASONS, Verdict, reason
from pushclient.route import MAX_FAILED, MAX_MOVES, Route

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)


# --- backoff -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [0, 1, 5, 6, 7, 100, 10**9])
def test_given_any_attempt_then_the_delay_fills_zero_to_the_capped_doubling(attempt: int) -> None:
    ceiling = min(30.0, 0.5 * 2 ** min(attempt, 10))
    delays = [Backoff(random=random.Random(seed).random).delay(attempt) for seed in range(300)]
    assert all(0 <= delay <= ceiling for delay in delays)
    assert min(delays) < 0.1 * ceiling
    assert max(delays) > 0.9 * ceiling


def test_given_retry_after_then_never_earlier_and_at_most_half_as_long_again() -> None:
    delays = [Backoff(random=random.Random(seed).random).after(10) for seed in range(300)]
    assert all(10 <= delay <= 15 for delay in delays)
    assert max(delays) - min(delays) > 4
    assert Backoff().after(1e9) <= 1.5 * 3_600


def test_given_later_without_a_time_then_the_upper_half_of_the_cap() -> None:
    assert all(15 <= Backoff(random=random.Random(seed).random).later() <= 30 for seed in range(300))


@pytest.mark.parametrize(("base", "cap"), [(0, 1), (2, 1), (-1, 1), (1, float("inf")), (float("nan"), 1)])
def test_given_a_senseless_backoff_then_it_is_refused(base: float, cap: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < base_s"):
        Backoff(base_s=base, cap_s=cap)


@pytest.mark.parametrize(("value", "seconds"), [("3", 3.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("soon", None)])
def test_given_a_retry_after_property_then_it_is_read_or_ignored(value: str, seconds: float | None) -> None:
    assert retry_after([("other", "1"), ("retry-after", value)]) == seconds


# --- reasons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (0x85, errors.ClientIdNotValid),
        (0x86, errors.BadCredentials),
        (0x87, errors.NotAuthorized),
        (0x8A, errors.Banned),
        (0x8E, errors.TakenOver),
        (0x98, errors.Kicked),
    ],
)
def test_given_a_final_reason_then_it_stops_with_its_own_error(code: int, error: type[errors.SessionEnded]) -> None:
    assert reason(code).verdict is Verdict.STOP
    raised = endings.Ending(Verdict.STOP, "text", code).error()
    assert type(raised) is error
    assert raised.code == code


def test_given_the_table_then_every_code_of_the_codec_is_in_it() -> None:
    for kind in (mqtt5.ConnAckReasonCode, mqtt5.DisconnectReasonCode):
        codes = {int(getattr(kind, name)) for name in dir(kind) if name.isupper()}
        assert codes
        assert codes - {0x04} <= set(REASONS)  # 0x04 asks for a Will, which a server never does


@pytest.mark.parametrize("code", [0x89, 0x88, 0x97, 0x9F])
def test_given_overload_then_come_back_later(code: int) -> None:
    assert reason(code).verdict is Verdict.LATER


def test_given_an_unknown_reason_then_come_back() -> None:
    assert reason(0xF0) == reasons.Reason("reason 0xf0", Verdict.RETURN)


def test_given_a_disconnect_then_its_words_are_kept() -> None:
    code = mqtt5.DisconnectReasonCode.USE_ANOTHER_SERVER
    packet = mqtt5.DisconnectPacket(
        reason_code=code, server_reference="b:2 c:3", reason_str="drain", user_properties=[("retry-after", "4")]
    )
    ending = endings.told(packet)
    assert (ending.verdict, ending.code, ending.retry_after_s, ending.references) == (Verdict.MOVE, 0x9C, 4.0, (B, C))
    assert ending.text == "use another server (0x9c): drain"


# --- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["host:1883", "127.0.0.1:1", "[::1]:65535"])
def test_given_an_address_then_it_reads_and_writes_the_same(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "a b:1", "::1:5", "h:1\n", "h:١"])
def test_given_no_address_then_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parse(text)


def test_given_references_then_what_cannot_be_read_is_skipped_and_their_number_is_bounded() -> None:
    assert parse_references("a:1 nonsense b:2") == (A, B)
    assert parse_references(None) == ()
    assert len(parse_references("a:1 " * 100)) == 16


# --- packet ids --------------------------------------------------------------------------------------------------------


def test_given_ids_in_use_then_the_circle_skips_them() -> None:
    ids = PacketIds()
    assert [ids.take(), ids.take()] == [1, 2]
    ids.release(1)
    assert [ids.take() for _ in range(3, LAST + 1)] == list(range(3, LAST + 1))
    assert ids.take() == 1


# --- messages and the inbox --------------------------------------------------------------------------------------------


def message(message_id: str | None, qos: int = 1, link: object = None, **properties: str) -> PushMessage:
    pairs = ([] if message_id is None else [("id", message_id)]) + list(properties.items())
    made = messages.from_packet(mqtt5.PublishPacket("push/demo", b"", user_properties=pairs))
    made.qos, made.link = qos, link
    return made


@pytest.mark.parametrize("topic", ["push", "push/a/b/c", "up/a/b", "", "push-x/a"])
def test_given_a_foreign_topic_then_it_is_a_violation(topic: str) -> None:
    packet = mqtt5.PublishPacket(topic, b"", topic_alias=1) if not topic else mqtt5.PublishPacket(topic, b"")
    with pytest.raises(ProtocolViolation, match="no push topic"):
        messages.from_packet(packet)


def test_given_a_publish_then_the_message_carries_all_of_it_and_the_id_apart() -> None:
    made = messages.from_packet(
        mqtt5.PublishPacket(
            "push/demo/news",
            b"p",
            message_expiry_interval=9,
            content_type="text/plain",
            user_properties=[("id", "7"), ("k", "v")],
        )
    )
    assert (made.id, made.product, made.group, made.payload) == ("7", "demo", "news", b"p")
    assert (made.properties, made.expires_in, made.content_type, made.duplicate) == ({"k": "v"}, 9, "text/plain", False)


def test_given_a_notice_and_its_body_then_they_are_two_deliveries() -> None:
    assert message("1", pull="1").key != message("1").key
    assert message(None).key is None


def inbox(**options: int) -> Inbox:
    return Inbox(**{"receive_max": 2, "queue_max": 2, "remember": 3, **options})


def test_given_a_full_queue_at_qos_0_then_the_oldest_of_them_goes() -> None:
    box, first, other = inbox(), message("1", 0), message("2", 1)
    assert [box.put(m) for m in (first, other, message("3", 0))] == [None, None, None]
    assert box.put(message("4", 0)) is first
    assert [(box.pop() or first).id for _ in range(3)] == ["2", "3", "4"]
    assert box.pop() is None


def test_given_a_full_queue_at_qos_1_then_one_of_an_earlier_connection_goes() -> None:
    box, old, new = inbox(), object(), object()
    stale = message("2", link=old)
    for each in (message("1", link=new), stale):
        assert box.put(each) is None
    assert box.put(message("3", link=new)) is stale
    assert len(box) == 2


def test_given_more_keys_than_are_remembered_then_the_oldest_is_forgotten() -> None:
    box = inbox(remember=3)
    made = [message(str(i)) for i in range(4)]
    for each in made:
        box.remember(each, 0)
    assert [box.earlier(each.key) for each in made] == [None, 0, 0, 0]


def test_given_a_message_let_go_without_being_settled_then_its_repetition_is_new() -> None:
    box, made = inbox(), message("1")
    key = made.key
    box.remember(made, made)
    assert box.earlier(key) is made
    del made
    assert box.earlier(key) is None


async def test_given_a_code_that_refuses_nothing_then_reject_raises() -> None:
    with pytest.raises(ValueError, match="0x10 does not refuse"):
        await message("1").reject("why", 0x10)


# --- the route ---------------------------------------------------------------------------------------------------------


class FakeDispatcher:
    """Answers from a list; None is "unreachable". Notes what it was asked."""

    network = "wifi"

    def __init__(self, *answers: tuple[Address, ...] | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, tuple[Address, ...]]] = []
        self.lasts: list[str] = []
        self.retry_after_s: float | None = None

    async def ask(self, attempt: int, failed: tuple[Address, ...], last: str) -> Answer:
        self.asked.append((attempt, failed))
        self.lasts.append(last)
        answer = self.answers.pop(0)
        if answer is None:
            raise DispatchError("unreachable", self.retry_after_s)
        rooms = {address: f"room-of-{address.host}" for address in answer}
        return Answer(addresses=answer, rooms=rooms, ttl_s=60, heartbeat_s=77, backoff=Backoff(base_s=1, cap_s=2))


def route(dispatcher: FakeDispatcher | None = None, *servers: Address) -> Route:
    return Route(servers=servers, dispatcher=dispatcher, backoff=None, stats=Stats(), clock=lambda: 0.0)  # type: ignore[arg-type]


LOST = endings.lost("lost")


def fail(made: Route, address: Address | None, held_s: float = 0.0, *, resumable: bool = False) -> float:
    return made.ended(LOST, address, held_s=held_s, resumable=resumable)


async def test_given_servers_when_one_fails_then_the_next_in_turn() -> None:
    made = route(None, A, B)
    seen = []
    for _ in range(4):
        seen.append(await made.next())
        fail(made, seen[-1])
    assert seen == [A, B, A, B]


async def test_given_a_failure_then_the_dispatcher_is_told_and_its_stale_first_choice_is_skipped() -> None:
    dispatcher = FakeDispatcher((A, B), (A, B), (C,))
    made = route(dispatcher)
    assert await made.next() == A
    fail(made, A)
    assert await made.next() == B
    fail(made, B)
    assert await made.next() == C
    assert dispatcher.asked == [(0, ()), (1, (A,)), (2, (A, B))]
    assert made.heartbeat_s == 77


async def test_given_an_unreachable_dispatcher_then_the_known_addresses_serve_in_turn() -> None:
    made = route(FakeDispatcher((A, B), None, None))
    assert await made.next() == A
    fail(made, A)
    assert await made.next() == B
    fail(made, B)
    assert await made.next() == A


async def test_given_a_good_connection_then_its_room_is_named_and_earlier_failures_are_forgotten() -> None:
    dispatcher = FakeDispatcher((A, B), (A, B), (A, B), (B,))
    made = route(dispatcher)
    assert await made.next() == A
    fail(made, A)
    assert await made.next() == B
    fail(made, B, held_s=1)
    assert await made.next() == A
    fail(made, A, held_s=3)
    await made.next()
    assert dispatcher.lasts == ["", "", f"room-of-{B.host}", f"room-of-{A.host}"]
    assert dispatcher.asked == [(0, ()), (1, (A,)), (2, (A, B)), (1, (A,))]


async def test_given_that_all_answers_failed_then_the_one_that_failed_longest_ago_is_tried() -> None:
    made = route(FakeDispatcher(*[(A, B, C)] * 5))
    seen = []
    for _ in range(5):
        seen.append(await made.next())
        fail(made, seen[-1])
    assert seen == [A, B, C, A, B]


async def test_given_very_many_failures_then_the_dispatcher_is_told_of_the_last_ones() -> None:
    addresses = [Address("h", port) for port in range(1, 2 * MAX_FAILED)]
    dispatcher = FakeDispatcher(*[(address,) for address in addresses])
    made = route(dispatcher)
    for _ in addresses:
        fail(made, await made.next())
    assert dispatcher.asked[-1][1] == tuple(addresses[-1 - MAX_FAILED : -1])


async def test_given_a_dispatcher_that_says_when_to_come_back_then_only_addresses_that_did_not_fail_are_tried_before() -> None:
    dispatcher = FakeDispatcher((A, B), None, None)
    dispatcher.retry_after_s = 7
    made = route(dispatcher)
    assert await made.next() == A
    fail(made, A)
    assert await made.next() == B
    fail(made, B)
    with pytest.raises(DispatchError) as raised:
        await made.next()
    assert raised.value.retry_after_s == 7


async def test_given_nothing_known_and_no_dispatcher_then_dispatch_error() -> None:
    with pytest.raises(DispatchError):
        await route(FakeDispatcher(None)).next()


async def test_given_a_session_that_waits_then_back_to_its_room_first() -> None:
    dispatcher = FakeDispatcher((A, B), (B,))
    made = route(dispatcher)
    assert await made.next() == A
    fail(made, A, held_s=5, resumable=True)
    assert await made.next() == A
    fail(made, A, resumable=True)
    assert await made.next() == B
    assert dispatcher.asked == [(0, ()), (2, (A,))]


async def test_given_a_server_reference_then_at_once_and_only_so_often() -> None:
    made = route(None, A)
    move = endings.Ending(Verdict.MOVE, "drain", 0x9C, references=(B,))
    delays = []
    for _ in range(MAX_MOVES):
        delays.append(made.ended(move, A, held_s=0, resumable=False))
        assert await made.next() == B
    assert 0 < max(delays) <= 0.5  # nor all in the same instant
    made.ended(move, A, held_s=0, resumable=False)
    assert await made.next() == A


async def test_given_use_another_server_without_a_reference_then_not_back_to_the_one_that_said_so() -> None:
    move = endings.Ending(Verdict.MOVE, "drain", 0x9C)
    made = route(None, A, B)
    assert await made.next() == A
    assert made.ended(move, A, held_s=5, resumable=True) <= 0.5
    assert await made.next() == B
    dispatcher = FakeDispatcher((A, B), (A, B))
    made = route(dispatcher)
    await made.next()
    made.ended(move, A, held_s=5, resumable=True)
    assert await made.next() == B
    assert dispatcher.asked == [(0, ()), (1, (A,))]


async def test_given_a_server_that_said_it_is_busy_then_no_session_waits_there() -> None:
    made = route(None, A, B)
    await made.next()
    made.ended(endings.Ending(Verdict.LATER, "busy", 0x89), A, held_s=5, resumable=True)
    assert await made.next() == B


async def test_given_a_wish_of_the_server_then_it_is_the_delay() -> None:
    made = route(None, A)
    assert 7 <= made.ended(endings.lost("x", 7), A, held_s=0, resumable=False) <= 10.5
    later = endings.Ending(Verdict.LATER, "busy", 0x89)
    assert 15 <= made.ended(later, A, held_s=0, resumable=False) <= 30


async def test_given_a_connection_that_held_then_the_count_begins_anew() -> None:
    made = Route(servers=(A,), dispatcher=None, backoff=Backoff(base_s=1, cap_s=8, random=lambda: 1.0), stats=Stats())
    assert [fail(made, A) for _ in range(5)] == [1, 2, 4, 8, 8]
    assert fail(made, A, held_s=7) == 8
    assert fail(made, A, held_s=9) == 1
