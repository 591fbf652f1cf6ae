"""The dispatcher's answer, and the GET that fetches it, against a scripted HTTP server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sdk_server import HttpServer

from pushclient import Address, Backoff, DispatchError, PushClient, fetch
from pushclient.dispatch import DEFAULT_TTL_S, Dispatcher, parse_answer

GOOD = {
    "addresses": [{"host": "h", "port": 1883}, {"host": "::1", "port": 2}],
    "ttl_s": 30,
    "heartbeat_s": 300,
    "backoff": {"base_s": 1, "cap_s": 20},
}


def http(body: bytes, head: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


def answer(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_given_a_good_answer_then_all_of_it_is_read() -> None:
    parsed = parse_answer(answer())
    assert parsed.addresses == (Address("h", 1883), Address("::1", 2))
    assert (parsed.ttl_s, parsed.heartbeat_s, parsed.backoff) == (30, 300, Backoff(base_s=1, cap_s=20))


@pytest.mark.parametrize("value", [None, 0, "30", True, [], {}, -5, {"base_s": 3, "cap_s": 1}, {"base_s": True}])
def test_given_wrong_advice_then_it_is_ignored(value: object) -> None:
    parsed = parse_answer(answer(ttl_s=value, heartbeat_s=value, backoff=value))
    assert (parsed.ttl_s, parsed.heartbeat_s, parsed.backoff) == (DEFAULT_TTL_S, None, None)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        1,
        [],
        {},
        {"host": "h"},
        {"host": "", "port": 1},
        {"host": "h", "port": 0},
        {"host": "h", "port": 65_536},
        {"host": "h", "port": True},
        {"host": "h", "port": "1"},
        {"host": "h\r\n", "port": 1},
    ],
)
def test_given_an_unusable_address_then_it_is_skipped_and_alone_it_is_an_error(entry: object) -> None:
    assert parse_answer(answer(addresses=[entry, {"host": "h", "port": 1}])).addresses == (Address("h", 1),)
    with pytest.raises(DispatchError, match="addresses"):
        parse_answer(answer(addresses=[entry]))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b"1e999", b"[" * 60_000])
def test_given_no_document_then_dispatch_error(body: bytes) -> None:
    with pytest.raises(DispatchError):
        parse_answer(body)


def test_given_very_many_addresses_then_only_some_are_kept() -> None:
    many = [{"host": "h", "port": port} for port in range(1, 1_000)]
    assert len(parse_answer(answer(addresses=many)).addresses) == 64


async def ask(server: HttpServer, attempt: int = 0, *failed: Address, last: str = "") -> Any:
    dispatcher = Dispatcher(server.url, client_id="c+1@x", network="4g", timeout_s=0.5)
    return await dispatcher.ask(attempt, failed, last)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x;x=y\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n"
HALF = len(answer()) // 2


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(http(answer()), id="content-length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + answer(), id="until the end"),
        pytest.param(CHUNKED % (HALF, answer()[:HALF], len(answer()) - HALF, answer()[HALF:]), id="chunked"),
    ],
)
async def test_given_any_framing_then_the_answer_is_read(response: bytes) -> None:
    async with HttpServer(response) as server:
        assert (await ask(server, 2, Address("::1", 5))).addresses[0] == Address("h", 1883)
    target = "/v1/dispatch?client=c%2B1%40x&network=4g&attempt=2&failed=%5B%3A%3A1%5D%3A5"
    assert server.targets == [target]


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0\r\n\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", id="cut short"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n", id="announced too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000, id="endless body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, id="endless head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n", id="huge chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="no chunk"),
        pytest.param(http(b"", status="404 Not Found"), id="404"),
    ],
)
async def test_given_a_bad_response_then_dispatch_error(response: bytes) -> None:
    async with HttpServer(response) as server:
        with pytest.raises(DispatchError):
            await ask(server)


async def test_given_503_with_retry_after_then_the_error_carries_it() -> None:
    async with HttpServer(http(b"", "Retry-After: 7\r\n", "503 Service Unavailable")) as server:
        with pytest.raises(DispatchError, match="status 503") as raised:
            await ask(server)
    assert raised.value.retry_after_s == 7


async def test_given_a_silent_server_then_it_is_left_after_the_timeout() -> None:
    async with HttpServer(b"HTTP/1.1 200 OK\r\n") as server:
        server.silent = True
        with pytest.raises(DispatchError, match="TimeoutError"):
            await ask(server)


async def test_given_nobody_listens_then_dispatch_error() -> None:
    async with HttpServer(b"") as server:
        pass
    with pytest.raises(DispatchError):
        await ask(server)


@pytest.mark.parametrize("url", ["", "h", "ftp://h", "http://", "http://h:x", "http://h:0", "http://h/\r\nX: y", "http://h/a b"])
def test_given_no_url_then_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|port|Port"):
        fetch.parse_url(url)


async def test_given_tls_then_only_ports_with_tls_are_asked_for() -> None:
    async with HttpServer(http(answer())) as server:
        await Dispatcher(server.url, client_id="c", network="4g", timeout_s=0.5, tls=True).ask(0)
    assert server.targets == ["/v1/dispatch?client=c&network=4g&attempt=0&transport=mqtts"]


async def test_given_a_product_and_a_region_then_they_are_told_with_the_last_room_and_all_that_failed() -> None:
    async with HttpServer(http(answer())) as server:
        dispatcher = Dispatcher(server.url, client_id="c", network="5g", timeout_s=0.5, product="shop", region="eu-1")
        await dispatcher.ask(3, (Address("h", 1), Address("::1", 2)), "r-1")
    asked = "client=c&network=5g&attempt=3&product=shop&region=eu-1&last=r-1&failed=h%3A1&failed=%5B%3A%3A1%5D%3A2"
    assert server.targets == [f"/v1/dispatch?{asked}"]


@pytest.mark.parametrize("room", [None, 1, "", "R1", "a.b", "r" * 65, "r1\n"])
def test_given_a_room_with_a_strange_name_then_its_address_is_good_and_the_name_is_not_said_again(room: object) -> None:
    entries = [{"host": "h", "port": 1, "room": room}, {"host": "h", "port": 2, "room": "r-2"}]
    parsed = parse_answer(answer(addresses=entries))
    assert parsed.addresses == (Address("h", 1), Address("h", 2))
    assert parsed.rooms == {Address("h", 2): "r-2"}


@pytest.mark.parametrize("wrong", [{"product": "Shop"}, {"region": "eu west"}, {"region": "x" * 33}])
def test_given_a_wrong_name_then_value_error(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        PushClient(client_id="c", token="t", dispatch="http://h", **wrong)  # type: ignore[arg-type]
