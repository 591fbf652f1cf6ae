"""Logs, metrics and the internal listener of a process.

Logs are structured events on stderr, with ids as fields and never as part of the event's text. Metrics are Prometheus's,
named `longwire_<subsystem>_<name>_<unit>`, without labels of clients or users.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import REGISTRY, make_wsgi_app

from infra.settings import TelemetrySettings

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def configure_logging(settings: TelemetrySettings, *, process: str) -> None:
    """Send structlog and the standard library's log to stderr, one event a line. Call it once, in `main()`."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if settings.format == "json" else structlog.dev.ConsoleRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _one_line]
    if settings.format == "json":
        final.append(structlog.processors.format_exc_info)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*final, renderer]))
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    for noisy in ("aiokafka", "nats", "httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    structlog.contextvars.bind_contextvars(process=process)


def _one_line(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Control characters in an event's text are shown escaped: ours have none, a library's may hold what a stranger sent."""
    text = event.get("event")
    if isinstance(text, str) and not text.isprintable():
        event["event"] = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return event


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Health checks are not news."""


class InternalListener:
    """`/healthz` (alive), `/readyz` (admits; 503 with the reason otherwise) and `/metrics`, on a port of their own.

    It answers from a thread, so a busy event loop is still seen to be alive by what its metrics say. `report()` writes where
    this process listens as JSON, atomically, for the supervisor that started it.
    """

    def __init__(self, settings: TelemetrySettings, *, process: str, ready: Callable[[], str]) -> None:
        """`ready()` returns "" when the process admits work, else the reason why not."""
        self._settings = settings
        self._process = process
        self._ready = ready
        self._metrics = make_wsgi_app(REGISTRY)
        self._server: WSGIServer | None = None

    @property
    def url(self) -> str:
        """Where it listens, once started."""
        assert self._server is not None
        return f"http://{self._settings.host}:{self._server.server_port}"

    async def start(self) -> None:
        """Listen; raises OSError if the port is taken."""
        self._server = make_server(
            self._settings.host, self._settings.port, self._answer, server_class=_Server, handler_class=_QuietHandler
        )
        threading.Thread(target=self._server.serve_forever, name="internal-listener", daemon=True).start()

    async def stop(self) -> None:
        """Close the listener."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def report(self, **more: object) -> None:
        """Write `{"pid", "internal", …more}` to the file that the settings name, if they name one."""
        if self._settings.report is not None:
            write_json(self._settings.report, {"pid": os.getpid(), "internal": self.url, **more})

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return cast("Iterable[bytes]", self._metrics(environ, start_response))
        if path == "/healthz":
            return _respond(start_response, "200 OK", {"status": "ok", "process": self._process})
        if path == "/readyz":
            reason = self._ready()
            status = "503 Service Unavailable" if reason else "200 OK"
            return _respond(start_response, status, {"status": reason or "ok", "process": self._process})
        return _respond(start_response, "404 Not Found", {"status": "no such page"})


def _respond(start_response: StartResponse, status: str, body: dict[str, str]) -> list[bytes]:
    data = json.dumps(body).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]


def write_json(path: Path, document: object) -> None:
    """Replace a file by a JSON document, readable by its owner only, so that a reader sees the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(document, file, indent=2)
    fresh.replace(path)
