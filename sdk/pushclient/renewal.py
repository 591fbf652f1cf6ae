"""A new token on a live connection, before the old one expires: AUTH with Authentication Method `jwt` (MQTT 5, 4.12)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable

import mqtt5

from .errors import PushError
from .link import Link

METHOD = "jwt"
EARLY = (0.75, 0.9)
"""A new token is asked for when this part of the old one's time is over, at random in between: devices of one hour don't meet."""
AGAIN_S = 5.0
SHORTEST_S = 2.0
"""A room takes one AUTH a second."""

log = logging.getLogger("pushclient")


def seconds_left(token: str, now: float) -> float | None:
    """How long a JWT holds from `now` (s since the epoch) on, by its own claims; None if it does not say.

    A device's clock may be wrong, so a token is never thought to be older than new: `exp` less `iat` is its whole time.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        expires, issued = float(claims["exp"]), float(claims.get("iat", now))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        return None
    left, whole = expires - now, expires - issued
    return min(left, whole) if left > 0 else whole


class Renewal:
    """Renews the token of one link at a time. `fresh()` gets a new one; raises PushError."""

    def __init__(self, fresh: Callable[[], Awaitable[str]]) -> None:
        self._fresh = fresh
        self._link: Link | None = None
        self._token = ""
        self._ends_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def opened(self, link: Link, token: str) -> None:
        """The server takes AUTH on this link, which was let in by `token`."""
        self.lost()
        self._link = link
        self._count(token)

    def lost(self) -> None:
        """The link is gone."""
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._timer = self._task = None

    def answered(self) -> None:
        """AUTH 0x00: the new token holds."""
        if self._link is not None:
            self._count(self._token)

    def _count(self, token: str) -> None:
        left = seconds_left(token, time.time())
        if left is not None and left > 0:
            loop = asyncio.get_running_loop()
            self._ends_at = loop.time() + left
            self._timer = loop.call_later(max(SHORTEST_S, left * random.uniform(*EARLY)), self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew(), name="push token")

    async def _renew(self) -> None:
        """Where no token is to be had it tries again. One that comes too late is the next connection's affair."""
        link = self._link
        while link is not None and asyncio.get_running_loop().time() < self._ends_at:
            try:
                self._token = await self._fresh()
            except PushError as error:
                log.warning("no new token yet: %s", error)
                await asyncio.sleep(AGAIN_S)
                continue
            packet = mqtt5.AuthPacket(
                reason_code=mqtt5.AuthReasonCode.RE_AUTHENTICATE,
                authentication_method=METHOD,
                authentication_data=self._token.encode(),
            )
            link.connection.renewing = True
            link.send(packet.write())
            return
