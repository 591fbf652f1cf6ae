"""Attackers, in a process of their own: `python -m tests.unit.edge_attacks NAME SECONDS PORTS`; PORTS is what the room printed.

Prints a line when it begins, and at the end `{"times", "met"}`: how often it did it, and how often it got what it is to get.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import mqtt5
from gateway_world import claims, sign
from live_room import PING, SUBSCRIBE, connect
from test_gateway_auth import part
from test_gateway_proxy import header
from ws import CONTINUATION, frame, request

Ports = dict[str, int]
Attack = Callable[[Ports], Iterator[bool]]
"""Does it once with each step, and says whether it got what it is to get."""

SOURCES: Final = itertools.cycle([f"127.0.1.{number}" for number in range(1, 101)])
"""As many addresses as a small botnet has: each may open 100 sockets a second."""
HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(489)
SLOW: Final = 200


def opened(port: int, *data: bytes, source: str = "") -> socket.socket:
    """A socket that has sent this."""
    made = socket.create_connection(("127.0.0.1", port), timeout=3, source_address=(source or next(SOURCES), 0))
    made.sendall(b"".join(data))
    return made


def got(peer: socket.socket) -> bytes:
    """All until the end; a reset is one, too."""
    data = b""
    try:
        while more := peer.recv(65_536):
            data += more
    except ConnectionError:
        pass
    finally:
        peer.close()
    return data


def answered(peer: socket.socket, size: int) -> bytes:
    """So many bytes at least."""
    data = b""
    while len(data) < size:
        more = peer.recv(65_536)
        if not more:
            break
        data += more
    return data


def trickling(port: int, data: bytes) -> Iterator[bool]:
    """Many sockets, each of which sends a byte now and then; one that was closed is opened again."""
    slow: list[tuple[socket.socket, int]] = []
    while True:
        if len(slow) < SLOW:
            slow.append((opened(port), 0))
        peer, sent = slow.pop(0)
        try:
            peer.send(data[sent : sent + 1])
            slow.append((peer, sent + 1))
        except OSError:
            peer.close()
            yield True
        if len(slow) == SLOW:
            time.sleep(0.0005)


def slowloris(ports: Ports) -> Iterator[bool]:
    """A CONNECT byte by byte."""
    return trickling(ports["mqtt"], connect("slow"))


def slowloris_in_tls(ports: Ports) -> Iterator[bool]:
    """A ClientHello byte by byte."""
    return trickling(ports["mqtts"], HELLO)


def length_bombs(ports: Ports) -> Iterator[bool]:
    """256 MiB are announced, before CONNECT and after it."""
    after = connect("bomber")
    while True:
        yield got(opened(ports["mqtt"], b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05")) == b""
        yield b"\x95" in got(opened(ports["mqtt"], after, b"\x32\xff\xff\xff\x7f\x00\x0cup/demo/note"))


def endless_continuation(ports: Ports) -> Iterator[bool]:
    """A message of WebSocket that does not end: 1009, and nothing more is taken."""
    piece = frame(PING * 500, CONTINUATION, fin=False)
    while True:
        peer = opened(ports["ws"], request(), frame(connect("endless")), frame(PING * 500, fin=False))
        said = b""
        try:
            while (1009).to_bytes(2) not in said:
                peer.sendall(piece)
                said = peer.recv(65_536)
            yield True
        except ConnectionError:
            yield True
        peer.close()


def unmasked_frames(ports: Ports) -> Iterator[bool]:
    """A frame as only a server may send it: 1002."""
    while True:
        yield (1002).to_bytes(2) in got(opened(ports["ws"], request(), b"\x82\x02" + PING))


def permessage_deflate(ports: Ports) -> Iterator[bool]:
    """Compression is asked for, and a frame says that it is compressed: declined, and then 1002."""
    asked = request(Sec_WebSocket_Extensions="permessage-deflate")
    while True:
        said = got(opened(ports["ws"], asked, b"\xc2\x82\x00\x00\x00\x00" + PING))
        yield b"xtensions" not in said and (1002).to_bytes(2) in said


def sockets_beyond_the_caps(ports: Ports) -> Iterator[bool]:
    """One address opens sockets as fast as it can. It may open 500 at once and 100 a second: what is beyond is reset."""
    for number in itertools.count(1):
        with contextlib.suppress(ConnectionError):
            opened(ports["mqtt"], source="127.0.2.1").close()
        yield number % 1_000 != 0 or any_reset(ports["mqtt"])


def any_reset(port: int) -> bool:
    """Is one of twenty more sockets of that address reset?"""
    peers = []
    try:
        for _ in range(20):
            peers.append(opened(port, source="127.0.2.1"))
        ready, _, _ = select.select(peers, [], [], 2)
        return any(peer.recv(1) == b"" for peer in ready)
    except ConnectionError:
        return True
    finally:
        for peer in peers:
            peer.close()


def forged_proxy_header(ports: Ports) -> Iterator[bool]:
    """From who is no balancer, on a port for balancers and on another one, and from a balancer one that is malformed."""
    while True:
        yield got(opened(ports["proxy"], header(), connect("forger"))) == b""
        yield got(opened(ports["mqtt"], header(), connect("forger"))) == b""
        yield got(opened(ports["proxy"], b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", source="127.0.0.2")) == b""


def bad_tokens(ports: Ports) -> Iterator[bool]:
    """`alg: none`, a wrong `aud`, a future `iat`, a stranger's key, another client's token: 0x86."""
    head, body, _ = sign(claims("thief")).split(b".")
    tokens = [
        b".".join((part({"alg": "none"}), body, b"")),
        sign(claims("thief", aud="elsewhere")),
        sign(claims("thief", iat=2_000_000_000)),
        sign(claims("thief"), secret="o" * 40),
        sign(claims("victim")),
        b".".join((head, body, b"A" * 43)),
    ]
    for token in itertools.cycle(tokens):
        yield got(opened(ports["mqtt"], mqtt5.ConnectPacket("thief", password=token).write()))[3:4] == b"\x86"


def bad_ids(ports: Ports) -> Iterator[bool]:
    """Client ids that would be something else in here: 0x85."""
    bad = [connect(name) for name in ("*", "a.>", "a\r\nb", "}{", "x" * 1_500)]
    for packet in itertools.cycle(bad):
        yield got(opened(ports["mqtt"], packet))[-1_000:].count(b"\x85") > 0


def a_million_acks(ports: Ports) -> Iterator[bool]:
    """Of what was never sent, as fast as they are taken. Broadcasts' ids, too."""
    peer = opened(ports["mqtt"], connect("acker"), SUBSCRIBE)
    answered(peer, 40)
    block = (mqtt5.PubAckPacket(77).write() + mqtt5.PubAckPacket(0x8005).write()) * 500
    while True:
        peer.sendall(block)
        yield True


def a_million_pings(ports: Ports) -> Iterator[bool]:
    """Each is answered, and nobody else waits for that."""
    peer = opened(ports["mqtt"], connect("pinger"))
    answered(peer, 30)
    while True:
        peer.sendall(PING * 500)
        yield len(answered(peer, 1_000)) == 1_000


def control_characters(ports: Ports) -> Iterator[bool]:
    """In topics, reasons and ids, where a log line might show them."""
    hostile = "x\r\n\x1b[2J\x9b"
    publish = mqtt5.PublishPacket(hostile, b"", qos=mqtt5.QoS(1), packet_id=7).write()
    end = mqtt5.DisconnectPacket(reason_str=hostile).write()
    while True:
        yield b"\x00\x07\x90" in got(opened(ports["mqtt"], connect("writer"), publish, end))


ATTACKS: Final[dict[str, Attack]] = {
    attack.__name__: attack
    for attack in (
        slowloris, slowloris_in_tls, length_bombs, endless_continuation, unmasked_frames, permessage_deflate,
        sockets_beyond_the_caps, forged_proxy_header, bad_tokens, bad_ids, a_million_acks, a_million_pings, control_characters,
    )
}  # fmt: skip


def main(name: str, seconds: float, ports: Ports) -> None:
    """Attack for so long."""
    steps = ATTACKS[name](ports)
    times = met = 0
    print("begun", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        met += next(steps)
        times += 1
    print(json.dumps({"times": times, "met": met}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]))
