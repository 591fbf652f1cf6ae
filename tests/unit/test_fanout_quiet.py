"""Quiet hours: who is in them waits by its own clock, and comes late within a grant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broadcast import quiet
from gateway.broadcast.quiet import MAX_UNKNOWN, Quiet, Zones
from infra.wire import QuietHours
from schemas.codes import SLOTS
from tests.unit.fanout_room import Room

NIGHT = QuietHours(22 * 60, 7 * 60)


def at(room: Room, hour: int, minute: int = 0) -> None:
    """The time of day in UTC: summer, so Berlin is two hours ahead and New York four behind."""
    room.wall = datetime(2027, 7, 1, hour, minute, tzinfo=UTC).timestamp()


def quiet_at(hours: QuietHours, hour: int, minute: int, **attrs: str) -> bool:
    room = Room()
    at(room, hour, minute)
    return Quiet(hours, Zones(), lambda: room.wall).holds(room.join("main:c1", attrs=attrs))


@pytest.mark.parametrize(
    ("hours", "hour", "minute", "tz", "is_quiet"),
    [
        (NIGHT, 21, 59, "", False),
        (NIGHT, 22, 0, "", True),
        (NIGHT, 0, 0, "", True),
        (NIGHT, 6, 59, "", True),
        (NIGHT, 7, 0, "", False),
        (NIGHT, 20, 0, "Europe/Berlin", True),
        (NIGHT, 19, 59, "Europe/Berlin", False),
        (NIGHT, 5, 0, "Europe/Berlin", False),
        (NIGHT, 10, 59, "America/New_York", True),
        (QuietHours(60, 120), 0, 59, "", False),
        (QuietHours(60, 120), 1, 0, "", True),
        (QuietHours(60, 120), 2, 0, "", False),
        (QuietHours(0, 0), 12, 0, "", False),
        (QuietHours(22 * 60, 7 * 60, "Asia/Tokyo"), 13, 0, "", True),
        (QuietHours(22 * 60, 7 * 60, "Asia/Tokyo"), 13, 0, "UTC", False),
        (QuietHours(22 * 60, 7 * 60, "Asia/Tokyo"), 13, 0, "Mars/Base", True),
        (NIGHT, 16, 31, "Asia/Kolkata", True),  # half an hour beside
    ],
)
def test_given_a_clients_zone_when_asked_then_its_own_clock_decides(hours, hour, minute, tz, is_quiet):
    assert quiet_at(hours, hour, minute, **({"tz": tz} if tz else {})) is is_quiet


@given(st.text(max_size=40))
def test_given_any_name_when_it_is_no_zone_then_the_jobs_own_holds(name):
    zones = Zones()
    found = zones.get(name)
    assert found is None or found.key == name
    assert zones.get(name) is found


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/localtime", "America", "\0", "é", "a" * 5_000, "posixrules/x"])
def test_given_a_name_that_leads_elsewhere_when_looked_for_then_there_is_none(name):
    assert Zones().get(name) is None


def test_given_many_names_that_are_none_when_looked_for_then_few_are_remembered():
    zones = Zones()
    for i in range(MAX_UNKNOWN + 10):
        zones.get(f"X/{i}")
    assert len(zones._unknown) <= MAX_UNKNOWN


@pytest.mark.parametrize("late", [False, True])
async def test_given_quiet_hours_when_they_are_over_then_who_waited_gets_it_within_a_grant(late):
    room = Room()
    at(room, 6)  # 8 in Berlin, 2 in New York
    room.announce(quiet=NIGHT, expires_in_ms=86_400_000, slot=SLOTS if late else 0)
    for i in range(10):
        room.join(f"main:b{i}", attrs={"tz": "Europe/Berlin"})
        room.join(f"main:n{i}", attrs={"tz": "America/New_York"})
        room.join(f"main:u{i}")
    reply = await room.slice(late=30)
    assert (reply.persons, reply.counts.deferred, reply.counts.waiting) == (10, 20, 0)
    at(room, 7)
    reply = await room.slice(late=4)
    assert (reply.persons, reply.counts.deferred, reply.counts.waiting) == (4, 10, 6)
    at(room, 10, 59)
    assert (await room.slice(late=30)).counts.deferred == 10
    at(room, 11)
    reply = await room.slice(late=30)
    assert (reply.persons, reply.counts.deferred, reply.counts.waiting) == (10, 0, 0)
    assert all(room.got(key) == ["j1"] for key in room.wires)


async def test_given_quiet_that_ends_while_a_grant_runs_when_the_minute_comes_then_it_is_drawn():
    room = Room()
    at(room, 6, 59)
    room.wall += 59.5
    room.announce(quiet=NIGHT)
    one, two = room.join("main:c1"), room.join("main:c2", attrs={"tz": "Europe/Berlin"})
    await room.slice()
    room.leave(two)
    room.join("main:c3", attrs={"tz": "Europe/Berlin"})
    room.join("main:c4", attrs={"tz": "Europe/Berlin"})
    reply = await room.slice(late=3, spread_ms=1000)
    assert (reply.persons, bool(one.sent)) == (3, True)


async def test_given_who_waits_when_it_leaves_is_fenced_or_no_target_any_more_then_it_waits_no_more():
    room = Room()
    at(room, 23)
    room.announce(quiet=NIGHT, groups=["a"])
    gone, away, out = (room.join(f"main:c{i}", groups=("a",)) for i in range(3))
    assert (await room.slice()).counts.deferred == 3
    room.leave(gone)
    room.fanout.fence(away)
    out.groups = frozenset()
    room.fanout.regrouped(out)
    assert (await room.slice(lo=SLOTS)).counts.deferred == 0
    room.fanout.unfence(away)
    assert (await room.slice(lo=SLOTS)).counts.deferred == 1
    assert (gone.sent, away.sent, out.sent) == (0, 0, 0)
    room.end()
    assert room.announce("j2") == "ok"


async def test_given_a_late_joiner_when_its_night_begins_before_its_grant_then_it_waits_for_the_morning():
    room = Room()
    at(room, 21, 59)
    room.announce(quiet=NIGHT, slot=SLOTS, expires_in_ms=86_400_000)
    room.join("main:c1")
    assert (await room.slice(lo=SLOTS)).counts.waiting == 1
    at(room, 22)
    counts = (await room.slice(late=1)).counts
    assert (counts.sent, counts.waiting, counts.deferred) == (0, 0, 1)


async def test_given_a_zone_that_does_not_exist_when_announced_then_it_is_refused():
    room = Room()
    assert room.announce(quiet=QuietHours(0, 60, "Mars/Base")) == "refused"
    assert room.announce() == "ok"


async def test_given_thousands_of_clients_when_walked_then_a_zone_is_looked_at_once_a_minute(monkeypatch):
    looked = []

    class Clock(datetime):
        @classmethod
        def fromtimestamp(cls, seconds, zone):
            looked.append(zone)
            return datetime.fromtimestamp(seconds, zone)

    monkeypatch.setattr(quiet, "datetime", Clock)
    room = Room()
    at(room, 23)
    room.announce(quiet=NIGHT)
    for i in range(1_000):
        room.join(f"main:c{i}", attrs={"tz": ("Europe/Berlin", "Asia/Tokyo", "none")[i % 3]})
    await room.slice(late=1_000)
    assert len(looked) == 3
