"""A client is taken out of a product on the real system: while it is connected, and when it is away."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner, Result
from system import PRODUCT, Device, Stand, eventually, unique

import cli
from infra.ops.http import NotFound

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]


async def unbind(system: Stand, client: str) -> Result:
    command = ["client", "unbind", "--data", str(system.data), client, "--product", PRODUCT]
    return await asyncio.to_thread(CliRunner().invoke, cli.cli, command)


async def test_given_a_connected_client_when_it_is_taken_out_then_it_gets_nothing_until_it_binds_again(system: Stand) -> None:
    client = unique("out")
    async with Device(system, client) as device:
        await device.receives(await system.send(client, "before"))
        result = await unbind(system, client)
        assert (result.exit_code, result.stderr) == (0, f"{client} is no longer bound to {PRODUCT}\n")
        message = await system.send(client, "while it is out")

        async def stored() -> bool:
            return await system.pending(client) == 1

        await eventually(stored, what="the message")
        shown = await system.center.get(f"/v1/clients/{client}")
        assert (shown["session"]["live"], shown["binds"], shown["pending"]) == (True, {}, {PRODUCT: 1})
        assert device.count(message) == 0
        await device.push.unbind(PRODUCT)
        await device.push.bind(PRODUCT)
        await device.receives(message)


async def test_given_a_client_that_is_away_when_it_is_taken_out_then_its_users_messages_leave_it_out(system: Stand) -> None:
    client, user = unique("away"), unique("ann")
    async with Device(system, client, user=user):
        await system.bound(client)

    async def gone() -> bool:
        return (await system.center.get(f"/v1/clients/{client}"))["session"] is None

    async def clients() -> list[str]:
        try:
            found = await system.center.get(f"/v1/users/{user}", product=PRODUCT)
        except NotFound:
            return []
        return [each["client"] for each in found["clients"]]

    await eventually(gone, what="the end of its session")
    assert await clients() == [client]
    assert (await unbind(system, client)).exit_code == 0
    assert await clients() == []
    again = await unbind(system, client)
    assert again.exit_code == 4
    assert f"client {client} is not bound to {PRODUCT}" in again.stderr
