"""Confirmations of what devices had by HTTP: the saver settles them, as it does with those that come over a connection."""

from __future__ import annotations

from typing import Final

from infra.bus import Bus
from infra.wire import OK, Ack, ConfirmItem
from schemas import names
from schemas.codes import State
from workers.center.orders import NotDone, Savers
from workers.center.web.problems import RETRY_AFTER_S, Problem

DETAIL: Final = "http"


class Confirmations:
    """`workers.center.ports.Confirmer` on NATS."""

    def __init__(self, bus: Bus) -> None:
        self._savers = Savers(bus)

    async def confirm(self, key: str, product: str, message_id: str) -> bool:
        """See the port. A repeat is harmless: what is settled is not pending."""
        item = ConfirmItem(key, Ack(product, message_id, State.ACKED, DETAIL))
        try:
            return await self._savers.ask(names.SAVER_CONFIRM, item) == OK
        except NotDone as error:
            raise _not_confirmed(str(error)) from None


def _not_confirmed(why: str) -> Problem:
    return Problem("not-confirmed", f"{why}; ask again, the message is still pending", retry_after_s=RETRY_AFTER_S)
