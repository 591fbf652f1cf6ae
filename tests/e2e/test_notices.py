"""Notify, then pull, on the real system: over the connection with the SDK, and by HTTP with the device's token."""

from __future__ import annotations

import pytest
from system import PRODUCT, Device, Stand, eventually, unique

from pushclient import PullRefused, PushClient

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]


async def test_given_a_notice_when_its_body_is_pulled_and_acknowledged_then_it_is_settled(system: Stand) -> None:
    async with Device(system, unique("pull")) as device:
        message = await system.send(device.client, "the body", mode="pull", pull_after="100ms", properties={"k": "v"})
        await device.receives(message)
        [notice] = device.got
        assert (notice.payload, notice.pull, notice.size, notice.pull_after) == (b"", message, 8, 0.1)
        assert notice.properties["k"] == "v"
        after = await system.send(device.client, "not held up by it")
        await device.receives(after)
        assert await system.pending(device.client) >= 1
        body = await device.push.pull(notice)
        assert (body.payload, body.properties) == (b"the body", {"k": "v"})
        await body.ack()
        await system.settled(device.client, message, after)
        with pytest.raises(PullRefused):
            await device.push.pull(notice)
        assert [item.id for item in device.got] == [message, after]


async def test_given_a_notice_that_was_not_pulled_then_the_next_session_has_it_again(system: Stand) -> None:
    client = unique("pull")
    async with Device(system, client) as device:
        message = await system.send(client, "the body", mode="pull")
        await device.receives(message)
    async with Device(system, client) as device:
        await device.receives(message)
        body = await device.push.pull(device.got[0])
        await body.ack()
        await system.settled(client, message)


async def test_given_a_body_too_large_for_the_client_then_a_notice_comes_and_http_has_it(system: Stand) -> None:
    client, room = unique("pull"), system.room
    got = []
    push = PushClient(
        client_id=client,
        token=system.token(client),
        servers=[(room.host, room.port)],
        max_packet_size=1024,
        on_message=got.append,
    )
    async with push:
        await push.bind(PRODUCT)
        message = await system.send(client, "x" * 3000, mode="both")

        async def noticed() -> bool:
            return bool(got)

        await eventually(noticed, what="the notice")
        assert (got[0].pull, got[0].size) == (message, 3000)
        with pytest.raises(PullRefused) as refused:
            await push.pull(got[0])
        assert refused.value.code == 0x97
        headers = {"Authorization": f"Bearer {system.token(client)}"}
        listed = (await system.http.get(f"/v1/pull/{PRODUCT}", headers=headers)).json()
        assert [(item["id"], item["size"]) for item in listed["items"]] == [(message, 3000)]
        body = await system.http.get(f"/v1/pull/{PRODUCT}/{message}", headers=headers)
        assert (body.status_code, body.text) == (200, "x" * 3000)
        assert (await system.http.delete(f"/v1/pull/{PRODUCT}/{message}", headers=headers)).status_code == 204
        await system.settled(client, message)
        assert (await system.http.delete(f"/v1/pull/{PRODUCT}/{message}", headers=headers)).status_code == 404


async def test_given_a_device_without_a_connection_then_it_has_what_is_pending_by_http(system: Stand) -> None:
    client = unique("poll")
    messages = [await system.send(client, f"m{n}") for n in range(3)]

    async def stored() -> bool:
        return await system.pending(client) == 3

    await eventually(stored, what="three pending messages")
    headers = {"Authorization": f"Bearer {system.token(client)}"}
    page = (await system.http.get(f"/v1/pull/{PRODUCT}?limit=2", headers=headers)).json()
    assert ([item["id"] for item in page["items"]], page["more"]) == (messages[:2], True)
    for n, message in enumerate(messages):
        path = f"/v1/pull/{PRODUCT}/{message}"
        assert (await system.http.get(path, headers=headers)).text == f"m{n}"
        assert (await system.http.delete(path, headers=headers)).status_code == 204
    await system.settled(client, *messages)
    assert (await system.http.get(f"/v1/pull/{PRODUCT}/{messages[0]}")).status_code == 401
