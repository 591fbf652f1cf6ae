"""What a URL in a document may reach: nothing inside, no redirect, no endless answer; and the certificate is the name's."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.settings import OutsideSettings
from workers import outside
from workers.outside import NoAnswer, Outside, may_be_asked

NAME = "login.example"
PUBLIC = OutsideSettings()
PRIVATE = OutsideSettings.model_validate({"private": ["0.0.0.0/0", "::/0"]})


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:4700::1111", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("10.1.2.3", False, True),
        ("192.168.0.1", False, True),
        ("172.16.0.1", False, True),
        ("100.64.0.1", False, True),
        ("fd00::1", False, True),
        ("169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("255.255.255.255", False, False),
        ("240.0.0.1", False, False),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("64:ff9b::7f00:1", False, True),
        ("2002:7f00:1::", False, False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False, False),
    ],
)
def test_given_an_address_then_only_public_ones_are_asked_and_link_local_never(address: str, public: bool, private: bool) -> None:
    assert may_be_asked(ip_address(address), ()) is public
    assert may_be_asked(ip_address(address), PRIVATE.private) is private


MADE: list[Outside] = []


def calling(settings: OutsideSettings, **more: Any) -> Outside:
    """One whose connections are closed after the test."""
    MADE.append(Outside(settings, **more))
    return MADE[-1]


@pytest_asyncio.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    while MADE:
        await MADE.pop().stop()


class Server:
    """Answers with `answer`, and notes what it was asked."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        self.asked: list[str] = []
        self.hangs = False
        self.connections = 0
        self.keeps = False
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.keeps or not self.asked:
                self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(self.answer)
                await writer.drain()
            if self.hangs:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def a_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    made = Server()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    async with listener:
        made.port = listener.sockets[0].getsockname()[1]
        yield made


def at(*addresses: str) -> outside.Resolve:
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


async def refused(by: Outside, url: str, *, most: int = 100) -> str:
    with pytest.raises(NoAnswer) as raised:
        await by.get(url, most=most)
    assert "secret" not in str(raised.value)
    return str(raised.value)


async def test_given_a_server_on_this_machine_when_private_is_allowed_then_it_is_asked_by_its_name() -> None:
    async with a_server() as server:
        by = calling(PRIVATE, resolve=at("127.0.0.1"))
        assert await by.get(f"http://{NAME}:{server.port}/a?b=1", most=2) == b"hi"
        [asked] = server.asked
    assert asked.startswith("GET /a?b=1 HTTP/1.1\r\n")
    assert f"\r\nHost: {NAME}:{server.port}\r\n" in asked


async def test_given_a_server_on_this_machine_when_private_is_not_allowed_then_it_is_not_asked() -> None:
    async with a_server() as server:
        for url in (f"http://127.0.0.1:{server.port}/secret", f"https://localhost:{server.port}/secret"):
            assert "not a public one" in await refused(calling(PUBLIC), url)
        assert server.asked == []


async def test_given_one_inner_address_among_public_ones_when_resolved_then_none_is_asked() -> None:
    assert "10.0.0.1" in await refused(calling(PUBLIC, resolve=at("93.184.216.34", "10.0.0.1")), f"https://{NAME}/secret")
    assert "no address" in await refused(calling(PUBLIC, resolve=at()), f"https://{NAME}/secret")


@pytest.mark.parametrize("addresses", [("93.184.216.34",), ("10.0.0.1",), ("127.0.0.1", "10.0.0.1")])
async def test_given_no_tls_when_it_is_not_this_machine_then_it_is_not_asked(addresses: tuple[str, ...]) -> None:
    assert await refused(calling(PRIVATE, resolve=at(*addresses)), f"http://{NAME}/secret") == "only https is asked"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "302"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "500"),
        (b"HTTP/1.1 204 Empty\r\n\r\n", "204"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101, "more than 100"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, "more than 100"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nx", "Error"),
        (b"nonsense\r\n\r\n", "Error"),
        (b"", "Error"),
    ],
)
async def test_given_another_answer_when_asked_then_its_reason(answer: bytes, word: str) -> None:
    async with a_server() as server:
        server.answer = answer
        by = calling(PRIVATE, resolve=at("127.0.0.1"))
        assert word in await refused(by, f"http://{NAME}:{server.port}/secret")
        assert len(server.asked) == 1


async def test_given_an_answer_that_does_not_end_when_asked_then_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "TIMEOUT", 0.3)
    async with a_server() as server:
        server.answer, server.hangs = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nx", True
        by = calling(PRIVATE, resolve=at("127.0.0.1"))
        assert "0.3 s" in await refused(by, f"http://{NAME}:{server.port}/secret")


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for `name`, and a client's that believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "c.pem", folder / "k.pem")
    return server, ssl.create_default_context(cafile=str(folder / "c.pem"))


async def test_given_tls_when_asked_then_the_certificate_has_to_be_the_names_and_not_the_addresses(tmp_path: Path) -> None:
    tls, trust = certificate(tmp_path, NAME)
    async with a_server(tls) as server:
        by = calling(PRIVATE, resolve=at("127.0.0.1"), trust=trust)
        assert await by.get(f"https://{NAME}:{server.port}/", most=2) == b"hi"
        assert "CERTIFICATE_VERIFY_FAILED" in await refused(by, f"https://other.example:{server.port}/secret")
        assert "CERTIFICATE_VERIFY_FAILED" in await refused(
            calling(PRIVATE, resolve=at("127.0.0.1")), f"https://{NAME}:{server.port}/secret"
        )
        assert len(server.asked) == 1


async def test_given_a_name_that_does_not_resolve_when_asked_then_its_reason() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    assert "not known" in await refused(calling(PUBLIC, resolve=resolve), f"https://{NAME}/secret")


# --- what a webhook could be used for (PITFALLS, "The edge") -----------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "192.168.1.1", "169.254.169.254", "[fe80::1]", "[::ffff:10.0.0.1]", "0"],
)
async def test_webhooks_to_loopback_private_link_local_and_metadata_addresses(host: str) -> None:
    with pytest.raises(NoAnswer, match="not a public one"):
        await calling(PUBLIC).ask("POST", f"https://{host}/", most=0)
    if host != "169.254.169.254" and not host.startswith("[fe80"):
        return
    with pytest.raises(NoAnswer, match="not a public one"):
        await calling(PRIVATE).ask("POST", f"https://{host}/", most=0)


async def test_rebinding_a_name_is_connected_where_it_was_looked_at_and_looked_at_for_each_connection() -> None:
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    async with a_server() as server:

        async def resolve(host: str, port: int) -> list[str]:
            return answers.pop(0)

        by = calling(PUBLIC, resolve=resolve)
        with pytest.raises(NoAnswer, match=r"answer within|Error"):  # nobody is there, from here
            await by.ask("POST", f"https://{NAME}:{server.port}/", most=0, within=0.2)
        assert answers == [["127.0.0.1"]]
        with pytest.raises(NoAnswer, match="not a public one"):
            await by.ask("POST", f"https://{NAME}:{server.port}/", most=0)
        assert server.connections == 0


async def test_redirects_are_answers_and_nobody_is_asked_there() -> None:
    async with a_server() as server:
        server.answer = b"HTTP/1.1 308 There\r\nLocation: http://127.0.0.1/inner\r\nContent-Length: 0\r\n\r\n"
        by = calling(PRIVATE)
        answer = await by.ask("POST", f"http://127.0.0.1:{server.port}/", body=b"x", most=100)
        assert (answer.status, answer.good, len(server.asked)) == (308, False, 1)


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: chunked\r\n"], ids=["until-it-closes", "chunked"])
async def test_endless_bodies_are_read_up_to_the_bound(head: bytes) -> None:
    async with a_server() as server:
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n" if head else b"x" * 65536
        server.answer, server.hangs = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + chunk * 20, True
        by = calling(PRIVATE)
        answer = await by.ask("POST", f"http://127.0.0.1:{server.port}/", body=b"x", most=1000, within=5)
        assert (answer.good, answer.whole, len(answer.body)) == (True, False, 1000)


async def test_slow_answers_that_come_byte_by_byte_end_with_the_whole_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + b"x" * 50:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as listener:
        by = calling(PRIVATE)
        started = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswer, match=r"within 0\.4 s"):
            await by.ask("POST", f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", most=100, within=0.4)
        assert asyncio.get_running_loop().time() - started < 1.5


async def test_given_two_requests_then_they_share_a_connection_but_not_with_one_that_may_go_less_far() -> None:
    async with a_server() as server:
        server.keeps = True
        by = calling(PRIVATE)
        url = f"http://127.0.0.1:{server.port}/"
        for _ in range(3):
            assert (await by.ask("POST", url, body=b"", most=100)).body == b"hi"
        assert server.connections == 1
        with pytest.raises(NoAnswer, match="not a public one"):
            await by.ask("POST", url, most=100, private=False)


async def test_given_two_names_at_one_address_then_each_shows_its_certificate(tmp_path: Path) -> None:
    tls, trust = certificate(tmp_path, NAME)
    async with a_server(tls) as server:
        by = calling(PRIVATE, resolve=at("127.0.0.1"), trust=trust)
        assert (await by.ask("POST", f"https://{NAME}:{server.port}/", most=100)).good
        with pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED"):
            await by.ask("POST", f"https://other.example:{server.port}/", most=100)
