"""Whatever a client says and does, cut anywhere: whole packets or the end, within bounds, and others are served.

What `make fuzz` runs for long (tests/fuzz) is here run shortly, the same each time, with all that it has ever found.
"""

from __future__ import annotations

import mqtt5
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.wire import ConnectItem
from tests.fuzz.edge import Attack, Broken, check, judge_words
from tests.fuzz.grammar import BUILDERS, Event, program
from tests.unit.mqtt311_device import connect as old_connect
from tests.unit.mqtt311_device import read

genes = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)).map(bytes)
BOTH = b"\1\0\x18\4"
"""CONNECT and SUBSCRIBE in one step, at QoS 1."""
first = st.sampled_from([BOTH, b"\0\0\0\0", b"\0\0\2\0", b"\0\0\4\0", b"\0\0\x40\0", b"\0\0\x46\0", b"\x0e\0\0\0"])
behind_a_connect = st.tuples(genes, first, st.lists(genes, max_size=24)).map(
    lambda drawn: drawn[0] + drawn[1] + b"".join(drawn[2])
)

FOUND = {
    "a CONNACK for a client that takes 40 bytes": "b66abbbb000002319f7e814246bf7c265c5fb291649d640d",
    "a CONNACK for a client that takes 4 bytes": "7c836b8f00004606914e452760ace878",
    "a CONNACK that refuses a client that takes 1 byte": "e978e79f00004404",
}  # fmt: skip


@settings(deadline=None, max_examples=200, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=behind_a_connect | st.lists(genes, max_size=12).map(b"".join))
def test_any_bytes_and_events_cut_anywhere(data: bytes) -> None:
    check(data)


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(data=st.binary(max_size=64), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), connected=st.booleans())
def test_raw_bytes_cut_anywhere(data: bytes, sizes: list[int], connected: bool) -> None:
    said = program(b"\0" * 8) if connected else []
    outcomes = []
    for cut in ((), tuple(sizes)):
        attack = Attack(cut)
        try:
            attack.run([*said, data] if data else said)
            outcomes.append(attack.outcome())
            attack.judge()
        finally:
            attack.end()
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("data", FOUND.values(), ids=FOUND.keys())
def test_what_was_found_once(data: str) -> None:
    check(bytes.fromhex(data))


def test_the_inputs_reach_deep_states() -> None:
    """A client that is let in, bound, has messages, publishes and comes back to its kept session."""
    attack = Attack()
    connect, subscribe, publish, gone = b"\0\0\4\0", b"\2\0\x08\1", b"\5\0\0\1", b"\xff\2\0\0"
    try:
        attack.run(program(b"\0\0\0\0" + connect + subscribe + publish + gone + b"\xff\0\0\0" + connect))
        attack.judge()
        kinds = [[packet[0] >> 4 for packet in _packets(bytes(one.heard))] for one in attack.connections]
        assert kinds == [[2, 9, 3, 3, 3, 4], [2, 3, 3, 3]]
        assert attack.connections[1].heard[2] == 1  # session present
    finally:
        attack.end()


@pytest.mark.parametrize("cut", [(), (7,)], ids=["in one step", "in pieces"])
def test_the_inputs_reach_what_comes_with_a_connect(cut: tuple[int, ...]) -> None:
    """A client that is let in and bound by one request to the saver, or by two; what comes of it is the same."""
    attack = Attack(cut)
    try:
        attack.run(program(b"\0\0\0\0" + BOTH + b"\xff\x12\0\0" + b"\5\0\0\1"))
        attack.judge()
        assert [packet[0] >> 4 for packet in _packets(bytes(attack.connections[0].heard))] == [2, 9, 3, 3, 3, 4]
        [connect] = [item for item in attack.world.register.items if isinstance(item, ConnectItem) and item.key == "main:c1"]
        assert (connect.first is None) == bool(cut)
        assert [request.split("(")[0] for request in attack.requests()["2"]] == ["ConnectItem", "BindItem"]
    finally:
        attack.end()
    check(b"\0\0\0\0" + BOTH)


def test_the_inputs_reach_deep_states_of_the_old_version() -> None:
    """A client of MQTT 3.1.1 that is bound, has messages, publishes, and comes back to its kept session."""
    attack = Attack()
    connect, subscribe, publish, gone = b"\x0e\0\0\0", b"\x0f\0\x10\1", b"\x0f\0\2\1", b"\xff\2\0\0"
    try:
        attack.run(program(b"\0\0\0\0" + connect + subscribe + publish + gone + b"\xff\0\0\0" + connect))
        attack.judge()
        kinds = [[got.first >> 4 for got in read(bytes(one.heard))] for one in attack.connections]
        assert kinds == [[2, 9, 3, 3, 3, 4], [2, 3, 3, 3]]
        assert attack.connections[1].heard[2] == 1  # session present
    finally:
        attack.end()


@pytest.mark.parametrize(
    "heard",
    {
        "no CONNACK": b"\xd0\0",
        "MQTT 5's CONNACK": b"\x20\3\0\0\0",
        "a PUBACK with a reason": b"\x20\2\0\0\x40\3\0\1\x97",
        "a DISCONNECT": b"\x20\2\0\0\xe0\0",
        "a refused SUBSCRIBE by MQTT 5's code": b"\x20\2\0\0\x90\3\0\1\x87",
        "a PUBLISH to a topic with properties before it": b"\x20\2\0\0\x30\4\0\1xx",
        "half a packet": b"\x20\2\0\0\x90\3",
    }.values(),
)
def test_what_is_no_word_of_the_old_version_is_seen(heard: bytes) -> None:
    with pytest.raises(Broken):
        judge_words(old_connect(), heard, closed=True, gone=False)


def _packets(heard: bytes) -> list[bytes]:
    found = []
    while heard:
        _, size = mqtt5.read(memoryview(heard))
        found.append(heard[:size])
        heard = heard[size:]
    return found


CONNECT = BUILDERS[0](0, 0, 0)
CONNACK = mqtt5.ConnAckPacket().write()
BAD = {
    "half a packet": CONNACK[:-1],
    "no CONNACK first": mqtt5.PingRespPacket().write(),
    "two CONNACKs": CONNACK * 2,
    "something after a DISCONNECT": CONNACK + mqtt5.DisconnectPacket().write() + mqtt5.PingRespPacket().write(),
    "a client's packet": CONNACK + mqtt5.PingReqPacket().write(),
    "the end without a reason": CONNACK,
    "no packet at all": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("heard", BAD.values(), ids=BAD.keys())
def test_the_judge_sees_what_is_wrong(heard: bytes) -> None:
    with pytest.raises(Broken):
        judge_words(CONNECT, heard, closed=True, gone=False)


def test_the_judge_sees_a_packet_that_is_too_large() -> None:
    small = mqtt5.ConnectPacket("c1", max_packet_size=4).write()
    with pytest.raises(Broken, match="takes 4"):
        judge_words(small, CONNACK, closed=False, gone=False)


def test_a_program_is_packets_and_events() -> None:
    assert program(b"\0" * 8) == [CONNECT]
    assert program(b"\0\0\0\0" + b"\xff\7\0\0") == [Event("flush")]


def test_a_client_that_does_not_listen_is_cut_at_the_cap() -> None:
    attack = Attack()
    pings = BUILDERS[11](0, 0, 0) * 20_000
    try:
        attack.run([CONNECT, Event("the client listens no more"), pings])
        attack.judge()
        assert attack.connections[0].closed
        assert len(attack.connections[0].heard) < len(pings)
    finally:
        attack.end()
