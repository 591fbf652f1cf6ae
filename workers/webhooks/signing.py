"""Signatures of webhooks as Standard Webhooks has them: https://www.standardwebhooks.com, "Signature scheme"."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from hashlib import sha256

from pydantic import SecretStr

from infra.documents.webhooks import secret_bytes


def signed(id_: str, timestamp: int, body: bytes, secrets: Sequence[SecretStr]) -> dict[str, str]:
    """The three headers of a request: `webhook-id`, `webhook-timestamp` (seconds since the epoch) and `webhook-signature`, one
    signature for each secret."""
    content = b"%s.%d.%s" % (id_.encode(), timestamp, body)
    signatures = [_signature(secret_bytes(secret.get_secret_value()), content) for secret in secrets]
    return {"webhook-id": id_, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures)}


def _signature(key: bytes, content: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, content, sha256)).decode()
