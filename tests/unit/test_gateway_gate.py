"""The room's gate from a client's side: who is turned away, who is refused by which code, and who has to go afterwards."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from gateway_world import Device, World
from prometheus_client import REGISTRY

from gateway.room import REVIEWED_AT_ONCE
from infra.documents import Access, Policy
from infra.peers import number
from infra.settings import RoomSettings
from infra.wire import ConnectItem, UplinkResult

HERE = "198.51.100.7"
ELSEWHERE = "203.0.113.9"
PRIVATE = "10.1.2.3"


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def access(**rules: Any) -> Access:
    return Access.model_validate(rules)


def refused(device: Device) -> tuple[int, int]:
    """The CONNACK's code, and its `retry-after`, 0 for none."""
    answer = device.socket.one(mqtt5.ConnAckPacket)
    assert answer.reason_str
    assert device.socket.closed
    return int(answer.reason_code), int(dict(answer.user_properties).get("retry-after", 0))


def said(device: Device) -> int:
    return int(device.socket.one(mqtt5.DisconnectPacket).reason_code)


# --- sockets -----------------------------------------------------------------------------------------------------------


def test_given_an_address_at_its_cap_then_a_further_socket_is_turned_away_and_counted_and_has_its_place_when_one_ends() -> None:
    world = World(policy=Policy(connections_per_address=2))
    before = value("longwire_gateway_turned_away_total", reason="address")
    first, _second = world.accept(HERE), world.accept(HERE)
    assert not world.room.let_in(first.socket.peer)
    assert value("longwire_gateway_turned_away_total", reason="address") == before + 1
    assert world.room.let_in(number(ELSEWHERE))
    first.lose()
    assert world.room.let_in(first.socket.peer)


@pytest.mark.parametrize("peer", [PRIVATE, "127.0.0.1", "::1", ""])
def test_given_an_address_that_is_not_counted_then_it_has_no_cap(peer: str) -> None:
    world = World(policy=Policy(connections_per_address=2, accepts_per_address=1, accept_burst=1))
    assert all(world.room.let_in(number(peer)) for _ in range(50))


def test_given_a_document_that_counts_private_addresses_then_they_have_a_cap() -> None:
    world = World(policy=Policy(connections_per_address=2))
    world.room.load(access(uncounted=[]))
    assert [world.room.let_in(number(PRIVATE)) for _ in range(3)] == [True, True, False]


def test_given_silent_sockets_beyond_the_room_and_its_spare_then_further_ones_are_turned_away() -> None:
    world = World(settings=RoomSettings(max_connections=80), policy=Policy(connections_per_address=10_000, accept_burst=100))
    for _ in range(80 + 10 + 64):
        world.accept()
    assert not world.room.let_in(number(ELSEWHERE))
    world.pass_time(6)  # the deadline before CONNECT closes them all
    for session in world.room.sessions:
        session.lost()
    world.device()


def test_given_a_denied_network_then_its_sockets_are_turned_away() -> None:
    world = World()
    world.room.load(access(deny={"networks": ["203.0.113.0/24"]}))
    assert not world.room.let_in(number(ELSEWHERE))
    assert world.room.let_in(number("203.0.114.9"))


# --- CONNECT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"deny": {"clients": ["c1"]}}, 0x8A),
        ({"deny": {"patterns": ["c?"]}, "allow": {"clients": ["c1"]}}, 0x8A),
        ({"allow": {"clients": ["c2"]}}, 0x87),
        ({"allow": {"patterns": ["d*"]}}, 0x87),
    ],
)
def test_given_a_client_that_the_lists_do_not_admit_then_the_code_says_which_and_no_token_is_looked_at(
    rules: dict[str, Any], code: int
) -> None:
    world = World()
    world.room.load(access(**rules))
    device = world.accept()
    device.connect("c1", password=b"not even a token")
    assert refused(device) == (code, 0)
    assert not world.register.of(ConnectItem)


def test_given_a_client_that_flaps_then_0x9f_says_for_how_long_and_others_are_let_in() -> None:
    world = World(policy=Policy(flapping_connects=3, flapping_ban=120))
    for _ in range(3):
        world.device("c1").lose()
    device = world.accept()
    device.connect("c1")
    assert refused(device) == (0x9F, 120)
    world.device("c2")
    world.pass_time(121, step=1)
    world.device("c1")


def test_given_connects_with_a_clients_id_and_no_good_token_then_the_client_is_not_banned() -> None:
    world = World(policy=Policy(flapping_connects=3))
    for _ in range(10):
        world.accept().connect("c1", password=b"a.b.c")
    world.device("c1")


def test_given_a_room_near_its_memory_then_connects_are_refused_then_sockets_rest_and_both_come_back_later() -> None:
    world = World()
    old = world.device("c0", "push/demo")
    world.memory = 0.86
    world.pass_time(1.1)
    device = world.accept()
    device.connect("c1")
    code, retry = refused(device)
    assert (code, 5 <= retry <= 10) == (0x97, True)
    assert (world.room.gate.short_of_memory, world.room.gate.shut, world.room.gate.admits) == (True, False, False)
    world.memory = 0.93
    world.pass_time(1.1)
    assert world.room.gate.shut
    assert not world.room.let_in(number(ELSEWHERE))
    world.memory = 0.87
    world.pass_time(1.1)
    assert (world.room.gate.short_of_memory, world.room.gate.shut) == (True, False)
    assert world.push(world.register.store("m1", key="main:c0"), key="main:c0") == "written"
    assert old.pushed_ids() == ["m1"]
    world.memory = 0.79
    world.pass_time(1.1)
    assert world.room.gate.admits
    world.device("c1")


@pytest.mark.parametrize("whose", ["register", "coordinator"])
def test_given_too_much_unanswered_by_the_workers_then_connects_are_refused_until_it_is_well_below(whose: str) -> None:
    world = World(settings=RoomSettings(max_batches=100_000))
    getattr(world, whose).unanswered = 100_000
    device = world.accept()
    device.connect("c1")
    code, retry = refused(device)
    assert (code, 5 <= retry <= 10) == (0x9F, True)
    getattr(world, whose).unanswered = 80_000
    device = world.accept()
    device.connect("c1")
    assert refused(device)[0] == 0x9F
    assert not world.room.gate.admits
    getattr(world, whose).unanswered = 70_000
    assert world.room.gate.admits  # told in the lease: nobody has to come and find out
    world.device("c1")


def test_given_a_room_that_has_just_started_when_all_its_clients_come_back_then_it_admits_a_part_and_tells_the_rest() -> None:
    world = World(policy=Policy(connect_rate=100, connect_ramp=10, connect_ramp_from=0.1))
    codes: dict[int, list[int]] = {0: [], 0x9F: []}
    for index in range(100):
        device = world.accept()
        device.connect(f"c{index}")
        answer = device.socket.one(mqtt5.ConnAckPacket)
        codes[int(answer.reason_code)].append(int(dict(answer.user_properties).get("retry-after", 0)))
    assert len(codes[0]) == 10
    assert len(codes[0x9F]) == 90
    assert max(codes[0x9F]) >= 9
    assert len(set(codes[0x9F])) >= 8  # spread


@pytest.mark.parametrize("trouble", ["saver", "full"])
def test_given_many_that_are_refused_at_once_when_told_when_to_come_back_then_it_is_not_the_same_for_all(trouble: str) -> None:
    world = World(settings=RoomSettings(max_connections=1) if trouble == "full" else None)
    if trouble == "full":
        world.device("first")
    else:
        world.register.held = True
    devices = [world.accept() for _ in range(60)]
    for index, device in enumerate(devices):
        device.connect(f"c{index}")
    world.pass_time(5.2)
    told = [refused(device) for device in devices]
    assert {code for code, _ in told} == {0x89 if trouble == "full" else 0x88}
    assert {after for _, after in told} >= {5, 6, 7, 8, 9}


# --- afterwards --------------------------------------------------------------------------------------------------------


def test_given_clients_when_the_lists_change_then_those_who_are_not_admitted_any_more_have_to_go_and_others_stay() -> None:
    world = World()
    before = value("longwire_gateway_closed_total", reason="denied")
    by_name, by_pattern, stays = world.device("c1"), world.device("d1"), world.device("e1")
    world.room.load(access(deny={"clients": ["c1"], "patterns": ["d*"]}))
    world.pass_time(0.2)
    assert (said(by_name), said(by_pattern)) == (0x98, 0x98)
    assert not stays.socket.closed
    world.room.load(access(allow={"clients": ["f1"]}))
    world.pass_time(0.2)
    assert said(stays) == 0x87
    assert value("longwire_gateway_closed_total", reason="denied") == before + 3
    assert [item.reason for item in world.register.disconnects] == ["denied"] * 3


def test_given_sockets_of_a_network_when_it_is_denied_then_all_go_whatever_their_state() -> None:
    world = World()
    silent, here = world.accept(ELSEWHERE), world.accept()
    opened = world.accept(ELSEWHERE)
    opened.connect("c1", session_expiry_interval=60)
    opened.socket.take()
    world.register.held = True
    opening = world.accept(ELSEWHERE)
    opening.connect("c2")
    world.room.load(access(deny={"networks": ["203.0.113.9"]}))
    world.pass_time(0.2)
    assert said(opened) == 0x98
    assert refused(opening) == (0x8A, 0)
    assert silent.socket.closed
    assert not here.socket.closed


def test_given_a_client_that_is_away_when_it_is_denied_then_its_session_is_not_kept() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=60)
    device.lose()
    assert len(world.room.kept) == 1
    world.room.load(access(deny={"clients": ["c1"]}))
    world.pass_time(0.2)
    assert len(world.room.kept) == 0


def test_given_the_same_lists_again_then_nobody_is_looked_at() -> None:
    world = World()
    world.room.load(access(deny={"clients": ["c1"]}))
    world.pass_time(0.2)
    world.room.load(access(deny={"clients": ["c1"]}))
    assert world.room._unreviewed == []


def test_given_more_clients_than_a_tick_reviews_then_each_has_its_turn() -> None:
    world = World()
    devices = [world.device(f"c{index}") for index in range(REVIEWED_AT_ONCE + 10)]
    world.room.load(access(deny={"patterns": ["c*"]}))
    world.pass_time(0.1)
    assert sum(device.socket.closed for device in devices) == REVIEWED_AT_ONCE
    world.pass_time(0.1)
    assert all(device.socket.closed for device in devices)


# --- how fast a client publishes -----------------------------------------------------------------------------------------


def test_given_a_client_that_publishes_too_fast_then_it_is_read_no_more_for_a_moment_and_nothing_is_lost() -> None:
    world = World(policy=Policy(publish_rate=10, publish_burst=5))
    device = world.device("c1", "push/demo")
    before = value("longwire_gateway_paced_total")
    for index in range(5):
        assert not device.session.held
        device.publish("up/demo/note", packet_id=index + 1)
        world.coordinator.answer(UplinkResult("ok"))
    assert device.session.held
    assert device.socket.paused
    assert value("longwire_gateway_paced_total") == before + 1
    assert [int(ack.reason_code) for ack in device.socket.take()] == [0] * 5  # type: ignore[attr-defined]
    world.pass_time(0.2)
    assert not device.session.held
    assert not device.socket.paused


def test_given_pulls_and_refused_uplinks_then_they_count_as_well() -> None:
    world = World(policy=Policy(publish_rate=10, publish_burst=4))
    device = world.device("c1", "push/demo")
    for index in range(2):
        device.publish("pull/demo", b"", packet_id=index + 1, user_properties=[("id", f"m{index}")])
        device.publish("nowhere", packet_id=index + 11)
    assert device.session.held


def test_given_a_client_that_stays_over_its_rate_then_it_is_closed_with_0x96_and_another_is_not() -> None:
    world = World(policy=Policy(publish_rate=10, publish_burst=5, publish_patience=20))
    flood, other = world.device("c1"), world.device("c2")
    while not flood.socket.closed:
        assert world.now < 25
        while not flood.session.held:
            flood.publish("up/demo/note", packet_id=None)
            while world.coordinator.waiting:
                world.coordinator.answer()
        world.pass_time(0.1)
    assert world.now > 20
    assert said(flood) == 0x96
    assert [item.reason for item in world.register.disconnects] == ["publish_rate"]
    assert not other.socket.closed


def test_given_idle_clients_then_they_have_no_bucket() -> None:
    world = World()
    devices = [world.device(f"c{index}", "push/demo") for index in range(20)]
    for device in devices:
        device.publish("up/demo/note", packet_id=None)
    assert len(world.room.publishing) == 20
    world.pass_time(3)
    assert len(world.room.publishing) == 0
    devices[0].publish("up/demo/note", packet_id=None)
    devices[0].lose()
    assert len(world.room.publishing) == 0
