"""A mark that is passed at one height and left at a lower one, so that what hangs on it does not flicker."""

from __future__ import annotations


class Watermark:
    """`over`: the level rose to `high`, and did not fall to `low` since."""

    __slots__ = ("high", "low", "over")

    def __init__(self, high: float, low: float) -> None:
        """Raises ValueError unless 0 <= low <= high."""
        if not 0 <= low <= high:
            raise ValueError(f"a low mark of {low} does not lie between 0 and the high mark of {high}")
        self.high = high
        self.low = low
        self.over = False

    def rise(self, level: float) -> bool:
        """The level is this now; returns `over`."""
        if level >= self.high:
            self.over = True
        elif level <= self.low:
            self.over = False
        return self.over
