"""A new token by AUTH (MQTT 5 §3.15, §4.12): who may, what it changes, and every way in which it fails."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from gateway_world import WALL, Device, World, claims, sign

from gateway.reasons import Reason
from gateway.sessions.session import State
from infra.tokens import Verifier

NEW = {"exp": int(WALL) + 7200}


def enter(world: World, *binds: str, ttl: int = 3600, **connect: Any) -> Device:
    device = world.accept()
    device.connect("c1", ttl=ttl, authentication_method="jwt", **connect)
    ack = device.socket.one(mqtt5.ConnAckPacket)
    assert (int(ack.reason_code), ack.authentication_method) == (0, "jwt")
    if binds:
        device.subscribe(*binds)
        device.socket.take()
    return device


def auth(token: bytes | None, *, code: int = 0x19, method: str | None = "jwt") -> mqtt5.AuthPacket:
    return mqtt5.AuthPacket(reason_code=mqtt5.AuthReasonCode(code), authentication_method=method, authentication_data=token)


def said(device: Device) -> tuple[int, str]:
    packet = device.socket.one(mqtt5.DisconnectPacket)
    assert device.socket.closed
    return int(packet.reason_code), packet.reason_str or ""


def test_given_the_method_when_a_new_token_comes_by_auth_then_it_is_answered_and_the_connection_outlives_the_old_one() -> None:
    world = World()
    device = enter(world, "push/demo", ttl=100)
    world.pass_time(90)
    device.send(auth(sign(claims(**NEW))))
    answer = device.socket.one(mqtt5.AuthPacket)
    assert (int(answer.reason_code), answer.authentication_method) == (0, "jwt")
    world.pass_time(30, step=1)
    assert device.session.state is State.OPEN
    world.push(world.register.store("m1"))
    assert device.pushed_ids() == ["m1"]


def test_given_a_shorter_token_by_auth_when_it_expires_then_the_connection_ends_then() -> None:
    world = World()
    device = enter(world, ttl=3000)
    device.send(auth(sign(claims(exp=int(WALL) + 50))))
    device.socket.take()
    world.pass_time(51)
    assert said(device) == (0x87, "token expired")


def test_given_a_token_that_grants_more_when_refreshed_then_more_can_be_bound() -> None:
    world = World()
    device = world.accept()
    few = sign(claims(products={"demo": {"user": "u1"}}))
    device.connect("c1", password=few, authentication_method="jwt")
    device.subscribe("push/chat")
    assert [int(code) for code in device.socket.take()[-1].reason_codes] == [0x87]  # type: ignore[attr-defined]
    device.send(auth(sign(claims(products={"demo": {"user": "u1"}, "chat": {}}))))
    device.socket.take()
    device.subscribe("push/chat", packet_id=2)
    assert [int(code) for code in device.socket.one(mqtt5.SubAckPacket).reason_codes] == [1]


def test_given_the_token_as_authentication_data_when_connecting_then_it_counts_and_the_password_does_not() -> None:
    device = World().accept()
    device.connect("c1", password=b"x", authentication_method="jwt", authentication_data=sign(claims()))
    assert int(device.socket.one(mqtt5.ConnAckPacket).reason_code) == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"authentication_method": "SCRAM-SHA-1"}, 0x8C),
        ({"authentication_method": ""}, 0x8C),
        ({"authentication_method": "JWT"}, 0x8C),
        ({"authentication_data": b"x"}, 0x82),
        ({"authentication_method": "jwt", "authentication_data": b"x"}, 0x86),
        ({"authentication_method": "jwt", "password": b""}, 0x86),
    ],
)
def test_given_another_method_or_data_without_one_when_connecting_then_its_reason(fields: dict[str, Any], code: int) -> None:
    device = World().accept()
    device.connect("c1", **fields)
    ack = device.socket.one(mqtt5.ConnAckPacket)
    assert int(ack.reason_code) == code
    assert ack.reason_str
    assert device.socket.closed


def test_given_no_method_when_connecting_then_none_is_answered_and_auth_is_refused() -> None:
    device = World().device()
    device.send(auth(sign(claims(**NEW))))
    assert said(device)[0] == Reason.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (auth(sign(claims(**NEW)), code=0x18), 0x82),
        (auth(sign(claims(**NEW)), code=0x00), 0x82),
        (auth(None), 0x87),
        (auth(b"x.y.z"), 0x87),
        (auth(sign(claims(exp=int(WALL)))), 0x87),
        (auth(sign(claims("c2", **NEW))), 0x87),
        (auth(sign(claims(**NEW), secret="o" * 40)), 0x87),
        (auth(sign(claims(**NEW, pad="x" * 5000))), 0x87),
        (auth(sign(claims(**NEW, products={}))), 0x87),
        (auth(sign(claims(**NEW, products={"chat": {}}))), 0x87),
        (auth(sign(claims(**NEW, products={"demo": {"user": "u2", "groups": ["*"], "attrs": {"os": "x"}}}))), 0x87),
        (auth(sign(claims(**NEW, products={"demo": {"user": "u1", "groups": ["*"]}}))), 0x87),
        (auth(sign(claims(**NEW, products={"demo": {"user": "u1", "groups": ["sport"], "attrs": {"os": "x"}}}))), 0x87),
    ],
)
def test_given_an_auth_that_fails_when_handled_then_the_connection_ends_with_its_reason(
    packet: mqtt5.AuthPacket, code: int
) -> None:
    device = enter(World(), "push/demo", "push/demo/news")
    device.send(packet)
    found, text = said(device)
    assert (found, bool(text)) == (code, True)


@pytest.mark.parametrize("method", [None, "", "SCRAM-SHA-1"])
def test_given_an_auth_of_another_method_when_handled_then_0x82(method: str | None) -> None:
    device = enter(World())
    device.send(auth(sign(claims(**NEW)), method=method))
    assert said(device)[0] == Reason.PROTOCOL_ERROR


def test_given_auths_in_a_row_when_faster_than_one_a_second_then_0x96() -> None:
    world = World()
    device = enter(world)
    device.send(auth(sign(claims(**NEW))))
    world.pass_time(1.1)
    device.send(auth(sign(claims(**NEW))))
    assert [type(packet) for packet in device.socket.take()] == [mqtt5.AuthPacket] * 2
    device.send(auth(sign(claims(**NEW))))
    assert said(device)[0] == Reason.MESSAGE_RATE


def test_given_a_subscribe_under_way_when_the_new_token_takes_something_away_then_refused_and_else_taken() -> None:
    less = claims(**NEW, products={"demo": claims()["products"]["demo"]})
    for body, taken in ((less, False), (claims(**NEW), True)):
        world = World()
        device = enter(world)
        world.register.held = True
        device.subscribe("push/chat", "push/demo")
        device.send(auth(sign(body)))
        assert isinstance(device.socket.take()[0], mqtt5.AuthPacket if taken else mqtt5.DisconnectPacket)
        while world.register.waiting:
            world.register.answer()
        assert (device.session.state is State.OPEN) == taken


def test_given_a_key_that_was_taken_away_when_refreshed_with_it_then_refused() -> None:
    world = World()
    device = enter(world)
    world.room.verifier.load({})
    device.send(auth(sign(claims(**NEW))))
    assert said(device)[0] == 0x87
    assert isinstance(world.room.verifier, Verifier)


def test_given_a_flash_return_with_the_method_when_back_then_the_connack_names_it_and_auth_goes_on() -> None:
    world = World()
    enter(world, "push/demo", session_expiry_interval=30).lose()
    device = world.accept()
    device.connect("c1", authentication_method="jwt", clean_start=False, session_expiry_interval=30)
    ack = device.socket.one(mqtt5.ConnAckPacket)
    assert (ack.session_present, ack.authentication_method) == (True, "jwt")
    device.send(auth(sign(claims(**NEW))))
    assert device.socket.one(mqtt5.AuthPacket)
