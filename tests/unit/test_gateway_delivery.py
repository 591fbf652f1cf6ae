"""Hints, pages, windows and acks of one client, by a scripted saver; and the invariant, under everything that may go wrong."""

from __future__ import annotations

import random

import mqtt5
import pytest
from gateway_world import Device, World
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.client import FIRST_BROADCAST_ID
from gateway.sessions.delivery import MAX_UNCONFIRMED
from gateway.sessions.window import ACKS_BYTES
from infra.documents import Policy
from infra.settings import RoomSettings
from infra.wire import Ack, BindItem, Downlink, Leave, SettledJob, SyncItem


def bound(world: World, *, qos: int = 1, **connect: object) -> Device:
    device = world.device("c1", **connect)
    device.subscribe("push/demo", qos=qos)
    device.socket.take()
    return device


def packet_ids(packets: list[mqtt5.PublishPacket]) -> list[int]:
    return [packet.packet_id or 0 for packet in packets]


# --- savers that are away ----------------------------------------------------------------------------------------------


def test_given_savers_away_when_much_is_settled_then_nothing_more_is_written_until_they_know() -> None:
    world = World()
    device = bound(world, qos=0)
    world.register.held = True
    outcomes = []
    for number in range(MAX_UNCONFIRMED + 4):
        outcomes.append(world.push(world.register.store(f"m{number}")))
        world.flush()
    assert outcomes == ["written"] * MAX_UNCONFIRMED + ["behind"] * 4
    assert device.pushed_ids() == [f"m{number}" for number in range(MAX_UNCONFIRMED)]
    world.register.held = False
    while world.register.waiting:
        world.register.answer()
    for _ in range(4):
        world.flush()
    assert device.pushed_ids() == [f"m{number}" for number in range(MAX_UNCONFIRMED, MAX_UNCONFIRMED + 4)]
    assert world.register.settled == [(f"m{number}", "written") for number in range(MAX_UNCONFIRMED + 4)]


@pytest.mark.parametrize("end", [False, True], ids=["connected", "disconnected"])
def test_given_more_acks_than_one_request_may_carry_then_they_go_in_several(end: bool) -> None:
    world = World()
    device = bound(world)
    client = device.session.client
    assert client is not None
    client.acks = [Ack("demo", f"m{number:02}", "rejected", "x" * 1000) for number in range(80)]
    if end:
        device.lose()
    else:
        device.session.touch()
    for _ in range(16):
        world.flush()
    carried = [len(item.acks) for item in [*world.register.of(SyncItem), *world.register.disconnects]]
    assert max(carried) == ACKS_BYTES // (4 * 1000 + len("demom00rejected") + 8)
    assert world.register.settled == [(f"m{number:02}", "rejected") for number in range(80)]
    assert bool(world.register.disconnects) == end


# --- hints -------------------------------------------------------------------------------------------------------------


def test_given_an_idle_bind_when_the_next_number_is_hinted_then_it_is_written_with_all_it_carries() -> None:
    world = World()
    device = world.device("c1")
    device.subscribe("push/demo", "push/demo/news")
    device.socket.take()
    message = world.register.store(
        "m1", payload=b"hello", expires_in_s=9, group="news", content_type="text", correlation=b"c", properties=[("a", "b")]
    )
    assert world.push(message) == "written"
    packet = device.socket.one(mqtt5.PublishPacket)
    assert (packet.topic, packet.payload, int(packet.qos), packet.packet_id) == ("push/demo/news", b"hello", 1, 1)
    assert packet.user_properties == [("id", "m1"), ("a", "b")]
    assert (packet.message_expiry_interval, packet.content_type, packet.correlation_data) == (9, "text", b"c")


def test_given_a_group_that_was_not_joined_when_hinted_then_the_topic_is_the_bind() -> None:
    world = World()
    device = bound(world)
    world.push(world.register.store("m1", group="sport"))
    assert device.socket.one(mqtt5.PublishPacket).topic == "push/demo"


def test_given_a_gap_when_hinted_then_a_sync_brings_both_in_order() -> None:
    world = World()
    device = bound(world)
    world.register.store("m1")
    assert world.push(world.register.store("m2")) == "behind"
    assert device.pushed_ids() == ["m1", "m2"]


def test_given_a_hint_twice_when_hinted_then_it_is_written_once() -> None:
    world = World()
    device = bound(world)
    message = world.register.store("m1")
    assert [world.push(message), world.push(message)] == ["written", "written"]
    assert device.pushed_ids() == ["m1"]


def test_given_a_request_under_way_when_hinted_then_another_sync_follows_its_answer() -> None:
    world = World()
    device = bound(world)
    world.push(world.register.store("m1"))
    device.puback(1)
    device.session.delivery.sync_soon()  # type: ignore[union-attr]
    world.register.held = True
    world.flush()
    request = world.register.waiting[0]
    answer = world.register._result(request.item)  # what the saver saw before the next message was stored
    assert world.push(world.register.store("m2")) == "behind"
    world.register.held = False
    world.register.answer(answer)
    device.socket.take()
    assert len(world.register.of(SyncItem)) == 2
    assert world.register.settled == [("m1", "acked")]


def test_given_acks_alone_under_way_when_hinted_then_it_is_written_at_once() -> None:
    world = World()
    device = bound(world)
    world.push(world.register.store("m1"))
    device.puback(1)
    device.socket.take()
    world.register.held = True
    world.flush()
    assert [item.only_acks for item in world.register.of(SyncItem)] == [True]
    assert world.push(world.register.store("m2")) == "written"
    assert device.pushed_ids() == ["m2"]
    world.register.answer()
    assert world.register.settled == [("m1", "acked")]
    assert device.pushed() == []


def test_given_acks_alone_under_way_when_another_comes_then_it_is_told_after_the_answer() -> None:
    world = World()
    device = bound(world)
    for text in ("m1", "m2"):
        world.push(world.register.store(text))
    device.puback(1)
    world.register.held = True
    world.flush()
    device.puback(2)
    world.flush()
    world.register.answer()
    assert world.register.settled == [("m1", "acked")]
    world.flush()
    world.register.answer()
    assert world.register.settled == [("m1", "acked"), ("m2", "acked")]


def test_given_acks_alone_when_the_session_is_missing_then_all_of_it_is_synced() -> None:
    world = World()
    device = bound(world)
    world.push(world.register.store("m1"))
    world.register.missing = True
    device.puback(1)
    world.flush()
    world.flush()
    assert [item.only_acks for item in world.register.of(SyncItem)] == [True, False]
    assert [len(item.products) for item in world.register.of(SyncItem)] == [0, 1]


def test_given_no_such_session_or_bind_when_hinted_then_gone() -> None:
    world = World()
    bound(world)
    message = world.register.store("m1")
    assert world.push(message, number=2) == "gone"
    assert world.push(message, key="main:c9") == "gone"
    assert world.push(message, product="chat") == "gone"


def test_given_fire_and_forget_when_pushed_then_it_is_written_at_qos_0_or_dropped() -> None:
    world = World(settings=RoomSettings(max_write_buffer=10_000))
    device = bound(world)
    assert world.push(Downlink("f1", 0, b"x")) == "written"
    assert device.socket.one(mqtt5.PublishPacket).packet_id is None
    device.socket.waiting = 5_001
    assert world.push(Downlink("f2", 0, b"x")) == "dropped"
    assert world.push(Downlink("f3", 0, b"x"), product="chat") == "dropped"
    assert world.push(Downlink("f4", 0, b"x"), key="main:c9") == "dropped"
    assert device.pushed_ids() == []


# --- windows and pages -------------------------------------------------------------------------------------------------


def test_given_pending_when_bound_then_suback_and_page_are_one_write_in_this_order() -> None:
    world = World()
    world.register.store("m1")
    world.register.store("m2")
    device = world.device("c1")
    device.subscribe("push/demo")
    assert len(device.socket.raw) == 1
    first, *rest = device.socket.take()
    assert isinstance(first, mqtt5.SubAckPacket)
    assert [dict(packet.user_properties)["id"] for packet in rest] == ["m1", "m2"]  # type: ignore[union-attr]
    assert ("bound", "demo") in world.fanout.calls


def test_given_a_receive_maximum_when_more_is_pending_then_it_is_never_exceeded_and_order_holds() -> None:
    world = World()
    for i in range(20):
        world.register.store(f"m{i}")
    device = world.device("c1", receive_max=3)
    device.subscribe("push/demo")
    first = device.socket.take()[1:]
    written, open_ids = [packet.packet_id for packet in first], []  # type: ignore[union-attr]
    ids = [dict(packet.user_properties)["id"] for packet in first]  # type: ignore[union-attr]
    open_ids = list(written)
    while open_ids:
        assert len(open_ids) <= 3
        device.puback(open_ids.pop(0) or 0)
        world.flush()
        more = device.pushed()
        open_ids += packet_ids(more)
        ids += [dict(packet.user_properties)["id"] for packet in more]
    world.flush()
    assert ids == [f"m{i}" for i in range(20)]
    assert world.register.pending["main:c1", "demo"] == []


def test_given_a_place_that_a_broadcast_frees_when_behind_then_a_sync_is_asked() -> None:
    world = World()
    device = bound(world, receive_max=1)
    assert device.session.client is not None
    device.session.client.broadcasts_inflight = 1
    assert world.push(world.register.store("m1")) == "behind"
    assert device.pushed_ids() == []
    device.puback(FIRST_BROADCAST_ID)
    assert ("puback", FIRST_BROADCAST_ID, 0) in world.fanout.calls
    assert device.pushed_ids() == ["m1"]


def test_given_two_products_when_paged_then_neither_starves_the_other() -> None:
    world = World()
    for i in range(10):
        world.register.store(f"d{i}")
        world.register.store(f"c{i}", product="chat")
    device = world.device("c1", receive_max=4)
    device.subscribe("push/demo", "push/chat")
    ids = [dict(packet.user_properties)["id"] for packet in device.socket.take()[1:]]  # type: ignore[union-attr]
    assert ids == ["d0", "c0", "d1", "c1"]


def test_given_large_messages_when_paged_then_the_byte_cap_is_not_reached_by_us() -> None:
    world = World(settings=RoomSettings(max_write_buffer=10_000))
    for i in range(8):
        world.register.store(f"m{i}", payload=b"x" * 2_000)
    device = world.device("c1")
    device.socket.stalled = True
    device.subscribe("push/demo")
    (page,) = device.socket.raw
    assert 4_000 < len(page) <= 5_000 + 2_100
    device.socket.take()
    world.flush()
    assert device.pushed_ids() == []
    device.socket.waiting = 0
    world.flush()
    assert device.pushed_ids() == ["m3", "m4", "m5"]


def test_given_a_message_larger_than_the_client_takes_when_hinted_then_it_is_dead_and_no_place_is_used() -> None:
    world = World()
    device = bound(world, max_packet_size=60)
    assert world.push(world.register.store("big", payload=b"x" * 100)) == "written"
    assert world.push(world.register.store("m2")) == "written"
    assert device.pushed_ids() == ["m2"]
    world.flush()
    assert world.register.settled == [("big", "dead")]
    (ack,) = world.register.of(SyncItem)[0].acks
    assert ack.detail == "larger than the client's Maximum Packet Size"


# --- acks --------------------------------------------------------------------------------------------------------------


def test_given_pubacks_when_flushed_then_one_sync_carries_them_with_their_states() -> None:
    world = World()
    device = bound(world)
    for i in range(3):
        world.push(world.register.store(f"m{i}"))
    ids = packet_ids(device.pushed())
    device.puback(ids[0])
    device.puback(ids[1], 0x97)
    device.puback(ids[1])  # again: unknown now
    world.flush()
    (sync,) = world.register.of(SyncItem)
    assert [(ack.id, ack.state, ack.detail) for ack in sync.acks] == [("m0", "acked", ""), ("m1", "rejected", "0x97")]
    assert sync.only_acks
    device.session.delivery.sync_soon()  # type: ignore[union-attr]
    world.flush()
    _, sync = world.register.of(SyncItem)
    assert (sync.only_acks, sync.products[0].window, sync.products[0].limit) == (False, ["m2"], 31)


def test_given_many_pubacks_when_they_come_at_once_then_they_do_not_wait_for_the_flush() -> None:
    world = World()
    device = bound(world)
    for i in range(16):
        world.push(world.register.store(f"m{i}"))
    for packet_id in packet_ids(device.pushed()):
        device.puback(packet_id)
    assert len(world.register.of(SyncItem)) == 1


def test_given_qos_0_when_the_buffer_has_drained_then_it_is_written_and_not_before() -> None:
    world = World()
    device = bound(world, qos=0)
    device.socket.waiting = 10
    assert world.push(world.register.store("m1")) == "written"
    assert int(device.socket.one(mqtt5.PublishPacket).qos) == 0
    world.flush()
    assert world.register.settled == []
    device.socket.waiting = 0
    world.flush()
    assert world.register.settled == [("m1", "written")]


def test_given_unconfirmed_acks_when_bound_again_then_they_are_named_in_the_window() -> None:
    world = World()
    device = bound(world)
    for i in range(2):
        world.push(world.register.store(f"m{i}"))
    device.puback(packet_ids(device.pushed())[0])
    device.subscribe("push/demo/news", packet_id=5)
    assert sorted(world.register.of(BindItem)[-1].window) == ["m0", "m1"]
    assert isinstance(device.socket.take()[0], mqtt5.SubAckPacket)


def test_given_settled_broadcasts_when_synced_then_they_are_saved() -> None:
    world = World()
    bound(world)
    job = SettledJob("demo", 1, 2, 60)
    world.fanout.jobs = [job]
    world.pass_time(331)
    world.flush()
    assert world.register.of(SyncItem)[0].jobs == [job]
    assert ("saved", "demo") in world.fanout.calls


def test_given_nats_was_away_when_it_is_back_then_nothing_is_written_before_a_sync_was_answered() -> None:
    world = World()
    device = bound(world)
    world.register.store("m1")
    world.room.resync()
    world.register.held = True
    assert world.push(world.register.store("m2")) == "behind"
    world.flush()
    assert (device.pushed_ids(), len(world.register.waiting)) == ([], 0)  # a hint is no reason to ask before its turn
    world.pass_time(2.2)
    world.flush()
    assert device.pushed_ids() == []
    world.register.answer()
    assert device.pushed_ids() == ["m1", "m2"]


def test_given_nats_was_away_when_nobody_hints_then_all_are_synced_within_seconds() -> None:
    world = World()
    device = bound(world)
    world.register.store("m1")
    world.room.resync()
    world.pass_time(5.3)
    world.flush()
    assert device.pushed_ids() == ["m1"]


# --- SUBSCRIBE and UNSUBSCRIBE -----------------------------------------------------------------------------------------


def test_given_filters_when_subscribed_then_one_code_each() -> None:
    device = World(policy=Policy(binds_per_connection=2, groups_per_bind=1)).device("c1")
    device.subscribe(
        "push/demo", "push/demo/news", "push/demo/sport", "push/demo/secret", "push/chat/any", "push/none", "a/b", "push/DEMO",
    )  # fmt: skip
    ack = device.socket.one(mqtt5.SubAckPacket)
    assert [int(code) for code in ack.reason_codes] == [1, 1, 0x97, 0x87, 0x87, 0x87, 0x8F, 0x8F]
    assert ack.reason_str == "more than 1 groups of a product"


def test_given_requests_of_changes_when_one_is_under_way_then_the_others_wait_in_order() -> None:
    world = World()
    device = world.device("c1")
    world.register.held = True
    device.subscribe("push/demo", packet_id=1)
    device.subscribe("push/demo/news", packet_id=2)
    device.unsubscribe("push/demo", "push/demo", packet_id=3)
    assert len(world.register.waiting) == 1
    world.register.answer()
    world.register.answer()
    world.register.answer()
    sub1, sub2, unsub = device.socket.take()
    assert isinstance(sub1, mqtt5.SubAckPacket)
    assert isinstance(sub2, mqtt5.SubAckPacket)
    assert isinstance(unsub, mqtt5.UnsubAckPacket)
    assert [sub1.packet_id, sub2.packet_id, unsub.packet_id] == [1, 2, 3]
    assert [int(code) for code in unsub.reason_codes] == [0, 0x11]
    calls = [call for call in world.fanout.calls if call[0] != "saved"]
    assert calls == [("bound", "demo"), ("regrouped", "demo", ["news"]), ("unbound", "demo")]


def test_given_too_many_waiting_changes_when_they_are_done_then_reading_goes_on() -> None:
    world = World()
    device = world.device("c1")
    world.register.held = True
    for i in range(9):
        device.subscribe("push/demo", packet_id=i + 1)
    assert device.socket.paused
    world.register.held = False
    while world.register.waiting:
        world.register.answer()
    world.flush()
    assert not device.socket.paused


def test_given_an_unsubscribe_when_a_message_is_unacknowledged_then_its_ack_still_counts() -> None:
    world = World()
    device = bound(world)
    world.push(world.register.store("m1"))
    (packet_id,) = packet_ids(device.pushed())
    device.unsubscribe("push/demo")
    device.socket.take()
    device.puback(packet_id)
    world.flush()
    assert world.register.settled == [("m1", "acked")]


# --- taken out of a product --------------------------------------------------------------------------------------------


def leave(world: World, product: str, number: int = 1) -> str:
    return world.room.leave(Leave("main:c1", 1, number, product)).status


def test_given_an_order_to_leave_a_product_then_the_bind_is_over_as_by_unsubscribe_and_nobody_is_answered() -> None:
    world = World()
    device = bound(world)
    world.push(world.register.store("m1"))
    (packet_id,) = packet_ids(device.pushed())
    assert (leave(world, "demo", number=9), leave(world, "other")) == ("gone", "gone")
    assert leave(world, "demo") == "ok"
    assert device.socket.take() == []
    assert [call for call in world.fanout.calls if call[0] == "unbound"] == [("unbound", "demo")]
    assert leave(world, "demo") == "gone"
    device.puback(packet_id)
    world.flush()
    assert world.register.settled == [("m1", "acked")]
    device.subscribe("push/demo", packet_id=8)
    (again,) = device.socket.take()
    assert isinstance(again, mqtt5.SubAckPacket)
    assert leave(world, "demo") == "ok"


def test_given_an_order_to_leave_while_changes_wait_then_it_has_its_turn_and_where_too_many_wait_it_is_refused() -> None:
    world = World()
    device = bound(world)
    world.register.held = True
    device.unsubscribe("push/demo", packet_id=2)
    device.subscribe("push/demo", packet_id=3)
    assert leave(world, "demo") == "gone"
    world.register.answer()
    assert leave(world, "demo") == "ok"
    world.register.held = False
    while world.register.waiting:
        world.register.answer()
    assert [type(packet) for packet in device.socket.take()] == [mqtt5.UnsubAckPacket, mqtt5.SubAckPacket]
    assert leave(world, "demo") == "gone"
    device.subscribe("push/demo", packet_id=4)
    world.register.held = True
    for number in range(9):
        device.subscribe("push/demo", packet_id=10 + number)
    assert leave(world, "demo") == "refused"


# --- the invariant -----------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(["store", "store", "hint", "lose", "repeat", "swap", "ack", "ack", "flush", "answer", "answer", "broadcast"]),
    max_size=80,
)


class Chaos:
    """A world where hints are lost, reordered and repeated, and the saver answers late."""

    def __init__(self, receive_max: int, qos: int, seed: int, **connect: object) -> None:
        self.world = World()
        self.device = bound(self.world, receive_max=receive_max, qos=qos, **connect)
        self.world.register.held = True
        self.random = random.Random(seed)
        self.hints: list[Downlink] = []
        self.sent: list[Downlink] = []
        self.open: list[int] = []
        self.seen: list[str] = []
        self.count = 0

    def look(self) -> None:
        for packet in self.device.pushed():
            self.seen.append(dict(packet.user_properties)["id"])
            if packet.packet_id:
                self.open.append(packet.packet_id)
        client = self.device.session.client
        assert client is not None
        assert len(self.open) + client.broadcasts_inflight <= client.receive_max

    def step(self, what: str) -> None:
        world, client = self.world, self.device.session.client
        assert client is not None
        if what == "store":
            self.count += 1
            self.hints.append(world.register.store(f"m{self.count}"))
        elif what == "hint" and self.hints:
            self.sent.append(self.hints.pop(0))
            world.push(self.sent[-1], number=world.register.number)
        elif what == "lose" and self.hints:
            self.hints.pop(0)
        elif what == "repeat" and self.sent:
            world.push(self.random.choice(self.sent), number=world.register.number)
        elif what == "swap":
            self.random.shuffle(self.hints)
        elif what == "ack" and self.open:
            self.device.puback(self.open.pop(self.random.randrange(len(self.open))))
        elif what == "flush":
            world.flush()
        elif what == "answer" and world.register.waiting:
            world.register.answer()
        elif what == "broadcast" and client.broadcast_places() > 0:
            client.broadcasts_inflight += 1
        self.look()

    def settle(self) -> None:
        """Nothing more goes wrong, but what was lost stays lost: the heartbeat heals it."""
        client = self.device.session.client
        assert client is not None
        for _ in range(client.broadcasts_inflight):
            self.device.puback(FIRST_BROADCAST_ID)
        assert self.device.session.delivery is not None
        self.device.session.delivery.sync_soon()
        for _ in range(10 * self.count + 20):
            for what in ("answer", "ack", "flush"):
                self.step(what)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, receive_max=st.integers(1, 5), qos=st.integers(0, 1), seed=st.integers(0, 999))
def test_given_hints_lost_reordered_and_repeated_when_synced_then_everything_comes_once_in_order(
    steps: list[str], receive_max: int, qos: int, seed: int
) -> None:
    chaos = Chaos(receive_max, qos, seed)
    for what in steps:
        chaos.step(what)
    chaos.settle()
    expected = [f"m{i + 1}" for i in range(chaos.count)]
    assert chaos.seen == expected
    assert sorted(chaos.world.register.settled) == sorted((item, "acked" if qos else "written") for item in expected)
    assert chaos.world.register.pending.get(("main:c1", "demo"), []) == []
