"""FCM's endpoint on the real system: Google's own API client, with nothing but another address, and devices that get it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from googleapiclient import discovery
from googleapiclient.errors import HttpError
from system import PRODUCT, Device, Stand, eventually, unique

from pushclient import Notification, PushClient, PushMessage

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(120)]

PARENT = f"projects/{PRODUCT}"


class Sender:
    """`firebase.messaging` as a backend has it: its credentials are an API key, its endpoint is center."""

    def __init__(self, system: Stand) -> None:
        self._service = discovery.build(
            "fcm",
            "v1",
            credentials=Credentials(token=system.address.api_key),
            client_options={"api_endpoint": system.address.center},
            static_discovery=True,
            cache_discovery=False,
        )

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc: object) -> None:
        self._service.close()

    async def send(self, message: dict[str, Any], *, parent: str = PARENT, **more: Any) -> str:
        """Send; returns the id of what was sent. Raises HttpError."""
        body = {"message": message, **more}
        call = self._service.projects().messages().send(parent=parent, body=body)
        name: str = (await asyncio.to_thread(call.execute))["name"]
        assert name.startswith(f"{parent}/messages/")
        return name.rpartition("/")[2]


async def test_given_googles_client_when_it_sends_to_a_token_then_the_device_gets_the_notification(system: Stand) -> None:
    async with Device(system, unique("fcm")) as device:
        with Sender(system) as sender:
            message = await sender.send(
                {
                    "token": device.client,
                    "notification": {"title": "Ihr Päckchen", "body": "It is at the door."},
                    "data": {"parcel": "4711"},
                    "android": {"ttl": "3600s", "priority": "HIGH", "collapseKey": "parcel"},
                    "apns": {"headers": {"apns-priority": "5"}},
                }
            )
            await device.receives(message)
            [got] = device.got
            assert Notification.of(got) == Notification(title="Ihr Päckchen", body="It is at the door.", data={"parcel": "4711"})
            assert 3500 < (got.expires_in or 0) <= 3600
            await system.settled(device.client, message)


async def test_given_topics_and_conditions_then_who_joined_gets_it_and_nobody_else(system: Stand) -> None:
    got = dict[str, list[PushMessage]]()
    joined = {"both": ("news", "sports"), "news": ("news",), "none": ()}
    clients = [await _device(system, name, groups, got) for name, groups in joined.items()]
    try:
        targets = [
            {"topic": "news"},
            {"condition": "'news' in topics && !('sports' in topics)"},
            {"condition": "'news' in topics && ('sports' in topics || 'x' in topics)"},
            {"condition": "!('news' in topics)"},
        ]
        with Sender(system) as sender:
            ids = [await sender.send({**target, "data": {"n": str(n)}}) for n, target in enumerate(targets, 1)]
        expected = {"both": {"1", "3"}, "news": {"1", "2"}, "none": {"4"}}

        def seen(name: str) -> set[str]:
            return {json.loads(each.payload)["data"]["n"] for each in got[name]}

        async def all_came() -> bool:
            return all(seen(name) >= wanted for name, wanted in expected.items())

        await eventually(all_came, what="what each is to get")
        for job in ids:  # walked to the end: nobody gets more

            async def over(job: str = job) -> bool:
                return bool((await system.center.get(f"/v1/broadcasts/{job}"))["state"] == "completed")

            await eventually(over, what=f"{job} completed")
        assert {name: seen(name) for name in got} == expected
        assert {each.group for each in got["news"] if b'"1"' in each.payload} == {"news"}
    finally:
        for client in clients:
            await client.close()


async def test_given_what_is_refused_then_googles_client_reads_the_error(system: Stand) -> None:
    with Sender(system) as sender, pytest.raises(HttpError) as refused:
        await sender.send({"token": "a b", "android": {"notification": {"sound": "x"}}})
    assert (refused.value.status_code, refused.value.reason[:14]) == (400, "message.token ")
    details = {each["@type"].rpartition(".")[2]: each for each in refused.value.error_details}
    fields = [each["field"] for each in details["BadRequest"]["fieldViolations"]]
    assert fields == ["message.token", "message.android.notification"]
    with Sender(system) as sender, pytest.raises(HttpError) as unknown:
        await sender.send({"token": "a"}, parent="projects/nobody")
    assert unknown.value.status_code == 404
    with Sender(system) as sender:
        checked = await sender.send({"token": "a"}, validateOnly=True)
    assert not system.receipts("a", checked)


async def _device(system: Stand, name: str, groups: tuple[str, ...], got: dict[str, list[PushMessage]]) -> PushClient:
    """A connected device that has joined groups; what it gets is written down under its name."""
    client, room = unique(f"fcm-{name}"), system.room
    got[name] = []
    push = PushClient(
        client_id=client,
        token=system.token(client, groups=groups),
        servers=[(room.host, room.port)],
        on_message=got[name].append,
    )
    await push.start()
    await push.bind(PRODUCT, groups=groups)
    return push
