"""What is news of one client, case by case: who asks for what is the test's, Kafka's log is a list."""

from __future__ import annotations

from typing import Any

from infra.register.told import Told
from schemas.codes import EventType, Status
from schemas.records import StatusEvent
from workers.callbacks.presence import NOT_BOUND_AGAIN, REBIND_MS, UNBOUND, Change, Presence, Record

CONNECTED, DISCONNECTED = EventType.CLIENT_CONNECTED, EventType.CLIENT_DISCONNECTED
WINDOW = 5000


class Wants:
    def tracks(self, product: str) -> bool:
        return product in ("p", "at-once")

    def window_ms(self, product: str) -> int:
        return WINDOW if product == "p" else 0


class Log:
    """Records as they are appended, taken one by one; what was told is remembered at once."""

    def __init__(self, **known: Told) -> None:
        self.presence = Presence(Wants())
        self.told: dict[str, dict[str, Told]] = {}
        self.known = known
        self.offset = 0

    def take(self, at_ms: int, event: Status, session: int, product: str | None = "p", *, client: str = "c", **more: Any) -> Any:
        """What is told then, as (what, whose session, reason)."""
        named = product if event in (Status.BIND, Status.UNBIND) else None
        record = StatusEvent(
            realm="main", client=client, event=event, generation=1, session=session, room="r", epoch=1, at_ms=at_ms,
            product=named, **more,
        )  # fmt: skip
        self.presence.begin({f"main:{client}": {**self.known, **self.told.get(client, {})}})
        self.offset += 1
        return self._told(self.presence.take(Record(record, self.offset, at_ms)))

    def wait(self, now_ms: int) -> Any:
        return self._told(self.presence.pass_time(now_ms))

    def _told(self, changes: Any) -> Any:
        found: list[Change] = list(changes)
        for change in found:
            if change.told is not None:
                self.told.setdefault(change.key.partition(":")[2], {})[change.product] = change.told
        return [(change.news, change.session[1], change.reason) for change in found if change.news is not None]


def there(product: str = "p", session: int = 1) -> Log:
    """A client that is bound, at 0 ms."""
    log = Log()
    assert log.take(0, Status.ONLINE, session) == []
    assert log.take(0, Status.BIND, session, product) == [(CONNECTED, session, "")]
    return log


def test_given_an_end_when_the_window_has_passed_then_it_is_told_once() -> None:
    log = there()
    assert log.take(1000, Status.OFFLINE, 1, reason="closed") == []
    assert log.presence.floor == 3
    assert log.wait(1000 + WINDOW - 1) == []
    assert log.wait(1000 + WINDOW) == [(DISCONNECTED, 1, "closed")]
    assert log.presence.floor is None
    assert log.take(9000, Status.OFFLINE, 1) == []


def test_given_a_return_within_the_window_then_nothing_is_told_and_the_next_end_is_the_new_sessions() -> None:
    log = there()
    log.take(1000, Status.OFFLINE, 1)
    assert log.take(2000, Status.ONLINE, 2) + log.take(2100, Status.BIND, 2) == []
    assert log.wait(60_000) == []
    log.take(70_000, Status.OFFLINE, 2)
    assert log.wait(80_000) == [(DISCONNECTED, 2, "")]


def test_given_a_session_within_the_window_that_binds_a_little_after_it_then_nothing_is_told() -> None:
    log = there()
    log.take(1000, Status.OFFLINE, 1)
    log.take(5900, Status.ONLINE, 2)
    assert log.take(6500, Status.BIND, 2) == []


def test_given_no_window_then_an_end_is_told_at_once_and_a_move_is_none() -> None:
    log = there("at-once")
    assert log.take(1000, Status.ONLINE, 2) + log.take(1001, Status.OFFLINE, 1) == []
    assert log.take(1100, Status.BIND, 2, "at-once") == []
    assert log.take(2000, Status.OFFLINE, 2) == [(DISCONNECTED, 2, "")]


def test_given_a_late_end_of_an_older_session_then_it_is_dropped_and_counted() -> None:
    log = there(session=2)
    assert log.take(1000, Status.OFFLINE, 1) == []
    assert log.wait(60_000) == []
    assert dict(log.presence.counts.take())["late"] == 1


def test_given_a_new_session_that_does_not_bind_again_then_the_client_is_gone_for_that_product() -> None:
    log = there()
    log.take(1000, Status.ONLINE, 2)
    assert log.wait(1000 + REBIND_MS) == [(DISCONNECTED, 1, NOT_BOUND_AGAIN)]
    assert log.take(20_000, Status.BIND, 2) == [(CONNECTED, 2, "")]


def test_given_a_client_that_comes_and_goes_without_binding_then_its_end_is_not_put_off_for_ever() -> None:
    log, told = there(), []
    log.take(0, Status.OFFLINE, 1)
    for session in range(2, 12):
        told += log.take(4000 * session, Status.ONLINE, session) + log.take(4000 * session + 1, Status.OFFLINE, session)
    assert told == [(DISCONNECTED, 1, "")]


def test_given_a_copy_of_a_bind_after_its_sessions_end_then_it_does_not_bring_the_client_back() -> None:
    log = there()
    log.take(1000, Status.OFFLINE, 1)
    assert log.take(1500, Status.BIND, 1) == []
    assert log.wait(60_000) == [(DISCONNECTED, 1, "")]
    assert log.take(60_001, Status.BIND, 1) == []


def test_given_a_room_that_was_only_stopped_then_its_clients_come_back_with_the_same_session() -> None:
    log = there()
    log.take(1000, Status.OFFLINE, 1, reason="room lost")
    assert log.wait(10_000) == [(DISCONNECTED, 1, "room lost")]
    assert log.take(11_000, Status.ONLINE, 1, again=True) == []
    assert log.take(11_000, Status.BIND, 1, again=True) == [(CONNECTED, 1, "")]
    log.take(12_000, Status.OFFLINE, 1)
    assert log.wait(20_000) == [(DISCONNECTED, 1, "")]


def test_given_a_stopped_room_that_is_back_when_its_client_binds_what_it_had_in_the_session_before_then_that_is_told() -> None:
    log = there("at-once")
    log.take(1000, Status.ONLINE, 2)
    assert log.take(1000, Status.OFFLINE, 2, reason="room lost") == [(DISCONNECTED, 2, "room lost")]
    assert log.take(1000, Status.ONLINE, 2, again=True) == []
    assert log.take(1000, Status.BIND, 2, "at-once") == [(CONNECTED, 2, "")]


def test_given_an_unbind_and_an_end_then_a_copy_of_the_bind_brings_nobody_back_after_a_restart() -> None:
    for next_session in ([], [Status.ONLINE, Status.OFFLINE]):
        log = there("at-once")
        log.take(0, Status.UNBIND, 1, "at-once")
        log.take(0, Status.OFFLINE, 1)
        for event in next_session:
            log.take(0, event, 2)
        log.presence = Presence(Wants())
        assert log.take(1, Status.BIND, 1, "at-once") == []


def test_given_an_unbind_then_it_is_told_at_once_and_binding_again_in_the_same_session_too() -> None:
    log = there()
    assert log.take(1000, Status.UNBIND, 1) == [(DISCONNECTED, 1, UNBOUND), (EventType.CLIENT_UNBOUND, 1, "")]
    assert log.take(1001, Status.BIND, 1, changed=True) == [(EventType.CLIENT_BOUND, 1, ""), (CONNECTED, 1, "")]


def test_given_a_bind_of_another_user_then_the_client_stays_and_the_users_change() -> None:
    log = Log()
    [first] = _changes(log, 0, "u")
    [second] = _changes(log, 1, "v")
    assert (first.left, first.arrived, first.news) == (None, "u", CONNECTED)
    assert (second.left, second.arrived, second.news) == ("u", "v", None)


def _changes(log: Log, at_ms: int, user: str) -> list[Change]:
    event = StatusEvent(
        realm="main",
        client="c",
        event=Status.BIND,
        generation=1,
        session=1,
        room="r",
        epoch=1,
        at_ms=at_ms,
        product="p",
        user=user,
    )
    log.presence.begin({"main:c": log.told.get("c", {})})
    log.offset += 1
    found = list(log.presence.take(Record(event, log.offset, at_ms)))
    log.told["c"] = {change.product: change.told for change in found if change.told is not None}
    return found


def test_given_what_is_not_known_any_more_then_it_is_told_again_rather_than_never() -> None:
    for online in (True, False):
        log = Log(p=Told(1, 1, 0, online, "", known=False))
        assert log.take(0, Status.BIND, 1) == [(CONNECTED, 1, "")]
        log = Log(p=Told(1, 1, 0, online, "", known=False))
        log.take(0, Status.OFFLINE, 1)
        assert log.wait(WINDOW) == [(DISCONNECTED, 1, "")]


def test_given_a_restart_then_what_was_told_is_not_told_again_though_it_is_read_again() -> None:
    log = Log(p=Told(1, 3, 40, False))
    assert log.take(0, Status.BIND, 2) + log.take(1, Status.OFFLINE, 2) + log.wait(60_000) == []
    log = Log(p=Told(1, 3, 40, True))
    assert log.take(0, Status.BIND, 3) == []


def test_given_more_ends_than_may_be_held_then_the_first_that_is_due_is_told_early_and_counted() -> None:
    log = Log()
    log.presence.max_held = 2
    for client in ("a", "b", "c"):
        log.take(0, Status.ONLINE, 1, client=client)
        log.take(0, Status.BIND, 1, client=client)
    told = [log.take(at_ms, Status.OFFLINE, 1, client=client) for at_ms, client in enumerate(("a", "b", "c"), 1)]
    assert told == [[], [], [(DISCONNECTED, 1, "")]]
    assert (log.presence.held, dict(log.presence.counts.take())["early"]) == (2, 1)
    assert log.presence.floor == 8
