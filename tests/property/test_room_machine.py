"""One client of a room against a model: hints that get lost, late answers, sockets that come and go, cuts, notices and pulls.

Sans-IO: the register is the small one of tests/unit/gateway_world.py, so a step costs microseconds. The ids in brackets are
those of docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mqtt5
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.client import FIRST_BROADCAST_ID
from infra.documents import Policy
from infra.wire import Downlink, SyncItem
from tests.unit.gateway_world import Device, World

KEEP = 30
"""Seconds for which the client's session is kept."""


class RoomMachine(RuleBasedStateMachine):
    """`log` is what was stored, in order; `open` are packets that the client has not acknowledged: packet id → (id, notice)."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(policy=Policy(ack_timeout=10_000.0, sync_interval=3_000.0))
        self.log: list[str] = []
        self.hints: list[Downlink] = []
        self.sent: list[Downlink] = []
        self.open: dict[int, tuple[str, bool]] = {}
        self.here: list[str] = []  # first arrivals in this session, in order
        self.acked: set[str] = set()
        self.noticed: set[str] = set()  # notices that are acknowledged in this session
        self.pulls: dict[int, str] = {}
        self.fenced_at = -1  # so many requests had been asked when the room was cut off
        self.connected = False
        self.hinted = 0

    @property
    def register(self) -> Any:
        return self.world.register

    @initialize(receive_max=st.integers(1, 5), together=st.booleans())
    def begin(self, receive_max: int, together: bool) -> None:
        self.receive_max = receive_max
        self.connect_afresh(together=together)
        self.register.held = True

    # --- the client ----------------------------------------------------------------------------------------------------

    def connect_afresh(self, *, together: bool = False, meanwhile: int = 0) -> None:
        """Session Present is 0, so what was in flight comes again by the bind. `together`: the SUBSCRIBE is in one segment with
        the CONNECT, and before the saver's answer is here so many messages are stored and hinted."""
        held, self.register.held = self.register.held, False
        self.answer_all()
        self.device = Device(self.world)
        self.register.held = together
        if together:
            self.device.socket.behind = mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("push/demo", max_qos=mqtt5.QoS(1))])
        self.device.connect("c1", receive_max=self.receive_max, session_expiry_interval=KEEP, clean_start=True, keep_alive=0)
        self.open.clear()
        self.pulls.clear()
        self.here = []
        self.noticed.clear()
        self.connected, self.fenced_at = True, -1
        if together:
            assert not self.device.socket.raw
            for _ in range(meanwhile):
                self.store(pull=False)
                self.hint()
            self.answer_all()
        ack = mqtt_packets(self.device.socket.raw)[0]
        assert isinstance(ack, mqtt5.ConnAckPacket)
        assert not ack.session_present
        self.look(skip=mqtt5.ConnAckPacket)
        self.register.held = False
        if not together or self.device.socket.behind:  # it has its turn now
            self.device.subscribe("push/demo")
            self.look()
        self.register.held = held

    def answer_all(self) -> None:
        while self.register.waiting:
            self.register.answer()

    def look(self, *, skip: type[Any] | None = None, again: bool = False) -> None:
        """Read what was written. `again`: what was in flight may come with DUP=1."""
        for packet in self.device.socket.take():
            if isinstance(packet, mqtt5.PubAckPacket):
                self.pulls.pop(packet.packet_id, None)
            elif not isinstance(packet, mqtt5.SubAckPacket) and (skip is None or not isinstance(packet, skip)):
                assert isinstance(packet, mqtt5.PublishPacket), packet
                self.arrived(packet, again=again)

    def arrived(self, packet: mqtt5.PublishPacket, *, again: bool) -> None:
        properties = dict(packet.user_properties)
        message, notice = properties["id"], "pull" in properties
        number = packet.packet_id
        assert number is not None
        assert self.fenced_at < 0, "written before a sync that was asked after the cut was answered"  # [S6]
        if packet.duplicate:  # [S5] the same, under the same packet id, once a return
            assert again
            assert self.open[number] == (message, notice)
            return
        assert number not in self.open
        assert (message, notice) not in self.open.values()  # never twice on one connection
        assert message not in self.acked
        self.open[number] = (message, notice)
        if message not in self.here:
            self.here.append(message)

    def puback(self, packet_id: int) -> None:
        message, notice = self.open.pop(packet_id)
        if notice:
            self.noticed.add(message)
        else:
            self.acked.add(message)
        self.device.puback(packet_id)
        self.look()

    # --- rules ---------------------------------------------------------------------------------------------------------

    @rule(pull=st.booleans())
    def store(self, pull: bool) -> None:
        message = f"m{len(self.log)}"
        self.log.append(message)
        more: dict[str, Any] = {"payload": b"", "size": 3} if pull else {}
        self.hints.append(self.register.store(message, **more))

    @precondition(lambda self: self.hints)
    @rule()
    def hint(self) -> None:
        self.sent.append(self.hints.pop(0))
        self.hinted = max(self.hinted, self.sent[-1].n)
        self.world.push(self.sent[-1], number=self.register.number)
        self.look()

    @precondition(lambda self: self.hints)
    @rule(swap=st.booleans())
    def spoil(self, swap: bool) -> None:
        """[U8] Hints are lost, or come in another order."""
        if swap:
            self.hints.reverse()
        else:
            self.hints.pop(0)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.world.push(data.draw(st.sampled_from(self.sent)), number=self.register.number)
        self.look()

    @precondition(lambda self: self.open and self.connected)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        self.puback(data.draw(st.sampled_from(sorted(self.open))))

    @precondition(lambda self: self.noticed and self.connected and len(self.pulls) < 10)
    @rule(data=st.data())
    def pull(self, data: st.DataObject) -> None:
        """[U13] A body that was noticed, and may be settled by now."""
        packet_id = next(n for n in range(1, 20) if n not in self.pulls)
        self.pulls[packet_id] = data.draw(st.sampled_from(sorted(self.noticed)))
        properties = [("id", self.pulls[packet_id])]
        self.device.publish("pull/demo", b"", packet_id=packet_id, user_properties=properties)
        self.look()

    @precondition(lambda self: self.register.waiting)
    @rule()
    def answer(self) -> None:
        asked = self.register.waiting[0].item
        if isinstance(asked, SyncItem) and self.fenced_at >= 0:
            place = next(n for n, item in enumerate(self.register.items) if item is asked)
            if place >= self.fenced_at:
                self.fenced_at = -1  # it was asked after the cut
        self.register.answer()
        self.look()

    @rule(early=st.booleans())
    def turn(self, early: bool) -> None:
        """From now on the saver acts when it is asked, or just before it answers."""
        self.register.early = early

    @precondition(lambda self: self.connected)
    @rule()
    def bind_again(self) -> None:
        self.device.subscribe("push/demo")
        self.look()

    @property
    def broadcasts(self) -> int:
        client = self.device.session.client
        return client.broadcasts_inflight if client is not None else 0

    @precondition(lambda self: self.connected and self.device.session.client is not None)
    @rule(settled=st.booleans())
    def broadcast(self, settled: bool) -> None:
        """One takes a place of the window, or frees it."""
        client = self.device.session.client
        assert client is not None
        if settled and client.broadcasts_inflight:
            self.device.puback(FIRST_BROADCAST_ID)
        elif not settled and client.broadcast_places() > 0:
            client.broadcasts_inflight += 1
        self.look()

    @rule()
    def flush(self) -> None:
        self.world.flush()
        self.look()

    @rule(seconds=st.sampled_from([0.2, 3.0]))
    def time(self, seconds: float) -> None:
        self.world.pass_time(seconds, step=0.2)
        self.look()

    @precondition(lambda self: self.connected)
    @rule()
    def lose_socket(self) -> None:
        self.device.lose()
        self.connected = False
        self.pulls.clear()

    @precondition(lambda self: not self.connected)
    @rule(late=st.booleans(), together=st.booleans(), meanwhile=st.integers(0, 2))
    def come_back(self, late: bool, together: bool, meanwhile: int) -> None:
        """[S5] In time the window comes again, and nobody was asked; else afresh."""
        if late or self.fenced_at >= 0:
            self.world.pass_time(KEEP + 1 if late else 0.1, step=1.0)
            self.connect_afresh(together=together, meanwhile=meanwhile)
            return
        asked = len(self.register.items)
        self.device = Device(self.world)
        self.device.connect("c1", receive_max=self.receive_max, session_expiry_interval=KEEP, clean_start=False, keep_alive=0)
        found = [packet for packet in mqtt_packets(self.device.socket.raw) if isinstance(packet, mqtt5.ConnAckPacket)]
        if not found:  # on two sockets nothing was acknowledged: the session is asked for anew
            self.answer_all()
            self.device.lose()
            self.world.pass_time(KEEP + 1, step=1.0)
            self.connect_afresh()
            return
        self.connected = True
        assert not [item for item in self.register.items[asked:] if not isinstance(item, SyncItem)]
        before = dict(self.open)
        self.look(skip=mqtt5.ConnAckPacket, again=True)
        assert before.items() <= self.open.items()

    @precondition(lambda self: self.connected)
    @rule()
    def cut_off(self) -> None:
        """[S6] Nothing is written before a sync that is asked from now on was answered."""
        self.world.room.resync()
        self.fenced_at = len(self.register.items)
        self.look()

    # --- always --------------------------------------------------------------------------------------------------------

    @invariant()
    def the_window_is_within_bounds(self) -> None:
        assert len(self.open) + self.broadcasts <= self.receive_max

    @invariant()
    def first_arrivals_are_in_order(self) -> None:
        """[U2] In each session, by store number."""
        numbers = [int(message[1:]) for message in self.here]
        assert numbers == sorted(numbers)

    @invariant()
    def what_is_settled_was_acknowledged(self) -> None:
        """[U4], [U13] A notice's PUBACK settles nothing."""
        assert {message for message, _ in self.register.settled} <= self.acked

    def teardown(self) -> None:
        """Nothing more goes wrong: everything arrives, is pulled, acknowledged and settled.

        [U8] Where the last hint was lost, the heartbeat heals it; where it came, nobody has to wait for that.
        """
        if not hasattr(self, "device"):
            return
        if not self.connected:
            self.world.pass_time(KEEP + 1, step=1.0)
            self.connect_afresh()
        for _ in range(self.broadcasts):
            self.device.puback(FIRST_BROADCAST_ID)
        if self.hinted < len(self.log):
            self.cut_off()
        for _ in range(20 * len(self.log) + 50):
            self._go_on()
            if len(self.register.settled) >= len(self.log) and not any(self.register.pending.values()):
                break
        assert self.acked == set(self.log)
        assert {message for message, state in self.register.settled if state == "acked"} == set(self.log)
        assert not self.register.pending.get(("main:c1", "demo"))

    def _go_on(self) -> None:
        steps: list[Callable[[], None]] = [lambda: self.world.pass_time(0.3, step=0.3), self.world.flush]
        for step in steps:
            step()
            self.look()
        if self.register.waiting:
            self.answer()
        for packet_id in list(self.open):
            self.puback(packet_id)
        for message in sorted(self.noticed - self.acked - set(self.pulls.values()))[: 10 - len(self.pulls)]:
            packet_id = next(n for n in range(1, 20) if n not in self.pulls)
            self.pulls[packet_id] = message
            self.device.publish("pull/demo", b"", packet_id=packet_id, user_properties=[("id", message)])
            self.look()


def mqtt_packets(raw: list[bytes]) -> list[mqtt5.Packet]:
    """The packets of what was written, which stays to be read."""
    data, found = b"".join(raw), []
    while data:
        packet, size = mqtt5.read(memoryview(data))
        found.append(packet)
        data = data[size:]
    return found


TestRoom = RoomMachine.TestCase
TestRoom.settings = settings(max_examples=100, stateful_step_count=50, deadline=None, database=None)
