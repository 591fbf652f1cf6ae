"""How long it takes from a broadcast's write to its PUBACK, with nothing kept for each client of the walk.

The walk passes slots in order, so when a client was written to follows from its slot: one mark for each chunk says until which
slot the walk had come, and when. Late joiners come in no order: the time of each is kept until its PUBACK or its leave, so
there are at most as many as the product has connections here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from gateway.client import BindState
from infra.wire import ACK_BOUNDS_MS


class AckTimes:
    """One job's histogram. `counts`: PUBACKs within each of ACK_BOUNDS_MS, and one more for those beyond."""

    __slots__ = ("_ends", "_late", "_times", "counts")

    def __init__(self) -> None:
        self.counts = [0] * (len(ACK_BOUNDS_MS) + 1)
        self._ends = array("H")
        self._times = array("d")
        self._late: dict[BindState, float] = {}

    def walked(self, upto: int, now: float) -> None:
        """The walk has written to clients in slots below `upto` (and not below the last mark) at `now`, s."""
        self._ends.append(upto)
        self._times.append(now)

    def drawn(self, bind: BindState, now: float) -> None:
        """A late joiner was written to."""
        self._late[bind] = now

    def left(self, bind: BindState) -> None:
        """It is gone, and no PUBACK will come."""
        self._late.pop(bind, None)

    def acked(self, bind: BindState, now: float) -> None:
        """A PUBACK for this job."""
        then = self._late.pop(bind, None) if self._late else None
        if then is None:
            mark = bisect_right(self._ends, bind.client.slot)
            if mark == len(self._ends):
                return
            then = self._times[mark]
        self.counts[bisect_left(ACK_BOUNDS_MS, (now - then) * 1000)] += 1

    def end(self) -> None:
        """Nobody is waited for any more; the counts stay."""
        self._late.clear()
