"""What arrived and waits for its consumer, and what has been seen before. No sockets, no clock."""

from __future__ import annotations

import weakref
from collections import deque

from .messages import Key, PushMessage

Outcome = PushMessage | int
"""Of a key: the message, while somebody may yet settle it, or the reason code that settled it."""


class Inbox:
    """Two bounds: at most `receive_max` waiting at QoS 1, and `queue_max` at QoS 0; and a memory of `remember` keys."""

    __slots__ = ("_known", "_most", "_queue", "_remember", "_waiting")

    def __init__(self, *, receive_max: int, queue_max: int, remember: int) -> None:
        if not (queue_max >= 1 and remember >= 1):
            raise ValueError(f"queue_max {queue_max}, remember {remember}: expected at least 1")
        self._most = (queue_max, receive_max)
        self._waiting = [0, 0]
        self._remember = remember
        self._queue: deque[PushMessage] = deque()
        self._known: dict[Key, weakref.ref[PushMessage] | int] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def earlier(self, key: Key | None) -> Outcome | None:
        """What is known of `key`; None if it is new, forgotten, or a message that was let go without being settled."""
        known = None if key is None else self._known.get(key)
        return known() if isinstance(known, weakref.ref) else known

    def remember(self, message: PushMessage, outcome: Outcome) -> None:
        """Note what became of a message. The oldest note goes when there are too many."""
        if message.key is None:
            return
        self._known[message.key] = outcome if isinstance(outcome, int) else weakref.ref(outcome)
        if len(self._known) > self._remember:
            del self._known[next(iter(self._known))]

    def forget(self, message: PushMessage) -> None:
        """A repetition of this message shall count as new."""
        if message.key is not None:
            self._known.pop(message.key, None)

    def put(self, message: PushMessage) -> PushMessage | None:
        """Queue it. Returns the message that had to go for it, if one had to."""
        evicted = self._evict(message) if self._waiting[message.qos] >= self._most[message.qos] else None
        self._queue.append(message)
        self._waiting[message.qos] += 1
        return evicted

    def put_back(self, message: PushMessage) -> None:
        """A consumer left without settling it: it comes first for the next one."""
        self._queue.appendleft(message)
        self._waiting[message.qos] += 1

    def pop(self) -> PushMessage | None:
        if not self._queue:
            return None
        message = self._queue.popleft()
        self._waiting[message.qos] -= 1
        return message

    def clear(self) -> None:
        self._queue.clear()
        self._waiting = [0, 0]

    def _evict(self, newer: PushMessage) -> PushMessage | None:
        """The oldest of its kind. At QoS 1 that is one of an earlier connection: the live one's fit in its window."""
        for i, old in enumerate(self._queue):
            if old.qos == newer.qos and not (old.qos and old.link is newer.link):
                del self._queue[i]
                self._waiting[old.qos] -= 1
                return old
        return None
