"""Clients of MQTT 3.1.1 that others wrote, over TCP, on the real system: Eclipse Paho, and mosquitto's tools where they are."""

from __future__ import annotations

import asyncio
import queue
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from system import PRODUCT, WITHIN, Stand, eventually, mosquitto, unique

TOPIC: Final = f"push/{PRODUCT}"

pytestmark = [pytest.mark.xdist_group("system"), pytest.mark.timeout(90)]


class OldPaho:
    """Paho as a client of MQTT 3.1.1, with its own network thread."""

    def __init__(self, stand: Stand, client: str, *, clean: bool = True) -> None:
        self.client = client
        self.messages: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.mqtt = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client, protocol=mqtt.MQTTv311, clean_session=clean, reconnect_on_failure=False
        )
        self.mqtt.username_pw_set("device", stand.token(client))
        self.mqtt.on_connect = lambda client, data, flags, reason, properties: self.answers.put(reason.is_failure)
        self.mqtt.on_subscribe = lambda client, data, mid, reasons, properties: self.answers.put(reasons[0].value)
        self.mqtt.on_publish = lambda client, data, mid, reason, properties: self.answers.put(mid)
        self.mqtt.on_message = lambda client, data, message: self.messages.put(message)
        self.mqtt.on_disconnect = lambda client, data, flags, reason, properties: self.ends.put(reason)
        self._address = (stand.room.host, stand.room.port)

    def connect(self) -> None:
        self.mqtt.connect(*self._address)
        self.mqtt.loop_start()
        assert self.answers.get(timeout=WITHIN) is False

    def subscribe(self, qos: int) -> None:
        self.mqtt.subscribe(TOPIC, qos=qos)
        assert self.answers.get(timeout=WITHIN) == qos

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        sent = self.mqtt.publish(topic, payload, qos=qos)
        assert self.answers.get(timeout=WITHIN) == sent.mid

    def message(self) -> mqtt.MQTTMessage:
        return self.messages.get(timeout=WITHIN)

    def leave(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


@asynccontextmanager
async def paho(stand: Stand, client: str, *, clean: bool = True) -> AsyncIterator[OldPaho]:
    """A connected one. Its calls block, so they are made in threads."""
    device = OldPaho(stand, client, clean=clean)
    try:
        await asyncio.to_thread(device.connect)
        yield device
    finally:
        await asyncio.to_thread(device.leave)


@pytest.mark.parametrize(("qos", "state"), [(0, "written"), (1, "acked")])
async def test_given_an_old_client_when_messages_and_a_broadcast_come_then_it_gets_them_and_they_are_settled(
    system: Stand, qos: int, state: str
) -> None:
    client = unique("old")
    waiting = [await system.send(client, f"n {number}", properties={"colour": "red"}) for number in range(5)]

    async def stored() -> bool:
        return await system.pending(client) == len(waiting)

    await eventually(stored, what="the messages are pending")
    async with paho(system, client) as device:
        await asyncio.to_thread(device.subscribe, qos)
        got = [await asyncio.to_thread(device.message) for _ in waiting]
        assert [(each.topic, each.payload.decode(), each.qos) for each in got] == [(TOPIC, f"n {n}", qos) for n in range(5)]
        live = await system.send(client, "now", content_type="text/plain", ttl=60)
        assert (await asyncio.to_thread(device.message)).payload == b"now"
        await system.broadcast("to everyone")
        assert (await asyncio.to_thread(device.message)).payload == b"to everyone"
        await system.settled(client, *waiting, live, state=state)


async def test_given_a_message_only_for_pull_then_an_old_client_gets_its_body(system: Stand) -> None:
    async with paho(system, unique("old")) as device:
        await asyncio.to_thread(device.subscribe, 1)
        sent = await system.send(device.client, "the body", mode="pull", pull_after="1s")
        assert (await asyncio.to_thread(device.message)).payload == b"the body"
        after = await system.send(device.client, "and on")
        assert (await asyncio.to_thread(device.message)).payload == b"and on"
        await system.settled(device.client, sent, after)


@pytest.mark.parametrize("qos", [0, 1])
async def test_given_an_uplink_of_an_old_client_then_it_is_in_kafka(system: Stand, qos: int) -> None:
    payload = unique("a note")
    async with paho(system, unique("old")) as device:
        await asyncio.to_thread(device.publish, f"up/{PRODUCT}/note", payload.encode(), qos)
        stored = await system.uplink_of(device.client)
        assert (stored.type, stored.payload.decode(), stored.qos) == ("note", payload, qos)


async def test_given_a_publish_that_is_refused_then_the_connection_ends_and_nothing_is_acknowledged(system: Stand) -> None:
    async with paho(system, unique("old")) as device:
        device.mqtt.publish("nowhere/at/all", b"x", qos=1)
        assert (await asyncio.to_thread(device.ends.get, True, WITHIN)).is_failure
        assert device.answers.empty()


async def test_given_an_old_client_with_a_wrong_token_then_its_return_code_is_4(system: Stand) -> None:
    codes: queue.SimpleQueue[str] = queue.SimpleQueue()
    device = OldPaho(system, unique("old"))
    device.mqtt.username_pw_set("device", "not a token")
    device.mqtt.on_connect = lambda client, data, flags, reason, properties: codes.put(str(reason))
    await asyncio.to_thread(device.mqtt.connect, system.room.host, system.room.port)
    device.mqtt.loop_start()
    try:
        assert await asyncio.to_thread(codes.get, True, WITHIN) == "Bad user name or password"
    finally:
        await asyncio.to_thread(device.leave)


@mosquitto
async def test_given_mosquittos_tools_with_the_old_version_then_they_send_and_receive(system: Stand) -> None:
    client, room = unique("old"), system.room
    who = ("-h", room.host, "-p", str(room.port), "-V", "mqttv311", "-u", "device")
    me = ("-i", client, "-P", system.token(client))
    listener = await asyncio.create_subprocess_exec(
        "mosquitto_sub", *who, *me, "-t", TOPIC, "-q", "1", "-C", "1", stdout=PIPE, stderr=PIPE
    )
    try:
        await system.bound(client)
        sent = await system.send(client, "hello")
        async with asyncio.timeout(WITHIN):
            assert await listener.communicate() == (b"hello\n", b"")
        await system.settled(client, sent)
        speaker = await asyncio.create_subprocess_exec(
            "mosquitto_pub", *who, *me, "-t", f"up/{PRODUCT}/note", "-q", "1", "-m", "a note"
        )
        assert await speaker.wait() == 0
        assert (await system.uplink_of(client)).payload == b"a note"
    finally:
        if listener.returncode is None:
            listener.kill()
            await listener.wait()
