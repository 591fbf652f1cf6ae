"""Confirmations of what devices had by HTTP: the saver settles them, as it does with those that come over a connection."""

from __future__ import annotations

from itertools import count
from typing import Final

import msgspec

from infra.bus import Bus, BusError
from infra.wire import OK, RETRY, VERSION, Ack, ConfirmItem, DoneResult, Reply, Request
from schemas import names
from schemas.codes import State
from workers.center.web.problems import RETRY_AFTER_S, Problem

DETAIL: Final = "http"


class Confirmations:
    """`workers.center.ports.Confirmer` on NATS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._seq = count(1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Reply[DoneResult]).decode

    async def confirm(self, key: str, product: str, message_id: str) -> bool:
        """See the port. A repeat is harmless: what is settled is not pending."""
        item = ConfirmItem(key, Ack(product, message_id, State.ACKED, DETAIL))
        request = Request(VERSION, "center", next(self._seq), [item])
        try:
            reply = self._decode(await self._bus.request(names.SAVER_CONFIRM, self._encode(request)))
        except (BusError, msgspec.MsgspecError) as error:
            raise _not_confirmed(f"no saver answered: {type(error).__name__}") from None
        if reply.error or not reply.items or reply.items[0].status == RETRY:
            raise _not_confirmed(reply.error or "the register is not ready")
        return reply.items[0].status == OK


def _not_confirmed(why: str) -> Problem:
    return Problem("not-confirmed", f"{why}; ask again, the message is still pending", retry_after_s=RETRY_AFTER_S)
