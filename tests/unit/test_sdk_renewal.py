"""A new token on a live connection: when it is asked for, what is said, and what follows where that fails."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import mqtt5
import pytest
from sdk_server import Peer, Server, connected, until

from pushclient import renewal
from pushclient.renewal import seconds_left

JWT = "jwt"


def token(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "SHORTEST_S", 0.05)
    monkeypatch.setattr(renewal, "AGAIN_S", 0.05)


def now() -> float:
    """Not cut to whole seconds: of `now() + 1` there would be next to nothing left at the end of one."""
    return time.time()


class Tokens:
    """What an application's callable gives, one after the other; the last again and again. An exception is raised."""

    def __init__(self, *given: str | Exception) -> None:
        self._given = list(given)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        one = self._given.pop(0) if len(self._given) > 1 else self._given[0]
        if isinstance(one, Exception):
            raise one
        return one


async def renewed(peer: Peer) -> str:
    packet = await peer.receive(mqtt5.AuthPacket)
    assert (packet.reason_code, packet.authentication_method) == (mqtt5.AuthReasonCode.RE_AUTHENTICATE, JWT)
    return (packet.authentication_data or b"").decode()


def taken() -> mqtt5.AuthPacket:
    return mqtt5.AuthPacket(reason_code=mqtt5.AuthReasonCode.SUCCESS, authentication_method=JWT)


@pytest.mark.parametrize(
    ("claims", "left"),
    [
        ({"exp": 1100}, 100),
        ({"exp": 1100, "iat": 1000}, 100),
        ({"exp": 1100, "iat": 900}, 100),  # it is not new any more
        ({"exp": 1100, "iat": 1050}, 50),  # the clock is late, or the issuer's early
        ({"exp": 900, "iat": 800}, 100),  # the clock is wrong: a token is given out new
        ({"iat": 1000}, None),
        ({"exp": "soon"}, None),
    ],
)
def test_given_claims_then_so_long_it_holds(claims: dict[str, Any], left: float | None) -> None:
    assert seconds_left(token(**claims), 1000.0) == left


@pytest.mark.parametrize("text", ["", "secret", "a.b", "a.!!.c", "a.W10.c"])
def test_given_something_else_than_a_jwt_then_nothing_is_known(text: str) -> None:
    assert seconds_left(text, 1000.0) is None


async def test_given_tokens_by_a_callable_then_a_new_one_is_sent_before_the_old_one_ends_and_so_on(server: Server) -> None:
    first, second, third = (token(exp=now() + each, n=each) for each in (2, 3, 60))
    tokens = Tokens(first, second, third)
    async with connected(server, {"authentication_method": JWT}, token=tokens) as (client, peer):
        assert (peer.hello.authentication_method, peer.hello.password) == (JWT, first.encode())
        assert await renewed(peer) == second
        peer.send(taken())
        assert await renewed(peer) == third
        peer.send(taken())
        await until(lambda: client.stats.renewals == 2)
        assert (tokens.asked, client.stats.connects) == (3, 1)


async def test_given_a_token_as_text_or_a_server_that_takes_no_auth_then_nothing_is_renewed(server: Server) -> None:
    async with connected(server, token=token(exp=now() + 1)) as (_, peer):
        assert peer.hello.authentication_method is None
    tokens = Tokens(token(exp=now() + 1))
    async with connected(server, token=tokens):
        await asyncio.sleep(1.2)
        assert tokens.asked == 1


async def test_given_no_token_to_be_had_then_it_is_asked_for_again_in_time(server: Server) -> None:
    tokens = Tokens(token(exp=now() + 2), OSError("away"), OSError("away"), token(exp=now() + 60))
    async with connected(server, {"authentication_method": JWT}, token=tokens) as (client, peer):
        await renewed(peer)
        peer.send(taken())
        await until(lambda: client.stats.renewals == 1)
        assert tokens.asked == 4


async def test_given_a_new_token_that_is_refused_then_it_returns_with_a_fresh_one(server: Server) -> None:
    last = token(exp=now() + 60)
    tokens = Tokens(token(exp=now() + 1), token(exp=now() + 2), last)
    async with connected(server, {"authentication_method": JWT}, token=tokens) as (client, peer):
        await renewed(peer)
        peer.disconnect(0x87)
        again = await server.peer(authentication_method=JWT)
        assert again.hello.password == last.encode()
        assert (tokens.asked, client.stats.renewals) == (3, 0)


async def test_given_an_auth_that_answers_nothing_then_it_is_a_protocol_error(server: Server) -> None:
    async with connected(server, {"authentication_method": JWT}, token=Tokens(token(exp=now() + 60))) as (client, peer):
        peer.send(taken())
        packet = await peer.receive(mqtt5.DisconnectPacket)
        assert int(packet.reason_code) == 0x82
        await until(lambda: client.stats.violations == 1)


async def test_given_a_lost_connection_then_its_renewal_is_over(server: Server) -> None:
    tokens = Tokens(token(exp=now() + 2), token(exp=now() + 60))
    async with connected(server, {"authentication_method": JWT}, token=tokens) as (_, peer):
        peer.cut()
        again = await server.peer(authentication_method=JWT)
        await asyncio.sleep(2.1)
        again.cut()
        assert tokens.asked == 2
