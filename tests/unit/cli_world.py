"""`pushctl` as a script calls it, and a center that answers from a list."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cli
from infra.system import RoomAddress, System


def forget_settings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """No settings but those of the test."""
    for name in [name for name in os.environ if name.startswith("LONGWIRE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))


def pushctl(*arguments: object) -> Result:
    """Run a command. What it did not turn into a sentence is a bug."""
    result = CliRunner().invoke(cli.cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def system_at(data: Path, *, center: str = "http://127.0.0.1:9", pid: int | None = None) -> System:
    """A system file in `data`, of this very process unless another pid is given."""
    system = System(
        center=center,
        api_key="key-1",
        rooms=[RoomAddress("r1", "127.0.0.1", 1883)],
        nats="nats://127.0.0.1:4222",
        kafka="127.0.0.1:9092",
        redis="redis://127.0.0.1:6379/0",
        pid=os.getpid() if pid is None else pid,
        data=str(data),
        logs=str(data / "logs"),
    )
    system.save()
    return system


class Center:
    """Answers requests from a list, and remembers them."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.keys: list[str | None] = []
        center = self

        class Page(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                center.asked.append((self.command, self.path, json.loads(body) if body else None))
                center.keys.append(self.headers.get("Authorization"))
                status, data = center.answers.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - the base class looks for these

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def will(self, status: int, document: object) -> None:
        """The next answer; bytes go as they are."""
        self.answers.append((status, document if isinstance(document, bytes) else json.dumps(document).encode()))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
