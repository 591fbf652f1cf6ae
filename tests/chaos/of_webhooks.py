"""Faults of a product's own server: its webhook is away, and who tells it is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any, Final

from infra.documents import Product
from infra.documents.webhooks import new_secret
from infra.local.ports import HOST
from tests.chaos.fault import Fault
from tests.chaos.fleet import SECOND, qos_of
from tests.chaos.traffic import Traffic
from tests.chaos.world import World

KIND: Final = "asked"
ASKERS: Final = 20
PAUSE: Final = 0.1
"""Seconds between two questions, of all devices together."""
PATIENCE: Final = 150.0
"""Seconds in which a question has its reply."""


class Server:
    """The webhook: takes events and answers each by its own payload; or refuses connections; or takes them and says nothing."""

    def __init__(self) -> None:
        self.port = 0
        self.hangs = False
        self.told: dict[str, float] = {}
        """When each event was told first, in that order."""
        self.repeats = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        """Take connections, always at the same port."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def refuse(self) -> None:
        """Take none, and cut those that there are."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                events = json.loads(await reader.readexactly(size))["events"]
                if self.hangs:
                    await reader.read()
                    break
                answer = json.dumps({"replies": {event["id"]: self._reply(event) for event in events}}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
                )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _reply(self, event: dict[str, Any]) -> dict[str, str]:
        uplink = event["data"]["id"]
        self.repeats += uplink in self.told
        self.told.setdefault(uplink, time.monotonic())
        return {"payload_base64": event["data"]["payload_base64"]}


class WebhookAway(Fault):
    """It refuses, then it hangs, and a coordinator is killed meanwhile: each uplink is told at least once, in order per client,
    and each device that asked has its reply."""

    name = "webhook-away"
    held = 24.0
    target = 20.0

    def __init__(self) -> None:
        self._server = Server()
        self._asked: list[asyncio.Task[float]] = []
        self._healed = 0.0
        self._figures: dict[str, Any] = {}

    async def prepare(self, world: World) -> None:
        """The second product has a webhook, and some devices ask it."""
        await self._server.listen()
        hook = {"name": "main", "url": f"http://{HOST}:{self._server.port}/", "secrets": [new_secret()], "private": True,
                "events": ["uplink.received"], "uplinks": [KIND]}  # fmt: skip
        await world.put(Product.model_validate({"name": SECOND, "webhooks": [hook]}))
        self._clients = [client for client in sorted(world.fleet.devices) if qos_of(client, SECOND)][:ASKERS]
        self._asking = asyncio.create_task(self._ask(world))

    async def _ask(self, world: World) -> None:
        while True:
            client, token = self._clients[len(self._asked) % ASKERS], f"asked-{len(self._asked)}"
            self._asked.append(asyncio.create_task(self._one(world, client, token.encode())))
            await asyncio.sleep(PAUSE)

    async def _one(self, world: World, client: str, token: bytes) -> float:
        """Seconds until the reply; raises PushError, ValueError where it is another's."""
        began = time.monotonic()
        reply = await world.fleet.devices[client].push.request(SECOND, KIND, token, timeout=PATIENCE)
        if reply.payload != token:
            raise ValueError(f"{client} asked {token!r} and was told {reply.payload!r}")
        return time.monotonic() - began

    async def begin(self, world: World) -> None:
        """It refuses."""
        self._server.refuse()

    async def hold(self, world: World, traffic: Traffic) -> None:
        """A third refused, the rest hangs; in the middle of that SIGKILL."""
        await asyncio.sleep(self.held / 3)
        self._server.hangs = True
        await self._server.listen()
        await asyncio.sleep(self.held / 3)
        world.signal(world.of_role("coordinator")[0], signal.SIGKILL)
        await asyncio.sleep(self.held / 3)

    async def end(self, world: World) -> None:
        """It is well; what hangs is cut."""
        self._server.hangs = False
        self._server.refuse()
        await self._server.listen()
        self._healed = time.monotonic()

    async def holds(self, world: World, traffic: Traffic) -> list[str]:
        """All told, in order, all answered."""
        self._asking.cancel()
        try:
            replies = await asyncio.gather(*self._asked, return_exceptions=True)
        finally:
            await world.put(Product(name=SECOND))
            self._server.refuse()
        took = [each for each in replies if isinstance(each, float)]
        wrong = [each for each in replies if not isinstance(each, float)]
        lines = self._lines(traffic)
        uplinks = {uplink for line in lines.values() for uplink in line}
        never = uplinks - self._server.told.keys()
        disordered = [client for client, line in lines.items() if line != sorted(line, key=self._place)]
        late = [at for at in self._server.told.values() if at > self._healed]
        self._figures = {
            "asked": len(self._asked),
            "replies": len(took),
            "slowest_reply_s": round(max(took, default=0.0), 1),
            "events": len(uplinks),
            "events_lost": len(never),
            "events_told_again": self._server.repeats,
            "events_disordered": len(disordered),
            "first_after_heal_s": round(min(late, default=self._healed) - self._healed, 1),
        }
        problems = [f"{len(wrong)} of {len(replies)} questions had no reply, as {wrong[0]!r}"] if wrong else []
        problems += [f"{len(never)} uplinks were never told, as {min(never)}"] if never else []
        problems += [f"the events of {disordered[0]} were told in another order"] if disordered else []
        problems += [] if max(took, default=0.0) > self.held / 2 else ["no reply was late: the fault was not felt"]
        return problems if len(uplinks) >= len(took) > 0 else [*problems, f"{len(uplinks)} uplinks for {len(took)} replies"]

    def _place(self, uplink: str) -> float:
        return self._server.told.get(uplink, float("inf"))

    def _lines(self, traffic: Traffic) -> dict[str, list[str]]:
        """The uplinks of each device that asked as they lie in Kafka, without those of the row's own traffic."""
        others = {event["id"] for event in traffic.history.events if event["e"] == "uplink"}
        lines: dict[str, dict[str, None]] = {client: {} for client in self._clients}
        for event in traffic.history.events:
            if event["e"] == "uplinked" and event["id"] not in others and event["client"] in lines:
                lines[event["client"]].setdefault(event["id"])
        return {client: list(line) for client, line in lines.items()}

    def figures(self) -> dict[str, Any]:
        """What was told, and how."""
        return self._figures
