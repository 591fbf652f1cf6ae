"""Three Redis nodes that share the slots, for tests: started, met, and killed one by one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from redis.asyncio import Redis

from infra.local.ports import HOST, PortLease
from infra.local.redis_server import RedisServer, config

SLOTS = 16384


class Node(RedisServer):
    """One node of a cluster, with a port for the others."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.bus = PortLease("the cluster's bus")

    async def prepare(self) -> list[str]:
        program, file = await super().prepare()
        extra = [
            "cluster-enabled yes",
            f"cluster-config-file {self.folder}/nodes.conf",
            "cluster-node-timeout 2000",
            f"cluster-port {self.bus.port}",
            "cluster-require-full-coverage no",
        ]
        Path(file).write_text(config(self.port, self.folder) + "\n".join(extra), encoding="utf-8")  # noqa: ASYNC240 - tiny
        return [program, file]

    def close(self) -> None:
        super().close()
        self.bus.close()


class RedisCluster:
    """Three masters without replicas."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [Node(folder / f"node{number}") for number in range(3)]

    @property
    def url(self) -> str:
        return self.nodes[0].endpoint

    async def start(self) -> None:
        await asyncio.gather(*(node.start() for node in self.nodes))
        clients = [Redis(host=HOST, port=node.port) for node in self.nodes]
        step = SLOTS // 3 + 1
        for number, client in enumerate(clients):
            low, high = number * step, min(SLOTS, (number + 1) * step) - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
            await client.execute_command("CLUSTER", "MEET", HOST, self.nodes[0].port, self.nodes[0].bus.port)
            await client.aclose()
        await self.whole()

    async def whole(self, *, steady: float = 3.0) -> None:
        """Wait until every node has said for so long, s, that the cluster is up: a node's absence is noticed late."""
        clients = [Redis(host=HOST, port=node.port) for node in self.nodes]
        deadline, since = time.monotonic() + 40, time.monotonic()
        while time.monotonic() - since < steady:
            assert time.monotonic() < deadline, "the nodes did not meet"
            if not all([await _complete(client) for client in clients]):
                since = time.monotonic()
            await asyncio.sleep(0.1)
        for client in clients:
            await client.aclose()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()
            node.close()


async def _complete(client: Redis) -> bool:
    info = await client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3" and info["cluster_slots_assigned"] == str(SLOTS)
