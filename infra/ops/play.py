"""`pushctl play`: what to try, with the running system's real ports and a real token."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from infra.ops.tokens import make_token
from infra.settings import Settings
from infra.system import System

CLIENT = "phone-1"


def show_play(system: System) -> str:
    """Four lines to copy, the API page, and where the logs lie."""
    command = _command()
    usual = Settings.model_fields["data"].get_default(call_default_factory=True)
    data = "" if Path(system.data) == usual else f" --data {system.data}"
    token = make_token(Path(system.data), client=CLIENT, product="demo")
    body = json.dumps({"product": "demo", "client": CLIENT, "payload": "hello by HTTP"})
    lines = [
        "A system runs. In one terminal, be a device; in another, push to it:",
        "",
        f"  {command} listen{data} --product demo --client {CLIENT} --token {token}",
        f"  {command} send{data} --product demo --client {CLIENT} 'hello'",
        f"  {command} broadcast{data} --product demo --rate 100 --watch 'hello, everyone'",
        f"  curl -s {system.center}/v1/messages -H 'Authorization: Bearer {system.api_key}' "
        f"-H 'Content-Type: application/json' -d '{body}'",
        "",
        f"  API page   {system.center}/",
        *(f"  room {room.id:<5} mqtt://{room.host}:{room.port}" for room in system.rooms),
        *(f"  log        {path}" for path in sorted(Path(system.logs).glob("*.log"))),
        *(f"  log        {path}" for path in sorted(Path(system.data).glob("brokers/*/*.log"))),
        "",
        f"Stop it with: {command} down{data}",
    ]
    return "\n".join(lines)


def _command() -> str:
    """`pushctl` as it was called, where that can be copied: from a checkout, `.venv/bin/pushctl`."""
    called = Path(sys.argv[0])
    try:
        return str(called.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(called)
