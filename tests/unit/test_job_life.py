"""A job's life without any I/O: the table of states, commands that come again, and what a canary says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from infra.documents import Product
from infra.wire import Counts
from schemas.broadcasts import Broadcast, Canary, JobRecord, Transition
from schemas.checks import MAX_TTL_S
from schemas.codes import SLOTS
from schemas.jobs import OVER, TRANSITIONS, Action, JobState, NotAllowed, after
from workers.broadcast import life as joblife
from workers.broadcast.life import COUNTED, CanaryWatch
from workers.broadcast.pacing import POLL

PRODUCT = Product(name="news", rate=500, ttl_s=3600)
NOW = 1_800_000_000_000


def content(**fields: object) -> Broadcast:
    return Broadcast(id="j1", product="news", payload=b"x", **fields)  # type: ignore[arg-type]


def first(**fields: object) -> JobRecord:
    return joblife.first(content(**fields), PRODUCT, source=(1, 2), accepted_ms=NOW)


def command(action: Action, **fields: object) -> Transition:
    return Transition(job="j1", product="news", action=action, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("action", list(Action))
def test_given_any_state_and_action_then_the_table_says_what_follows_or_what_is_possible(state: JobState, action: Action):
    if (state, action) in TRANSITIONS:
        assert after(state, action) is TRANSITIONS[state, action]
        return
    with pytest.raises(NotAllowed, match=f"a {state} job can't {action}; possible: "):
        after(state, action)


@given(st.lists(st.sampled_from(list(Action)), max_size=20))
def test_given_any_commands_when_obeyed_then_nothing_comes_after_the_end_and_a_repeat_changes_nothing(actions: list[Action]):
    record, offset = first(), 10
    for action in actions:
        offset += 1
        asked = command(action, **({"rate": 7} if action is Action.RATE else {}))
        try:
            then = joblife.moved(record, content(), PRODUCT, asked, offset=offset, now_ms=NOW)
        except NotAllowed:
            assert (JobState(record.state), action) not in TRANSITIONS
            continue
        assert record.state not in OVER or then.state == record.state
        again = joblife.moved(then, content(), PRODUCT, asked, offset=offset, now_ms=NOW)
        assert (again.state, again.rate, again.started_ms) == (then.state, then.rate, then.started_ms)
        record = then


def test_given_a_draft_when_started_then_its_time_to_live_counts_from_then():
    draft = first(draft=True, ttl_s=60)
    assert (draft.state, draft.expires_ms) == ("draft", NOW + MAX_TTL_S * 1000)
    started = joblife.moved(draft, content(draft=True, ttl_s=60), PRODUCT, command(Action.START), offset=5, now_ms=NOW + 9_000)
    assert (started.state, started.started_ms, started.expires_ms, started.applied) == ("scheduled", NOW + 9_000, NOW + 69_000, 5)


def test_given_a_schedule_when_started_by_hand_then_it_begins_now():
    later = first(start_ms=NOW + 3_600_000)
    assert (later.state, later.started_ms, later.expires_ms) == ("scheduled", NOW + 3_600_000, NOW + 7_200_000)
    started = joblife.moved(later, content(), PRODUCT, command(Action.START), offset=5, now_ms=NOW + 1_000)
    assert (started.started_ms, started.expires_ms) == (NOW + 1_000, NOW + 3_601_000)


def test_given_a_halted_job_when_resumed_then_its_canary_has_no_say_any_more():
    halted = joblife.halted(replace(first(canary=Canary(share_bp=100, wait_s=5)), state=JobState.RUNNING), "too few")
    assert (halted.state, halted.reason, halted.canary_passed) == ("halted", "too few", False)
    resumed = joblife.moved(halted, content(), PRODUCT, command(Action.RESUME), offset=5, now_ms=NOW)
    assert (resumed.state, resumed.reason, resumed.canary_passed) == ("running", None, True)


def test_given_a_change_when_audited_then_it_says_who_why_from_where_and_to_where():
    before = replace(first(), state=JobState.RUNNING)
    asked = command(Action.RATE, rate=50, by="ann", reason="the shop is slow")
    then = joblife.moved(before, content(), PRODUCT, asked, offset=5, now_ms=NOW)
    audit = joblife.audit_of(before, then, asked, NOW)
    assert (audit.subject, audit.action, audit.by, audit.before, audit.after, audit.reason) == (
        "j1", "rate", "ann", "running, 500/s", "running, 50/s", "the shop is slow",
    )  # fmt: skip
    own = joblife.audit_of(before, joblife.halted(before, "too few"), None, NOW, action="halt")
    assert (own.by, own.after, own.reason) == ("longwire", "halted, 500/s", "too few")


# --- canaries -----------------------------------------------------------------------------------------------------------

STRICT = Canary(share_bp=1_000, wait_s=10, min_acked_bp=9_000, max_failed_bp=500)


@pytest.mark.parametrize(("share_bp", "slot"), [(1, 1), (100, 41), (1_000, 410), (10_000, SLOTS)])
def test_given_a_share_when_asked_then_the_walk_stops_at_that_slot(share_bp: int, slot: int):
    assert CanaryWatch(Canary(share_bp=share_bp, wait_s=1), passed=False).stop == slot
    assert CanaryWatch(Canary(share_bp=share_bp, wait_s=1), passed=True).stop == SLOTS


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (Counts(sent=100, acked=95), ""),
        (Counts(sent=100, acked=60, written=35), ""),
        (Counts(sent=100, acked=89), "89 of 100 were acknowledged after 10 s, less than 90 %"),
        (Counts(sent=100, acked=94, rejected=6), "6 of 100 were refused, more than 5 %"),
        (Counts(), "the canary reached nobody"),
    ],
)
def test_given_a_canary_when_its_wait_is_over_then_it_goes_on_or_says_why_not(counts: Counts, reason: str):
    watch = CanaryWatch(STRICT, passed=False)
    assert watch.look(Counts(sent=1), walked=False, now=0.0) == ""
    assert watch.look(Counts(sent=100), walked=True, now=100.0) == ""
    assert watch.look(counts, walked=True, now=100.0 + 10 + COUNTED - 0.1) == ""
    assert not watch.passed
    assert watch.look(counts, walked=True, now=100.0 + 10 + COUNTED) == reason
    assert watch.passed == (not reason)


def test_given_a_canary_that_passed_when_acks_stay_away_later_then_it_halts_and_late_acks_are_waited_for():
    watch = CanaryWatch(STRICT, passed=False)
    watch.look(Counts(sent=100, acked=100), walked=True, now=0.0)
    assert watch.look(Counts(sent=100, acked=100), walked=True, now=50.0) == ""
    wait = STRICT.wait_s + POLL[1]
    sent, halted = 100, ""
    for second in range(40):
        sent += 100
        halted = watch.look(Counts(sent=sent, acked=min(sent, 1_000)), walked=False, now=51.0 + second)
        if halted:
            break
    # 90 % of what was sent a wait ago: 1,000 acks are too few once 1,112 were sent then
    assert "1000 of" in halted
    assert 9 + wait <= second + 1 <= 12 + wait


@given(
    sent=st.lists(st.integers(0, 50), min_size=1, max_size=200),
    share=st.floats(0.95, 1.0),
    delay=st.integers(0, 9),
)
def test_given_devices_that_acknowledge_in_time_when_watched_then_it_never_halts(sent: list[int], share: float, delay: int):
    watch = CanaryWatch(STRICT, passed=True)
    totals = [0]
    for count in sent:
        totals.append(totals[-1] + count)
    for now in range(len(totals)):
        acked = -int(-totals[max(0, now - delay)] * share // 1)
        assert watch.look(Counts(sent=totals[now], acked=acked), walked=False, now=float(now)) == ""
