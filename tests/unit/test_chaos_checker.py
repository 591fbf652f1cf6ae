"""The ledger checker: each test breaks one rule on purpose, and sees exactly that reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import Checker, Verdict
from tests.chaos.history import History, read

Event = dict[str, Any]


def whole() -> list[Event]:
    """A history in which everything holds: two messages, a broadcast and an uplink, all arrived."""
    return [
        {"e": "offer", "product": "demo", "token": "m1", "clients": ["a"], "kind": "unicast", "priority": 1},
        {"e": "accepted", "token": "m1", "id": "m1"},
        {"e": "offer", "product": "demo", "token": "m2", "clients": ["a"], "kind": "unicast", "priority": 1},
        {"e": "accepted", "token": "m2", "id": "m2"},
        {"e": "record", "product": "demo", "token": "m1", "id": "m1", "client": "a", "partition": 3, "offset": 7},
        {"e": "record", "product": "demo", "token": "m2", "id": "m2", "client": "a", "partition": 3, "offset": 8},
        {"e": "got", "product": "demo", "token": "m1", "id": "m1", "client": "a"},
        {"e": "got", "product": "demo", "token": "m2", "id": "m2", "client": "a"},
        {"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "acked"},
        {"e": "receipt", "product": "demo", "id": "m2", "client": "a", "state": "acked"},
        {"e": "offer", "product": "demo", "token": "b1", "clients": ["a", "b"], "kind": "broadcast", "priority": 1},
        {"e": "accepted", "token": "b1", "id": "b1"},
        {"e": "got", "product": "demo", "token": "b1", "id": "b1", "client": "a"},
        {"e": "got", "product": "demo", "token": "b1", "id": "b1", "client": "b"},
        {"e": "uplink", "id": "u1", "client": "a"},
        {"e": "puback", "id": "u1", "client": "a"},
        {"e": "uplinked", "id": "u1", "client": "a"},
        {"e": "allow", "client": "a", "count": 32, "why": "1 reconnects"},
        {"e": "repeats", "client": "a", "count": 2},
        {"e": "committed", "partition": 3, "offset": 9},
    ]


def judge(events: list[Event]) -> Verdict:
    return Checker(events).verdict()


def without(events: list[Event], **fields: Any) -> list[Event]:
    left = [event for event in events if not fields.items() <= event.items()]
    assert len(left) < len(events), "the test removes nothing"
    return left


def test_given_everything_arrived_then_it_adds_up() -> None:
    verdict = judge(whole())
    assert verdict.ok
    assert verdict.problems() == []
    assert (verdict.accepted, verdict.states) == (4, {"acked": 2, "arrived": 2})
    assert (verdict.duplicates, verdict.duplicate_bound, verdict.uplinks) == (2, 32, 1)


def test_given_no_receipt_and_nothing_pending_then_lost() -> None:
    verdict = judge(without(whole(), e="receipt", id="m1"))
    assert verdict.lost == [("m1", "a")]
    assert verdict.problems() == ["1 lost, as ('m1', 'a')"]


def test_given_a_broadcast_that_one_client_never_got_then_lost_for_that_client() -> None:
    assert judge(without(whole(), e="got", client="b")).lost == [("b1", "b")]


@pytest.mark.parametrize(
    ("instead", "state"),
    [
        ({"e": "pending", "product": "demo", "id": "m1", "client": "a"}, "pending"),
        ({"e": "dead", "product": "demo", "id": "m1", "client": "a"}, "dead-lettered"),
        ({"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "expired"}, "expired"),
        ({"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "evicted"}, "evicted"),
        ({"e": "committed", "partition": 3, "offset": 7}, "queued"),
    ],
)
def test_given_another_state_instead_of_an_ack_then_it_is_named_and_nothing_is_lost(instead: Event, state: str) -> None:
    verdict = judge([*without(whole(), e="receipt", id="m1"), instead])
    assert verdict.ok
    assert verdict.states[state] == 1


def test_given_a_receipt_that_settles_nothing_then_lost_all_the_same() -> None:
    moved = {"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "expanded"}
    assert judge([*without(whole(), e="receipt", id="m1"), moved]).lost == [("m1", "a")]


def moved() -> list[Event]:
    """m1 came by the shared topic, was moved to its product's own queue, and is not acked."""
    return [
        *without(whole(), e="receipt", id="m1"),
        {"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "moved"},
        {
            "e": "record", "token": "m1", "product": "demo", "id": "m1", "client": "a",
            "topic": "push.messages.p", "partition": 3, "offset": 2,
        },
    ]  # fmt: skip


@pytest.mark.parametrize(("committed", "queued"), [(2, True), (3, False)])
def test_given_a_moved_message_then_it_waits_in_the_own_queue_or_is_lost(committed: int, queued: bool) -> None:
    verdict = judge([*moved(), {"e": "committed", "topic": "push.messages.p", "partition": 3, "offset": committed}])
    assert (verdict.states["queued"], verdict.lost) == ((1, []) if queued else (0, [("m1", "a")]))


def test_given_a_moved_message_that_never_came_to_the_own_queue_then_lost() -> None:
    assert judge(without(moved(), topic="push.messages.p")).lost == [("m1", "a")]


def test_given_a_moved_message_that_comes_after_one_of_the_shared_topic_then_no_order_is_broken() -> None:
    events = [*moved(), {"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "acked"}]
    first, second = (place for place, event in enumerate(events) if event["e"] == "got" and event["token"] in ("m1", "m2"))
    events[first], events[second] = events[second], events[first]
    assert judge(events).disordered == []


def test_given_a_fallback_then_it_settles_nothing_and_the_later_ack_counts() -> None:
    handed = {"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "fallback"}
    unsettled = [handed, *without(whole(), e="receipt", id="m1")]
    assert judge(unsettled).lost == [("m1", "a")]
    assert judge([*unsettled, {"e": "pending", "product": "demo", "id": "m1", "client": "a"}]).states["pending"] == 1
    assert judge([handed, *whole()]).states["acked"] == 2


def test_given_a_message_on_a_client_it_was_not_for_then_misdelivered() -> None:
    assert judge([*whole(), {"e": "got", "product": "demo", "token": "m1", "id": "m1", "client": "b"}]).misdelivered == [
        ("m1", "b")
    ]


def test_given_a_message_that_nobody_offered_then_misdelivered() -> None:
    assert judge([*whole(), {"e": "got", "product": "demo", "token": "x", "id": "x", "client": "a"}]).misdelivered == [("x", "a")]


def test_given_an_ack_for_what_no_device_saw_then_a_contradiction() -> None:
    assert judge(without(whole(), e="got", token="m2")).contradictions == [("m2", "a")]


def test_given_more_repeats_than_the_bound_then_the_client_is_named() -> None:
    assert judge([*whole(), {"e": "repeats", "client": "b", "count": 1}]).over_bound == [("b", 1, 0)]


def test_given_a_message_twice_in_an_application_then_it_is_named() -> None:
    assert judge([*whole(), {"e": "got", "product": "demo", "token": "m1", "id": "m1", "client": "a"}]).twice == [("m1", "a")]


def test_given_first_arrivals_against_the_partitions_order_then_disordered() -> None:
    events = whole()
    first, second = (place for place, event in enumerate(events) if event["e"] == "got" and event["token"] in ("m1", "m2"))
    events[first], events[second] = events[second], events[first]
    assert judge(events).disordered == [("a", "m2", "m1")]


def test_given_another_product_then_no_order_is_promised() -> None:
    events = [event | {"product": "chat"} if event.get("token") == "m1" and "product" in event else event for event in whole()]
    events = [event | {"product": "chat"} if event["e"] == "receipt" and event["id"] == "m1" else event for event in events]
    first, second = (place for place, event in enumerate(events) if event["e"] == "got" and event["token"] in ("m1", "m2"))
    events[first], events[second] = events[second], events[first]
    assert judge(events).problems() == []


def test_given_one_id_in_two_products_then_a_receipt_of_one_does_not_settle_the_other() -> None:
    events = [event | {"id": "m1"} if event.get("id") == "m2" else event for event in whole()]
    events = [event | {"product": "chat"} if event.get("token") == "m2" and "product" in event else event for event in events]
    second = max(place for place, event in enumerate(events) if event["e"] == "receipt")
    assert judge(events[:second] + events[second + 1 :]).lost == [("m2", "a")]
    events[second] |= {"product": "chat"}
    assert judge(events).problems() == []


def test_given_a_message_in_another_product_than_it_was_for_then_misdelivered() -> None:
    events = [event | {"product": "chat"} if event["e"] == "got" and event["token"] == "m1" else event for event in whole()]
    assert judge(events).misdelivered == [("m1", "a")]


def test_given_a_bind_at_qos_0_then_no_order_is_promised_and_what_was_written_need_not_have_arrived() -> None:
    events = [event | {"state": "written"} if event["e"] == "receipt" else event for event in whole()]
    first, second = (place for place, event in enumerate(events) if event["e"] == "got" and event["token"] in ("m1", "m2"))
    events[first], events[second] = events[second], events[first]
    assert judge(events).problems() == []
    assert judge(without(events, e="got", token="m2")).problems() == []


def test_given_a_rejection_of_what_no_device_saw_then_a_contradiction() -> None:
    events = [event | {"state": "rejected"} if event["e"] == "receipt" else event for event in whole()]
    assert judge(events).problems() == []
    assert judge(without(events, e="got", token="m2")).contradictions == [("m2", "a")]


def test_given_another_priority_class_then_no_order_is_promised() -> None:
    events = whole()
    events[2]["priority"] = 0
    first, second = (place for place, event in enumerate(events) if event["e"] == "got" and event["token"] in ("m1", "m2"))
    events[first], events[second] = events[second], events[first]
    assert judge(events).disordered == []


def test_given_a_timeout_then_the_outcome_is_unknown_whether_it_came_or_not() -> None:
    absent = judge(without(without(whole(), e="accepted", token="m1"), e="receipt", id="m1"))
    assert (absent.ok, absent.unknown, absent.accepted) == (True, 1, 3)
    assert judge(without(whole(), e="accepted", token="m1")).ok


@pytest.mark.parametrize(("at", "early"), [(64.0, [("m1", "a")]), (71.0, [])])
def test_given_an_expiry_before_the_time_to_live_then_early(at: float, early: list[tuple[str, str]]) -> None:
    events = without(whole(), e="receipt", id="m1")
    events[0] |= {"t": 10.0, "ttl": 60}
    events.append({"e": "receipt", "product": "demo", "id": "m1", "client": "a", "state": "expired", "t": at})
    assert judge(events).early == early


def test_given_one_message_under_two_ids_then_it_is_named() -> None:
    assert judge([*whole(), {"e": "accepted", "token": "m1", "id": "m1-again"}]).two_ids == ["m1"]


def status(event: str, session: int) -> Event:
    return {"e": "status", "client": "a", "event": event, "generation": 1, "session": session}


@pytest.mark.parametrize(
    ("told", "returns", "gone"),
    [
        ([status("online", 2)], 1, []),
        ([status("offline", 1), status("online", 2)], 1, []),
        ([status("online", 2), status("offline", 1)], 1, []),
        ([status("offline", 2)], 1, ["a"]),
        ([status("offline", 1), status("online", 2)], 0, ["a"]),
        ([status("offline", 1), status("offline", 2), status("online", 3)], 1, []),
        ([{"e": "session", "client": "a", "generation": 1, "session": 2}, status("offline", 1)], 0, []),
        ([{"e": "session", "client": "a", "generation": 1, "session": 2}, status("offline", 2)], 0, ["a"]),
    ],
)
def test_given_a_client_that_is_connected_when_called_offline_then_it_is_named(
    told: list[Event], returns: int, gone: list[str]
) -> None:
    assert judge([*whole(), *told, {"e": "online", "client": "a", "returns": returns}]).gone == gone


def test_given_an_uplink_that_was_acknowledged_and_is_not_in_kafka_then_lost() -> None:
    assert judge(without(whole(), e="uplinked")).uplinks_lost == ["u1"]


def test_given_a_history_in_a_file_when_read_then_the_same_verdict(tmp_path: Path) -> None:
    history = History(tmp_path / "row.jsonl")
    for event in whole():
        history.note(event["e"], **{name: value for name, value in event.items() if name != "e"})
    history.close()
    assert judge(read(tmp_path / "row.jsonl")) == judge(history.events)
