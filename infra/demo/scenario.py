"""The demo's story, one step a function; `run_demo` is the recipe."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from infra import VERSION
from infra.bus import Bus
from infra.demo.fleet import PRODUCT, Fleet
from infra.demo.ledger import Ledger
from infra.demo.records import Reader
from infra.demo.stage import Failed, Stage, settled
from infra.documents import Policy
from infra.ops.http import CenterClient, NotFound
from infra.ops.tokens import make_token
from infra.ops.up import RunningSystem
from infra.settings import NatsSettings, load
from infra.system import System
from schemas import names
from schemas.codes import State

BROADCAST_SECONDS: Final = 10
TOLERANCE: Final = 0.10
OFFLINE_DEVICES: Final = 10
OFFLINE_MESSAGES: Final = 20
SYNC_INTERVAL: Final = 10.0


async def run_demo(*, devices: int, folder: Path, as_json: bool) -> bool:
    """Run it all with its data in `folder`; True if every step held and the ledger adds up."""
    stage = Stage(Console(stderr=as_json, highlight=False))
    settings = load(data=folder)
    running = RunningSystem(settings, rooms=2, policy=Policy(sync_interval=SYNC_INTERVAL), progress=stage.note)
    began = time.monotonic()
    try:
        stage.title("Brokers and processes")
        system = await running.start()
        stage.shown(f"all ready in {time.monotonic() - began:.1f} s", start_s=round(time.monotonic() - began, 1))
        demo = Demo(stage, running, system, devices, settings.kafka.partitions)
        adds_up = await demo.play()
    except Failed as error:
        stage.failed(str(error))
        adds_up = False
    finally:
        stage.note("stopping…")
        await running.stop()
    ok = adds_up and not stage.failures
    stage.figures |= {"seconds": round(time.monotonic() - began, 1), "failures": stage.failures, "ok": ok}
    stage.console.print(f"\n{'It adds up' if ok else 'It does not add up'}, after {time.monotonic() - began:.0f} s.")
    if as_json:
        print(json.dumps(stage.figures))
    return ok


class Demo:
    """The steps share the fleet, the ledger and center."""

    def __init__(self, stage: Stage, running: RunningSystem, system: System, devices: int, partitions: int) -> None:
        self._stage = stage
        self._running = running
        self._system = system
        self._clients = [f"device-{number:05}" for number in range(devices)]
        self._fleet = Fleet(system.center, lambda client: make_token(Path(system.data), client=client, product=PRODUCT))
        self._center = CenterClient(system)
        self._bus = Bus(NatsSettings(url=system.nats), name="demo-service", version=VERSION)
        self._reader = Reader(system.kafka, partitions)
        self._ledger = Ledger()
        self._rate = max(1, devices // BROADCAST_SECONDS)

    async def play(self) -> bool:
        """All steps in order, then the ledger."""
        await self._reader.start()
        await self._bus.start()
        try:
            await self._bus.serve("echo", names.service_subject(PRODUCT, "echo"), _echo, queue="echo")
            await self._connect()
            await self._broadcast_to_all()
            await self._one_online()
            await self._offline_in_order()
            await self._uplink_and_reply()
            await self._broadcast_through_a_crash()
            return await self._add_up()
        finally:
            await self._fleet.leave()
            await self._center.__aexit__(None, None, None)
            await self._bus.stop()
            await self._reader.stop()

    # --- the steps -----------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._stage.title(f"{len(self._clients)} devices connect over TCP, each sent to a room by the dispatcher")
        began = time.monotonic()
        joining = asyncio.create_task(self._fleet.join(self._clients))
        await self._stage.until("connected", len(self._clients), self._fleet.connected, within=60)
        await joining
        rooms = {room.id: len(self._fleet.on_port(room.port)) for room in self._system.rooms}
        text = ", ".join(f"{room}: {count}" for room, count in rooms.items())
        self._stage.shown(f"all bound in {time.monotonic() - began:.1f} s ({text})", connect_s=round(time.monotonic() - began, 2))

    async def _broadcast_to_all(self) -> None:
        self._stage.title(f"A broadcast at {self._rate} persons/s")
        job = await self._broadcast("to all")
        if not await self._stage.until("reached", len(self._clients), lambda: self._fleet.having(job), within=60):
            raise Failed(f"the broadcast reached {self._fleet.having(job)} of {len(self._clients)} devices")
        seconds = self._fleet.spread(job)
        wanted = len(self._clients) / self._rate
        text = f"reached all {len(self._clients)} in {seconds:.2f} s, {len(self._clients) / seconds:.0f} persons/s"
        if abs(seconds - wanted) > TOLERANCE * wanted:
            self._stage.failed(f"{text}: not within 10 % of {wanted:.0f} s")
        else:
            self._stage.shown(text, broadcast_s=round(seconds, 2))

    async def _one_online(self) -> None:
        self._stage.title("A QoS 1 message to a device that is online")
        client = self._clients[0]
        began = time.monotonic()
        message = await self._send(client, "for you")
        if not await self._stage.until("delivered", 1, lambda: int(message in self._fleet.devices[client].at), within=15):
            raise Failed(f"{client} did not get {message}")
        took = (self._fleet.devices[client].at[message] - began) * 1000
        self._stage.shown(f"from the HTTP request to the device in {took:.0f} ms", online_ms=round(took, 1))

    async def _offline_in_order(self) -> None:
        self._stage.title(f"{OFFLINE_MESSAGES} messages to each of {OFFLINE_DEVICES} devices that are offline")
        clients = [f"sleeper-{number:02}" for number in range(OFFLINE_DEVICES)]
        sent = {client: [await self._send(client, f"n {n}") for n in range(OFFLINE_MESSAGES)] for client in clients}
        await self._send("absent-00", "for a device that never comes")
        short = await self._send("sleeper-00", "too late", ttl=1)
        await asyncio.sleep(1.5)
        await self._fleet.join(clients)
        total = OFFLINE_DEVICES * OFFLINE_MESSAGES

        def delivered() -> int:
            return sum(message in self._fleet.devices[client].at for client, ids in sent.items() for message in ids)

        if not await self._stage.until("delivered", total, delivered, within=30):
            raise Failed(f"{delivered()} of {total} offline messages were delivered")
        out_of_order = [client for client in clients if self._fleet.devices[client].got[:OFFLINE_MESSAGES] != sent[client]]
        if out_of_order:
            self._stage.failed(f"out of order on {', '.join(out_of_order)}")
        else:
            self._stage.shown(f"all {total} delivered in order when they connected", offline_delivered=total)
        if short in self._fleet.devices["sleeper-00"].at:
            self._stage.failed("a message whose TTL had passed was delivered")

    async def _uplink_and_reply(self) -> None:
        self._stage.title("An uplink, into Kafka and to a service, and its reply")
        device = self._fleet.devices[self._clients[1]]
        began = time.monotonic()
        reply = await device.push.request(PRODUCT, "echo", b"are you there?", timeout=20)
        took = (time.monotonic() - began) * 1000
        if reply.id is None or reply.payload != b"echo: are you there?":
            raise Failed(f"the reply was {reply.payload!r}")
        self._ledger.accept(reply.id, device.client)
        self._ledger.seen[reply.id, device.client] += 1

        async def landed() -> bool:
            return any(up.client == device.client and up.payload == b"are you there?" for up in self._reader.uplinks)

        if not await settled(landed, within=10):
            raise Failed("the uplink is not in push.uplink")
        self._stage.shown(f"in push.uplink, answered in {took:.0f} ms", reply_ms=round(took, 1))

    async def _broadcast_through_a_crash(self) -> None:
        everyone = list(self._fleet.devices)
        self._stage.title(f"A second broadcast to all {len(everyone)}; a room is killed when half of it is sent")
        job = await self._broadcast("through a crash", include=everyone)
        await self._stage.until("half of it reached", len(everyone) // 2, lambda: self._fleet.having(job), within=60)
        victim = self._system.rooms[-1]
        orphans = self._fleet.on_port(victim.port)
        had = sum(job in self._fleet.devices[client].at for client in orphans)
        pid = await self._running.kill_room(victim.id)
        killed = time.monotonic()
        self._ledger.duplicate_bound += len(orphans)
        self._stage.note(f"room {victim.id} (pid {pid}) got SIGKILL: {len(orphans)} devices, {had} of them had the broadcast")
        if not await self._stage.until("connected", len(everyone), self._fleet.connected, within=60):
            raise Failed(f"{len(everyone) - self._fleet.connected()} devices did not come back")
        back = time.monotonic() - killed
        if not await self._stage.until("reached", len(everyone), lambda: self._fleet.having(job), within=90):
            raise Failed(f"{len(everyone) - self._fleet.having(job)} devices never got the broadcast")
        self._stage.shown(f"all back in the other room after {back:.1f} s; every device has the broadcast", back_s=round(back, 2))

    async def _add_up(self) -> bool:
        """Wait until every receipt is in Kafka, ask what is pending, hold it against what the devices saw."""

        async def all_settled() -> bool:
            await self._collect()
            return self._ledger.balance().adds_up

        await settled(all_settled, within=20)
        balance = self._ledger.balance()
        self._stage.ledger(balance)
        self._stage.figures["ledger"] = balance.document()
        return balance.adds_up

    async def _collect(self) -> None:
        ledger = self._ledger
        replies = {pair: n for pair, n in ledger.seen.items() if pair[0].startswith("re-")}
        ledger.seen = self._fleet.seen()
        ledger.seen.update(replies)
        ledger.repeats = self._fleet.repeats()
        for receipt in self._reader.receipts:
            ledger.receipt(receipt.id, receipt.client, State(receipt.state))
        waiting = {client for message, client in ledger.accepted if (message, client) not in ledger.receipts}
        for client in waiting - set(self._fleet.devices):
            try:
                found = await self._center.get(f"/v1/clients/{client}")
            except NotFound:
                continue
            ledger.pending[client] = int(found["pending"].get(PRODUCT, 0))

    # --- parts ---------------------------------------------------------------------------------------------------------

    async def _send(self, client: str, payload: str, *, ttl: int = 3600) -> str:
        body = {"product": PRODUCT, "client": client, "payload": payload, "ttl": ttl}
        message = str((await self._center.post("/v1/messages", body))["id"])
        self._ledger.accept(message, client)
        return message

    async def _broadcast(self, payload: str, *, include: list[str] | None = None) -> str:
        body = {"product": PRODUCT, "payload": payload, "rate": self._rate, "ttl": 600}
        job = str((await self._center.post("/v1/broadcasts", body))["id"])
        self._ledger.accept_broadcast(job, include or self._clients)
        return job


async def _echo(request: bytes) -> bytes:
    """The demo's service: answers with what it was sent (the request is the coordinator's JSON envelope)."""
    return b"echo: " + base64.b64decode(json.loads(request)["payload_base64"])
