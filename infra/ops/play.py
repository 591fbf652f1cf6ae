"""`pushctl play`: what to try, with the running system's real ports and a real token."""

from __future__ import annotations

import json
from pathlib import Path

from infra.ops.tokens import make_token
from infra.system import System

CLIENT = "phone-1"


def show_play(system: System) -> str:
    """Four lines to copy, the API page, and where the logs lie."""
    token = make_token(Path(system.data), client=CLIENT, product="demo")
    data = f"--data {system.data}"
    body = json.dumps({"product": "demo", "client": CLIENT, "payload": "hello by HTTP"})
    lines = [
        "A system runs. In one terminal, be a device; in another, push to it:",
        "",
        f"  .venv/bin/pushctl listen {data} --product demo --client {CLIENT} --token {token}",
        f"  .venv/bin/pushctl send {data} --product demo --client {CLIENT} 'hello'",
        f"  .venv/bin/pushctl broadcast {data} --product demo --rate 100 --watch 'hello, everyone'",
        f"  curl -s {system.center}/v1/messages -H 'Authorization: Bearer {system.api_key}' "
        f"-H 'Content-Type: application/json' -d '{body}'",
        "",
        f"  API page   {system.center}/",
        *(f"  room {room.id}    mqtt://{room.host}:{room.port}" for room in system.rooms),
        *(f"  log        {path}" for path in sorted(Path(system.logs).glob("*.log"))),
        *(f"  log        {path}" for path in sorted(Path(system.data).glob("brokers/**/*.log"))),
        "",
        f"Stop it with: .venv/bin/pushctl down {data}",
    ]
    return "\n".join(lines)
