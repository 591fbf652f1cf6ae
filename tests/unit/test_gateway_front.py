"""The ports of a room on real sockets: every transport, and bad input at each of their stages."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import struct
import sys
from pathlib import Path
from typing import Any

import mqtt5
import pytest
from certs import Authority
from front_world import PING, WITHIN_S, Live, Peer, connect, counted, has_ipv6, live, trusting
from test_gateway_proxy import V4, V6, header
from ws import CLOSE, CONTINUATION, frame, parsed, request

from gateway.edge import native
from gateway.edge.certificates import BadCertificate, Certificates, Contexts, reloads
from gateway.edge.front import advertised
from gateway.edge.tls import HANDSHAKE
from gateway.edge.upgrade import LIMIT
from infra.peers import number
from infra.settings import Certificate, PortSettings, TlsSettings
from infra.wire import Endpoint

BALANCERS = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, Any]:
    """Settings with two certificates, and an authority of clients."""
    return {
        "certificates": (authority.issue("room.test"), authority.issue("*.other.test", "exact.test")),
        "client_ca": authority.file,
    }


@pytest.fixture(scope="module")
def trust(authority: Authority) -> ssl.SSLContext:
    return trusting(authority.file)


async def served(peer: Peer, client: str = "c1") -> None:
    """The room takes it, and answers a ping."""
    peer.send(connect(client))
    ack = await peer.packet()
    assert isinstance(ack, mqtt5.ConnAckPacket)
    assert int(ack.reason_code) == 0, ack
    peer.send(PING)
    assert isinstance(await peer.packet(), mqtt5.PingRespPacket)


async def ended(room: Live) -> None:
    await room.until(lambda: not list(room.world.room.sessions) and not room.front._arrivals)


# --- every stack -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["mqtt", "mqtts", "ws", "wss"])
@pytest.mark.parametrize("proxied", [False, True])
async def test_given_any_stack_then_a_client_is_served_and_its_address_is_known(
    transport: str, proxied: bool, tls: dict[str, Any], trust: ssl.SSLContext
) -> None:
    async with live(transport=transport, tls=tls, proxy=proxied, balancers=BALANCERS) as room:
        secure = trust if transport in ("mqtts", "wss") else None
        if proxied:  # the header goes before TLS
            raw = socket.create_connection(("127.0.0.1", room.front.ports[0]))
            raw.sendall(header())
            reader, writer = await asyncio.open_connection(sock=raw, ssl=secure, server_hostname="room.test" if secure else None)
            peer = Peer(reader, writer, websocket=transport in ("ws", "wss"))
            room.peers.append(peer)
            if peer.websocket:
                await peer.upgrade()
        else:
            peer = await room.peer(tls=secure, websocket=transport in ("ws", "wss"))
        await served(peer)
        (session,) = room.world.room.sessions
        assert session._shell.peer == number("198.51.100.7" if proxied else "127.0.0.1")
        assert session.transport == transport
        assert dict(room.front.endpoints) == {transport: room.front.own}


async def test_given_further_ports_then_all_serve_and_clients_are_told_of_those_that_are_the_rooms_own(
    tls: dict[str, Any], trust: ssl.SSLContext
) -> None:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        shared = chosen.getsockname()[1]
    listeners = (
        {"transport": "mqtts"},
        {"transport": "wss", "advertise": "push.test"},
        {"port": shared, "shared": True, "transport": "ws"},
    )
    async with live(tls=tls, listeners=listeners) as room, live(listeners=[{"port": shared, "shared": True}]):
        own, secure, web, _ = room.front.ports
        assert {name: str(told) for name, told in room.front.endpoints.items()} == {
            "mqtt": f"127.0.0.1:{own}",
            "mqtts": f"127.0.0.1:{secure}",
            "wss": f"push.test:{web}",
        }
        await served(await room.peer(0), "a")
        await served(await room.peer(1, trust), "b")
        await served(await room.peer(2, trust, websocket=True), "c")


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_given_ipv6_then_it_is_served_and_its_address_known() -> None:
    async with live(host="::1", proxy=True, balancers=("::1/128",)) as room:
        peer = await room.peer(host="::1")
        peer.writer.write(header(family=0x21, rest=V6))
        await served(peer)
        (session,) = room.world.room.sessions
        assert session._shell.peer == number("2001:db8::7")


@pytest.mark.parametrize(
    ("advertise", "told"),
    [
        ("", ("ws", Endpoint("0.0.0.0", 7))),
        ("push.test", ("ws", Endpoint("push.test", 7))),
        ("push.test:443", ("ws", Endpoint("push.test", 443))),
        ("wss://push.test:443", ("wss", Endpoint("push.test", 443))),
        ("wss://", ("wss", Endpoint("0.0.0.0", 7))),
        ("[2001:db8::1]:443", ("ws", Endpoint("2001:db8::1", 443))),
    ],
)
def test_given_what_is_advertised_then_clients_are_told_of_it(advertise: str, told: tuple[str, Endpoint]) -> None:
    assert advertised(PortSettings(transport="ws", advertise=advertise), "0.0.0.0", 7) == told


async def test_given_a_room_that_listens_then_it_says_what_reads() -> None:
    built = native.load() is not None
    for sender, reader in (("auto", "c" if built else "python"), ("python", "python")):
        async with live(sender=sender) as room:
            assert room.front.reader == reader


async def test_given_a_port_that_is_taken_then_no_other_stays_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            async with live(listeners=[{"port": port}]):
                pass


async def test_given_one_that_waits_to_be_accepted_when_the_room_ends_then_it_is_told_to_go_elsewhere() -> None:
    async with live() as room:
        with socket.create_connection(("127.0.0.1", room.front.ports[0])) as waiting:
            waiting.sendall(connect())
            room.world.room.draining = True
            room.front.listen_no_more()  # before the loop could accept it
            waiting.settimeout(5)
            packet, _ = mqtt5.read(memoryview(await asyncio.to_thread(waiting.recv, 4096)))
        assert isinstance(packet, mqtt5.ConnAckPacket)
        assert int(packet.reason_code) == 0x9C


async def test_given_pipelined_bytes_behind_header_and_request_then_all_are_read() -> None:
    async with live(transport="ws", proxy=True, balancers=BALANCERS) as room:
        peer = await room.peer()
        peer.websocket = True
        await peer.upgrade(header() + request() + frame(connect() + PING))
        assert isinstance(await peer.packet(), mqtt5.ConnAckPacket)
        assert isinstance(await peer.packet(), mqtt5.PingRespPacket)


# --- forged PROXY header ---------------------------------------------------------------------------------------------------


async def test_given_a_forged_proxy_header_of_an_unlisted_peer_then_it_is_closed_unread() -> None:
    async with live(proxy=True, balancers=("10.0.0.0/8",)) as room:
        with counted("proxy", "unlisted"):
            peer = await room.peer()
            peer.writer.write(header() + connect())
            assert await peer.closed() == b""
        assert not list(room.world.room.sessions)


async def test_given_a_forged_proxy_header_on_a_port_without_then_it_is_no_mqtt() -> None:
    async with live() as room:
        peer = await room.peer()
        peer.writer.write(header() + connect())
        assert await peer.closed() == b""


@pytest.mark.parametrize("data", [b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", connect(), header(size=0xFFFF), header(rest=V4[:8])])
async def test_given_a_malformed_proxy_header_then_it_is_closed(data: bytes) -> None:
    async with live(proxy=True, balancers=BALANCERS) as room:
        with counted("proxy", "malformed"):
            peer = await room.peer()
            peer.writer.write(data)
            assert await peer.closed() == b""


async def test_given_slowloris_in_the_proxy_header_then_it_is_closed_in_time_however_it_trickles() -> None:
    async with live(proxy=True, balancers=BALANCERS, connect_timeout=0.3) as room:
        with counted("proxy", "timeout"):
            peer = await room.peer()
            for byte in header()[:-1]:
                peer.writer.write(bytes((byte,)))
                await asyncio.sleep(0.02)
            assert await peer.closed() == b""


async def test_given_a_balancer_that_leaves_or_a_room_that_ends_before_the_header_then_nothing_stays() -> None:
    async with live(proxy=True, balancers=BALANCERS) as room:
        with counted("proxy", "left"):
            peer = await room.peer()
            peer.writer.write(header()[:5])
            await room.until(lambda: bool(room.front._arrivals))
            peer.writer.transport.abort()
            await ended(room)
        with counted("proxy", "draining"):
            late = await room.peer()
            await room.until(lambda: bool(room.front._arrivals))
            room.front.listen_no_more()
            assert await late.closed() == b""


# --- WebSocket -------------------------------------------------------------------------------------------------------------


async def test_given_an_endless_continuation_then_it_is_refused_and_others_are_served() -> None:
    async with live(transport="ws") as room:
        other, attacker = await room.peer(websocket=True), await room.peer(websocket=True)
        await served(other)
        with counted("websocket", "endless"):
            attacker.send(connect("evil"))
            await attacker.packet()
            attacker.writer.write(frame(PING * 500, fin=False))
            for _ in range(300):
                attacker.writer.write(frame(PING * 500, CONTINUATION, fin=False))
            await attacker.closed()
        other.send(PING)
        assert isinstance(await other.packet(), mqtt5.PingRespPacket)


async def test_given_an_unmasked_frame_then_the_code_is_said_and_the_socket_closed() -> None:
    async with live(transport="ws") as room:
        peer = await room.peer(websocket=True)
        await served(peer)
        with counted("websocket", "unmasked"):
            peer.writer.write(b"\x82\x02" + PING)
            [(opcode, payload)] = parsed(await peer.closed())
        assert (opcode, payload[:2]) == (CLOSE, (1002).to_bytes(2))
        await ended(room)


async def test_given_permessage_deflate_is_asked_for_then_it_is_declined_and_the_client_served() -> None:
    async with live(transport="ws") as room:
        peer = await room.peer()
        assert b"xtensions" not in await peer.upgrade(request(Sec_WebSocket_Extensions="permessage-deflate"))
        peer.websocket = True
        await served(peer)


async def test_given_slowloris_in_the_upgrade_then_it_is_closed_in_time_however_it_trickles() -> None:
    async with live(transport="ws", connect_timeout=0.3) as room:
        with counted("websocket", "timeout"):
            peer = await room.peer()
            for byte in request()[:40]:
                peer.writer.write(bytes((byte,)))
                await asyncio.sleep(0.02)
            assert await peer.closed() == b""
        await ended(room)


async def test_given_an_upgrade_and_no_connect_then_it_is_closed_in_time() -> None:
    async with live(transport="ws", connect_timeout=0.3) as room:
        peer = await room.peer(websocket=True)
        assert parsed(await peer.closed()) == [(CLOSE, (1000).to_bytes(2))]


async def test_given_a_request_that_never_ends_then_431() -> None:
    async with live(transport="ws") as room:
        with counted("websocket", "too_large"):
            peer = await room.peer()
            peer.writer.write(b"GET /mqtt HTTP/1.1\r\nX: " + b"y" * LIMIT)
            assert (await peer.closed()).startswith(b"HTTP/1.1 431 ")


async def test_given_a_mqtt_disconnect_or_a_close_frame_then_the_connection_ends_in_good_order() -> None:
    async with live(transport="ws") as room:
        one, two = await room.peer(websocket=True), await room.peer(websocket=True)
        await served(one, "one")
        await served(two, "two")
        one.send(mqtt5.DisconnectPacket().write())
        assert parsed(await one.closed()) == [(CLOSE, (1000).to_bytes(2))]
        two.writer.write(frame((1001).to_bytes(2), CLOSE))
        assert parsed(await two.closed()) == [(CLOSE, (1001).to_bytes(2))]
        await ended(room)


async def test_given_what_the_kernel_does_not_take_then_it_comes_whole_through_all_stages(
    tls: dict[str, Any], trust: ssl.SSLContext
) -> None:
    async with live(transport="wss", tls=tls, max_write_buffer=8_000_000) as room:
        peer = await room.peer(tls=trust, websocket=True)
        await served(peer)
        (session,) = room.world.room.sessions
        with socket.socket(fileno=os.dup(session._shell._fd)) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        packets = [mqtt5.PublishPacket("t", bytes([number % 251]) * 60_000).write() for number in range(60)]
        for packet in packets:
            session._shell.write(packet)
        assert session.buffered() > 1_000_000
        got = b""
        async with asyncio.timeout(10):
            while len(got) < sum(len(packet) + 4 for packet in packets):
                got += await peer.reader.read(1 << 20)
        assert b"".join(payload for _, payload in parsed(got)) == b"".join(packets)
        await room.until(lambda: session.buffered() == 0)
        assert session._shell.direct == -1


# --- TLS -------------------------------------------------------------------------------------------------------------------


async def test_given_slowloris_in_tls_then_it_is_closed_in_time_however_it_trickles(tls: dict[str, Any]) -> None:
    async with live(transport="mqtts", tls={**tls, "handshake_timeout": 0.3}, connect_timeout=30) as room:
        with counted("tls", "timeout"):
            peer = await room.peer()
            for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40):
                peer.writer.write(bytes((byte,)))
                await asyncio.sleep(0.02)
            assert await peer.closed() == b""
        await ended(room)


async def test_given_a_handshake_in_time_and_no_connect_then_the_connect_timeout_holds(
    tls: dict[str, Any], trust: ssl.SSLContext
) -> None:
    async with live(transport="mqtts", tls={**tls, "handshake_timeout": 30}, connect_timeout=0.3) as room:
        peer = await room.peer(tls=trust)
        peer.send(connect()[:-1])
        assert await peer.closed() == b""
        await ended(room)


@pytest.mark.parametrize(("data", "reason"), [(connect(), "no_tls"), (b"GET / HTTP/1.1\r\n\r\n", "no_tls")])
async def test_given_no_tls_on_its_port_then_it_is_closed(data: bytes, reason: str, tls: dict[str, Any]) -> None:
    async with live(transport="mqtts", tls=tls) as room:
        with counted("tls", reason):
            peer = await room.peer()
            peer.writer.write(data)
            await peer.closed()


async def test_given_tls_1_2_then_it_is_refused(tls: dict[str, Any], authority: Authority) -> None:
    old = trusting(authority.file)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with live(transport="mqtts", tls=tls) as room:
        with counted("tls", "version"), pytest.raises(ssl.SSLError):
            await room.peer(tls=old)


async def test_given_a_handshake_that_is_too_large_then_it_is_closed(tls: dict[str, Any]) -> None:
    async with live(transport="mqtts", tls=tls) as room:
        with counted("tls", "too_large"):
            peer = await room.peer()
            size = 1 << 16  # of a ClientHello, in many records that are each valid
            hello = b"\x01" + size.to_bytes(3) + b"\x03\x03" + bytes(size - 2)
            for at in range(0, HANDSHAKE + 4096, 4096):
                part = hello[at : at + 4096]
                peer.writer.write(b"\x16\x03\x01" + len(part).to_bytes(2) + part)
            await peer.closed()


async def test_given_a_broken_record_then_what_came_before_counts_and_the_connection_ends(
    tls: dict[str, Any], trust: ssl.SSLContext
) -> None:
    async with live(transport="mqtts", tls=tls) as room:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trust.wrap_bio(incoming, outgoing, server_hostname="room.test")
        peer = await room.peer()
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                peer.writer.write(outgoing.read())
                incoming.write(await peer.reader.read(16_384))
        client.write(connect())
        with counted("tls", "handshake"):
            peer.writer.write(outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
            await peer.closed()
        assert len(room.world.register.items) == 1


async def test_given_names_then_each_gets_its_certificate_and_a_stranger_the_first(
    tls: dict[str, Any], authority: Authority
) -> None:
    async with live(transport="mqtts", tls=tls) as room:
        for name, expected in {
            "room.test": "room.test",
            "a.other.test": "*.other.test",
            "EXACT.test": "exact.test",
            "stranger.test": "room.test",
            "a.b.other.test": "room.test",
        }.items():
            context = trusting(authority.file)
            context.check_hostname = False
            peer = await room.peer(tls=context, name=name)
            certificate = peer.writer.get_extra_info("ssl_object").getpeercert()
            assert expected in [value for _, value in certificate["subjectAltName"]]


AES_128, AES_256, CHACHA = "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"
OPENSSL = """openssl_conf = all
[all]
ssl_conf = contexts
[contexts]
system_default = each
[each]
Ciphersuites = {}
"""
"""A configuration of OpenSSL: Python before 3.15 can't choose the suites of TLS 1.3."""
ENCRYPTS = """import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
raw = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
with context.wrap_socket(raw, server_hostname="room.test") as secure:
    print(secure.cipher()[0])
"""


@pytest.mark.parametrize(
    "offered", [(AES_128, AES_256, CHACHA), (AES_256, AES_128, CHACHA), (CHACHA, AES_256, AES_128), (CHACHA,)]
)
async def test_given_the_suites_of_a_client_then_its_first_is_taken(
    offered: tuple[str, ...], tls: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "openssl.cnf"
    file.write_text(OPENSSL.format(":".join(offered)))
    async with live(transport="mqtts", tls=tls) as room:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ENCRYPTS, str(authority.file), str(room.front.ports[0])),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "OPENSSL_CONF": str(file)},
        )
        said, _ = await asyncio.wait_for(client.communicate(), WITHIN_S)
        assert said.decode().split() == [offered[0]]


def resumes(port: int, context: ssl.SSLContext, session: Any = None) -> tuple[bool, Any, bytes]:
    """A client of the standard library: was the session resumed, the next one, and what was said to a CONNECT."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="room.test", session=session) as client,
    ):
        client.sendall(connect())
        said = client.recv(4096)
        return bool(client.session_reused), client.session, said


async def test_given_a_ticket_then_the_session_is_resumed_until_the_certificates_are_read_anew(
    tls: dict[str, Any], trust: ssl.SSLContext
) -> None:
    async with live(transport="mqtts", tls=tls) as room:
        port = room.front.ports[0]
        first, ticket, _ = await asyncio.to_thread(resumes, port, trust)
        assert not first
        again, ticket, said = await asyncio.to_thread(resumes, port, trust, ticket)
        assert again
        assert said[0] == 0x20
        assert room.certificates is not None
        room.certificates.reload()
        after, _, said = await asyncio.to_thread(resumes, port, trust, ticket)
        assert not after
        assert said[0] == 0x20


# --- a client's certificate ------------------------------------------------------------------------------------------------


async def test_given_a_port_that_demands_a_certificate_then_it_must_name_the_client_also_when_resumed(
    tls: dict[str, Any], authority: Authority
) -> None:
    mine = trusting(authority.file, certificate=authority.issue(common="c1"))
    async with live(transport="mqtts", tls=tls, client_certificates=True) as room:
        await served(await room.peer(tls=mine))
        by_name = trusting(authority.file, certificate=authority.issue("c2", common="device"))
        await served(await room.peer(tls=by_name), "c2")
        foreign = await room.peer(tls=mine)
        foreign.send(connect("c2"))
        ack = await foreign.packet()
        assert isinstance(ack, mqtt5.ConnAckPacket)
        assert (int(ack.reason_code), ack.reason_str) == (0x87, "the certificate is not this client's")
        _, ticket, _ = await asyncio.to_thread(resumes, room.front.ports[0], mine)
        again, _, said = await asyncio.to_thread(resumes, room.front.ports[0], mine, ticket)
        assert again
        assert said[0] == 0x20
        assert said[3] == 0


@pytest.mark.parametrize("kind", ["none", "foreign"])
async def test_given_no_certificate_of_the_authority_then_nobody_comes_in(
    kind: str, tls: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    strangers = trusting(authority.file)
    if kind == "foreign":
        strangers = trusting(authority.file, certificate=Authority(tmp_path, "other").issue(common="c1"))
    async with live(transport="mqtts", tls=tls, client_certificates=True) as room:
        with counted("tls", "certificate"):
            peer = await room.peer(tls=strangers)  # a client of TLS 1.3 is done before the server has judged it
            peer.send(connect())
            await peer.closed()
        assert not room.world.register.items


# --- reload ----------------------------------------------------------------------------------------------------------------


async def test_given_new_files_then_new_clients_get_them_and_nobody_is_dropped(
    authority: Authority, trust: ssl.SSLContext
) -> None:
    settings = {"certificates": (authority.issue("room.test", file="renewed"),)}
    async with live(transport="mqtts", tls=settings) as room:
        old = await room.peer(tls=trust)
        await served(old, "old")
        authority.issue("room.test", "new.test", file="renewed")
        assert room.certificates is not None
        room.certificates.check()
        await served(await room.peer(tls=trust, name="new.test"), "new")
        old.send(PING)
        assert isinstance(await old.packet(), mqtt5.PingRespPacket)


async def test_given_broken_new_files_then_the_old_ones_go_on_and_it_is_counted_once(
    authority: Authority, trust: ssl.SSLContext
) -> None:
    made = authority.issue("room.test", file="broken")
    async with live(transport="mqtts", tls={"certificates": (made,)}) as room:
        before = reloads.labels("refused")._value.get()
        made.certificate.write_text("no certificate")
        assert room.certificates is not None
        room.certificates.check()
        room.certificates.check()
        assert reloads.labels("refused")._value.get() == before + 1
        await served(await room.peer(tls=trust))
        authority.issue("room.test", file="broken")
        room.certificates.check()
        await served(await room.peer(tls=trust), "c2")


async def test_given_sighup_then_the_files_are_read(authority: Authority) -> None:
    part = Certificates(TlsSettings(certificates=(authority.issue("room.test", file="hup"),)), fail=lambda reason: None)
    await part.start()
    try:
        before, was = reloads.labels("read")._value.get(), part.context(demanding=False)
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(WITHIN_S):
            while reloads.labels("read")._value.get() == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert part.context(demanding=False) is not was
    finally:
        await part.stop()


def test_given_files_that_cant_be_served_then_the_reason_names_them(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("room.test", file="good"), authority.issue("room.test", file="elsewhere")
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for certificate, said in (
        (Certificate(certificate=tmp_path / "none.crt"), r"none\.crt: No such file"),
        (Certificate(certificate=good.certificate, key=tmp_path / "none.key"), r"none\.key: No such file"),
        (Certificate(certificate=good.certificate, key=other.key), r"elsewhere\.key: not the key of .*good\.crt"),
        (Certificate(certificate=junk), r"junk\.pem with .*: no certificate chain"),
    ):
        with pytest.raises(BadCertificate, match=said):
            Contexts(TlsSettings(certificates=(certificate,)))
    with pytest.raises(BadCertificate, match=r"junk\.pem: no certificates of an authority"):
        Contexts(TlsSettings(certificates=(good,), client_ca=junk))


async def test_given_a_reset_in_any_stage_then_nothing_stays(tls: dict[str, Any]) -> None:
    async with live(transport="wss", tls=tls) as room:
        with counted("tls", "left"):
            with socket.create_connection(("127.0.0.1", room.front.ports[0])) as peer:
                peer.sendall(b"\x16\x03\x01")
                await room.until(lambda: bool(list(room.world.room.sessions)))
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await ended(room)
