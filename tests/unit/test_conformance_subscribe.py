"""MQTT 5 §3.8 to §3.11, §4.7: filters. docs/conformance.md says which test shows which statement."""

from __future__ import annotations

import mqtt5
import pytest
from gateway_world import Device, World
from hypothesis import given, strategies
from wire_bytes import ends_with, packet, string, subscribe

from gateway.reasons import Reason
from gateway.sessions import subscribing
from infra.documents import Policy
from infra.wire import Downlink


def answered(device: Device) -> list[int]:
    [said] = device.socket.take()
    assert isinstance(said, (mqtt5.SubAckPacket, mqtt5.UnsubAckPacket))
    return [int(code) for code in said.reason_codes]


def bound(device: Device) -> dict[str, tuple[int, list[str]]]:
    """Product → QoS, groups."""
    client = device.session.client
    assert client is not None
    return {bind.product: (bind.qos, sorted(bind.groups)) for bind in client.binds}


def filters(*wishes: tuple[str, int], packet_id: int = 1) -> mqtt5.SubscribePacket:
    return mqtt5.SubscribePacket(packet_id, [mqtt5.TopicFilter(name, max_qos=mqtt5.QoS(qos)) for name, qos in wishes])


@pytest.mark.parametrize("options", [0x41, 0x81, 0xC1])
@pytest.mark.parametrize("place", [0, 1])
def test_given_reserved_subscription_options_then_0x81(options: int, place: int) -> None:
    each = [string("push/demo") + b"\x01", string("push/chät") + b"\x01"]
    each[place] = each[place][:-1] + bytes((options,))
    assert ends_with(packet(0x82, b"\x00\x01\x00" + b"".join(each))) == Reason.MALFORMED


@pytest.mark.parametrize("wish", [0, 1, 2])
def test_given_a_wish_for_any_qos_then_that_is_granted_or_1(wish: int) -> None:
    device = World().device("c1")
    device.subscribe("push/demo", qos=wish)
    assert answered(device) == [min(wish, 1)]


@pytest.mark.parametrize(("most", "whole"), [(400, True), (60, False)])
def test_given_a_reason_that_the_client_does_not_take_then_suback_is_without_it(most: int, whole: bool) -> None:
    device = World().device("c1", max_packet_size=most)
    device.subscribe("push/" + "x" * 50)
    [said] = device.socket.raw
    assert len(said) <= most
    ack = device.socket.one(mqtt5.SubAckPacket)
    assert ([int(code) for code in ack.reason_codes], bool(ack.reason_str)) == ([Reason.NOT_AUTHORIZED], whole)


def test_given_the_same_filter_again_then_it_replaces_the_bind_and_no_message_is_lost() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    world.push(world.register.store("m1"))
    world.push(world.register.store("m2"))
    assert device.pushed_ids() == ["m1", "m2"]
    device.puback(1)
    world.register.store("m3")  # its hint is lost
    device.subscribe("push/demo", qos=0, packet_id=2)
    suback, page = device.socket.take()
    assert isinstance(suback, mqtt5.SubAckPacket)
    assert isinstance(page, mqtt5.PublishPacket)
    assert ([int(code) for code in suback.reason_codes], bound(device)) == ([0], {"demo": (0, [])})
    assert (dict(page.user_properties)["id"], int(page.qos)) == ("m3", 0)
    device.puback(2)
    world.flush()
    assert sorted(world.register.settled) == [("m1", "acked"), ("m2", "acked"), ("m3", "written")]


WISHES = [
    [("push/demo", 0), ("push/demo", 1)],
    [("push/demo", 1), ("push/demo/news", 0), ("push/chat", 0), ("push/chat/any", 1)],
    [("push/demo/news", 1), ("push/demo", 1)],
    [("push/demo", 0), ("push/demo/news", 0), ("push/demo", 1)],
    [("push/demo", 1), ("push/none", 1), ("a/b", 1), ("push/demo/secret", 1), ("push/demo/sport", 1)],
]


@pytest.mark.parametrize("wishes", WISHES)
def test_given_several_filters_in_one_subscribe_then_it_is_as_if_each_had_come_alone(wishes: list[tuple[str, int]]) -> None:
    together, alone = World().device("c1"), World().device("c1")
    together.send(filters(*wishes))
    codes = []
    for packet_id, wish in enumerate(wishes, 1):
        alone.send(filters(wish, packet_id=packet_id))
        codes += answered(alone)
    assert (answered(together), bound(together)) == (codes, bound(alone))


NAMES = [
    "push/demo",
    "push/demo/news",
    "push/demo/sport",
    "push/demo/secret",
    "push/chat",
    "push/chat/a",
    "push/chat/b",
    "push/none",
    "x",
]
SOME = strategies.lists(strategies.tuples(strategies.sampled_from(NAMES), strategies.integers(0, 1)), min_size=1, max_size=7)


@given(before=strategies.lists(SOME, max_size=2), wishes=SOME, most=strategies.integers(1, 3))
def test_given_any_filters_and_limits_then_one_subscribe_is_as_one_for_each(
    before: list[list[tuple[str, int]]], wishes: list[tuple[str, int]], most: int
) -> None:
    policy = Policy(binds_per_connection=most, groups_per_bind=2, connect_ramp_from=1.0)
    together, alone = World(policy=policy).device("c1"), World(policy=policy).device("c1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscribing, "MAX_GROUPS", most)
        for device in (together, alone):
            for packet_id, sent in enumerate(before, 1):
                device.send(filters(*sent, packet_id=packet_id))
                answered(device)
        together.send(filters(*wishes, packet_id=9))
        codes = []
        for packet_id, wish in enumerate(wishes, 10):
            alone.send(filters(wish, packet_id=packet_id))
            codes += answered(alone)
    assert (answered(together), bound(together)) == (codes, bound(alone))


LEFT = [
    ["push/demo", "push/demo"],
    ["push/demo", "push/demo/news"],
    ["push/demo/news", "push/demo"],
    ["push/demo/news", "push/demo/news", "push/chat/any", "push/demo/sport"],
    ["push/+", "push/chat", "a/b", "push/none"],
]


@pytest.mark.parametrize("patterns", LEFT)
def test_given_several_filters_in_one_unsubscribe_then_it_is_as_if_each_had_come_alone(patterns: list[str]) -> None:
    together, alone = (World().device("c1", "push/demo", "push/demo/news", "push/chat") for _ in range(2))
    together.unsubscribe(*patterns)
    codes = []
    for packet_id, pattern in enumerate(patterns, 1):
        alone.unsubscribe(pattern, packet_id=packet_id)
        codes += answered(alone)
    assert (answered(together), bound(together)) == (codes, bound(alone))


@pytest.mark.parametrize("pattern", ["push/dem", "push/demo/", "push/DEMO", "push/demo/spor", "push/+", "#", "push/demo/#"])
def test_given_a_filter_that_is_not_exactly_one_of_the_clients_then_nothing_is_left(pattern: str) -> None:
    device = World().device("c1", "push/demo", "push/demo/news")
    before = bound(device)
    device.unsubscribe(pattern)
    assert answered(device)[0] in (Reason.NO_SUBSCRIPTION, Reason.TOPIC_FILTER_INVALID)
    assert bound(device) == before


def test_given_an_unsubscribe_then_no_new_message_is_written() -> None:
    world = World()
    device = world.device("c1", "push/demo")
    world.register.held = True
    device.unsubscribe("push/demo")
    assert world.push(world.register.store("m1")) == "gone"
    assert world.push(Downlink("f1", 0, b"x")) == "dropped"
    world.register.held = False
    world.register.answer()
    world.flush()
    assert answered(device) == [0]


def test_given_a_bind_and_its_group_then_a_message_for_the_group_comes_once_at_the_binds_qos() -> None:
    world = World()
    device = world.device("c1")
    device.send(filters(("push/demo", 1), ("push/demo/news", 0)))
    assert answered(device) == [1, 1]
    world.push(world.register.store("m1", group="news"))
    [packet] = device.pushed()
    assert (packet.topic, int(packet.qos), packet.subscription_ids) == ("push/demo/news", 1, [])


def test_given_an_empty_filter_then_0x8f() -> None:
    device = World().device("c1")
    device.subscribe("", "push/demo")
    assert answered(device) == [Reason.TOPIC_FILTER_INVALID, 1]


@pytest.mark.parametrize(
    "name", ["push/Demo", " push/demo", "push/demo ", "push//demo", "push/de\u0301mo", "push/ｄemo", "/push/demo"]
)
def test_given_a_filter_that_only_looks_like_another_then_it_is_another(name: str) -> None:
    device = World().device("c1")
    device.subscribe(name)
    assert answered(device) == [Reason.TOPIC_FILTER_INVALID]
    assert bound(device) == {}


@pytest.mark.parametrize(
    ("pattern", "code"),
    [
        ("#", 0xA2),
        ("+", 0xA2),
        ("push/#", 0xA2),
        ("push/+/news", 0xA2),
        ("push/demo#", 0xA2),
        ("#/push", 0xA2),
        ("push/demo+", 0xA2),
        ("$share/group/push/demo", 0x9E),
        ("$share/group/#", 0x9E),
        ("$share//push/demo", 0x9E),
        ("$share/group", 0x9E),
    ],
)
def test_given_a_filter_that_is_not_offered_anywhere_in_a_subscribe_then_its_reason_and_nothing_is_bound(
    pattern: str, code: int
) -> None:
    for wishes in ([pattern], ["push/demo", pattern]):
        world = World()
        asked = len(world.register.items)
        assert ends_with(subscribe(*wishes), device=world.device("c1")) == code
        assert len(world.register.items) == asked + 1  # the session


def test_given_no_local_then_it_is_taken_and_on_a_shared_filter_refused_as_shared() -> None:
    device = World().device("c1")
    device.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo", max_qos=mqtt5.QoS(1), no_local=True)]))
    assert answered(device) == [1]
    assert ends_with(subscribe("$share/group/push/demo", options=0x05)) == Reason.SHARED_NOT_SUPPORTED
