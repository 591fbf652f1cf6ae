"""What nobody touches any more: sessions of dead rooms, expired messages, and messages that are never acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest_asyncio
from core import Core, TopicReader, eventually, unique

from infra.documents import Policy
from infra.rooms import Rooms
from infra.settings import Settings
from infra.wire import Ack, DisconnectItem, Lease
from schemas import codec, names
from schemas.codes import State, Status
from schemas.records import DeadLetter, PushMessage, Receipt, StatusEvent
from workers.saver.sweep import Sweep

POLICY = Policy(lease_dead_after=1.0, sweep_grace=1.0, sweep_interval=3.0, park_after_connections=3, park_after=0.5)


@pytest_asyncio.fixture(scope="module")
async def core(settings: Settings) -> AsyncIterator[Core]:
    running = Core(settings)
    await running.start()
    await running.keeper.put("policy", POLICY)
    await eventually(lambda: running.keeper.policy == POLICY, what="the policy")
    yield running
    await running.keeper.put("policy", Policy())
    await running.stop()


@pytest_asyncio.fixture
async def sweep(core: Core) -> AsyncIterator[Sweep]:
    rooms = Rooms(core.bus, dead_after=lambda: core.keeper.policy.lease_dead_after)
    found = Sweep(core.register, core.journal, core.keeper, rooms, instance=unique("saver"), fail=core.failures.append)
    await rooms.start()
    await found.start()
    yield found
    await found.stop()
    await rooms.stop()


async def test_given_a_room_without_leases_when_the_grace_is_over_then_its_clients_are_offline_and_others_are_not(
    core: Core, sweep: Sweep
) -> None:
    dead, alive = await core.room(), await core.room()
    product, lost, kept = await core.product(), await dead.connect(unique("c")), await alive.connect(unique("c"))
    await lost.bind(product)
    encode = msgspec.msgpack.Encoder().encode

    async def breathe() -> None:
        while True:
            lease = Lease(alive.id, alive.epoch, int(time.monotonic() * 1000), "open", 1, {})
            await core.bus.publish(names.ROOMS_LEASE, encode(lease))
            await asyncio.sleep(0.3)

    breathing = asyncio.create_task(breathe())
    status = TopicReader(core.settings, names.STATUS)
    try:
        async with status.open():

            async def gone() -> bool:
                return (await core.register.sessions([lost.key])) == [None]

            await eventually(gone, within=20, what="the sweep")
            told = [e for e in status.records if isinstance(e, StatusEvent) and e.client == lost.client]
            ends = [e for e in told if e.event == Status.OFFLINE]
            assert [(e.reason, e.session) for e in ends] == [("room lost", lost.number)]
            view = await core.register.show(lost.key, [product])
            assert view is not None
            assert abs(view.left[product] - ends[0].at_ms) < 5000
            assert (await core.register.sessions([kept.key]))[0] is not None
            assert not [e for e in status.records if isinstance(e, StatusEvent) and e.client == kept.client]
    finally:
        breathing.cancel()


async def test_given_an_expired_message_in_a_queue_that_nobody_touches_then_its_receipt_comes(core: Core, sweep: Sweep) -> None:
    product, client = await core.product(), unique("c")
    receipts = TopicReader(core.settings, names.RECEIPTS)
    async with receipts.open():
        await core.push(PushMessage(id=f"{client}-1", product=product, client=client, ttl_s=1))
        await core.push(PushMessage(id=f"{client}-2", product=product, client=client, ttl_s=3600))

        def ended() -> list[Receipt]:
            return [item for item in receipts.records if isinstance(item, Receipt) and item.client == client]

        await eventually(ended, within=20, what="the receipt")
        assert [(item.id, item.state) for item in ended()] == [(f"{client}-1", State.EXPIRED)]
        assert await core.pending(client, product) == 1


async def test_given_a_message_that_no_connection_acknowledges_beyond_the_bounds_then_it_is_a_dead_letter(core: Core) -> None:
    product, client, room = await core.product(), unique("c"), await core.room()
    await core.push(*[PushMessage(id=f"{client}-{n}", product=product, client=client, payload=b"%d" % n) for n in (1, 2)])

    async def stored() -> bool:
        return await core.pending(client, product) == 2

    await eventually(stored, what="both stored")

    async def connection(*, acked: bool = False) -> None:
        """A connection in which the first was written."""
        device = await room.connect(client)
        page = (await device.bind(product)).page
        key, where, epoch, _, generation, number = device.where()
        acks = [Ack(product, page.items[-1].id, State.ACKED)] if acked else []
        end = DisconnectItem(
            key, where, epoch, generation, number, "test", acks, [], [(product, f"{client}-1")], 0 if acked else 1, acked
        )
        await core.saver.disconnect([end])
        await core.saver.disconnect([end])  # its answer was lost: a repeat counts nothing

    dead = TopicReader(core.settings, names.DEAD)
    async with dead.open():
        await connection()
        await connection()
        await connection(acked=True)  # it can: the count begins anew
        await connection()
        await connection()
        await asyncio.sleep(0.6)
        assert await core.pending(client, product) == 1
        await connection()
        assert await core.pending(client, product) == 0
        letter = await _letter(dead, client)
    assert "nothing was acknowledged in 3 connections" in letter.reason
    held = codec.decode(letter.value or b"")
    assert isinstance(held, PushMessage)
    assert (held.id, held.payload) == (f"{client}-1", b"1")


async def _letter(dead: TopicReader, client: str) -> DeadLetter:
    def found() -> DeadLetter | None:
        return next((item for item in dead.records if isinstance(item, DeadLetter) and item.client == client), None)

    letter: DeadLetter = await eventually(found, what="the dead letter")
    return letter
