"""A product's webhook on a real system: uplinks are told and answered, so is what a room's death means, and `pushctl webhook`."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from system import Stand, eventually, unique

from infra.documents import Policy, Product, product_key
from infra.documents.webhooks import new_secret
from infra.keeper import Keeper
from infra.ops.shell import FAILED, NOT_FOUND, USAGE
from infra.ops.up import RunningSystem
from infra.settings import Certificate, load
from infra.system import RoomAddress
from pushclient import PushClient
from tests.unit.certs import Authority
from workers.webhooks.signing import signed

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(180)]

PRODUCT = "hooked"
PUSHCTL = str(Path(sys.executable).with_name("pushctl"))
KINDS = {"client.connected": True, "client.disconnected": False}


class Webhook:
    """A product's HTTPS server: verifies, notes each event once, and answers uplinks. `status`: of its answers."""

    def __init__(self, certificate: Certificate) -> None:
        self.secret = new_secret()
        self.status = 200
        self.events: list[dict[str, Any]] = []
        self.forged = 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate.certificate, certificate.key)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"https://localhost:{self._server.sockets[0].getsockname()[1]}/events"

    def stop(self) -> None:
        """Listen no longer."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                answer = json.dumps({"replies": self._replies(headers, body)}).encode()
                writer.write(
                    b"HTTP/1.1 %d Word\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                    % (self.status, len(answer))
                    + answer
                )
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    def _replies(self, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        expected = signed(headers["webhook-id"], int(headers["webhook-timestamp"]), body, [SecretStr(self.secret)])
        self.forged += expected["webhook-signature"].lower() != headers["webhook-signature"]
        events = json.loads(body)["events"]
        known = {event["id"] for event in self.events}
        if self.status == 200:
            self.events += [event for event in events if event["id"] not in known]
        return {event["id"]: {"payload": f"taken: {event['id']}"} for event in events if event["data"].get("wants_reply")}

    def of(self, client: str) -> list[dict[str, Any]]:
        """What it was told of a client."""
        return [event for event in self.events if event["data"].get("client") == client]

    async def told(self, client: str, *types: str, within: float = 20.0) -> None:
        """Wait until the last that it was told of a client is of these types."""

        async def here() -> bool:
            return [event["type"] for event in self.of(client)][-len(types) :] == list(types)

        await eventually(here, what=f"{types} of {client}: {[event['type'] for event in self.of(client)]}", within=within)


class Hooked:
    """A system with a product whose webhook is here."""

    def __init__(self, stack: RunningSystem, stand: Stand, webhook: Webhook) -> None:
        self.stack, self.stand, self.webhook = stack, stand, webhook

    def device(self, client: str, *rooms: RoomAddress) -> PushClient:
        """A device of these rooms."""
        servers = [(room.host, room.port) for room in rooms or self.stand.address.rooms]
        return PushClient(client_id=client, token=self.stand.token(client, product=PRODUCT), servers=servers)

    async def pushctl(self, *arguments: str) -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of a command."""
        passed = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        environment = {**passed, "LONGWIRE_DATA": str(self.stand.data)}
        pipe = asyncio.subprocess.PIPE
        command = await asyncio.create_subprocess_exec(PUSHCTL, *arguments, env=environment, stdout=pipe, stderr=pipe)
        out, err = await command.communicate()
        assert b"Traceback" not in err, err
        return command.returncode or 0, out.decode(), err.decode()


@pytest_asyncio.fixture(scope="module")
async def hooked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hooked]:
    """A system of its own: a room is going to be killed."""
    folder = tmp_path_factory.mktemp("hooked")
    authority = Authority(folder)
    webhook = Webhook(authority.issue("localhost"))
    settings = load(data=folder / "data")
    policy = Policy(sync_interval=3.0, lease_dead_after=4.0, sweep_grace=2.0)
    stack = RunningSystem(settings, rooms=2, policy=policy, changes=lambda name: {"LONGWIRE_OUTSIDE__CA": str(authority.file)})
    stand = None
    try:
        stand = Stand(await stack.start(), settings.kafka.partitions)
        await stand.start()
        await webhook.start()
        keeper = Keeper(stand.bus, disk=folder / "keeper")
        await keeper.start()
        hooks = [{"name": "main", "url": webhook.url, "secrets": [webhook.secret], "events": ["*"], "private": True}]
        await keeper.put(product_key(PRODUCT), Product.model_validate({"name": PRODUCT, "debounce": "1s", "webhooks": hooks}))
        await keeper.stop()
        yield Hooked(stack, stand, webhook)
    finally:
        webhook.stop()
        if stand is not None:
            await stand.stop()
        await stack.stop()


async def test_given_a_device_when_it_asks_then_its_webhook_is_told_and_the_reply_is_at_its_socket(hooked: Hooked) -> None:
    client = unique("c")
    async with asyncio.timeout(40), hooked.device(client) as device:
        await device.bind(PRODUCT)
        reply = await device.request(PRODUCT, "order", b"two tins of paint", timeout=20)
    uplink = await hooked.stand.uplink_of(client)
    [event] = [each for each in hooked.webhook.of(client) if each["type"] == "uplink.received"]
    assert (event["data"]["id"], event["data"]["type"], event["data"]["wants_reply"]) == (uplink.id, "order", True)
    assert reply.payload.decode() == f"taken: {event['id']}"
    assert hooked.webhook.forged == 0


async def test_given_a_command_then_the_webhook_is_tested_by_it(hooked: Hooked) -> None:
    status, out, _ = await hooked.pushctl("webhook", "secret")
    assert (status, out[:6], len(out.strip())) == (0, "whsec_", len(new_secret()))
    status, out, _ = await hooked.pushctl("webhook", "test", PRODUCT, "main")
    assert (status, out.startswith("taken (status 200, ")) == (0, True)
    assert hooked.webhook.events[-1]["type"] == "webhook.test"
    status, out, _ = await hooked.pushctl("webhook", "test", PRODUCT, "main", "--json")
    assert (status, json.loads(out)["taken"], json.loads(out)["status"]) == (0, True, 200)
    hooked.webhook.status = 422
    status, out, err = await hooked.pushctl("webhook", "test", PRODUCT, "main")
    hooked.webhook.status = 200
    assert (status, "not taken: it answered 422 (status 422, " in out, "the webhook did not take it" in err) == (1, True, True)


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        ((PRODUCT, "nobody"), NOT_FOUND, "product hooked has no webhook nobody"),
        (("nobody", "main"), NOT_FOUND, "product nobody is not configured"),
        ((PRODUCT, "a/b"), FAILED, "endpoint 'a/b' does not fit"),
        (("a b", "main"), FAILED, "product 'a b' does not fit"),
        ((PRODUCT,), USAGE, "Missing argument 'ENDPOINT'"),
    ],
)
async def test_given_a_name_that_is_not_there_then_the_command_says_which(
    hooked: Hooked, arguments: tuple[str, ...], status: int, word: str
) -> None:
    found, out, err = await hooked.pushctl("webhook", "test", *arguments)
    assert (found, out) == (status, "")
    assert word in err


async def test_given_a_room_that_is_killed_then_who_does_not_come_back_is_told_gone_and_all_in_order(hooked: Hooked) -> None:
    webhook, (first, second) = hooked.webhook, hooked.stand.address.rooms
    gone, back, elsewhere = unique("gone"), unique("back"), unique("else")
    devices = [hooked.device(gone, first), hooked.device(back, first, second), hooked.device(elsewhere, second)]
    try:
        async with asyncio.timeout(40):
            for device in devices:
                await device.start()
                await device.bind(PRODUCT)
            await asyncio.gather(*(webhook.told(client, "client.connected") for client in (gone, back, elsewhere)))
        at = {client: await _room(hooked, client) for client in (gone, back, elsewhere)}
        assert (at[gone], at[elsewhere]) == (first.id, second.id)
        await hooked.stack.kill_room(first.id)
        await devices[0].close()
        await webhook.told(gone, "client.connected", "client.disconnected", within=60)

        async def returned() -> bool:
            return await _room(hooked, back) == second.id

        await eventually(returned, what=f"{back} in {second.id}", within=40)
        assert (await devices[1].request(PRODUCT, "order", b"still here", timeout=30)).payload.startswith(b"taken: ")
        await asyncio.sleep(3)  # longer than the debounce: what would be told is told
    finally:
        await asyncio.gather(*(device.close() for device in devices))
    for client in (gone, back, elsewhere):
        told = [event for event in webhook.of(client) if event["type"] in KINDS]
        states = [KINDS[event["type"]] for event in told]
        assert states[0], told
        assert all(one != other for one, other in pairwise(states)), told
        sessions = [(event["data"]["generation"], event["data"]["session"]) for event in told]
        assert sessions == sorted(sessions)
    assert webhook.forged == 0


async def _room(hooked: Hooked, client: str) -> str:
    found = await hooked.stand.center.get(f"/v1/clients/{client}")
    return str(found["session"]["room"]) if found["session"] else ""
