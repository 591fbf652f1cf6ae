"""PITFALLS, The edge: `alg: none`, a wrong `aud`, a future `iat`, another product's key, a replayed token. Each is refused
on a real socket, with the reason and without the token; the saver hears of none."""

from __future__ import annotations

import mqtt5
import pytest
from gateway_world import WALL, claims, issuer, sign
from live_room import Live, connect, counted, live, served
from prometheus_client import generate_latest
from test_gateway_auth import part
from test_revoked import put, revocation

from gateway.admission.revoking import Revoking
from infra.documents import SigningKey
from infra.wire import ConnectItem

HEAD, BODY, SIGNATURE = sign(claims()).split(b".")
FOREIGN = "o" * 40
"""The key of an issuer that signs for the product chat alone."""

REFUSED: dict[str, tuple[bytes, int, str]] = {
    "alg none": (b".".join((part({"alg": "none"}), BODY, b"")), 0x86, "alg"),
    "alg none with a signature": (b".".join((part({"alg": "none"}), BODY, SIGNATURE)), 0x86, "alg"),
    "alg nOnE": (b".".join((part({"alg": "nOnE"}), BODY, b"")), 0x86, "alg"),
    "a wrong aud": (sign(claims(aud="elsewhere")), 0x86, "aud"),
    "no aud": (sign(claims(aud=None)), 0x86, "aud"),
    "a future iat": (sign(claims(iat=int(WALL) + 3_600)), 0x86, "iat"),
    "another product's key": (sign(claims(iss="chat-shop"), secret=FOREIGN), 0x87, "products"),
    "another issuer's key": (sign(claims(), secret=FOREIGN), 0x86, "signature"),
    "another issuer's name": (sign(claims(iss="chat-shop")), 0x86, "signature"),
    "a token of another client": (sign(claims("victim")), 0x86, "sub"),
    "a token that has expired": (sign(claims(exp=int(WALL) - 1)), 0x86, "expired"),
}


def two_issuers(room: Live) -> None:
    foreign = issuer(iss="chat-shop", keys=(SigningKey(secret=FOREIGN),), products=("chat",))
    room.world.room.verifier.load({item.iss: item for item in (issuer(), foreign)})


async def said(room: Live, token: bytes, client: str = "c1") -> mqtt5.ConnAckPacket:
    """The CONNACK that says no; then the socket is closed."""
    peer = await room.client(mqtt5.ConnectPacket(client, password=token).write())
    answer = await peer.packet()
    assert isinstance(answer, mqtt5.ConnAckPacket)
    assert await peer.closed() == b""
    return answer


@pytest.mark.parametrize(("token", "code", "kind"), REFUSED.values(), ids=REFUSED)
async def test_given_a_token_that_does_not_hold_then_its_reason_and_others_are_served(token: bytes, code: int, kind: str) -> None:
    async with live() as room, served(room):
        two_issuers(room)
        before = counted("refused", reason=kind)
        answer = await said(room, token)
        assert int(answer.reason_code) == code
        assert answer.reason_str
        assert SIGNATURE.decode() not in answer.reason_str
        assert token.decode() not in answer.reason_str
        assert counted("refused", reason=kind) == before + 1
        assert [item.key for item in room.world.register.of(ConnectItem)] == ["main:bystander"]


async def test_given_a_replayed_token_then_it_is_good_for_its_own_client_alone_and_until_it_is_revoked() -> None:
    """Whoever has caught a token is its client, as with any bearer token: one connection at a time, which ends with it."""
    captured = sign(claims("victim", jti="t1"))
    async with live() as room, served(room):
        victim = await room.client(mqtt5.ConnectPacket("victim", password=captured).write())
        assert isinstance(await victim.packet(), mqtt5.ConnAckPacket)
        assert int((await said(room, captured, client="thief")).reason_code) == 0x86

        thief = await room.client(mqtt5.ConnectPacket("victim", password=captured).write())
        answer = await thief.packet()
        assert isinstance(answer, mqtt5.ConnAckPacket)
        assert int(answer.reason_code) == 0
        noticed = await victim.packet()
        assert isinstance(noticed, mqtt5.DisconnectPacket)
        assert int(noticed.reason_code) == 0x8E

        revoking = Revoking(room.world.room, room.world.revoked, later=lambda seconds, call: call())
        put(room.world.revoked, revocation("token", "t1"))
        revoking.changed()
        end = await thief.packet()
        assert isinstance(end, mqtt5.DisconnectPacket)
        assert int(end.reason_code) == 0x87
        assert int((await said(room, captured, client="victim")).reason_code) == 0x87
        again = await room.client(connect("victim"))
        answer = await again.packet()
        assert isinstance(answer, mqtt5.ConnAckPacket)
        assert int(answer.reason_code) == 0


async def test_secrets_of_tokens_are_in_no_log_no_metric_and_nothing_that_a_room_keeps(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = [sign(claims("c1")), *(token for token, _, _ in REFUSED.values())]
    async with live() as room, served(room):
        two_issuers(room)
        for token in tokens[1:]:
            await said(room, token)
        good = await room.client(mqtt5.ConnectPacket("c1", password=tokens[0]).write())
        assert isinstance(await good.packet(), mqtt5.ConnAckPacket)
        (session,) = [item for item in room.world.room.sessions if item.client and item.client.key == "main:c1"]
        kept = {name: getattr(session, name, None) for kind in type(session).__mro__ for name in getattr(kind, "__slots__", ())}
        shown = "".join(capfd.readouterr()) + caplog.text + generate_latest().decode() + repr(kept)
    for token in tokens:
        signature = token.rpartition(b".")[2].decode()
        assert token.decode() not in shown
        assert not signature or signature not in shown
