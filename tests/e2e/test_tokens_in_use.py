"""Tokens on the real system: revoked by center and `pushctl` while they are in use, and replaced by AUTH."""

from __future__ import annotations

import asyncio
import json
import time

import mqtt5
import pytest
from click.testing import CliRunner
from system import PRODUCT, Device, Stand, Wire, claims, eventually, signed, unique

import cli
from pushclient import PushClient

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]

JWT = "jwt"


async def pushctl(system: Stand, *arguments: str) -> str:
    command = [*arguments[:2], "--data", str(system.data), *arguments[2:]]
    result = await asyncio.to_thread(CliRunner().invoke, cli.cli, command)
    assert result.exit_code == 0, result.output
    return result.stdout


def told(packet: mqtt5.Packet) -> tuple[int, str | None]:
    assert isinstance(packet, mqtt5.DisconnectPacket)
    return int(packet.reason_code), packet.reason_str


async def test_given_a_token_in_use_when_it_is_revoked_then_its_connection_ends_in_every_room_and_later_tokens_are_good(
    system: Stand,
) -> None:
    client, bystander = unique("stolen"), Device(system, unique("by"))
    token = signed(system, claims(client, jti=client))
    async with bystander:
        for room, revoke in zip(
            system.address.rooms,
            (("--client", client, "--reason", "stolen"), ("--jti", client, "--issuer", "longwire")),
            strict=True,
        ):
            async with Wire.to(room) as wire:
                assert int((await wire.connect(mqtt5.ConnectPacket(client, password=token))).reason_code) == 0
                await wire.subscribe(f"push/{PRODUCT}")
                began = time.monotonic()
                made = json.loads(await pushctl(system, "revocation", "add", "--json", *revoke))
                assert told(await wire.packet()) == (0x87, "the token was revoked")
                assert time.monotonic() - began < 10
            async with Wire.to(room) as wire:
                answer = await wire.connect(mqtt5.ConnectPacket(client, password=token))
                assert (int(answer.reason_code), answer.reason_str) == (0x87, "the token was revoked")
            headers = {"Authorization": f"Bearer {token.decode()}"}
            assert (await system.http.get(f"/v1/pull/{PRODUCT}", headers=headers)).status_code == 403
            assert client in await pushctl(system, "revocation", "list")
            await pushctl(system, "revocation", "lift", made["id"])

            async def good_again() -> bool:
                async with Wire.to(room) as wire:  # noqa: B023 - asked in this turn
                    return int((await wire.connect(mqtt5.ConnectPacket(client, password=token))).reason_code) == 0

            await eventually(good_again, what="the lifted token")
        assert bystander.push.stats.connects == 1


async def test_given_a_connection_when_it_is_given_a_new_token_by_auth_then_it_outlives_the_first(system: Stand) -> None:
    client = unique("fresh")
    async with Wire.to(system.room) as wire:
        first = signed(system, claims(client, exp=int(time.time()) + 5))
        answer = await wire.connect(mqtt5.ConnectPacket(client, authentication_method=JWT, authentication_data=first))
        assert (int(answer.reason_code), answer.authentication_method) == (0, JWT)
        await wire.subscribe(f"push/{PRODUCT}")
        again = mqtt5.AuthPacket(
            reason_code=mqtt5.AuthReasonCode.RE_AUTHENTICATE,
            authentication_method=JWT,
            authentication_data=signed(system, claims(client, exp=int(time.time()) + 12)),
        )
        wire.write(again.write())
        done = await wire.packet()
        assert isinstance(done, mqtt5.AuthPacket)
        assert int(done.reason_code) == 0
        await asyncio.sleep(6)
        message = await system.send(client, "still here?")
        got = await wire.packet()
        assert isinstance(got, mqtt5.PublishPacket)
        assert dict(got.user_properties)["id"] == message
        wire.write(mqtt5.PubAckPacket(got.packet_id).write())
        assert told(await wire.packet()) == (0x87, "token expired")


async def test_given_the_systems_issuer_when_shown_then_its_keys_and_no_secret(system: Stand) -> None:
    shown = await pushctl(system, "issuer", "show", "longwire")
    assert "key 1  HS256" in shown
    assert "longwire" in await pushctl(system, "issuer", "list")
    assert (system.data / "issuer-secret").read_text().strip() not in shown


async def test_given_a_device_with_short_tokens_then_it_stays_connected_by_new_ones(system: Stand) -> None:
    client, room, got = unique("renewed"), system.room, []

    def fresh() -> str:
        return signed(system, claims(client, exp=int(time.time()) + 4)).decode()

    push = PushClient(client_id=client, token=fresh, servers=[(room.host, room.port)], on_message=got.append)
    async with push:
        await push.bind(PRODUCT)
        await asyncio.sleep(9)
        message = await system.send(client, "still here")
        await system.settled(client, message)
        assert [each.id for each in got] == [message]
        assert push.stats.connects == 1
        assert push.stats.renewals >= 2
