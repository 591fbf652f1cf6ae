"""Flash disconnect, the connect rate, and what a session's end tells of messages that nobody acknowledges."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from gateway_world import Device, World

from gateway.connect_rate import LONGEST, ConnectRate
from infra.keeper import Policy
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


def test_given_a_lost_socket_when_back_in_time_then_session_present_and_the_window_again_and_nobody_was_asked() -> None:
    world = World()
    away(world, "m1", "m2")
    asked = len(world.register.items)
    world.pass_time(20)
    assert (len(world.register.items), world.register.disconnects) == (asked, [])

    answer, again = connack(back(world))
    assert answer.session_present
    assert answer.session_expiry_interval == 30
    assert [(dict(item.user_properties)["id"], item.duplicate, item.packet_id) for item in again] == [
        ("m1", True, 1),
        ("m2", True, 2),
    ]
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


def test_given_a_smaller_receive_maximum_on_return_then_only_so_many_come_again_and_the_rest_by_a_page() -> None:
    world = World()
    away(world, "m1", "m2", "m3")
    device = back(world, receive_max=2)
    _, again = connack(device)
    assert [dict(item.user_properties)["id"] for item in again] == ["m1", "m2"]
    device.puback(1)
    device.puback(2)
    world.flush()
    assert device.pushed_ids() == ["m3"]


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
    bind = device.session.client.binds["demo"]  # type: ignore[union-attr]
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
    rate = ConnectRate(lambda: 10, 0.0)
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
