"""MQTT clients that others wrote: Eclipse Paho and Debian's mosquitto tools, over TCP, with nothing of ours."""

from __future__ import annotations

import asyncio
import base64
import json
import queue
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import paho.mqtt.client as mqtt
import pytest
import pytest_asyncio
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions
from system import PRODUCT, WITHIN, Stand, eventually, mosquitto, unique

from schemas import names

TOPIC: Final = f"push/{PRODUCT}"
BOTH: Final = pytest.mark.parametrize(("qos", "state"), [(0, "written"), (1, "acked")], ids=["qos0", "qos1"])

pytestmark = [pytest.mark.xdist_group("system"), pytest.mark.timeout(90)]


@pytest_asyncio.fixture(scope="module")
async def echo(system: Stand) -> None:
    """A product's service on NATS that answers with what it was sent."""

    async def answer(request: bytes) -> bytes:
        return b"echo: " + base64.b64decode(json.loads(request)["payload_base64"])

    await system.bus.serve("echo", names.service_subject(PRODUCT, "echo"), answer, queue="echo")


# --- Eclipse Paho -------------------------------------------------------------------------------------------------------


class Paho:
    """A Paho client with its own network thread; what its callbacks get is handed over by queues."""

    def __init__(self, stand: Stand, client: str) -> None:
        self.client = client
        self.messages: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client, protocol=mqtt.MQTTv5)
        self._mqtt.username_pw_set("device", stand.token(client))
        self._mqtt.on_connect = lambda client, data, flags, reason, properties: self._answers.put([reason])
        self._mqtt.on_subscribe = lambda client, data, mid, reasons, properties: self._answers.put(reasons)
        self._mqtt.on_publish = lambda client, data, mid, reason, properties: self._answers.put([reason])
        self._mqtt.on_message = lambda client, data, message: self.messages.put(message)
        self._address = (stand.room.host, stand.room.port)

    def connect(self) -> None:
        """CONNECT; returns when it was accepted."""
        self._mqtt.connect(*self._address, clean_start=True)
        self._mqtt.loop_start()
        assert self._codes() == [0]

    def subscribe(self, qos: int) -> None:
        """SUBSCRIBE to the product, granted as asked."""
        self._mqtt.subscribe(TOPIC, options=SubscribeOptions(qos=qos))
        assert self._codes() == [qos]

    def publish(self, topic: str, payload: bytes, qos: int, **properties: Any) -> None:
        """PUBLISH; at QoS 1 returns when it was acknowledged as a success."""
        more = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name, value in properties.items():
            setattr(more, name, value)
        self._mqtt.publish(topic, payload, qos=qos, properties=more)
        assert self._codes() == [0]

    def message(self) -> mqtt.MQTTMessage:
        """The next message."""
        return self.messages.get(timeout=WITHIN)

    def leave(self) -> None:
        """DISCONNECT, and end the thread."""
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def _codes(self) -> list[int]:
        return [reason.value for reason in self._answers.get(timeout=WITHIN)]


@asynccontextmanager
async def paho(stand: Stand, client: str) -> AsyncIterator[Paho]:
    """A connected Paho client. Its calls block, so they are made in threads."""
    device = Paho(stand, client)
    try:
        await asyncio.to_thread(device.connect)
        yield device
    finally:
        await asyncio.to_thread(device.leave)


def property_of(message: mqtt.MQTTMessage, name: str) -> Any:
    """An MQTT 5 property of a PUBLISH, None where it has none."""
    return getattr(message.properties, name, None)


@BOTH
async def test_given_paho_online_when_a_message_is_posted_then_it_comes_with_id_and_expiry_and_is_settled(
    system: Stand, qos: int, state: str
) -> None:
    async with paho(system, unique("paho")) as device:
        await asyncio.to_thread(device.subscribe, qos)
        sent = await system.send(device.client, "hello", ttl=60, properties={"colour": "red"}, content_type="text/plain")
        got = await asyncio.to_thread(device.message)
        assert (got.topic, got.payload, got.qos, got.retain) == (TOPIC, b"hello", qos, False)
        assert property_of(got, "UserProperty") == [("id", sent), ("colour", "red")]
        assert property_of(got, "ContentType") == "text/plain"
        assert 30 < property_of(got, "MessageExpiryInterval") <= 60
        await system.settled(device.client, sent, state=state)
        assert device.messages.empty()


@BOTH
async def test_given_messages_while_paho_was_away_when_it_subscribes_then_all_come_in_order(
    system: Stand, qos: int, state: str
) -> None:
    client = unique("paho")
    sent = [await system.send(client, f"n {number}") for number in range(50)]

    async def stored() -> bool:
        return await system.pending(client) == len(sent)

    await eventually(stored, what=f"{len(sent)} messages pending for {client}")
    async with paho(system, client) as device:
        await asyncio.to_thread(device.subscribe, qos)
        got = [await asyncio.to_thread(device.message) for _ in sent]
        assert [property_of(message, "UserProperty")[0] for message in got] == [("id", message) for message in sent]
        assert [message.payload.decode() for message in got] == [f"n {number}" for number in range(len(sent))]
        await system.settled(client, *sent, state=state)
        assert device.messages.empty()


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("qos", [0, 1])
async def test_given_an_uplink_of_paho_with_a_response_topic_then_the_services_reply_comes(system: Stand, qos: int) -> None:
    uplink = unique("up")
    async with paho(system, unique("paho")) as device:
        await asyncio.to_thread(device.subscribe, 1)
        await asyncio.to_thread(
            device.publish,
            f"up/{PRODUCT}/echo",
            b"are you there?",
            qos,
            ResponseTopic=TOPIC,
            CorrelationData=b"\x00\xff 7",
            UserProperty=("id", uplink),
        )
        reply = await asyncio.to_thread(device.message)
        assert (reply.topic, reply.payload) == (TOPIC, b"echo: are you there?")
        assert property_of(reply, "CorrelationData") == b"\x00\xff 7"
        stored = await system.uplink(uplink)
        assert (stored.client, stored.type, stored.payload, stored.qos) == (device.client, "echo", b"are you there?", qos)


@BOTH
async def test_given_paho_bound_when_a_broadcast_runs_then_it_comes_once(system: Stand, qos: int, state: str) -> None:
    async with paho(system, unique("paho")) as device:
        await asyncio.to_thread(device.subscribe, qos)
        job = await system.broadcast("to everyone")
        got = await asyncio.to_thread(device.message)
        assert (got.topic, got.payload, got.qos) == (TOPIC, b"to everyone", qos)
        assert property_of(got, "UserProperty")[0] == ("id", job)
        assert 0 < property_of(got, "MessageExpiryInterval") <= 60
        after = await system.send(device.client, "the one after")
        assert property_of(await asyncio.to_thread(device.message), "UserProperty") == [("id", after)]
        await system.settled(device.client, after, state=state)


# --- Debian's mosquitto-clients -----------------------------------------------------------------------------------------

FORMAT: Final = "%t %q %E %P %p"
"""Topic, QoS, Message Expiry Interval, user properties, payload."""


@asynccontextmanager
async def mosquitto_tool(system: Stand, tool: str, client: str, *arguments: str) -> AsyncIterator[Process]:
    """One of the tools, with MQTT 5, a client id and its token."""
    room = system.room
    who = ("-h", room.host, "-p", str(room.port), "-V", "5", "-i", client, "-u", "device", "-P", system.token(client))
    process = await asyncio.create_subprocess_exec(tool, *who, *arguments, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def printed(process: Process) -> list[str]:
    """Wait for its end, which must be a success without a word on stderr; returns its lines."""
    async with asyncio.timeout(WITHIN):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return out.decode().splitlines()


def listening(system: Stand, client: str, qos: int, count: int) -> Any:
    """`mosquitto_sub` until it has `count` messages."""
    arguments = ("-t", TOPIC, "-q", str(qos), "-C", str(count), "-F", FORMAT)
    return mosquitto_tool(system, "mosquitto_sub", client, *arguments)


@mosquitto
@BOTH
async def test_given_mosquitto_sub_online_when_a_message_is_posted_then_it_prints_and_settles_it(
    system: Stand, qos: int, state: str
) -> None:
    client = unique("mosquitto")
    async with listening(system, client, qos, 1) as process:
        await system.bound(client)
        sent = await system.send(client, "hello", ttl=60)
        [line] = await printed(process)
    topic, got_qos, expiry, properties, payload = line.split(" ")
    assert (topic, got_qos, properties, payload) == (TOPIC, str(qos), f"id:{sent}", "hello")
    assert 30 < int(expiry) <= 60
    await system.settled(client, sent, state=state)


@mosquitto
@BOTH
async def test_given_messages_while_mosquitto_sub_was_away_then_it_prints_all_in_order(
    system: Stand, qos: int, state: str
) -> None:
    client = unique("mosquitto")
    sent = [await system.send(client, str(number)) for number in range(20)]
    async with listening(system, client, qos, len(sent)) as process:
        lines = await printed(process)
    assert [line.split(" ")[4] for line in lines] == [str(number) for number in range(len(sent))]
    await system.settled(client, *sent, state=state)


@mosquitto
@pytest.mark.parametrize("qos", [0, 1])
async def test_given_mosquitto_pub_then_its_uplink_is_in_kafka(system: Stand, qos: int) -> None:
    client, uplink = unique("mosquitto"), unique("up")
    arguments = ("-t", f"up/{PRODUCT}/note", "-q", str(qos), "-m", "a note", "-D", "publish", "user-property", "id", uplink)
    async with mosquitto_tool(system, "mosquitto_pub", client, *arguments) as process:
        assert await printed(process) == []
    stored = await system.uplink(uplink)
    assert (stored.client, stored.type, stored.payload, stored.qos) == (client, "note", b"a note", qos)


@mosquitto
@pytest.mark.usefixtures("echo")
async def test_given_mosquitto_rr_then_it_prints_the_services_reply(system: Stand) -> None:
    arguments = ("-t", f"up/{PRODUCT}/echo", "-e", TOPIC, "-q", "1", "-m", "hi", "-D", "publish", "correlation-data", "7")
    async with mosquitto_tool(system, "mosquitto_rr", unique("mosquitto"), *arguments) as process:
        assert await printed(process) == ["echo: hi"]


@mosquitto
async def test_given_mosquitto_sub_at_qos_1_when_a_broadcast_runs_then_it_prints_it(system: Stand) -> None:
    client = unique("mosquitto")
    async with listening(system, client, 1, 1) as process:
        await system.bound(client)
        job = await system.broadcast("everyone")
        [line] = await printed(process)
    topic, qos, _, properties, payload = line.split(" ")
    assert (topic, qos, payload) == (TOPIC, "1", "everyone")
    assert properties.startswith(f"id:{job}")
