"""Flash disconnect, the connect rate, and what a session's end tells of messages that nobody acknowledges."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from gateway_world import Device, P, World
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gateway_delivery import Chaos

from gateway.admission.connect_rate import LONGEST, ConnectRate
from gateway.client import bind_to
from infra.documents import Policy
from infra.settings import RoomSettings
from infra.wire import ConnectItem, Kick, SettledJob, SyncItem


def away(world: World, *messages: str, client: str = "c1", **connect: Any) -> Device:
    """A client with a kept session: bound, these messages written and not acknowledged, its socket gone."""
    device = world.device(client, "push/demo", session_expiry_interval=30, **connect)
    for message in messages:
        assert (
            world.push(world.register.store(message, key=f"main:{client}"), key=f"main:{client}", number=world.register.number)
            == "written"
        )
    device.socket.take()
    device.lose()
    return device


def back(world: World, client: str = "c1", **connect: Any) -> Device:
    device = world.accept()
    device.connect(client, **{"clean_start": False, "session_expiry_interval": 30, **connect})
    return device


def connack(device: Device) -> tuple[mqtt5.ConnAckPacket, list[mqtt5.PublishPacket]]:
    first, *rest = device.socket.take()
    assert isinstance(first, mqtt5.ConnAckPacket)
    return first, rest  # type: ignore[return-value]


def numbered(packets: list[mqtt5.PublishPacket]) -> list[tuple[str, int | None, bool]]:
    return [(dict(item.user_properties)["id"], item.packet_id, item.duplicate) for item in packets]


def test_given_a_lost_socket_when_back_in_time_then_session_present_and_the_window_again_and_nobody_was_asked() -> None:
    world = World()
    away(world, "m1", "m2")
    asked = len(world.register.items)
    world.pass_time(20)
    assert (len(world.register.items), world.register.disconnects) == (asked, [])

    answer, again = connack(back(world))
    assert answer.session_present
    assert answer.session_expiry_interval == 30
    assert numbered(again) == [("m1", 1, True), ("m2", 2, True)]
    assert (len(world.register.items), world.register.disconnects) == (asked, [])
    assert world.room.connections == 1
    world.pass_time(10.1)
    world.flush()
    assert len(world.register.of(SyncItem)) == 1  # nothing was due, so within ten seconds


def test_given_a_message_while_away_when_back_then_the_window_comes_first_and_a_sync_at_once() -> None:
    world = World()
    away(world, "m1")
    assert world.push(world.register.store("m2")) == "behind"
    device = back(world)
    _, again = connack(device)
    assert [dict(item.user_properties)["id"] for item in again] == ["m1", "m2"]
    assert [item.duplicate for item in again] == [True, False]
    assert len(world.register.of(ConnectItem)) == 1


def test_given_an_acknowledgement_after_the_return_when_synced_then_the_message_is_settled() -> None:
    world = World()
    away(world, "m1")
    device = back(world)
    device.puback(1)
    world.flush()
    assert ("m1", "acked") in world.register.settled


def test_given_a_client_away_when_its_time_is_over_then_the_session_ends_and_the_client_is_offline() -> None:
    world = World()
    away(world, "m1")
    world.pass_time(29.5)
    assert world.register.disconnects == []
    world.pass_time(1)
    assert [item.reason for item in world.register.disconnects] == ["socket_closed"]
    assert world.room.connections == 0
    answer, _ = connack(back(world))
    assert not answer.session_present
    assert len(world.register.of(ConnectItem)) == 2


@pytest.mark.parametrize(
    "connect",
    [{"clean_start": True}, {"password": "another user"}, {"password": "fewer products"}],
    ids=["clean start", "another user", "a token that does not cover the bind"],
)
def test_given_a_kept_session_when_the_client_can_not_go_on_with_it_then_it_begins_afresh(connect: dict[str, Any]) -> None:
    from gateway_world import WALL, claims, sign

    world = World()
    away(world, "m1")
    if "password" in connect:
        whole = claims("c1", exp=int(WALL) + 3600)
        products = {"demo": {"user": "somebody-else"}} if connect["password"] == "another user" else {"chat": {}}
        connect = {"password": sign({**whole, "products": products})}
    answer, again = connack(back(world, **connect))
    assert not answer.session_present
    assert again == []
    assert [item.number for item in world.register.disconnects] == [1]
    assert world.room.connections == 1


def test_given_no_expiry_or_one_of_0_at_the_end_when_the_socket_goes_then_the_session_ends_at_once() -> None:
    world = World()
    world.device("c1", "push/demo").lose()
    device = world.device("c2", "push/demo", session_expiry_interval=30)
    device.send(mqtt5.DisconnectPacket(session_expiry_interval=0))
    assert [item.key for item in world.register.disconnects] == ["main:c1", "main:c2"]


def test_given_a_longer_expiry_than_the_policy_gives_when_connected_then_the_answer_names_the_policys() -> None:
    world = World(policy=Policy(flash_window_s=45))
    device = world.accept()
    device.connect("c1", session_expiry_interval=86400)
    assert connack(device)[0].session_expiry_interval == 45


def test_given_a_takeover_elsewhere_when_the_room_is_told_then_the_kept_session_goes() -> None:
    world = World()
    away(world)
    assert world.room.kick(Kick("main:c1", 1, 1, 0x8E, "elsewhere")).status == "ok"
    assert world.room.connections == 0
    assert not connack(back(world))[0].session_present


def test_given_a_smaller_receive_maximum_on_return_then_the_rest_of_the_window_waits_with_its_packet_ids() -> None:
    world = World()
    away(world, "m1", "m2", "m3", "m4")
    world.push(world.register.store("m5"))
    device = back(world, receive_max=2)
    _, again = connack(device)
    assert numbered(again) == [("m1", 1, True), ("m2", 2, True)]
    device.puback(2)
    assert numbered(device.pushed()) == [("m3", 3, True)]
    device.puback(1)
    device.puback(3)
    assert numbered(device.pushed()) == [("m4", 4, True), ("m5", 5, False)]  # the rest, then the page


def test_given_a_client_that_acknowledges_what_was_not_written_again_yet_then_that_is_not_written() -> None:
    world = World()
    away(world, "m1", "m2", "m3")
    device = back(world, receive_max=1)
    assert numbered(connack(device)[1]) == [("m1", 1, True)]
    device.puback(2)
    device.puback(1)
    assert numbered(device.pushed()) == [("m3", 3, True)]


def test_given_a_smaller_maximum_packet_size_on_return_then_what_is_too_large_is_a_dead_letter_and_the_rest_comes() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    world.push(world.register.store("m1", payload=b"x" * 90))
    world.push(world.register.store("m2"))
    device.lose()
    _, again = connack(back(world, max_packet_size=80))
    assert numbered(again) == [("m2", 2, True)]
    world.flush()
    assert ("m1", "dead") in world.register.settled


def test_given_a_window_larger_than_the_buffer_may_be_when_back_then_the_rest_waits_until_it_drains() -> None:
    world = World(settings=RoomSettings(max_write_buffer=4096))
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    for number in range(30):
        world.push(world.register.store(f"m{number}", payload=b"x" * 100))
        device.socket.take()
    device.lose()
    device = world.accept()
    device.socket.stalled = True
    device.connect("c1", clean_start=False, session_expiry_interval=30)
    _, again = connack(device)
    assert 10 < len(again) < 20
    device.socket.waiting = 0
    device.socket.stalled = False
    for _ in range(3):
        world.flush()
    assert len(again) + len(device.pushed()) == 30


def test_given_a_message_with_an_expiry_when_back_then_what_remains_of_it_is_said_and_an_expired_one_is_not_written() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    short = world.register.store("m1", expires_in_s=5)
    world.push(short)
    world.push(world.register.store("m2", expires_in_s=60))
    device.lose()
    world.pass_time(20)
    world.register.pending["main:c1", "demo"].remove(short)  # the store does not give out what has expired
    _, again = connack(back(world))
    assert numbered(again) == [("m2", 2, True)]
    assert again[0].message_expiry_interval in (39, 40)


def test_given_a_subscribe_under_way_when_the_socket_is_lost_then_its_answer_does_not_reach_the_next() -> None:
    world = World()
    device = world.device("c1", session_expiry_interval=30)
    world.register.held = True
    device.subscribe("push/demo", packet_id=7)
    device.subscribe("push/chat", packet_id=8)
    device.lose()
    device = back(world)
    assert connack(device)[0].session_present
    world.register.held = False
    while world.register.waiting:
        world.register.answer()
    assert device.socket.take() == []
    device.subscribe("push/demo", "push/chat", packet_id=1)
    [suback] = device.socket.take()
    assert isinstance(suback, mqtt5.SubAckPacket)
    assert suback.packet_id == 1


def test_given_many_settled_messages_when_hints_come_while_away_then_the_saver_is_not_asked() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    world.register.held = True
    device.session.delivery.sync_soon()  # type: ignore[union-attr]
    world.flush()
    for number in range(20):
        world.push(world.register.store(f"m{number}"))
    world.register.answer()
    for packet_id in range(1, 21):
        device.puback(packet_id)
    device.lose()
    while world.register.waiting:
        world.register.answer()
    asked = len(world.register.items)
    world.push(world.register.store("m99"))
    world.flush()
    assert len(world.register.items) == asked


def test_given_a_socket_that_is_still_open_when_the_client_connects_again_then_it_is_taken_over_and_the_session_goes_on() -> None:
    world = World()
    old = world.device("c1", "push/demo", session_expiry_interval=30)
    world.push(world.register.store("m1"))
    old.socket.take()
    asked = len(world.register.items)
    device = back(world)
    answer, again = connack(device)
    assert answer.session_present
    assert numbered(again) == [("m1", 1, True)]
    told = old.socket.one(mqtt5.DisconnectPacket)
    assert (int(told.reason_code), old.socket.closed) == (0x8E, True)
    old.lose()
    assert (len(world.register.items), world.register.disconnects, world.room.connections) == (asked, [], 1)
    device.puback(1)
    world.flush()
    assert world.register.settled == [("m1", "acked")]


def test_given_a_kept_session_when_two_sockets_of_the_client_connect_then_the_later_has_it_and_the_earlier_is_closed() -> None:
    world = World()
    away(world)
    first, second = back(world), back(world)
    assert connack(second)[0].session_present
    assert first.socket.closed
    first.lose()
    assert world.room.connections == 1
    assert world.push(world.register.store("m1")) == "written"
    assert second.pushed_ids() == ["m1"]


def test_given_a_disconnect_that_keeps_the_session_when_back_then_it_goes_on() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    device.send(mqtt5.DisconnectPacket())
    assert device.socket.closed
    assert world.push(world.register.store("m1")) == "behind"
    device.lose()
    answer, again = connack(back(world))
    assert answer.session_present
    assert numbered(again) == [("m1", 1, False)]


def test_given_a_full_room_when_a_client_comes_back_then_nobody_loses_a_session() -> None:
    world = World(settings=RoomSettings(max_connections=2))
    away(world, client="c1")
    away(world, client="c2")
    assert connack(back(world, "c1"))[0].session_present
    assert world.register.disconnects == []


def test_given_a_full_room_when_somebody_without_a_token_comes_then_nobody_loses_a_session() -> None:
    world = World(settings=RoomSettings(max_connections=1))
    away(world, client="c1")
    world.accept().connect("c2", password=b"nonsense")
    assert world.register.disconnects == []


def test_given_a_room_that_drains_when_a_socket_is_lost_then_the_session_ends() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    world.room.draining = True
    device.lose()
    assert [item.key for item in world.register.disconnects] == ["main:c1"]


def test_given_a_full_room_when_somebody_new_comes_then_who_is_away_for_longest_loses_its_session() -> None:
    world = World(settings=RoomSettings(max_connections=2))
    away(world, client="c1")
    away(world, client="c2")
    world.device("c3")
    assert [item.key for item in world.register.disconnects] == ["main:c1"]


def test_given_clients_away_when_the_room_ends_then_their_sessions_end_too() -> None:
    world = World()
    away(world)
    world.room.end_kept()
    assert [item.reason for item in world.register.disconnects] == ["moving"]


def test_given_broadcasts_in_flight_when_back_then_they_are_written_again_with_dup() -> None:
    world = World()
    away(world)
    packet = mqtt5.PublishPacket("push/demo", b"all", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=0x8001).write()
    world.fanout.inflight = {"demo": [packet]}
    _, [again] = connack(back(world))
    assert (again.packet_id, again.duplicate) == (0x8001, True)
    assert [call for call in world.fanout.calls if call[0] in ("away", "unfenced")] == [("away", "demo"), ("unfenced", "demo")]


# --- the invariant, with a socket that comes and goes --------------------------------------------------------------------

BLINKS = st.lists(
    st.sampled_from(["store", "store", "hint", "hint", "lose", "ack", "ack", "flush", "answer", "answer", "away", "back", "cut"]),
    max_size=80,
)


class Blinking(Chaos):
    """`Chaos` of a client whose socket comes and goes, in a room that is cut off now and then."""

    def __init__(self, receive_max: int, seed: int) -> None:
        super().__init__(receive_max, 1, seed, session_expiry_interval=3600)
        self.gone = False
        self.present = 0

    def look(self) -> None:
        if not self.gone:
            super().look()

    def step(self, what: str) -> None:
        if what == "away" and not self.gone:
            self.gone = True
            self.open.clear()
            self.device.lose()
        elif what == "back" and self.gone:
            self.back()
        elif what == "cut":
            self.world.room.resync()
            self.world.pass_time(2.2)
        elif what != "ack" or not self.gone:
            super().step(what)
        self.look()

    def back(self) -> None:
        self.gone = False
        self.device = self.world.accept()
        self.device.connect("c1", clean_start=False, session_expiry_interval=3600, receive_max=self.random.randint(1, 5))
        if self.first(mqtt5.ConnAckPacket).session_present:
            self.present += 1
        else:
            self.device.subscribe("push/demo")
            self.first(mqtt5.SubAckPacket)

    def first(self, kind: type[P]) -> P:
        """The next packet, taken off the socket; the saver answers until it comes."""
        socket = self.device.socket
        while not any(socket.raw):
            self.world.register.answer()
        data = b"".join(socket.raw)
        packet, size = mqtt5.read(memoryview(data))
        assert isinstance(packet, kind), packet
        socket.raw = [data[size:]]
        return packet

    def settle(self) -> None:
        if self.gone:
            self.step("back")
        super().settle()


@settings(max_examples=200, deadline=None)
@given(steps=BLINKS, receive_max=st.integers(1, 5), seed=st.integers(0, 999))
def test_given_a_socket_that_comes_and_goes_when_all_is_quiet_then_everything_came_first_in_order_and_is_settled(
    steps: list[str], receive_max: int, seed: int
) -> None:
    chaos = Blinking(receive_max, seed)
    for what in steps:
        chaos.step(what)
    chaos.settle()
    expected = [f"m{i + 1}" for i in range(chaos.count)]
    assert list(dict.fromkeys(chaos.seen)) == expected
    assert set(chaos.world.register.settled) == {(item, "acked") for item in expected}
    assert chaos.world.register.pending.get(("main:c1", "demo"), []) == []


# --- never acknowledged ------------------------------------------------------------------------------------------------


def test_given_two_sockets_in_a_row_without_any_puback_then_the_session_ends_and_says_so() -> None:
    world = World()
    away(world, "m1")
    device = back(world)
    device.lose()
    [end] = world.register.disconnects
    assert (end.unacked, end.fruitless, end.acked) == ([("demo", "m1")], 2, False)


def test_given_a_puback_in_between_then_the_count_begins_anew() -> None:
    world = World()
    away(world, "m1", "m2")
    device = back(world)
    device.puback(1)
    device.lose()
    assert world.register.disconnects == []
    back(world).send(mqtt5.DisconnectPacket(session_expiry_interval=0))
    [end] = world.register.disconnects
    assert (end.unacked, end.fruitless, end.acked) == ([("demo", "m2")], 1, True)


# --- after Redis lost something ----------------------------------------------------------------------------------------


def test_given_the_register_was_rebuilt_when_told_then_nothing_is_written_before_a_sync_and_jobs_are_saved_again() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    bind = bind_to(device.session.client.binds, "demo")  # type: ignore[union-attr]
    bind.saved = bind.settled = 1
    world.fanout.jobs = [SettledJob("demo", 0, 1, 60)]
    world.room.register_opened()
    assert (bind.saved, bind.fenced) == (0, True)
    world.pass_time(2.2)
    world.flush()
    [sync] = world.register.of(SyncItem)
    assert sync.jobs == [SettledJob("demo", 0, 1, 60)]
    assert not bind.fenced


# --- how fast clients are let in ---------------------------------------------------------------------------------------


def test_given_more_connects_than_the_rate_then_the_rest_is_refused_with_a_time_that_spreads_them() -> None:
    policy = Policy(connect_rate=10, connect_ramp_from=1.0)
    rate = ConnectRate(lambda: policy, 0.0, jitter=lambda: 0.0)
    assert [rate.admit(0.0) for _ in range(10)] == [0] * 10
    waits = [rate.admit(0.0) for _ in range(40)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1, 5)
    assert rate.admit(1.0) == 0
    assert max(rate.admit(1.0) for _ in range(2000)) <= LONGEST + 1


def test_given_a_room_at_its_rate_when_somebody_connects_then_connack_0x9f_with_retry_after_and_no_token_is_looked_at() -> None:
    world = World(policy=Policy(connect_rate=1))
    world.device("c1")
    device = world.accept()
    device.connect("c2", password=b"not even a token")
    [answer] = device.socket.take()
    assert isinstance(answer, mqtt5.ConnAckPacket)
    assert int(answer.reason_code) == 0x9F
    assert int(dict(answer.user_properties)["retry-after"]) >= 1
    assert len(world.register.of(ConnectItem)) == 1
