"""A room in a process of its own, with every transport: what attacks do to others is measured from outside.

`python -m tests.unit.edge_room FOLDER`: prints its ports (a JSON object), then for each line of stdin the bytes of memory that it
has; ends with stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from certs import Authority
from front_world import live

from gateway.admission.memory import resident
from infra.documents import Access, Policy

PORTS: Final = ("mqtt", "ws", "mqtts", "proxy")
BALANCER: Final = "127.0.0.2"
BYSTANDER: Final = "127.0.0.1"
"""The only address that is not counted: attackers come from others, and have a real address's limits."""
DEADLINE_S: Final = 0.7
"""Of TLS, and of CONNECT: so short that attackers meet them while they are watched."""


async def main(folder: Path) -> None:
    """Serve until stdin ends."""
    listeners = ({"transport": "ws"}, {"transport": "mqtts"}, {"proxy": True})
    tls = {"certificates": (Authority(folder).issue("room.test"),), "handshake_timeout": DEADLINE_S}
    async with live(listeners=listeners, tls=tls, balancers=(f"{BALANCER}/32",), connect_timeout=DEADLINE_S) as room:
        room.world.policy = Policy(connect_rate=100_000, connect_ramp_from=1.0, flapping_connects=100_000)
        room.world.room.load(Access.model_validate({"uncounted": [f"{BYSTANDER}/32"]}))
        print(json.dumps(dict(zip(PORTS, room.front.ports, strict=True))), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(resident(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
