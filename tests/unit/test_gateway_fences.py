"""A room that was cut off, or stopped: what it must not write before a client's sync was answered, and how it asks for those."""

from __future__ import annotations

import asyncio
from collections import Counter

import mqtt5
from fanout_room import Room
from gateway_world import Device, World
from links import Turns, linked, packets

from gateway.client import bind_to
from infra.documents import Policy
from infra.wire import BindItem, ConnectItem, Downlink, SettledJob, SyncItem
from schemas.codes import SLOTS

STOPPED_S = 30.0


def bound(world: World, client: str = "c1", **connect: object) -> Device:
    return world.device(client, "push/demo", **connect)


def ticking(world: World) -> None:
    """The room knows that time passes."""
    world.pass_time(0.1)


def test_given_a_room_that_was_stopped_when_a_hint_comes_first_then_nothing_is_written_before_the_sync() -> None:
    world = World()
    device = bound(world)
    ticking(world)
    world.now += STOPPED_S  # no tick meanwhile
    assert world.push(world.register.store("m1")) == "behind"
    world.flush()
    assert (device.pushed_ids(), world.register.of(SyncItem)) == ([], [])
    world.pass_time(2.2)
    world.flush()
    assert device.pushed_ids() == ["m1"]
    assert world.push(world.register.store("m2")) == "written"


def test_given_a_room_that_was_stopped_when_a_client_is_back_first_then_its_kept_session_is_not_trusted() -> None:
    world = World()
    device = bound(world, session_expiry_interval=60)
    assert world.push(world.register.store("m1")) == "written"
    device.lose()
    ticking(world)
    world.now += STOPPED_S
    turns = Turns()
    with linked(world.room, turns) as (_, peer):
        peer.send(hello(world, "c1"))
        turns.turn()
        [answer] = packets(peer)
    assert isinstance(answer, mqtt5.ConnAckPacket)
    assert not answer.session_present
    assert len(world.register.of(ConnectItem)) == 2


def test_given_a_room_that_ticks_then_it_never_doubts() -> None:
    world = World()
    device = bound(world)
    world.pass_time(60)
    assert world.push(world.register.store("m1")) == "written"
    assert device.pushed_ids() == ["m1"]


def test_given_a_bind_asked_before_we_were_cut_off_when_it_is_answered_then_suback_and_no_message() -> None:
    world = World()
    device = world.device("c1")
    world.register.store("m1")
    world.register.held = True
    device.subscribe("push/demo")
    world.room.resync()
    assert len(world.register.of(BindItem)) == 1
    world.register.answer()
    [suback] = device.socket.take()
    assert isinstance(suback, mqtt5.SubAckPacket)
    assert world.fanout.calls[-1] == ("bound", "demo")
    bind = bind_to(device.session.client.binds, "demo")  # type: ignore[union-attr]
    assert (bind.ready, bind.behind, bind.fenced) == (True, True, True)
    world.register.held = False
    world.pass_time(2.2)
    world.flush()
    assert device.pushed_ids() == ["m1"]
    assert not bind.fenced


def test_given_a_sync_asked_before_we_were_cut_off_when_it_is_answered_then_it_does_not_count() -> None:
    world = World()
    device = bound(world)
    bind = bind_to(device.session.client.binds, "demo")  # type: ignore[union-attr]
    world.fanout.jobs = [SettledJob("demo", 0, 1, 60)]
    world.register.store("m1")
    world.register.held = True
    device.session.delivery.sync_soon()  # type: ignore[union-attr]
    world.flush()
    world.room.register_opened()
    world.register.answer()
    assert (device.pushed_ids(), bind.fenced) == ([], True)
    assert world.fanout.jobs == [SettledJob("demo", 0, 1, 60)]  # Redis may have lost them: they are saved again
    world.register.held = False
    world.pass_time(2.2)
    world.flush()
    assert (device.pushed_ids(), bind.fenced, world.fanout.jobs) == (["m1"], False, [])


def test_given_a_message_that_was_never_stored_when_we_were_cut_off_then_it_is_dropped_and_counted() -> None:
    world = World()
    device = bound(world)
    world.room.resync()
    assert world.push(Downlink("f1", 0, b"x")) == "dropped"
    assert device.pushed_ids() == []


def test_given_many_clients_when_the_room_was_cut_off_then_they_are_synced_at_the_policys_rate() -> None:
    world = World(policy=Policy(resync_rate=20, connect_rate=1_000))
    for number in range(200):
        world.device(f"c{number}", "push/demo")
    world.room.resync()
    a_second: Counter[int] = Counter()
    for second in range(12):
        before = len(world.register.of(SyncItem))
        for _ in range(10):
            world.pass_time(0.1)
            world.flush()
        a_second[second] = len(world.register.of(SyncItem)) - before
    assert sum(a_second.values()) == 200
    assert max(a_second.values()) <= 50  # 20 a second, at random


# --- broadcasts --------------------------------------------------------------------------------------------------------


async def test_given_a_fenced_bind_when_its_slot_is_walked_then_it_is_late_afterwards() -> None:
    room = Room()
    fenced, other = room.join("main:a"), room.join("main:b")
    room.fanout.fence(fenced)
    room.announce()
    await room.slice()
    assert (room.got("main:a"), room.got("main:b")) == ([], ["j1"])
    room.fanout.unfence(fenced)
    await room.slice(lo=SLOTS, late=1)
    assert room.got("main:a") == ["j1"]
    assert other.sent == 1


async def test_given_a_queued_bind_when_it_is_fenced_then_no_grant_reaches_it() -> None:
    room = Room()
    room.announce()
    await room.slice()
    late = room.join("main:a")
    room.fanout.fence(late)
    await room.slice(lo=SLOTS, late=5)
    assert room.got("main:a") == []


async def test_given_more_unacknowledged_broadcasts_than_places_when_back_then_the_rest_comes_from_the_queue() -> None:
    room = Room()
    bind = room.join("main:a")
    for number in range(3):
        room.announce(f"j{number}", offset=number)
        await room.slice(f"j{number}")
    room.fanout.fence(bind, away=True)
    again = [mqtt5.read(memoryview(data))[0] for data in room.fanout.again(bind, 2)]
    assert [(dict(item.user_properties)["id"], item.duplicate) for item in again] == [("j0", True), ("j1", True)]
    bind.client.broadcasts_inflight = len(again)
    room.fanout.unfence(bind)
    reply = await room.slice("j2", lo=SLOTS, late=1)
    assert room.got("main:a") == ["j0", "j1", "j2", "j2"]
    assert reply.counts is not None
    assert (reply.counts.sent, reply.counts.repeated) == (1, 1)


async def test_given_a_slice_under_way_when_the_process_was_stopped_then_the_rest_is_not_written() -> None:
    room = Room()
    for number in range(50):
        room.join(f"main:{number}")
    room.announce()
    walk = asyncio.ensure_future(room.slice(spread_ms=1_000))
    await room.until(room.now + 0.3)
    before = sum(len(room.got(key)) for key in room.wires)
    assert 0 < before < 50
    room.now += STOPPED_S
    reply = await walk
    assert sum(len(room.got(key)) for key in room.wires) == before
    assert reply.slot < SLOTS


def hello(world: World, client: str) -> bytes:
    from gateway_world import WALL, claims, sign

    token = sign(claims(client, exp=int(WALL) + 3600))
    return mqtt5.ConnectPacket(client, password=token, clean_start=False, session_expiry_interval=60).write()
