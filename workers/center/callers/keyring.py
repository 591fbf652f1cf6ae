"""API keys, live in every center: the KV bucket `apikeys`, mirrored, and kept on disk. Only hashes are in either.

What is known holds while NATS is away. A bucket of its own: rooms and workers, which mirror the keeper's documents, have no
business with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from infra.bus import Bus
from infra.kept import KeptMirror
from schemas import names
from workers.center.callers.apikey import ApiKey, check, fits, split
from workers.center.callers.auth import Caller, NotAdmitted

MAX_KEYS: Final = 5_000
"""Ended ones included; center makes no more."""
MAX_TAKEN: Final = 2 * MAX_KEYS

log = structlog.get_logger("keyring")
refused = Counter("longwire_center_key_documents_refused_total", "Documents of API keys that were not read, or were too many")
held = Gauge("longwire_center_api_keys", "API keys that this center knows")


class KeyRing:
    """All keys by id, as `put` told it, and the callers that they make."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self._callers: dict[str, Caller] = {}
        self._decode = msgspec.json.Decoder(ApiKey).decode

    def put(self, key_id: str, value: bytes | None) -> bool:
        """Take an entry of the KV, None for one that is gone; False if it was not taken: what was there stays then."""
        if value is None:
            self.keys.pop(key_id, None)
            self._callers.pop(key_id, None)
            held.set(len(self.keys))
            return True
        try:
            key = self._decode(value)
            check(key)
            if key.id != key_id or (key_id not in self.keys and len(self.keys) >= MAX_TAKEN):
                raise ValueError("its id is another's, or there are too many")
        except (msgspec.MsgspecError, ValueError) as error:
            refused.inc()
            log.error("API key not read", key=key_id[:64], error=str(error)[:200])
            return False
        self.keys[key_id], self._callers[key_id] = key, key.caller()
        held.set(len(self.keys))
        return True

    def find(self, credential: bytes, wall: float) -> Caller | None:
        """Who shows this key at `wall` (s since the epoch); None: it is no API key by its form. Raises NotAdmitted.

        Why a key holds no more is told only to who has its secret.
        """
        parts = split(credential)
        if parts is None:
            return None
        key_id, secret = parts
        key = self.keys.get(key_id)
        if key is None:
            raise NotAdmitted("unknown")
        if fits(secret, key.live(wall)):
            return self._callers[key_id]
        if fits(secret, key.secrets):
            raise NotAdmitted("ended", f"the key {key_id} {key.ended(wall) or 'was rotated, and this secret has ended'}")
        raise NotAdmitted("secret")


class MirroredKeys:
    """Keeps a `KeyRing` true; a part of its process (infra.lifecycle.Part)."""

    def __init__(self, bus: Bus, *, disk: Path, fail: Callable[[str], None]) -> None:
        self.ring = KeyRing()
        self._kept = KeptMirror(
            bus,
            names.KV_API_KEYS,
            file=disk / "api-keys.json",
            put=self.ring.put,
            holds=lambda key: key in self.ring.keys,
            refill=True,
            fail=fail,
        )

    async def start(self) -> None:
        """See `infra.kept.KeptMirror`."""
        await self._kept.start()

    async def stop(self) -> None:
        """See `infra.kept.KeptMirror`."""
        await self._kept.stop()
