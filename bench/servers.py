"""What is measured, in processes of its own: the rooms of a running system."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import mqtt5

from bench.load import Address, Crowd, Failed
from bench.process import pin
from infra.bus import Bus
from infra.documents import POLICY, Document, Policy, Product, product_key
from infra.keeper import Keeper
from infra.ops.tokens import make_token
from infra.settings import NatsSettings
from infra.system import System, read

PRODUCT: Final = Product(name="bench", rate=1_000_000)
"""A rate at which pacing does not hold anything back: a job is one burst."""
PRODUCTS: Final[Mapping[str, Document]] = {
    product_key(PRODUCT.name): PRODUCT,
    POLICY: Policy(connect_rate=100_000, connect_ramp_from=1.0),  # the load comes at once, and nobody is told to come later
}
NOTHING: Final[Mapping[str, str]] = {}
JOB_TTL_S: Final = 5
"""A room has 64 places for a product's jobs: each of ours is over soon after it was written."""
START: Final = 300.0
STOP: Final = 40.0
WAIT: Final = 15.0
PROBE: Final = 999_999


class Gateway:
    """A system of `pushctl up`. `pids` and `addresses` are those of its rooms."""

    def __init__(
        self,
        data: Path,
        core: int,
        *,
        rooms: int = 1,
        env: Mapping[str, str] = NOTHING,
        documents: Mapping[str, Document] = PRODUCTS,
    ) -> None:
        """Start it, the rooms on `core`; `env`: variables of its processes, `documents` go to the keeper. Raises Failed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LONGWIRE_")}
        command = [sys.executable, "-m", "cli", "up", "--json", "--rooms", str(rooms), "--data", str(data)]
        self.data = data
        self._up = subprocess.Popen(command, env={**kept, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            self.system = self._started()
            self.pids = [int(self.report(room.id)["pid"]) for room in self.system.rooms]
            for pid in self.pids:
                pin(pid, frozenset([core]))
            asyncio.run(_put(self.system, data, documents))
            self.addresses = [(room.host, room.port) for room in self.system.rooms]
            self._http = httpx.Client(
                base_url=self.system.center,
                headers={"Authorization": f"Bearer {self.system.api_key}"},
                timeout=15,
                trust_env=False,
            )
            until("the rooms to know the product", lambda: all(self._granted(address) for address in self.addresses))
        except BaseException:
            self.stop()
            raise

    def report(self, process: str) -> dict[str, Any]:
        """What a process said of itself when it was ready: `pid`, `internal` (its metrics)."""
        found: dict[str, Any] = json.loads((self.data / "run" / f"{process}.json").read_text())
        return found

    def hello(self, number: int, *, qos: int = 0) -> bytes:
        """CONNECT and SUBSCRIBE of device `number`."""
        token = make_token(self.data, client=client_id(number), product=PRODUCT.name)
        return mqtt5.ConnectPacket(client_id(number), password=token.encode()).write() + subscribe(qos=qos)

    def post(self, size: int, *, product: str = PRODUCT.name, ttl_s: int = JOB_TTL_S, rate: int = 0) -> str:
        """Post a job at `rate` (0: the product's); returns its id when it is accepted. Raises Failed."""
        body = {"product": product, "payload": "x" * size, "ttl": ttl_s, **({"rate": rate} if rate else {})}
        return str(self._ask("POST", "/v1/broadcasts", json=body)["id"])

    def until_known(self, connections: int, *, product: str = PRODUCT.name) -> None:
        """Wait for the leases that say so: the broadcast worker sees the same ones. Raises Failed."""
        until(f"leases with {connections} connections", lambda: self._bound(product) == connections)

    def _started(self) -> System:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if (system := read(self.data)) is not None:
                return system
            if self._up.poll() is not None:
                raise Failed("the system ended while it started: see above")
            time.sleep(0.1)
        raise Failed(f"the system was not ready within {START:.0f} s")

    def _bound(self, product: str) -> int:
        rooms = self._ask("GET", "/v1/rooms")["rooms"]
        return sum(int(room["bound"].get(product, 0)) for room in rooms)

    def _granted(self, address: Address) -> bool:
        try:
            with Crowd(address) as crowd:
                crowd.join(1, lambda _: self.hello(PROBE))
        except Failed:
            return False
        return True

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(method, path, **more)
        if answer.is_error:
            raise Failed(f"center answered {answer.status_code} to {method} {path}: {answer.text[:200]}")
        return answer.json()

    def stop(self) -> None:
        """Take the system down in its own order."""
        end(self._up)


def client_id(number: int) -> str:
    """The name of device `number`."""
    return f"bench-{number}"


def subscribe(*, qos: int) -> bytes:
    """SUBSCRIBE to the product of the benchmarks."""
    most = mqtt5.QoS.AT_LEAST_ONCE if qos else mqtt5.QoS.AT_MOST_ONCE
    return mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(f"push/{PRODUCT.name}", max_qos=most)]).write()


async def _put(system: System, data: Path, documents: Mapping[str, Document]) -> None:
    bus = Bus(NatsSettings(url=system.nats), name="bench", version="0.1.0")
    await bus.start()
    try:
        keeper = Keeper(bus, disk=data / "bench")
        for key, document in documents.items():
            await keeper.put(key, document)
    finally:
        await bus.stop()


def until(what: str, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not check():
        if time.monotonic() > deadline:
            raise Failed(f"waited {WAIT:.0f} s in vain for {what}")
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and wait; what does not end in time is killed."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
