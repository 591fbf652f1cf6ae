"""What a revocation covers, and how it ends connections: open, opening, away; and CONNECT and AUTH."""

from __future__ import annotations

from typing import Any

import mqtt5
import msgspec
import pytest
from gateway_world import SECRET, WALL, Device, World, claims, issuer, sign

from gateway.admission.refresh import METHOD
from gateway.admission.revoking import AT_ONCE, Revoking
from gateway.sessions.session import State
from infra.documents import Policy
from infra.revoked import MAX_TAKEN, Revocation, Revoked
from infra.tokens import BadToken, Verifier


def revocation(kind: str = "client", subject: str = "c1", **more: Any) -> Revocation:
    scope = "shop" if kind == "token" else "main"
    product = "demo" if kind == "user" else ""
    fields = {"scope": scope, "product": product, "before": WALL, "until": WALL + 3600, **more}
    return Revocation(kind=kind, subject=subject, **fields)  # type: ignore[arg-type]


WHOLE = msgspec.json.encode(revocation())


def put(revoked: Revoked, entry: Revocation) -> Revocation:
    assert revoked.put(entry.id, msgspec.json.encode(entry))
    return entry


def good(revoked: Revoked, *, wall: float = WALL, client: str = "c1", **changes: Any) -> bool:
    by = Verifier(revoked)
    by.load({"shop": issuer(), "eu": issuer(iss="eu", realm="eu")})
    try:
        by.verify(sign(claims(client, **changes)), client, wall)
    except BadToken as error:
        return (error.kind, error.forbidden) != ("revoked", True)
    return True


@pytest.mark.parametrize(
    ("entry", "changes", "covered"),
    [
        (revocation(), {}, True),
        (revocation(), {"iat": None}, True),
        (revocation(), {"iat": WALL + 1}, False),
        (revocation(subject="c2"), {}, False),
        (revocation(scope="eu"), {}, False),
        (revocation(), {"iss": "eu"}, False),
        (revocation(scope="eu"), {"iss": "eu"}, True),
        (revocation("user", "u1"), {}, True),
        (revocation("user", "u1"), {"iat": WALL + 1}, False),
        (revocation("user", "u1", product="chat"), {}, False),
        (revocation("user", "u1"), {"iss": "eu"}, False),
        (revocation("user", "u2"), {}, False),
        (revocation("token", "t1"), {"jti": "t1"}, True),
        (revocation("token", "t1"), {"jti": "t1", "iat": WALL + 1}, True),
        (revocation("token", "t1"), {"jti": "t2"}, False),
        (revocation("token", "t1"), {}, False),
        (revocation("token", "t1"), {"jti": "t1", "iss": "eu"}, False),
    ],
)
def test_given_a_revocation_when_a_token_comes_then_it_covers_what_it_names(
    entry: Revocation, changes: dict[str, Any], covered: bool
) -> None:
    revoked = Revoked()
    put(revoked, entry)
    assert good(revoked, **changes) is not covered
    assert good(revoked, wall=entry.until, exp=WALL + 9000, **changes)  # nothing is covered for longer
    revoked.put(entry.id, None)
    assert good(revoked, **changes)
    assert (revoked._clients, revoked._users, revoked._marks) == ({}, {}, {})


def test_given_a_revocation_when_put_again_then_the_later_one_counts() -> None:
    revoked = Revoked()
    put(revoked, revocation(before=WALL - 10))
    assert good(revoked)
    put(revoked, revocation(before=WALL))
    assert (len(revoked.entries), good(revoked)) == (1, False)
    assert revoked.expired(WALL + 3600) == [revocation().id]


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"[]", b"\xff", WHOLE.replace(b"c1", b"c2"), WHOLE[:-1] + b',"x":1}', WHOLE.replace(b"client", b"room")],
)
def test_given_what_is_no_revocation_when_put_then_what_was_there_stays(value: bytes) -> None:
    revoked = Revoked()
    entry = put(revoked, revocation())
    assert not revoked.put(entry.id, value)
    assert not good(revoked)


def test_given_too_many_when_put_then_they_are_not_taken_and_old_ones_may_change() -> None:
    revoked = Revoked()
    for number in range(MAX_TAKEN):
        put(revoked, revocation(subject=f"d{number}"))
    entry = revocation(subject="one-more")
    assert not revoked.put(entry.id, msgspec.json.encode(entry))
    put(revoked, revocation(subject="d1", before=WALL + 1))


# --- a room ------------------------------------------------------------------------------------------------------------


class Revoker:
    def __init__(self, world: World) -> None:
        self.world = world
        self.revoking = Revoking(world.room, world.revoked, later=lambda seconds, call: world._later.append(call))

    def revoke(self, entry: Revocation) -> None:
        put(self.world.revoked, entry)
        self.revoking.changed()
        self.world.flush()


def said(device: Device) -> tuple[int, str]:
    packet = device.socket.one(mqtt5.DisconnectPacket)
    assert device.socket.closed
    return int(packet.reason_code), packet.reason_str or ""


@pytest.mark.parametrize("entry", [revocation(), revocation("user", "u1"), revocation("token", "t1")])
def test_given_open_connections_when_revoked_then_those_it_covers_end_with_0x87_and_can_not_come_back(entry: Revocation) -> None:
    world = World()
    device, other = world.accept(), world.accept()
    for item, client, user in ((device, "c1", "u1"), (other, "c2", "u2")):
        token = sign(claims(client, jti=f"t{client[1]}", products={"demo": {"user": user}}))
        item.connect(client, password=token)
        item.subscribe("push/demo")
        item.socket.take()
    Revoker(world).revoke(entry)
    assert said(device) == (0x87, "the token was revoked")
    assert [item.reason for item in world.register.disconnects] == ["token_revoked"]
    assert not other.socket.closed
    again = world.accept()
    again.connect("c1", password=sign(claims(jti="t1")))
    assert int(again.socket.one(mqtt5.ConnAckPacket).reason_code) == 0x87
    fresh = world.accept()
    fresh.connect("c1", password=sign(claims(jti="t9", iat=int(WALL) + 1)))
    assert int(fresh.socket.one(mqtt5.ConnAckPacket).reason_code) == 0


def test_given_a_connection_that_waits_for_the_saver_when_revoked_then_it_is_refused_and_its_session_is_not_kept() -> None:
    world = World()
    world.register.held = True
    device = world.accept()
    device.connect("c1")
    Revoker(world).revoke(revocation())
    assert int(device.socket.one(mqtt5.ConnAckPacket).reason_code) == 0x87
    assert device.socket.closed
    world.register.answer()
    assert len(world.register.disconnects) == 1


def test_given_a_session_that_is_away_when_revoked_then_it_ends() -> None:
    world = World()
    device = world.device("c1", "push/demo", session_expiry_interval=30)
    device.lose()
    assert device.session.state is State.AWAY
    Revoker(world).revoke(revocation())
    assert device.session.state is State.CLOSED
    assert len(world.room.kept) == 0
    assert [item.reason for item in world.register.disconnects] == ["token_revoked"]


def test_given_a_connection_before_connect_when_something_is_revoked_then_it_stays() -> None:
    world = World()
    device = world.accept()
    Revoker(world).revoke(revocation())
    assert not device.socket.closed


def test_given_a_refreshed_token_when_the_old_one_is_revoked_then_the_connection_stays_and_a_revoked_one_is_refused() -> None:
    world = World()
    device = world.accept()
    device.connect("c1", password=sign(claims(jti="t1")), authentication_method=METHOD)
    device.socket.take()
    fresh = sign(claims(jti="t2", iat=int(WALL) + 5))
    world.pass_time(5)
    device.send(
        mqtt5.AuthPacket(
            reason_code=mqtt5.AuthReasonCode.RE_AUTHENTICATE, authentication_method=METHOD, authentication_data=fresh
        )
    )
    assert device.socket.one(mqtt5.AuthPacket)
    revoker = Revoker(world)
    revoker.revoke(revocation("token", "t1"))
    revoker.revoke(revocation())
    assert not device.socket.closed
    world.pass_time(5)
    device.send(
        mqtt5.AuthPacket(
            reason_code=mqtt5.AuthReasonCode.RE_AUTHENTICATE,
            authentication_method=METHOD,
            authentication_data=sign(claims(jti="t1")),
        )
    )
    assert said(device) == (0x87, "the token was revoked")


def test_given_more_connections_than_are_walked_at_once_when_revoked_then_all_are_looked_at() -> None:
    world = World(policy=Policy(connect_rate=100_000))
    devices = [world.device(f"d{number}") for number in range(AT_ONCE + 2)]
    revoker = Revoker(world)
    for device in devices[:1] + devices[-1:]:
        assert device.session.client is not None
        put(world.revoked, revocation(subject=device.session.client.key.partition(":")[2]))
    revoker.revoking.changed()
    revoker.revoking.changed()
    assert len(world._later) == 1
    world.flush()
    world.flush()
    assert [device.socket.closed for device in devices].count(True) == 2
    assert SECRET not in devices[0].socket.one(mqtt5.DisconnectPacket).reason_str
