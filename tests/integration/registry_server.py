"""A schema registry as its HTTP API says (Confluent's), small: ids, subjects with their versions, and its error codes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = "application/vnd.schemaregistry.v1+json"


@dataclass
class RegistryServer:
    """`frozen`: subjects that take no new schema, as one that is incompatible; `down`: it answers 503; `slow`: seconds first."""

    schemas: dict[int, str] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    down: bool = False
    slow: float = 0.0
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, schema: str, subject: str | None = None) -> int:
        """The id of a schema, as it would be after a POST of it."""
        found = next((number for number, each in self.schemas.items() if each == schema), None)
        number = found or 100_001 + len(self.schemas)
        self.schemas[number] = schema
        if subject is not None and number not in self.subjects.setdefault(subject, []):
            self.subjects[subject].append(number)
        return number

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        time.sleep(self.slow)
        if self.down:
            return 503, {"error_code": 50302, "message": "the leader is away"}
        match method, path.strip("/").split("/"):
            case "GET", ["schemas", "ids", number]:
                found = self.schemas.get(int(number))
                return (200, {"schema": found}) if found else (404, {"error_code": 40403, "message": "Schema not found"})
            case "POST", ["subjects", subject, "versions"]:
                if subject in self.frozen:
                    return 409, {"error_code": 409, "message": "Schema being registered is incompatible with an earlier schema"}
                return 200, {"id": self.add(body["schema"], subject)}
            case "POST", ["subjects", subject]:
                known = [number for number in self.subjects.get(subject, ()) if self.schemas[number] == body["schema"]]
                return (
                    (200, {"id": known[0], "version": 1})
                    if known
                    else (404, {"error_code": 40403, "message": "Schema not found"})
                )
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}


@contextmanager
def serving(found: RegistryServer | None = None) -> Iterator[RegistryServer]:
    """The server, on a port of its own."""
    registry = found or RegistryServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, document = registry.answer(self.command, self.path, json.loads(body) if body else None)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", registry.port), Handler)
    server.daemon_threads = True
    registry.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
