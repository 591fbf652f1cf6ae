"""Places for what is dear and goes on for long: so many in this process, and of one key's a share, so that no key takes all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from workers.center.callers.auth import Caller
from workers.center.callers.limits import limited
from workers.center.web.problems import RETRY_AFTER_S, Problem


class Places:
    """`most` of `what` at a time, of one key's `of_one`; the operator's key may take them all."""

    def __init__(self, what: str, *, most: int, of_one: int) -> None:
        self.free = most
        self._what = what
        self._of_one = of_one
        self._held: Counter[str] = Counter()

    @contextmanager
    def take(self, caller: Caller, full: Problem) -> Iterator[None]:
        """A place as long as the block; raises `full` where there is none, and a Problem (429) where the key has its share."""
        if caller.rate and self._held.get(caller.key, 0) >= self._of_one:
            limited.labels(self._what).inc()
            detail = f"{self._of_one} {self._what} of the key {caller.key} are in flight, its share; ask again when one has ended"
            raise Problem("too-many-at-once", detail, retry_after_s=RETRY_AFTER_S)
        if self.free <= 0:
            limited.labels(f"{self._what}, all keys").inc()
            raise full
        self.free -= 1
        self._held[caller.key] += 1
        try:
            yield
        finally:
            self.free += 1
            self._held[caller.key] -= 1
            if not self._held[caller.key]:
                del self._held[caller.key]
