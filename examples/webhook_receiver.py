"""A receiver of Longwire's webhooks that verifies them, with the standard library only: copy what you need.

    WEBHOOK_SECRETS="whsec_… whsec_…" python examples/webhook_receiver.py 8088

Behind a proxy that has the TLS. Two secrets while they are rotated. It prints each event, and answers each uplink that wants a
reply with its own text in capitals.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

TOLERANCE: Final = 5 * 60
"""Seconds that the clocks may differ, and a request may be old: an older one may be a recording."""
MAX_BODY: Final = 2 * 1024 * 1024


class NotVerified(Exception):
    """Not from Longwire, changed on the way, or a recording."""


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], *, now: float) -> None:
    """Raise NotVerified unless one of the signatures is by one of the secrets, and the time is near."""
    id_, sent, given = (headers.get(f"webhook-{name}") or "" for name in ("id", "timestamp", "signature"))
    if not sent.isascii() or not sent.isdecimal() or abs(now - int(sent)) > TOLERANCE:
        raise NotVerified("webhook-timestamp is missing, or not near our time")
    content = f"{id_}.{sent}.".encode() + body
    good = False
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = b"v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256))
        for signature in given.split(" "):
            good |= hmac.compare_digest(signature.encode(), expected)  # in constant time, and all of them
    if not good:
        raise NotVerified("no signature fits")


def take(event: dict[str, Any]) -> dict[str, Any] | None:
    """Do something with one event; returns the reply to a device, or None. The same id may come again: remember ids."""
    print(json.dumps(event), flush=True)
    data = event["data"]
    if event["type"] != "uplink.received" or not data["wants_reply"]:
        return None
    return {"payload": base64.b64decode(data["payload_base64"]).decode(errors="replace").upper(), "content_type": "text/plain"}


class Receiver(BaseHTTPRequestHandler):
    """2xx only when all events are safe: what is not taken comes again."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    secrets: Sequence[str] = ()

    def do_POST(self) -> None:
        """Verify, take, answer."""
        length = self.headers.get("Content-Length") or ""
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            return self._answer(413, {})
        body = self.rfile.read(int(length))
        try:
            verify(self.headers, body, self.secrets, now=time.time())  # type: ignore[arg-type]
        except NotVerified as error:
            return self._answer(401, {"error": str(error)})
        replies = {event["id"]: reply for event in json.loads(body)["events"] if (reply := take(event)) is not None}
        return self._answer(200, {"replies": replies})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
        """Events are printed instead."""


if __name__ == "__main__":
    Receiver.secrets = os.environ["WEBHOOK_SECRETS"].split()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
    server.serve_forever()
