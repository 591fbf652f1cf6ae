"""How far a list job came in its list, and how many are next. No I/O, no clock: `now` is passed in.

The job's record keeps this as one cursor (`LIST`): the position, the chunk to go on with, and the counts of receipts with the
offsets up to which they were counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.broadcasts import Canary, RoomCursor
from schemas.codes import WHOLE, State
from workers.broadcast.pace import PERIOD
from workers.broadcast.receiptcount import Followed, settled

LIST: Final = "list"
"""The one cursor of a list job, where others have their rooms."""
BEAT: Final = 0.1
"""A list job produces so often, s: its share of a second comes in so many parts."""
CATCH_UP: Final = 2.0
"""After a delay a beat may have at most so many times its part."""

_SIZE, _OFFSET, _BASE, _EXPIRED = "size", "offset", "base", "left"
_AT: Final = "at."
"""Before the number of a partition of `push.receipts`."""


@dataclass(slots=True)
class ListPlan:
    """A list of `size` ids, of which the first `position` were produced and acknowledged by Kafka.

    `offset`: the chunk of `push.audiences` to go on with, whose first id is number `base` of the list. `limit`: how far it may
    go for now (a canary's share). `taken`: persons reserved and not produced yet. `expired`: unsettled when the job ended.
    """

    size: int = 0
    offset: int = -1
    base: int = 0
    position: int = 0
    expired: int = 0
    taken: int = 0
    limit: int = 0
    _credit: float = 0.0
    _looked_at: float | None = None

    @property
    def found(self) -> bool:
        """Is it known where the list lies?"""
        return self.offset >= 0

    def begin(self, size: int, offset: int) -> None:
        """The list was found: so many ids, from the chunk at `offset` on."""
        self.size = self.limit = size
        self.offset = offset

    def hold_at(self, canary: Canary, *, passed: bool) -> None:
        """Go no farther than the canary's share until it has passed."""
        self.limit = self.size if passed else max(1, -(-canary.share_bp * self.size // WHOLE))

    def left(self) -> int:
        """How many are ahead for now."""
        return self.limit - self.position - self.taken

    def due(self, *, share: float, available: float, most: int, now: float) -> int:
        """How many may be produced now: a beat's part of the share, so that a second's worth does not come at once.

        `share`: persons per second, `available`: what the pace has, `most`: what one batch may have. Take what is returned.
        """
        passed = BEAT if self._looked_at is None else max(0.0, now - self._looked_at)
        self._credit = min(self._credit + share * passed, max(1.0, share * PERIOD))
        self._looked_at = now
        beat = max(1.0, CATCH_UP * share * BEAT)
        count = max(0, int(min(self._credit, beat, available, most, self.left())))
        self._credit -= count
        self.taken += count
        return count

    def idle(self) -> None:
        """Nothing is wanted for now: this time is not made up for."""
        self._credit, self._looked_at = 0.0, None

    def produced(self, count: int) -> None:
        """Kafka has the next `count` of what was taken."""
        self.position += count
        self.taken -= count

    def begun_chunk(self, offset: int, base: int) -> None:
        """What comes next lies in this chunk."""
        self.offset, self.base = offset, base

    def progress(self) -> float:
        """0…1 of the list."""
        return self.position / self.size if self.size else 0.0


def cursor(plan: ListPlan, followed: Followed) -> RoomCursor:
    """What is kept of a list job."""
    places = {_SIZE: plan.size, _OFFSET: plan.offset, _BASE: plan.base, _EXPIRED: plan.expired}
    offsets = {f"{_AT}{partition}": offset for partition, offset in followed.next.items()}
    return RoomCursor(room=LIST, epoch=0, slot=plan.position, counts={**places, **followed.counts, **offsets})


def from_cursor(item: RoomCursor | None, followed: Followed) -> ListPlan:
    """The plan of a cursor, with `followed` filled; without one, a plan that has not begun."""
    if item is None:
        return ListPlan()
    counts = item.counts
    plan = ListPlan(counts.get(_SIZE, 0), counts.get(_OFFSET, -1), counts.get(_BASE, 0), item.slot, counts.get(_EXPIRED, 0))
    plan.limit = plan.size
    followed.counts = {state.value: counts[state.value] for state in State if state.value in counts}
    followed.next = {int(name.removeprefix(_AT)): offset for name, offset in counts.items() if name.startswith(_AT)}
    return plan


def unsettled(plan: ListPlan, followed: Followed) -> int:
    """Produced, and without an end so far."""
    return max(0, plan.position - settled(followed.counts) - plan.expired)
