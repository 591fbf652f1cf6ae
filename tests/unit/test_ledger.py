"""The demo's ledger must be able to say no: each rule is broken once."""

from __future__ import annotations

import pytest

from infra.demo.ledger import Ledger
from schemas.codes import State


def adding_up() -> Ledger:
    ledger = Ledger()
    for state, client in ((State.ACKED, "a"), (State.EXPIRED, "b"), (State.WRITTEN, "c")):
        ledger.accept("m", client)
        ledger.receipt("m", client, state)
    ledger.seen["m", "a"] = 1
    ledger.seen["m", "c"] = 1
    ledger.accept("m", "waiting")
    ledger.pending["waiting"] = 1
    ledger.accept_broadcast("job", ["a", "c"])
    ledger.seen["job", "a"] = ledger.seen["job", "c"] = 1
    return ledger


def test_given_every_pair_in_one_state_then_it_adds_up() -> None:
    balance = adding_up().balance()
    assert balance.adds_up
    assert balance.counts == {"acked": 3, "expired": 1, "written": 1, "pending": 1}


def test_given_an_accepted_message_in_no_state_then_it_is_lost() -> None:
    ledger = adding_up()
    ledger.accept("gone", "a")
    assert ledger.balance().lost == [("gone", "a")]


def test_given_two_waiting_and_one_pending_then_one_is_lost() -> None:
    ledger = adding_up()
    ledger.accept("second", "waiting")
    balance = ledger.balance()
    assert len(balance.lost) == 1
    assert not balance.adds_up


def test_given_a_broadcast_that_a_device_never_saw_then_it_is_lost() -> None:
    ledger = adding_up()
    ledger.accept_broadcast("job", ["never"])
    assert ledger.balance().lost == [("job", "never")]


def test_given_an_ack_that_no_device_gave_then_it_contradicts() -> None:
    ledger = adding_up()
    ledger.accept("m2", "a")
    ledger.receipt("m2", "a", State.ACKED)
    assert "never saw it" in ledger.balance().contradictions[0]


def test_given_a_message_on_the_wrong_device_then_it_contradicts() -> None:
    ledger = adding_up()
    ledger.seen["m", "stranger"] = 1
    assert "stranger" in ledger.balance().contradictions[0]


def test_given_a_message_twice_in_the_application_then_it_contradicts() -> None:
    ledger = adding_up()
    ledger.seen["m", "a"] = 2
    assert "more than once" in ledger.balance().contradictions[0]


def test_given_more_duplicates_than_the_bound_then_it_contradicts() -> None:
    ledger = adding_up()
    ledger.repeats, ledger.duplicate_bound = 3, 2
    assert "more than the bound" in ledger.balance().contradictions[0]


@pytest.mark.parametrize("state", [State.EXPANDED, State.MOVED])
def test_given_a_receipt_of_where_it_goes_on_then_it_settles_nothing(state: State) -> None:
    ledger = adding_up()
    ledger.accept("m3", "a")
    ledger.receipt("m3", "a", state)
    assert ledger.balance().lost == [("m3", "a")]
