"""What center asks of one room, or of any saver, over NATS."""

from __future__ import annotations

from itertools import count

import msgspec

from infra.bus import Bus, BusError
from infra.wire import RETRY, VERSION, ConfirmItem, Control, ControlReply, DoneResult, Reply, Request, UnbindItem
from schemas import names
from workers.center.web.problems import RETRY_AFTER_S, Problem

_encode = msgspec.msgpack.Encoder().encode
_control_reply = msgspec.msgpack.Decoder(ControlReply).decode
_saver_reply = msgspec.msgpack.Decoder(Reply[DoneResult]).decode


async def ask_room(bus: Bus, room: str, what: Control, *, hint: str = "") -> ControlReply:
    """The answer of `room.{room}.control`; raises a Problem that ends with `hint` where there is none."""
    try:
        return _control_reply(await bus.request(names.room_control(room), _encode(what)))
    except (BusError, msgspec.MsgspecError) as error:
        detail = f"room {room} did not answer: {type(error).__name__}; ask again{hint}"
        raise Problem("bus-down", detail, retry_after_s=RETRY_AFTER_S) from error


class NotDone(Exception):
    """No saver has done it, for the reason that the text gives; it may be asked again."""


class Savers:
    """Asks savers for one thing at a time; a repeat has to be harmless."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._seq = count(1)

    async def ask(self, subject: str, item: ConfirmItem | UnbindItem) -> str:
        """The status, never `retry`; raises NotDone."""
        request = Request(VERSION, "center", next(self._seq), [item])
        try:
            reply = _saver_reply(await self._bus.request(subject, _encode(request)))
        except (BusError, msgspec.MsgspecError) as error:
            raise NotDone(f"no saver answered: {type(error).__name__}") from None
        if reply.error or not reply.items or reply.items[0].status == RETRY:
            raise NotDone(reply.error or "the register is not ready")
        return reply.items[0].status
